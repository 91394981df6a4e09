"""Linear models by scikit-learn on any features, regularized by cross-validation.

Logistic regression for classes, ridge regression for a number, a logistic regression for each of several labels. The
baselines of a kind (features: TF-IDF) and the method `linear_probe` (features: hidden states) share this module.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

FOLDS = 3

NEVER = -1e4
"""The bias of a label without training texts: its probability is 0 in float64."""

UNSEEN = -40.0
"""The bias of a label without training texts on dense features: a probability of 4e-18, within float32's precision."""

MOST_ITERATIONS = 1000
"""The largest number of iterations of L-BFGS in a fit."""

_SMALLEST = 1e-12
"""The smallest probability in a log loss."""


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted linear model: outputs = features @ weights.T + biases.

    Attributes:
        weights: float64 [width, D].
        biases: float64 [width]. Without an intercept: 0, UNSEEN for a label without training texts, or -UNSEEN for a
            label that every training text has.
        strength: The regularization parameter that cross-validation chose.
        iterations: Iterations of the last fit; for several labels, the most of any label. None: a closed formula.
        converged: Whether the last fit converged.
    """

    weights: np.ndarray
    biases: np.ndarray
    strength: float
    iterations: int | None = None
    converged: bool = True


class LinearKind(ABC):
    """The linear model of a kind of task.

    Attributes:
        scoring: scikit-learn's name of the metric by which the baselines' regularization is chosen.
        parameter: The name of the regularization parameter.
    """

    scoring: ClassVar[str]
    parameter: ClassVar[str] = "C"

    def can_fit(self, targets: np.ndarray) -> bool:
        """Return whether a linear model can be fitted to these targets."""
        return True

    @abstractmethod
    def model(self, *, intercept: bool = True) -> Any:
        """Return scikit-learn's model with `C` 1; `alpha` is 1 / (2 C)."""

    @abstractmethod
    def grid(self, strengths: Sequence[float]) -> dict[str, Sequence[float]]:
        """Return scikit-learn's grid of settings for these values of `C`."""

    @abstractmethod
    def strength(self, model: Any) -> float:
        """Return the regularization parameter of a fitted model."""

    def folds(self, targets: np.ndarray) -> Any:
        """Return a cross-validation splitter; None if there are too few texts."""
        from sklearn.model_selection import KFold

        return None if len(targets) < 2 * FOLDS else KFold(FOLDS, shuffle=True, random_state=0)

    @abstractmethod
    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weights, float64 [width, features], and biases, [width], of a fitted model."""

    @abstractmethod
    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean loss of outputs, [N, width]."""

    def iterations(self, model: Any) -> int | None:
        return None


class LinearClasses(LinearKind):
    """Logistic regression, of one class against the other or of several classes at once."""

    scoring = "accuracy"

    def can_fit(self, targets: np.ndarray) -> bool:
        return len(np.unique(targets)) > 1

    def model(self, *, intercept: bool = True) -> Any:
        return _logistic(intercept)

    def grid(self, strengths: Sequence[float]) -> dict[str, Sequence[float]]:
        return {"C": strengths}

    def strength(self, model: Any) -> float:
        return float(model.C)

    def folds(self, targets: np.ndarray) -> Any:
        from sklearn.model_selection import StratifiedKFold

        few = np.sort(np.bincount(targets))[-2] < FOLDS
        return None if few else StratifiedKFold(FOLDS, shuffle=True, random_state=0)

    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row for each class; a class without training texts is never answered."""
        weights, biases = np.zeros((width, features)), np.full(width, NEVER)
        rows, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn has one row, second against first; the first gets outputs of 0
            rows, bias = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros_like(bias), bias])
        weights[model.classes_], biases[model.classes_] = rows, bias
        return weights, biases

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float(-np.maximum(logs[np.arange(len(targets)), targets], np.log(_SMALLEST)).mean())

    def iterations(self, model: Any) -> int | None:
        return int(np.max(model.n_iter_))


class LinearNumber(LinearKind):
    """Ridge regression."""

    scoring = "neg_mean_squared_error"
    parameter = "alpha"

    def model(self, *, intercept: bool = True) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / 2, fit_intercept=intercept)

    def grid(self, strengths: Sequence[float]) -> dict[str, Sequence[float]]:
        return {"alpha": [1 / (2 * strength) for strength in strengths]}

    def strength(self, model: Any) -> float:
        return float(model.alpha)

    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(model.coef_, np.float64).reshape(1, features), np.array([float(model.intercept_)])

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return float(np.mean((outputs[:, 0] - targets) ** 2))


class LinearLabels(LinearKind):
    """A logistic regression for each label."""

    scoring = "f1_micro"

    def model(self, *, intercept: bool = True) -> Any:
        from sklearn.multiclass import OneVsRestClassifier

        return OneVsRestClassifier(_logistic(intercept))

    def grid(self, strengths: Sequence[float]) -> dict[str, Sequence[float]]:
        return {"estimator__C": strengths}

    def strength(self, model: Any) -> float:
        return float(model.estimator.C)

    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row for each label; a label that no text or every text has is always answered accordingly."""
        weights, biases = np.zeros((width, features)), np.full(width, NEVER)
        for label, one in enumerate(model.estimators_):
            if hasattr(one, "coef_"):
                weights[label], biases[label] = one.coef_[0], one.intercept_[0]
            elif one.y_[0]:  # every training text has it
                biases[label] = -NEVER
        return weights, biases

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        losses = np.logaddexp(0.0, outputs) - outputs * targets
        return float(np.minimum(losses, -np.log(_SMALLEST)).mean())

    def iterations(self, model: Any) -> int | None:
        """Return the most iterations of L-BFGS of any label."""
        return max((int(np.max(one.n_iter_)) for one in model.estimators_ if hasattr(one, "n_iter_")), default=0)


