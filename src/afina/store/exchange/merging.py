"""Merge an adapter into its backbone, and write the merged model to a directory that transformers opens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from afina import file_io, tensorfile
from afina.errors import InvalidStudy, Refused
from afina.methods.selective import Full
from afina.models.backbone_spec import PRECISIONS
from afina.models.kernels.linear import round_weights
from afina.predicting import golden_test
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.store import problems

if TYPE_CHECKING:
    from torch import Tensor


MERGE_TOLERANCE = 1e-4
"""The largest allowed difference between the logits before and after merging, relative to the largest logit, on the
fixed texts of the golden test."""

_TOKENIZER = "tokenizer_config.json"


def merge(predictor: Predictor, directory: str | Path) -> tuple[str, ...]:
    """Merge a predictor's adapter into its backbone, and write a float32 model that transformers opens.

    The merged model has the same logits as `predictor`, which stays unchanged. Merging needs memory for a second copy
    of the model. The tokenizer is saved too, with the adapter's maximum length. `directory` must not exist, and is
    written atomically.

    Returns:
        Sentences that tell the user of the merged model which further steps, such as a template, a prediction needs.

    Raises:
        Refused: The adapter does not change the backbone's own weights, or `directory` exists.
        InvalidStudy: The predictor computes in bfloat16.
        CannotWrite: Writing failed.
    """
    directory = Path(directory)
    if os.path.lexists(directory):
        raise problems.OUT_EXISTS(path=directory)
    if not isinstance(predictor, ModelPredictor):
        raise _not_mergeable(predictor, "it is a bag-of-words model without a backbone.")
    if predictor.dtype != "float32":
        raise problems.MERGE_NEEDS_FLOAT32(where=predictor.where, dtype=predictor.dtype)
    if predictor.manifest.offset is not None:
        raise problems.MERGE_WITH_OFFSET(where=predictor.where, field="offset")
    model = _merged(predictor)
    with file_io.replacing(directory) as fresh, tensorfile.system_errors():
        fresh.mkdir()
        Full().accompany(model, predictor.backbone, fresh)
        _cut_at(fresh / _TOKENIZER, predictor.max_length)
        tensorfile.write(fresh / Full.tensor_file, _untied(model.state_dict()))
    return _notes(predictor)


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without tied copies: transformers ties the output embedding when it opens a model."""
    names = {tensor.data_ptr(): name for name, tensor in reversed([*state.items()]) if tensor.numel()}
    return {name: tensor for name, tensor in state.items() if names.get(tensor.data_ptr(), name) == name}


def _merged(predictor: ModelPredictor) -> Any:
    objective, method = predictor.objective, predictor.method
    model, _ = predictor.backbone.open(objective.output_names, seed=0, opening=objective.opening)
    if (hold := PRECISIONS[predictor.manifest.precision].hold) is not None:
        round_weights(model.base_model, hold)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: tensor.detach().cpu() for name, tensor in method.state(predictor.classifier.model).items()}
    model = method.attach(model)
    method.restore(model, state)
    try:
        model = method.merged(model)
    except InvalidStudy as error:
        raise _not_mergeable(predictor, error.sentence, cause=error.code) from None
    merged = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if merged != shapes:
        surplus = sorted(merged.keys() - shapes.keys()) or sorted(shapes.keys() - merged.keys()) or ["other shapes"]
        raise _not_mergeable(predictor, f"transformers' model has no place for {surplus[0]}.", tensor=surplus[0])
    _check(predictor, model)
    return model


def _not_mergeable(predictor: Predictor, reason: str, **fields: object) -> Refused:
    return problems.NOT_MERGEABLE(where=predictor.where, method=predictor.manifest.method, reason=reason, **fields)


def _check(predictor: ModelPredictor, model: Any) -> None:
    """Raise Refused for other logits than the predictor's: some peft types change the model depending on the text."""
    device = next(predictor.classifier.parameters()).device
    reading = (predictor.backbone, predictor.max_length, predictor.template)
    words, merged = predictor.objective.reads_words, type(predictor.classifier)(model).to(device)
    expected, logits = (
        np.array(golden_test.outputs(each, *reading, words=words)) for each in (predictor.classifier, merged)
    )
    difference = float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= MERGE_TOLERANCE:
        reason = f"the merged logits differ by {difference:.1e} of the largest logit, expected {MERGE_TOLERANCE:.0e}."
        raise _not_mergeable(predictor, reason)


def _cut_at(settings: Path, longest: int) -> None:
    """Set the maximum length of a saved tokenizer: without it, transformers writes 1e30, which `file_io` refuses."""
    content = json.loads(settings.read_text(encoding="utf-8")) | {"model_max_length": longest}
    settings.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _notes(predictor: ModelPredictor) -> tuple[str, ...]:
    manifest, notes = predictor.manifest, []
    if manifest.template is not None:
        notes.append(f"Put each text into the template {manifest.template!r} before it is tokenised.")
    objective = manifest.objective or {}
    if "mean" in objective:
        notes.append(f"The model's output times {objective['scale']!r} plus {objective['mean']!r} is the number.")
    if objective.get("temperature", 1.0) != 1.0:
        notes.append(f"Divide the logits by {objective['temperature']!r} before they become probabilities.")
    if "viterbi" in objective:
        how = (
            "the most probable valid sequence (Viterbi)"
            if objective["viterbi"]
            else "the most probable tag of each word"
        )
        notes.append(f"afina reads each word at its first token, and decodes the tags as {how}.")
    if objective.get("thresholds"):
        thresholds = zip(manifest.label_names, objective["thresholds"], strict=True)
        rows = ", ".join(f"{name} {threshold!r}" for name, threshold in thresholds)
        notes.append(f"A text has a label from this probability on: {rows}.")
    if "abstain_below" in objective:
        notes.append(
            f"Leave a text unanswered if its confidence is below {objective['abstain_below']!r}. The confidence is the "
            "highest probability; for several labels, the product of the probabilities of all decisions."
        )
    return tuple(notes)
