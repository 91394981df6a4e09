"""Import what others saved, and merge an adapter into its backbone. A classifier of transformers becomes an adapter of
full fine-tuning; settings of peft are tried on a model without weights; a merged model is a directory that transformers
opens. Knows no training, and no method by name.
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
from afina.inference import probes
from afina.inference.predictor import ModelPredictor, Predictor
from afina.methods.method import Method, check_names
from afina.methods.selective import Full
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.architectures import is_head
from afina.models.backbone import Backbone
from afina.models.backbone_spec import PRECISIONS
from afina.models.classifier import Classifier
from afina.models.kernels.linear import round_weights
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.models.pretrained import meta_from_json

if TYPE_CHECKING:
    from torch import Tensor


CONFIG, WEIGHTS, INDEX = "config.json", Full.tensor_file, "model.safetensors.index.json"

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files of which a saved tokenizer has one. Where there is none, transformers may make an empty one up."""

_INDIFFERENT = re.compile(
    r"architectures|(torch_)?dtype|transformers_version|_name_or_path|use_cache|id2label|label2id|num_labels|problem_type"
    r"|(pad|bos|eos)_token_id|initializer_range|task_specific_params|finetuning_task|summary_.*|.*drop.*"
    r"|gradient_checkpointing|pretraining_tp|tie_word_embeddings|output_.*|return_dict|reorder_and_upcast_attn"
)
"""Settings of a model that change no logit of a classifier that is evaluated."""

_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""What earlier versions of transformers saved beside the parameters: masks and angles, which the settings give."""


@dataclass(frozen=True, eq=False)
class Imported:
    """An adapter, and the model in whose terms its directory says what it is."""

    adapter: Adapter
    model: Any
    backbone: Backbone

    def save(self, path: str | Path) -> None:
        """Write the adapter's directory, which transformers opens as well. Raises CannotWrite."""
        self.adapter.save(path, lambda fresh: Full().accompany(self.model, self.backbone, fresh))


def read_pretrained(directory: str | Path, backbone: str) -> Imported:
    """The `...ForSequenceClassification` that transformers saved in `directory`, as an adapter of method `full`.

    backbone  the address of what it was fine-tuned from, or of any other model of that shape: all of it is replaced
    Raises NotFound where files are missing, Refused for weights that are pickled, CorruptAdapter for such as are not
    whole, InvalidStudy for a task that afina has not, WrongBackbone where shape, settings or tokenizer are not the
    backbone's.
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
        family=base.family,
        tensor_file=Full.tensor_file,
        tensors_digest=digest.of_tensors(state),
        max_length=base.longest,
        probe=tuple(map(tuple, probes.probe(Classifier(model), base, base.longest))),
        versions=device.versions(),
    )
    return Imported(Adapter(manifest, state, str(directory)), model, base)


def _check_files(directory: Path) -> None:
    """Raise NotFound, Refused before transformers is given anything."""
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
                f"{directory}: its weights are in {pickled[0].name}, a format that runs whatever program it holds when "
                f"it is opened; expected {WEIGHTS}. Open it where you trust it and save it again with save_pretrained.",
                code="intake.file-unsafe",
                path=directory,
                file=pickled[0].name,
            )
        raise NotFound(
            f"{directory}: neither {WEIGHTS} nor {INDEX} there. Give a directory that save_pretrained wrote.",
            code="model.file-missing",
            path=directory,
            file=WEIGHTS,
        )
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise NotFound(
            f"{directory}: no tokenizer there (expected one of {', '.join(_TOKENIZERS)}), so nothing tells how its "
            "texts were read. Save the tokenizer into it with save_pretrained.",
            code="model.file-missing",
            path=directory,
            file="tokenizer",
        )
    settings = file_io.read_object(directory / CONFIG)
    if not any(str(name).endswith("ForSequenceClassification") for name in settings.get("architectures") or ()):
        raise InvalidStudy(
            f"{directory / CONFIG}: its architecture is {settings.get('architectures')!r:.80}, expected a "
            "...ForSequenceClassification. Give the directory of a fine-tuned classifier.",
            code="model.config-unusable",
            path=directory / CONFIG,
            field="architectures",
        )


def _check_backbone(directory: Path, found: Backbone, base: Backbone) -> None:
    """Raise WrongBackbone where the two would compute differently with the same weights, or read other tokens."""
    mine, theirs = found.config.to_dict(), base.config.to_dict()
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and not _INDIFFERENT.fullmatch(key):
            raise WrongBackbone(
                f"{directory / CONFIG}: {key} is {mine.get(key)!r:.80}, that of backbone {base.address} is "
                f"{theirs.get(key)!r:.80}. Give the model that it was fine-tuned from with `backbone`.",
                path=directory / CONFIG,
                field=key,
                backbone=base.address,
            )
    if found.tokenizer_digest != base.tokenizer_digest:
        raise WrongBackbone(
            f"{directory}: its tokenizer has digest {found.tokenizer_digest[:19]}, that of backbone {base.address} "
            f"{base.tokenizer_digest[:19]}. Give the model that it was fine-tuned from with `backbone`, as it was.",
            path=directory,
            field="tokenizer",
            backbone=base.address,
        )


def _objective(directory: Path, config: Any) -> Objective:
    """What the model was asked of a text, in transformers' words. Raises InvalidStudy."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    if sorted(config.id2label) != list(range(len(names))) or len(set(names)) < len(names) or not names:
        raise InvalidStudy(
            f"{directory / CONFIG}: id2label is {config.id2label!r:.80}, expected a name of its own for each of 0, 1, "
            "... Set id2label and label2id there.",
            code="model.config-unusable",
            path=directory / CONFIG,
            field="id2label",
        )
    return objectives.of_problem(names, config.problem_type, str(directory / CONFIG))


