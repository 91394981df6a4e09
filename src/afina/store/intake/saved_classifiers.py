"""Import the classifiers that transformers saved, as adapters of method `full`. Does not know training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import device, digest, file_io, tensorfile
from afina.errors import CorruptAdapter, InvalidStudy, NotFound, Refused, WrongBackbone
from afina.methods.method import check_names
from afina.methods.selective import Full
from afina.models import objectives
from afina.models.adapter import Adapter, refuse_incomplete
from afina.models.architectures import is_head
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.manifest import Manifest
from afina.models.objectives import Objective
from afina.predicting import probes

if TYPE_CHECKING:
    from torch import Tensor


CONFIG, WEIGHTS, INDEX = "config.json", Full.tensor_file, "model.safetensors.index.json"

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""File names: a saved tokenizer has at least one of these files. Without any, transformers may make an empty one."""

_INDIFFERENT = re.compile(
    r"architectures|(torch_)?dtype|transformers_version|_name_or_path|use_cache|id2label|label2id|num_labels|problem_type"
    r"|(pad|bos|eos)_token_id|initializer_range|task_specific_params|finetuning_task|summary_.*|.*drop.*"
    r"|gradient_checkpointing|pretraining_tp|tie_word_embeddings|output_.*|return_dict|reorder_and_upcast_attn"
)
"""Settings of a model that do not affect the logits of a classifier in evaluation mode."""

_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""Buffers that earlier versions of transformers saved: masks and rotary frequencies, computed from the settings."""


@dataclass(frozen=True, eq=False)
class Imported:
    """An imported adapter, with the model and the backbone that describe its directory to transformers."""

    adapter: Adapter
    model: Any
    backbone: Backbone

    def save(self, path: str | Path) -> None:
        """Write the adapter's directory, which transformers can open too. Raises CannotWrite."""
        self.adapter.save(path, lambda fresh: Full().accompany(self.model, self.backbone, fresh))


def read_pretrained(directory: str | Path, backbone: str) -> Imported:
    """Import the `...ForSequenceClassification` that transformers saved in `directory`, as an adapter of method `full`.

    Args:
        directory: Directory of the saved classifier.
        backbone: Address of the model that was fine-tuned. Another model of the same shape also works, because all
            its weights are replaced.

    Raises:
        NotFound: A file is missing.
        Refused: The weights are pickled.
        CorruptAdapter: The weights are damaged or incomplete, or the directory is an adapter without its manifest.
        InvalidStudy: afina does not support the task.
        WrongBackbone: Shape, settings or tokenizer differ from the backbone's.
    """
    directory = Path(directory)
    _check_files(directory)
    found = Backbone.load(str(directory.resolve()), weights=False)
    base = Backbone.load(backbone)
    _check_backbone(directory, found, base)
    asked = _objective(directory, found.config)
    model, _ = base.open(asked.label_names, seed=0, opening=asked.opening)
    made_for = base.digest_of(model.base_model)
    state = _state(directory)
    model = Full().attach(model)
    _check_state(directory, base, Full().state(model), state)
    Full().restore(model, state)
    manifest = Manifest(
        method=Full.name,
        hyperparameters=Full().hyperparameters,
        label_names=asked.label_names,
        objective=asked.settings,
        backbone=base.address,
        backbone_digest=made_for,
        tokenizer_digest=base.tokenizer_digest,
        configuration=base.settings,
        family=base.family,
        tensor_file=Full.tensor_file,
        tensors_digest=digest.of_tensors(state),
        max_length=base.longest,
        probe=tuple(map(tuple, probes.probe(Classifier(model), base, base.longest))),
        versions=device.versions(),
    )
    return Imported(Adapter(manifest, state, str(directory)), model, base)


