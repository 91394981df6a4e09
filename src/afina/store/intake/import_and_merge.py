"""Import models that others saved, and merge an adapter into its backbone.

A transformers classifier becomes an adapter of method `full`. peft settings are checked on a model without weights. A
merged model is a directory that transformers opens. Does not know training, or methods by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from afina import device, digest, file_io, methods, tensorfile
from afina.errors import CorruptAdapter, InvalidStudy, NotFound, Refused, WrongBackbone
from afina.methods.method import Method, check_names
from afina.methods.selective import Full
from afina.models import objectives
from afina.models.adapter import Adapter, refuse_incomplete
from afina.models.architectures import is_head
from afina.models.backbone import Backbone
from afina.models.backbone_spec import PRECISIONS
from afina.models.classifier import Classifier
from afina.models.kernels.linear import round_weights
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.models.pretrained import meta_from_json
from afina.predicting import probes
from afina.predicting.predictor import ModelPredictor, Predictor

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


def check_opens(adapter: Adapter, configuration: Mapping[str, Any]) -> None:
    """Raise the error that opening a peft adapter on a backbone with that `config.json` would raise; needs no weights.

    Raises:
        InvalidStudy: The settings are not supported.
        CorruptAdapter: The tensors do not fit the settings.
    """
    manifest = adapter.manifest
    method = methods.make(manifest.method, manifest.hyperparameters, adapter.where)
    asked = objectives.make(manifest.label_names, manifest.objective)
    empty = meta_from_json(configuration, len(manifest.label_names), asked.opening)
    try:
        method.for_family(empty.config.model_type).check(empty, adapter.tensors)
    except (InvalidStudy, CorruptAdapter) as error:
        raise type(error)(f"{adapter.where}: {error}") from None


MERGE_TOLERANCE = 1e-4
"""Maximum difference of the probe's logits after merging, relative to the largest logit."""

_TOKENIZER = "tokenizer_config.json"


def merge(predictor: Predictor, directory: str | Path) -> tuple[str, ...]:
    """Write the adapter and its backbone as one float32 model that transformers' `from_pretrained` opens.

    The merged model has the logits of `predictor`, which is unchanged; merging needs a second copy of the model. The
    tokenizer is saved too, with the adapter's maximum length. `directory` must not exist, and is written atomically.

    Returns:
        Instructions for the user of the merged model that the files do not contain, one sentence each.

    Raises:
        Refused: The adapter does not change the backbone's own weights, or `directory` exists.
        InvalidStudy: The predictor computes in bfloat16.
        CannotWrite: Writing failed.
    """
    directory = Path(directory)
    if os.path.lexists(directory):
        raise Refused(
            f"{directory}: this name already exists. Give a new directory.",
            code="out.exists",
            path=directory,
        )
    if not isinstance(predictor, ModelPredictor):
        raise Refused(
            f"{predictor.where}: an adapter of method {predictor.manifest.method} is a bag-of-words model without a "
            "backbone, so it cannot be merged. Use it with afina.",
            code="merge.impossible",
            where=predictor.where,
            method=predictor.manifest.method,
        )
    if predictor.dtype != "float32":
        raise InvalidStudy(
            f"{predictor.where}: opened in {predictor.dtype}, but the merged model needs float32. "
            "Open the adapter in float32.",
            code="dtype.unsuitable",
            where=predictor.where,
            dtype=predictor.dtype,
        )
    if predictor.manifest.offset is not None:
        raise Refused(
            f"{predictor.where}: the adapter adds an offset to its logits, and transformers' head has no bias for it. "
            "Train the adapter without `offset` (a linear probe: on texts of every label), or use it with afina.",
            code="merge.impossible",
            where=predictor.where,
            field="offset",
        )
    model = _merged(predictor)
    with file_io.replacing(directory) as fresh, tensorfile.system_errors():
        fresh.mkdir()
        Full().accompany(model, predictor.backbone, fresh)
        _cut_at(fresh / _TOKENIZER, predictor.max_length)
        tensorfile.write(fresh / Full.tensor_file, _untied(model.state_dict()))
    return _notes(predictor)


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one name each: transformers ties the output embedding again when it opens a model."""
    names = {tensor.data_ptr(): name for name, tensor in reversed([*state.items()]) if tensor.numel()}
    return {name: tensor for name, tensor in state.items() if names.get(tensor.data_ptr(), name) == name}


def _merged(predictor: ModelPredictor) -> Any:
    """Return transformers' model with the adapter merged into its weights. Raises Refused."""
    asked, method = predictor.objective, predictor.method
    model, _ = predictor.backbone.open(asked.label_names, seed=0, opening=asked.opening)
    if (hold := PRECISIONS[predictor.manifest.precision].hold) is not None:
        round_weights(model.base_model, hold)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: tensor.detach().cpu() for name, tensor in method.state(predictor.classifier.model).items()}
    model = method.attach(model)
    method.restore(model, state)
    try:
        model = method.merged(model)
    except InvalidStudy as error:
        raise Refused(
            _refusal(predictor, method, str(error)), code="merge.impossible", where=predictor.where, cause=error.code
        ) from None
    found = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if found != shapes:
        surplus = sorted(found.keys() - shapes.keys()) or sorted(shapes.keys() - found.keys()) or ["other shapes"]
        raise Refused(
            _refusal(predictor, method, f"transformers' model has no place for {surplus[0]}."),
            code="merge.impossible",
            where=predictor.where,
            tensor=surplus[0],
        )
    _check(predictor, model)
    return model


def _refusal(predictor: ModelPredictor, method: Method, reason: str) -> str:
    return (
        f"{predictor.where}: an adapter of method {predictor.manifest.method} cannot be merged into its backbone: "
        f"{reason} Use it with afina, or merge an adapter of a method that changes weights, such as lora."
    )


def _check(predictor: ModelPredictor, model: Any) -> None:
    """Raise Refused if the merged model's logits differ: some peft types depend on the text, and can be merged."""
    device = next(predictor.classifier.parameters()).device
    reading = (predictor.backbone, predictor.max_length, predictor.template)
    expected = np.array(probes.probe(predictor.classifier, *reading))
    found = np.array(probes.probe(type(predictor.classifier)(model).to(device), *reading))
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= MERGE_TOLERANCE:
        reason = f"the merged logits differ by {difference:.1e} of the largest logit, expected {MERGE_TOLERANCE:.0e}."
        raise Refused(
            _refusal(predictor, predictor.method, reason),
            code="merge.impossible",
            where=predictor.where,
            method=predictor.method,
        )


def _cut_at(settings: Path, longest: int) -> None:
    """Set the maximum length of a saved tokenizer; `file_io` would refuse 1e30, which transformers writes for none."""
    content = json.loads(settings.read_text(encoding="utf-8")) | {"model_max_length": longest}
    settings.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _notes(predictor: ModelPredictor) -> tuple[str, ...]:
    manifest, notes = predictor.manifest, []
    if manifest.template is not None:
        notes.append(f"Put each text into the template {manifest.template!r} before it is tokenised.")
    objective = manifest.objective or {}
    if "mean" in objective:
        notes.append(f"The model's output times {objective['scale']!r} plus {objective['mean']!r} is the number.")
    if "temperature" in objective:
        notes.append(f"Divide the logits by {objective['temperature']!r} before they become probabilities.")
    if objective.get("thresholds"):
        given = zip(manifest.label_names, objective["thresholds"], strict=True)
        notes.append(f"A text has a label from this probability on: {', '.join(f'{n} {at!r}' for n, at in given)}.")
    return tuple(notes)