def _state(directory: Path) -> dict[str, Tensor]:
    """Its tensors, float32, without those that are no parameters. Raises CorruptAdapter."""
    state: dict[str, Tensor] = {}
    for file in _files(directory):
        for name, tensor in tensorfile.read(file)[0].items():
            if _BUFFER.search(name):
                continue
            if not tensor.is_floating_point():
                raise CorruptAdapter(
                    f"{file}: {name} is {tensor.dtype}, expected floats. Save it unquantised.",
                    code="adapter.file-malformed",
                    path=file,
                    tensor=name,
                    found=tensor.dtype,
                )
            state[name] = tensor.float()
    return state


def _files(directory: Path) -> list[Path]:
    """The files of weights, one or the shards that an index names. Raises CorruptAdapter."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    shards = file_io.read_object(directory / INDEX).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else set()
    plain = all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)
    if not names or not plain:
        raise CorruptAdapter(
            f"{directory / INDEX}: expected a weight_map of files beside it. {file_io.AGAIN}",
            code="adapter.file-malformed",
            path=directory / INDEX,
        )
    return [directory / name for name in sorted(names)]


def _check_state(directory: Path, base: Backbone, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if not any(is_head(name) for name in found):
        raise CorruptAdapter(
            f"{directory}: its weights have no classification head. Give the directory of a fine-tuned classifier.",
            code="adapter.head-missing",
            path=directory,
        )
    try:
        check_names(expected, found)
    except CorruptAdapter as error:
        raise WrongBackbone(
            f"{directory}: its weights are not those of a classifier on backbone {base.address}: {error} "
            "Give the model that it was fine-tuned from with `backbone`.",
            path=directory,
            backbone=base.address,
        ) from None


def check_opens(adapter: Adapter, configuration: Mapping[str, Any]) -> None:
    """Raise what opening an adapter of peft's would, on a backbone of that `config.json`. Computes with no weights.

    Raises InvalidStudy for settings that cannot be, CorruptAdapter for tensors that are not what they ask for.
    """
    manifest = adapter.manifest
    method = methods.make(manifest.method, manifest.hyperparameters, adapter.where)
    empty = meta_from_json(configuration, len(manifest.label_names))
    try:
        method.for_family(empty.config.model_type).check(empty, adapter.tensors)
    except (InvalidStudy, CorruptAdapter) as error:
        raise type(error)(f"{adapter.where}: {error}") from None


MERGE_TOLERANCE = 1e-4
"""Largest difference of a built-in sentence's logits after merging, relative to the largest of them."""

_TOKENIZER = "tokenizer_config.json"