def _check_files(directory: Path) -> None:
    """Raise NotFound, Refused or CorruptAdapter before transformers opens a file."""
    refuse_incomplete(directory)
    if not (directory / CONFIG).is_file():
        raise NotFound(
            f"{directory}: no {CONFIG} there. Give a directory that a classifier's save_pretrained wrote.",
            code="model.file-missing",
            path=directory,
            file=CONFIG,
        )
    if not any((directory / name).is_file() for name in (WEIGHTS, INDEX)):
        if pickled := sorted([*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")]):
            raise Refused(
                f"{directory}: the weights are in {pickled[0].name}, a format that can run code when opened; expected "
                f"{WEIGHTS}. Open the file where you trust it, and save it again with save_pretrained.",
                code="intake.file-unsafe",
                path=directory,
                file=pickled[0].name,
            )
        raise NotFound(
            f"{directory}: no {WEIGHTS} or {INDEX} there. Give a directory that save_pretrained wrote.",
            code="model.file-missing",
            path=directory,
            file=WEIGHTS,
        )
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise NotFound(
            f"{directory}: no tokenizer there, expected one of {', '.join(_TOKENIZERS)}. Save the tokenizer into the "
            "directory with save_pretrained.",
            code="model.file-missing",
            path=directory,
            file="tokenizer",
        )
    settings = file_io.read_object(directory / CONFIG)
    if not any(str(name).endswith("ForSequenceClassification") for name in settings.get("architectures") or ()):
        raise InvalidStudy(
            f"{directory / CONFIG}: architectures is {settings.get('architectures')!r:.80}, expected a "
            "...ForSequenceClassification. A language model does not tell its prompts: use it as a `backbone` instead.",
            code="model.config-unusable",
            path=directory / CONFIG,
            field="architectures",
        )


def _check_backbone(directory: Path, found: Backbone, base: Backbone) -> None:
    """Raise WrongBackbone if settings that affect logits, or the tokenizers, differ."""
    mine, theirs = found.config.to_dict(), base.config.to_dict()
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and not _INDIFFERENT.fullmatch(key):
            raise WrongBackbone(
                f"{directory / CONFIG}: {key} is {mine.get(key)!r:.80}, but {theirs.get(key)!r:.80} in backbone "
                f"{base.address}. Give the model that was fine-tuned with `backbone`.",
                path=directory / CONFIG,
                field=key,
                backbone=base.address,
            )
    if found.tokenizer_digest != base.tokenizer_digest:
        raise WrongBackbone(
            f"{directory}: the tokenizer has digest {found.tokenizer_digest[:19]}, but {base.tokenizer_digest[:19]} in "
            f"backbone {base.address}. Give the model that was fine-tuned, unchanged, with `backbone`.",
            path=directory,
            field="tokenizer",
            backbone=base.address,
        )


def _objective(directory: Path, config: Any) -> Objective:
    """Return the objective that the model's configuration describes. Raises InvalidStudy."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    if sorted(config.id2label) != list(range(len(names))) or len(set(names)) < len(names) or not names:
        raise InvalidStudy(
            f"{directory / CONFIG}: id2label is {config.id2label!r:.80}, expected a different name for each of 0, 1, "
            "... Correct id2label and label2id there.",
            code="model.config-unusable",
            path=directory / CONFIG,
            field="id2label",
        )
    return objectives.of_problem(names, config.problem_type, str(directory / CONFIG))


def _state(directory: Path) -> dict[str, Tensor]:
    """Return the tensors as float32, without buffers. Raises CorruptAdapter."""
    state: dict[str, Tensor] = {}
    for file in _files(directory):
        for name, tensor in tensorfile.read(file)[0].items():
            if _BUFFER.search(name):
                continue
            if not tensor.is_floating_point():
                raise CorruptAdapter(
                    f"{file}: {name} is {tensor.dtype}, expected floats. Save the model unquantised.",
                    code="adapter.file-malformed",
                    path=file,
                    tensor=name,
                    found=tensor.dtype,
                )
            state[name] = tensor.float()
    return state


def _files(directory: Path) -> list[Path]:
    """Return the weight files: one file, or the shards that an index names. Raises CorruptAdapter."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    shards = file_io.read_object(directory / INDEX).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else set()
    plain = all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)
    if not names or not plain:
        raise CorruptAdapter(
            f"{directory / INDEX}: expected a weight_map that names files in the same directory. {file_io.AGAIN}",
            code="adapter.file-malformed",
            path=directory / INDEX,
        )
    return [directory / name for name in sorted(names)]


def _check_state(directory: Path, base: Backbone, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if not any(is_head(name) for name in found):
        raise CorruptAdapter(
            f"{directory}: the weights have no classification head. Give the directory of a fine-tuned classifier.",
            code="adapter.head-missing",
            path=directory,
        )
    try:
        check_names(expected, found)
    except CorruptAdapter as error:
        raise WrongBackbone(
            f"{directory}: the weights do not fit a classifier on backbone {base.address}: {error} "
            "Give the model that was fine-tuned with `backbone`.",
            path=directory,
            backbone=base.address,
        ) from None
