"""Merging: an adapter folded into its backbone, as a directory that transformers opens. Knows no method by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from afina import file_io, tensorfile
from afina.errors import InvalidStudy, Refused
from afina.inference import probes
from afina.inference.predictor import ModelPredictor, Predictor
from afina.methods.method import Method
from afina.methods.selective import Full
from afina.models.backbone_spec import PRECISIONS
from afina.models.classifier import Classifier
from afina.models.kernels.linear import round_weights

TOLERANCE = 1e-4
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
    if not difference <= TOLERANCE:
        reason = f"merged, its logits differ by {difference:.1e} of the largest, at most {TOLERANCE:.0e} may be."
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