def merge(predictor: Predictor, directory: str | Path) -> tuple[str, ...]:
    """Write the adapter and its backbone as one model, float32, that transformers' `from_pretrained` opens alone.

    Its logits are those of `predictor`, which is left as it is; beside it there is a second copy of the model in memory
    meanwhile. The tokenizer is saved beside it, and cuts where the adapter's does. `directory` appears whole or not at
    all; nothing may be there yet.

    Returns what whoever opens the model has to do himself, a sentence each: what is no part of such a model.
    Raises Refused where the adapter is no change of the backbone's own weights, InvalidStudy for a predictor that
    computes in bfloat16, CannotWrite.
    """
    directory = Path(directory)
    if os.path.lexists(directory):
        raise Refused(
            f"{directory}: something is there already, expected nothing. Name another directory.",
            code="out.exists",
            path=directory,
        )
    if not isinstance(predictor, ModelPredictor):
        raise Refused(
            f"{predictor.where}: an adapter of method {predictor.manifest.method} is a model of words, which has no "
            "backbone to be folded into. Use it with afina.",
            code="merge.impossible",
            where=predictor.where,
            method=predictor.manifest.method,
        )
    if predictor.dtype != "float32":
        raise InvalidStudy(
            f"{predictor.where}: opened in {predictor.dtype}, which has lost digits that the merged model is to have. "
            "Open it in float32.",
            code="dtype.unsuitable",
            where=predictor.where,
            dtype=predictor.dtype,
        )
    if predictor.manifest.offset is not None:
        raise Refused(
            f"{predictor.where}: it adds an offset to its logits, and a head of transformers has no bias to hold one. "
            "Train it without `offset`, or use it with afina.",
            code="merge.impossible",
            where=predictor.where,
            field="offset",
        )
    model = _merged(predictor)
    with file_io.replacing(directory) as fresh, tensorfile.system_errors():
        fresh.mkdir()
        Full().accompany(model, predictor.backbone, fresh)
        _cut_at(fresh / _TOKENIZER, predictor.max_length)
        tensorfile.write(fresh / Full.tensor_file, model.state_dict())
    return _notes(predictor)


def _merged(predictor: ModelPredictor) -> Any:
    """transformers' own model with the adapter in its weights. Raises Refused."""
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
        f"{predictor.where}: an adapter of method {predictor.manifest.method} cannot be folded into its backbone: "
        f"{reason} Use it with afina, or merge one of a method that changes weights, such as lora."
    )


def _check(predictor: ModelPredictor, model: Any) -> None:
    """Raise Refused where a merged model answers otherwise: some of peft's types depend on the text, yet do merge."""
    device = next(predictor.classifier.parameters()).device
    reading = (predictor.backbone, predictor.max_length, predictor.template)
    expected = np.array(probes.probe(predictor.classifier, *reading))
    found = np.array(probes.probe(Classifier(model).to(device), *reading))
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= MERGE_TOLERANCE:
        reason = f"merged, its logits differ by {difference:.1e} of the largest, at most {MERGE_TOLERANCE:.0e} may be."
        raise Refused(
            _refusal(predictor, predictor.method, reason),
            code="merge.impossible",
            where=predictor.where,
            method=predictor.method,
        )


def _cut_at(settings: Path, longest: int) -> None:
    """Let a saved tokenizer cut texts to `longest` tokens, where it is asked to cut them."""
    content = file_io.read_object(settings) | {"model_max_length": longest}
    settings.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _notes(predictor: ModelPredictor) -> tuple[str, ...]:
    manifest, notes = predictor.manifest, []
    if manifest.template is not None:
        notes.append(f"Put each text into the template {manifest.template!r} before it is tokenised.")
    told = manifest.objective or {}
    if "mean" in told:
        notes.append(f"The model's output times {told['scale']!r} plus {told['mean']!r} is the number.")
    if "temperature" in told:
        notes.append(f"Divide the logits by {told['temperature']!r} before they become probabilities.")
    if told.get("thresholds"):
        given = zip(manifest.label_names, told["thresholds"], strict=True)
        notes.append(f"A text has a label from its threshold on: {', '.join(f'{name} {at!r}' for name, at in given)}.")
    return tuple(notes)
