"""Backbone: a pretrained causal language model and its tokenizer, by address.

Knows how to find, convert and open one; the weights of `embedded` come from `afina.assets`. Knows no
task and no method.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from afina import assets, atomic, digest, hub
from afina.errors import InvalidStudy, NotFound
from afina.models.families import FAMILIES, HEAD
from afina.models.kernels import attention
from afina.models.shapes import CONFIGURATIONS
from afina.seeds import derive
from afina.tensorfile import SafetensorError

UNSTEADY = ("dynamic", "longrope")
"""Kinds of rotary position encoding whose frequencies follow the longest text of a batch."""

EMBEDDED = "embedded"
RANDOM = "random:"

_CONVERSION = 1
"""Raised when the conversion of `embedded` changes, so that an older cache is not used."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """A causal language model that can be opened as a classifier.

    address  as the user named it: a Hub id with optional `@revision`, a directory, `embedded`, `random:DIR`
    path     a directory that any `from_pretrained` of transformers opens
    """

    address: str
    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, address: str, *, weights: bool = True) -> Backbone:
        """Find `address`, fetching or converting it once. Raises NotFound, InvalidStudy (unsupported family).

        weights  False: do not fetch or draw any; `open` works where `complete` says so
        """
        path = _locate(address, weights=weights)
        with _quiet():
            config = _read_config(path, address)
            tokenizer = _read_tokenizer(path, address)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        return cls(address, path, config, tokenizer)

    @property
    def family(self) -> str:
        """transformers' `model_type`, a key of FAMILIES."""
        return str(self.config.model_type)

    @property
    def longest(self) -> int:
        """The most tokens a text may have."""
        return int(self.config.max_position_embeddings)

    @property
    def complete(self) -> bool:
        """Whether the weights are there, or can be drawn, and not only the configuration and the tokenizer."""
        return (
            self.address.startswith(RANDOM)
            or any(self.path.glob("*.safetensors"))
            or any(self.path.glob("pytorch_model*.bin"))
        )

    def open(self, label_names: Sequence[str], seed: int) -> PreTrainedModel:
        """transformers' classifier: the weights (float32) under a new head from the seed's own stream for heads."""
        names = dict(enumerate(label_names))
        with _quiet():
            try:
                model = AutoModelForSequenceClassification.from_pretrained(
                    self.path,
                    config=self._labelled(names),
                    dtype=torch.float32,
                    attn_implementation=attention.NAME,
                )
            except (OSError, ValueError, SafetensorError) as error:
                raise NotFound(
                    f"backbone {self.address}: its weights cannot be opened ({_first_line(error)}). "
                    "Copy it again, or save it again with save_pretrained."
                ) from None
        generator = torch.Generator().manual_seed(derive(seed, "head"))
        head = getattr(model, HEAD).weight
        with torch.no_grad():
            head.normal_(0.0, getattr(self.config, "initializer_range", 0.02), generator=generator)
        return cast(PreTrainedModel, model)

    def _labelled(self, names: dict[int, str]) -> PreTrainedConfig:
        config = AutoConfig.for_model(**self.config.to_dict())
        config.id2label, config.label2id = names, {name: index for index, name in names.items()}
        return config

    @property
    def digest(self) -> str:
        """Digest of the weights and the tokenizer."""
        return digest.of_json([self.weights_digest, self.tokenizer_digest])

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the weights, without any head, as float32."""
        with _quiet():
            return _hash(AutoModel.from_pretrained(self.path, dtype=torch.float32))

    def digest_of(self, body: Any, tokenizer_digest: str | None = None) -> str:
        """The digest, with this tokenizer or another, where weights are open and untouched: saves opening them twice.

        They are hashed the first time only.
        """
        if "weights_digest" not in vars(self):
            vars(self)["weights_digest"] = _hash(body)  # where cached_property keeps it
        return digest.of_json([self.weights_digest, tokenizer_digest or self.tokenizer_digest])

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer's own serialisation, what its `tokenizer.json` holds; re-saving changes nothing."""
        content = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content.update(truncation=None, padding=None)
        return digest.of_json(content)


