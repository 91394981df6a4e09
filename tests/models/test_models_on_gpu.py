"""On a GPU: a common beginning is read once, with the outputs of whole texts on a CPU; no weight is a stand-in."""

from __future__ import annotations

import pytest
import torch
from test_shared_beginning import texts, whole

from afina import Backbone
from afina.models.classifier import Classifier
from afina.models.shared_beginning import SharedBeginning
from afina.models.weights.unread import is_stand_in, stand_in
from afina.predicting.predictor import logits
from fakes import difference
from rounding import FACTOR

TOLERANCE = 1e-4
"""Difference of float32 outputs from those of a CPU, relative to the largest."""


@pytest.mark.gpu("models.kernels.attention._attend_after")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_common_beginning_computed_once_changes_nothing(
    gpu: torch.device, dtype: torch.dtype, llama: Backbone
) -> None:
    classifier, lowered = (Classifier.open(llama, ("a", "b"), 0) for _ in range(2))
    expected, tolerance = whole(classifier, texts()), TOLERANCE
    if dtype != torch.float32:
        lowered.lower(dtype)
        tolerance = FACTOR * difference(whole(lowered, texts()), expected)
    classifier.to(gpu)
    if dtype != torch.float32:
        classifier.lower(dtype)
    assert SharedBeginning.of(classifier, texts()) is not None
    assert difference(logits(classifier, texts()), expected) <= tolerance


@pytest.mark.gpu("models.weights.unread.is_stand_in")
def test_a_weight_on_a_gpu_stands_in_for_nothing(gpu: torch.device) -> None:
    made = stand_in((2, 3))
    assert is_stand_in(made)
    assert not is_stand_in(made.to(gpu))
