"""Read classifiers of texts or tokens that transformers' `save_pretrained` has saved, as adapters of `full`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import device, digest, file_io, tensorfile
from afina.errors import CorruptAdapter
from afina.methods.method import check_names
from afina.methods.selective import Full
from afina.models import objectives
from afina.models.adapter import PEFT_SETTINGS, Adapter, refuse_incomplete
from afina.models.architectures import head_names, is_head, is_output
from afina.models.backbone import Backbone
from afina.models.manifest import MANIFEST, Manifest
from afina.models.objective import AutoClass, Objective
from afina.predicting import problems
from afina.problems import FILE_MALFORMED

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, INDEX = "config.json", Full.tensor_file, "model.safetensors.index.json"

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Names of files of which a saved tokenizer has at least one; without them, transformers may create an empty one."""

_INDIFFERENT = re.compile(
    r"architectures|(torch_)?dtype|transformers_version|_name_or_path|use_cache|id2label|label2id|num_labels|problem_type"
    r"|(pad|bos|eos)_token_id|initializer_range|task_specific_params|finetuning_task|summary_.*|.*drop.*"
    r"|gradient_checkpointing|pretraining_tp|tie_word_embeddings|output_.*|return_dict|reorder_and_upcast_attn"
)
"""A pattern for the names of settings in `config.json` that do not affect a classifier's logits in evaluation mode."""

