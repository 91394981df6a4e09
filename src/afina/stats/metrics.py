"""Accuracy, F1, probabilities, log loss: pure functions of arrays, by scikit-learn and scipy."""

from __future__ import annotations

import numpy as np


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Share of predictions that equal the label; both int [N]."""
    return float(np.mean(gold == predicted))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    from scipy.special import softmax

    result: np.ndarray = softmax(logits, axis=-1)
    return result


def log_loss(gold: np.ndarray, logits: np.ndarray) -> float:
    """Mean cross-entropy in nats; labels int [N], logits [N, classes]."""
    from scipy.special import log_softmax

    return float(-np.mean(log_softmax(logits, axis=1)[np.arange(len(gold)), gold]))


def f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """F1 of class 1 when there are two classes, the unweighted mean over classes otherwise; 0 where undefined."""
    from sklearn.metrics import f1_score

    if classes == 2:
        return float(f1_score(gold, predicted, labels=[1], average="micro", zero_division=0.0))
    return float(f1_score(gold, predicted, labels=list(range(classes)), average="macro", zero_division=0.0))