def skeleton(address: str, labels: int = 2) -> PreTrainedModel:
    """transformers' classifier as a shape without weights (on torch's `meta` device), from the configuration alone."""
    config = _configuration(address)
    config.num_labels = labels
    with torch.device("meta"), _quiet():
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention.NAME)
    return cast(PreTrainedModel, model)


def _configuration(address: str) -> PreTrainedConfig:
    if address in CONFIGURATIONS and not Path(address).is_dir():
        return AutoConfig.for_model(**CONFIGURATIONS[address])
    return _read_config(_locate(address, weights=False), address)


def _locate(address: str, *, weights: bool = True) -> Path:
    if address == EMBEDDED:
        return _embedded()
    if address.startswith(RANDOM):
        return _random(address) if weights else _directory(address.removeprefix(RANDOM), address)
    if Path(address).is_dir():
        return Path(address)
    if address.startswith((".", "/", "~")) or address.count("/") > 1:
        return _directory(address, address)
    return hub.snapshot(address, weights=weights)


def _directory(path: str, address: str) -> Path:
    if not Path(path).is_dir():
        raise NotFound(
            f"backbone {address}: there is no directory {path}. Give a directory that save_pretrained wrote."
        )
    return Path(path)


def _read_config(path: Path, address: str) -> PreTrainedConfig:
    if not (path / "config.json").is_file():
        raise NotFound(f"backbone {address}: no config.json in {path}. Give a directory that save_pretrained wrote.")
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise NotFound(f"backbone {address}: config.json cannot be read ({_first_line(error)}).") from None
    if config.model_type not in FAMILIES:
        raise InvalidStudy(
            f"backbone {address}: models of type {config.model_type!r} are not supported. "
            f"Supported: {', '.join(FAMILIES)}."
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in UNSTEADY:
        raise InvalidStudy(
            f"backbone {address}: its position encoding is {rope['rope_type']!r}, under which a long text changes how "
            "its neighbours in a batch are read. afina does not support that."
        )
    return cast(PreTrainedConfig, config)


def _read_tokenizer(path: Path, address: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise NotFound(f"backbone {address}: its tokenizer cannot be opened ({_first_line(error)}).") from None
    if not tokenizer.is_fast:
        raise InvalidStudy(f"backbone {address}: its tokenizer has no fast (Rust) version, which afina needs.")
    return tokenizer


def _embedded() -> Path:
    target = assets.cache_directory() / f"embedded-{assets.ASSETS['smollm2'].sha256[:12]}-{_CONVERSION}"
    if target.is_dir():
        return target
    source = assets.fetch("smollm2")
    with _quiet(), redirect_stderr(io.StringIO()):  # the conversion's progress bar ignores transformers' switch
        opened = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # transformers refuses to save a model opened from GGUF, and keeps `quantization_config` in its
        # configuration although the tensors are plain float32: a model built anew carries neither.
        settings = opened.config.to_dict()
        settings.pop("quantization_config", None)
        settings.pop("_name_or_path", None)
        settings.pop("_model_name_or_path", None)
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
        plain.load_state_dict(opened.state_dict())
        with atomic.replacing(target) as fresh:
            plain.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
    return target


def _random(address: str) -> Path:
    source = _directory(address.removeprefix(RANDOM), address)
    config = _read_config(source, address)
    with _quiet():
        tokenizer = _read_tokenizer(source, address)
    kept = sorted(p.name for p in source.iterdir() if p.suffix in {".json", ".txt", ".model"})
    target = assets.cache_directory() / f"random-{digest.of_files(source, kept).removeprefix(digest.PREFIX)[:16]}"
    if not target.is_dir():
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(0, "random backbone"))
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            with atomic.replacing(target) as fresh:
                model.save_pretrained(fresh)
                tokenizer.save_pretrained(fresh)
    return target


def _hash(body: Any) -> str:
    return digest.of_tensors({name: parameter.detach().float() for name, parameter in body.named_parameters()})


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal while a model is opened.

    It reports the head as newly initialised, which is what a classifier starts from.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