_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""A pattern for the names of buffers that earlier versions of transformers saved although the settings determine them:
masks and rotary frequencies."""


def is_saved(directory: Path) -> bool:
    """Return whether a directory has a model of transformers, and no adapter."""
    return (directory / CONFIG).is_file() and not any((directory / name).exists() for name in (MANIFEST, PEFT_SETTINGS))


def read(directory: Path, backbone: str | None = None) -> tuple[Adapter, Backbone, Any]:
    """Read a classifier that transformers has saved as an adapter of `full`, without a golden test.

    Returns the adapter, its backbone and transformers' model.

    The model's class is `...ForSequenceClassification`, or `...ForTokenClassification` with BIO tags in any order.

    Args:
        backbone: The address of the model that was fine-tuned. Another model of the same shape also works, because all
            weights of the backbone are replaced. None: the directory itself.

    Raises:
        NotFound: A file is missing.
        Refused: The weights are pickled.
        CorruptAdapter: The weights are damaged or incomplete, or the directory is an adapter without its manifest.
        InvalidStudy: afina does not support the classifier's kind of task.
        WrongBackbone: The classifier's shape, settings or tokenizer differ from the backbone's.
    """
    _check_files(directory)
    saved = Backbone.load(str(directory.resolve()), weights=False)
    base = Backbone.load(str(directory.resolve()) if backbone is None else backbone)
    _check_backbone(directory, saved, base)
    objective, order = _objective(directory, saved.config)
    model, _ = base.open(objective.output_names, seed=0, opening=objective.opening)
    backbone_digest = base.digest_of(model.base_model)
    state = _in_order(_state(directory), order)
    model = Full().attach(model)
    _check_state(directory, base, Full().state(model), state)
    Full().restore(model, state)
    manifest = Manifest(
        method=Full.name,
        hyperparameters=Full().hyperparameters,
        label_names=objective.label_names,
        objective=objective.settings,
        backbone=base.address,
        backbone_digest=backbone_digest,
        tokenizer_digest=base.tokenizer_digest,
        configuration=base.settings,
        family=base.family,
        tensor_file=Full.tensor_file,
        tensors_digest=digest.of_tensors(state),
        max_length=base.longest,
        versions=device.versions(),
    ).sealed()
    return Adapter(manifest, state, str(directory)), base, model


def _check_files(directory: Path) -> None:
    """Check a saved classifier's files before transformers opens any of them."""
    refuse_incomplete(directory)
    if not (directory / CONFIG).is_file():
        raise problems.MODEL_FILE_MISSING(path=directory, file=CONFIG, expected=CONFIG)
    if not any((directory / name).is_file() for name in (WEIGHTS, INDEX)):
        if pickled := sorted([*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")]):
            file = pickled[0].name
            reason = f"the weights are in {file}, a format that can run code when it is opened; expected {WEIGHTS}"
            raise problems.FILE_UNSAFE(path=directory, reason=reason, file=file, expected=WEIGHTS)
        raise problems.MODEL_FILE_MISSING(path=directory, file=WEIGHTS, expected=f"{WEIGHTS} or {INDEX}")
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise problems.MODEL_FILE_MISSING(path=directory, file="tokenizer", expected=_TOKENIZERS)
    settings = file_io.read_object(directory / CONFIG)
    if _auto_class(settings.get("architectures")) is None:
        raise problems.NOT_A_CLASSIFIER(
            found=settings.get("architectures"), path=directory / CONFIG, field="architectures"
        )


def _check_backbone(directory: Path, saved: Backbone, base: Backbone) -> None:
    """Raise WrongBackbone if the tokenizer or a setting that affects logits is not the backbone's."""
    own, expected = saved.config.to_dict(), base.config.to_dict()
    for key in sorted(own.keys() | expected.keys()):
        if own.get(key) != expected.get(key) and not _INDIFFERENT.fullmatch(key):
            raise problems.CONFIG_DIFFERS(
                found=own.get(key),
                expected=expected.get(key),
                path=directory / CONFIG,
                field=key,
                backbone=base.address,
            )
    if saved.tokenizer_digest != base.tokenizer_digest:
        raise problems.CONFIG_DIFFERS(
            found=saved.tokenizer_digest,
            expected=base.tokenizer_digest,
            path=directory,
            field="tokenizer",
            backbone=base.address,
        )


_AUTO_CLASSES: Mapping[str, AutoClass] = {
    "ForSequenceClassification": "classifier",
    "ForTokenClassification": "token_classifier",
}
"""The auto class of transformers that opens a saved model, by the end of the name of the model's class."""


def _auto_class(architectures: Sequence[object] | None) -> AutoClass | None:
    named = (auto for name in architectures or () for end, auto in _AUTO_CLASSES.items() if str(name).endswith(end))
    return next(named, None)


def _objective(directory: Path, config: Any) -> tuple[Objective, list[int]]:
    """Return the objective that a classifier's `config.json` describes, and the saved head's row for each output."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    if sorted(config.id2label) != list(range(len(names))) or len(set(names)) < len(names) or not names:
        raise problems.LABELS_UNUSABLE(found=config.id2label, path=directory / CONFIG, field="id2label")
    auto_class = _auto_class(config.architectures) or "classifier"
    objective = objectives.of_outputs(names, auto_class, config.problem_type, str(directory / CONFIG))
    return objective, [names.index(name) for name in objective.output_names]


def _state(directory: Path) -> dict[str, Tensor]:
    """Read the tensors of a saved classifier as float32, without buffers."""
    state: dict[str, Tensor] = {}
    for file in _weight_files(directory):
        for name, tensor in tensorfile.read(file)[0].items():
            if _BUFFER.search(name):
                continue
            if not tensor.is_floating_point():
                raise problems.TENSOR_NOT_FLOAT(path=file, tensor=name, found=tensor.dtype)
            state[name] = tensor.float()
    return state


def _in_order(state: Mapping[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """Return tensors with the rows of the head's last layer in another order; a head of another size is unchanged."""
    fits = {name for name, tensor in state.items() if is_output(name) and len(tensor) == len(order)}
    return {name: tensor[order] if name in fits else tensor for name, tensor in state.items()}


def _weight_files(directory: Path) -> list[Path]:
    """Return the only weight file, or the shards that the index file lists."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    shards = file_io.read_object(directory / INDEX).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else set()
    plain = all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)
    if not names or not plain:
        reason = "expected a weight_map that names files in the same directory"
        raise FILE_MALFORMED(path=directory / INDEX, reason=reason)
    return [directory / name for name in sorted(names)]


def _check_state(directory: Path, base: Backbone, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if not any(is_head(name) for name in found):
        raise problems.HEAD_MISSING(where=directory, path=directory, expected=head_names())
    try:
        check_names(expected, found)
    except CorruptAdapter as error:
        raise problems.WEIGHTS_DO_NOT_FIT(reason=error.sentence, path=directory, backbone=base.address) from None
