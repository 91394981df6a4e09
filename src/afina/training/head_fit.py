"""`fit_head`: scikit-learn fits the last layer of a classifier's head to the features of all training texts.

The module `head_fit` does not know training steps or batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from afina import meter
from afina.data.batch import Loader
from afina.models.classifier import Classifier
from afina.models.objective import Objective
from afina.ranks import ALONE, Ranks
from afina.stats.linear_models import LinearFit, fit_bytes, fit_dense
from afina.training import problems


@dataclass(frozen=True)
class FittedHead:
    """How scikit-learn fitted a head."""

    parameter: str  # scikit-learn's name of the regularization parameter: `C` or `alpha`
    strength: float  # the value of this parameter
    seconds: float  # without computing the features
    iterations: int | None  # None: a closed formula gave the solution
    converged: bool


def check_labels(objective: Objective, loader: Loader, method: str) -> None:
    """Raise InvalidStudy if no head can be fitted, because all training texts have the same class."""
    if not objective.linear.can_fit(loader.learnt_targets):
        raise problems.ONE_LABEL(method=method, texts=loader.encoded.texts)


def fit_head(
    classifier: Classifier,
    objective: Objective,
    loader: Loader,
    features: np.ndarray,
    method: str,
    strength: float | None = None,
    ranks: Ranks = ALONE,
    *,
    common_scale: bool = False,
) -> FittedHead:
    """Fit the last layer of the head to the features [N, width] of all texts, or of their words, and write it.

    Args:
        strength: The value of `C`, the inverse strength of regularization. None: cross-validation chooses it.
        ranks: The processes that train together. All of them get the fit of the first.
        common_scale: Whether all features are divided by one number, not each by its standard deviation.

    Raises Diverged if a feature is NaN or infinite, and InvalidStudy if all texts have the same class.
    """
    began, linear = meter.now(), objective.linear
    targets = loader.learnt_targets
    if not np.isfinite(features).all():
        raise problems.FEATURES_NOT_FINITE()
    check_labels(objective, loader, method)
    made = fit_dense(
        linear,
        features,
        targets,
        objective.width,
        intercept=classifier.output_layer.bias is not None,
        weights=_weights(objective, targets, loader.weights),
        strength=strength,
        common_scale=common_scale,
        label_texts=loader.label_texts,
    )
    _write(classifier, made)
    _copy_from_first(classifier, ranks)
    spent = meter.now() - began
    return ranks.from_first(FittedHead(linear.parameter, made.strength, spent, made.iterations, made.converged))


def head_fit_bytes(classifier: Classifier, objective: Objective, loader: Loader, strength: float | None = None) -> int:
    """Return the size in bytes of the copies of the features of all training texts at the peak of `fit_head`."""
    rows, width = int(loader.encoded.output_counts.sum()), int(classifier.output_layer.in_features)
    return fit_bytes(objective.linear, rows, width, strength)


def _write(classifier: Classifier, made: LinearFit) -> None:
    """Write the head's last layer. If the layer has no bias, the fitted biases become the classifier's offset."""
    last = classifier.output_layer
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(made.weights))
        biases = torch.from_numpy(made.biases).float()
        if last.bias is not None:
            last.bias.copy_(biases)
        elif made.biases.any():
            classifier.offset = biases.to(last.weight.device)


def _copy_from_first(classifier: Classifier, ranks: Ranks) -> None:
    """Copy the head's last layer of the first process to the others: solvers may differ between processors."""
    if ranks.count == 1:
        return
    last = classifier.output_layer
    ranks.first_([last.weight.data, *([] if last.bias is None else [last.bias.data])])
    offset = ranks.from_first(None if classifier.offset is None else classifier.offset.cpu())
    classifier.offset = None if offset is None else offset.to(last.weight.device)


def _weights(objective: Objective, targets: np.ndarray, of_texts: np.ndarray | None) -> np.ndarray | None:
    """Return the weight of each text in the loss, [N]: its label's weight times its own; None: all are 1."""
    of_labels: Any = getattr(objective, "weights", None)
    if of_labels is None:
        return of_texts
    by_label: np.ndarray = np.asarray(of_labels)[targets]
    return by_label if of_texts is None else by_label * of_texts
