"""Calibration: what a language model answers too often, found on texts whose labels nobody has to know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from afina.data.tokenize import Encoded
from afina.inference.predictor import logits
from afina.models.classifier import Classifier
from afina.models.objective import Predictions
from afina.stats import classification

MOST = 512
"""Texts that suffice: the first so many."""


def calibrated(classifier: Classifier, encoded: Encoded) -> Tensor:
    """The classifier's offset, float32 [labels] on its device, with which no label has more probability than others.

    That of H. Zhou et al. 2023, "Batch calibration", https://arxiv.org/abs/2309.17249: minus the logarithm of each
    label's mean probability over the texts. It takes the labels for equally frequent.
    """
    shift = torch.from_numpy(shift_of(logits(classifier, encoded.first(MOST))))
    shift = shift.to(next(classifier.parameters()).device)
    return shift if classifier.offset is None else classifier.offset + shift


def shifted_by_itself(predictions: Predictions) -> Predictions:
    """Predictions with the shift that they themselves suggest."""
    return replace(predictions, outputs=predictions.outputs + shift_of(predictions.outputs))


def shift_of(outputs: np.ndarray) -> np.ndarray:
    """What is to be added to outputs like these, float32 [N, labels], for that; [labels]."""
    shift: np.ndarray = -np.log(np.maximum(classification.probabilities(outputs).mean(axis=0), 1e-12))
    return shift.astype(np.float32)