LINEAR_KINDS: dict[str, LinearKind] = {"classes": LinearClasses(), "number": LinearNumber(), "labels": LinearLabels()}
"""Linear models by the kind of task; a kind that writes texts has none."""


def _logistic(intercept: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=MOST_ITERATIONS, fit_intercept=intercept)


@contextmanager
def expected_warnings_ignored() -> Iterator[None]:
    """Ignore scikit-learn's warnings about fits that callers report themselves, and about rare labels."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        for message in ("The least populated class", "Label .* is present in all training examples"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


Folds = Sequence[tuple[np.ndarray, np.ndarray]]
"""For each fold, the examples to learn and the examples to score, as indices."""


def best_setting(
    model: Any,
    grid: Mapping[str, Sequence[float]],
    folds: Folds,
    targets: np.ndarray,
    features: Callable[[np.ndarray, np.ndarray], tuple[Any, Any] | None],
    score: Callable[[Any, Any, np.ndarray], float],
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the setting of `grid` with the highest mean score over the folds; the first of equals.

    GridSearchCV would compute the features of a fold anew for every setting, which is most of its time.

    Args:
        model: scikit-learn's model.
        grid: Values by the name of a setting.
        folds: Examples to learn and to score.
        targets: The targets, [N, ...].
        features: (learnt, scored) -> features of both; None: a fold without features, and then no setting is chosen.
        score: (fitted model, features, targets) -> score; more is better.
        weights: The weight of each example in the loss, [N]. None: all 1.
    """
    from sklearn import clone
    from sklearn.model_selection import ParameterGrid

    settings = list(ParameterGrid(grid))
    scores = []
    for learnt, seen in folds:
        made = features(learnt, seen)
        if made is None:
            return {}
        inputs, asked = made
        given = {} if weights is None else {"sample_weight": weights[learnt]}
        fitted = [clone(model).set_params(**setting).fit(inputs, targets[learnt], **given) for setting in settings]
        scores.append([score(one, asked, targets[seen]) for one in fitted])
    return dict(settings[int(np.argmax(np.mean(scores, axis=0)))])


MOST_COMPARED = 20_000
"""The largest number of examples on which regularization is chosen; the last fit uses all examples."""

STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""Values of `C` for dense features, the inverse strength of regularization."""

WITHOUT_FOLDS = 0.01
"""`C` for dense features if there are too few examples for cross-validation."""


def fit_dense(
    kind: str,
    features: np.ndarray,
    targets: np.ndarray,
    width: int,
    *,
    intercept: bool,
    weights: np.ndarray | None = None,
) -> LinearFit:
    """Fit a linear model to dense features; regularization is chosen by the loss in cross-validation.

    Each feature is divided by its standard deviation, so that features of large scale do not dominate. With an
    intercept, the features are centred too. The scale is folded into the result.

    Args:
        kind: A key of `LINEAR_KINDS`.
        features: float [N, D].
        targets: As `Objective.loss_targets` returns them; `LinearKind.can_fit` must hold.
        width: Number of outputs.
        intercept: Whether to fit biases. `LinearFit` says which biases there are without an intercept.
        weights: The weight of each example in the loss, [N]. None: all 1.
    """
    linear = LINEAR_KINDS[kind]
    model = linear.model(intercept=intercept)
    features = features.astype(np.float64)

    def scaled(learnt: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centre, scale = _scale(features[learnt], intercept)
        return (features[learnt] - centre) / scale, (features[seen] - centre) / scale

    def score(fitted: Any, inputs: np.ndarray, right: np.ndarray) -> float:
        rows, biases = linear.rows(fitted, width, inputs.shape[1])
        return -linear.loss(inputs @ rows.T + biases, right)

    with expected_warnings_ignored():
        compared = _spread(len(features))
        model.set_params(**{name: values[0] for name, values in linear.grid([WITHOUT_FOLDS]).items()})
        if (folds := linear.folds(targets[compared])) is not None:
            parts = [(compared[a], compared[b]) for a, b in folds.split(compared, targets[compared])]
            grid = linear.grid(STRENGTHS)
            model.set_params(**best_setting(model, grid, parts, targets, scaled, score, weights))
        centre, scale = _scale(features, intercept)
        features -= centre
        features /= scale
        model.fit(features, targets, **({} if weights is None else {"sample_weight": weights}))
    rows, biases = linear.rows(model, width, features.shape[1])
    rows, biases = rows / scale, np.where(np.abs(biases) < -NEVER, biases, np.sign(biases) * -UNSEEN)
    iterations = linear.iterations(model)
    converged = iterations is None or iterations < MOST_ITERATIONS
    return LinearFit(rows, biases - rows @ centre, linear.strength(model), iterations, converged)


def _scale(features: np.ndarray, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a centre and a scale for each feature; the scale of a constant feature is its size, or 1 if it is 0."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    size = np.sqrt(mean**2 + deviation**2)
    constant = deviation <= 1e-6 * size  # float32 features that differ by rounding only
    scale = np.where(constant, np.where(size > 0, size, 1.0), deviation)
    return mean if centred else np.zeros_like(mean), scale


def _spread(count: int) -> np.ndarray:
    """Return the indices of at most MOST_COMPARED examples, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_COMPARED)).astype(np.int64))
