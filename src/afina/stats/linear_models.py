"""Linear models by scikit-learn on any features, with regularization chosen by cross-validation.

The baselines (on TF-IDF features) and the method `linear_probe` (on hidden states) use this module.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

FOLDS = 3

NEVER = -1e4  # bias of a class or label without training texts: probability 0 in float64
UNSEEN = -40.0  # the same in `fit_dense`: probability 4e-18, representable in float32

MOST_ITERATIONS = 1000  # of L-BFGS in one fit
_SMALLEST = 1e-12  # smaller probabilities count as this in a log loss


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted linear model: outputs = features @ weights.T + biases.

    Attributes:
        weights: float64 [width, D], for `width` outputs and D features. biases: float64 [width]. If the model has no
        intercept, a bias is 0, UNSEEN for a label without training texts, or
            -UNSEEN for a label that every training text has.
        strength: The regularization parameter (`C` or `alpha`) of the fit.
        iterations: The L-BFGS iterations of the fit on all examples; for several labels, the largest number of any
            label. None for ridge regression, which has a closed formula.
    """

    weights: np.ndarray
    biases: np.ndarray
    strength: float
    iterations: int | None = None
    converged: bool = True


class LinearKind(ABC):
    """The linear model for one kind of task: classes, a number, or labels.

    Attributes:
        scoring: scikit-learn's name of the metric by which the baselines' regularization is chosen.
        parameter: scikit-learn's name of the regularization parameter, "C" or "alpha"; `prefix` stands before it if it
            belongs to the inner model of a wrapper.
        dtype: The type of the features in `fit_dense`.
        stops_early: Whether `fit_dense` tries strengths of regularization only until the loss rises.
    """

    scoring: ClassVar[str]
    parameter: ClassVar[str] = "C"
    prefix: ClassVar[str] = ""
    dtype: ClassVar[type[np.floating[Any]]] = np.float64
    stops_early: ClassVar[bool] = False

    def can_fit(self, targets: np.ndarray) -> bool:
        return True

    @abstractmethod
    def model(self, *, intercept: bool = True) -> Any:
        """Return an unfitted scikit-learn model with `C` = 1, or `alpha` = 1 / (2 C) for ridge regression."""

    def grid(self, strengths: Sequence[float]) -> dict[str, Sequence[float]]:
        """Return scikit-learn's parameter grid for these values of `C`; ridge regression has `alpha` = 1 / (2 C)."""
        return {f"{self.prefix}{self.parameter}": strengths}

    def strength(self, model: Any) -> float:
        return float(model.get_params()[f"{self.prefix}{self.parameter}"])

    def folds(self, targets: np.ndarray) -> Any:
        """Return a scikit-learn cross-validation splitter with FOLDS folds; None if there are too few texts."""
        from sklearn.model_selection import KFold

        return None if len(targets) < 2 * FOLDS else KFold(FOLDS, shuffle=True, random_state=0)

    @abstractmethod
    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights, float64 [width, features], and the biases, [width], of a fitted model."""

    @abstractmethod
    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean loss of the outputs, [N, width]: log loss, or squared error for a number."""

    def iterations(self, model: Any) -> int | None:
        return None


class LinearClasses(LinearKind):
    scoring = "accuracy"

    def can_fit(self, targets: np.ndarray) -> bool:
        return len(np.unique(targets)) > 1

    def model(self, *, intercept: bool = True) -> Any:
        return _logistic(intercept)

    def folds(self, targets: np.ndarray) -> Any:
        from sklearn.model_selection import StratifiedKFold

        return None if _second_count(targets) < FOLDS else StratifiedKFold(FOLDS, shuffle=True, random_state=0)

    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and biases with one row per class; a class without training texts is never predicted."""
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


class LinearTags(LinearClasses):
    """Multinomial logistic regression for the tags of words, of which there are many more than texts.

    Features are float32, and strengths of regularization are tried only until the loss rises. With float32, a fit to
    the 62,730 words of WNUT 17 (`minilm`, C = 0.01) took 39 s and not 63 s on one thread of a busy machine, with the
    same F1 of the words' tags on the validation split.
    """

    dtype = np.float32
    stops_early = True

    def folds(self, targets: np.ndarray) -> Any:
        """Return a splitter whose folds are runs of words, so that nearly all words of a text are in one fold."""
        from sklearn.model_selection import KFold

        return None if _second_count(targets) < FOLDS else KFold(FOLDS, shuffle=False)


def _second_count(targets: np.ndarray) -> int:
    return int(np.sort(np.bincount(targets, minlength=2))[-2])


class LinearNumber(LinearKind):
    scoring = "neg_mean_squared_error"
    parameter = "alpha"

    def model(self, *, intercept: bool = True) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / 2, fit_intercept=intercept)

    def grid(self, strengths: Sequence[float]) -> dict[str, Sequence[float]]:
        return super().grid([1 / (2 * strength) for strength in strengths])

    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(model.coef_, np.float64).reshape(1, features), np.array([float(model.intercept_)])

    def loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        return float(np.mean((outputs[:, 0] - targets) ** 2))


class LinearLabels(LinearKind):
    scoring = "f1_micro"
    prefix = "estimator__"

    def model(self, *, intercept: bool = True) -> Any:
        from sklearn.multiclass import OneVsRestClassifier

        return OneVsRestClassifier(_logistic(intercept))

    def rows(self, model: Any, width: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and biases with one row per label.

        A label of no training text is never predicted, and a label of all training texts is always predicted.
        """
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
        return max((int(np.max(one.n_iter_)) for one in model.estimators_ if hasattr(one, "n_iter_")), default=0)


def _logistic(intercept: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=MOST_ITERATIONS, fit_intercept=intercept)


@contextmanager
def expected_warnings_ignored() -> Iterator[None]:
    """Ignore scikit-learn's warnings about fits that did not converge (callers report them) and about rare labels."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        for message in ("The least populated class", "Label .* is present in all training examples"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        yield


Folds = Sequence[tuple[np.ndarray, np.ndarray]]
"""For each fold of a cross-validation, the indices of its training examples and of its validation examples."""


def best_setting(
    model: Any,
    grid: Mapping[str, Sequence[float]],
    folds: Folds,
    targets: np.ndarray,
    features: Callable[[np.ndarray, np.ndarray], tuple[Any, Any] | None],
    score: Callable[[Any, Any, np.ndarray], float],
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the parameters of `grid` with the highest mean score over the folds; the first if several are equal.

    scikit-learn's GridSearchCV would take longer, because it computes the features of a fold again for every setting.

    Args:
        folds: The indices of the training examples and of the validation examples of each fold.
        features: Takes the two index arrays of a fold and returns the features of both parts. If it returns None for a
            fold, the result is {}.
        score: Takes a fitted model, features and targets; higher is better.
        weights: The weight of each example in the training loss, [N]. None: every weight is 1.
    """
    from sklearn import clone
    from sklearn.model_selection import ParameterGrid

    settings = list(ParameterGrid(grid))
    scores = []
    for learnt, seen in folds:
        parts = features(learnt, seen)
        if parts is None:
            return {}
        inputs, asked = parts
        given = {} if weights is None else {"sample_weight": weights[learnt]}
        fitted = [clone(model).set_params(**setting).fit(inputs, targets[learnt], **given) for setting in settings]
        scores.append([score(one, asked, targets[seen]) for one in fitted])
    return dict(settings[int(np.argmax(np.mean(scores, axis=0)))])


MOST_COMPARED = 20_000  # examples on which `fit_dense` chooses regularization
STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # values of `C` that `fit_dense` tries

WITHOUT_FOLDS = 0.01  # value of `C` if there are too few examples for cross-validation


def fit_dense(
    linear: LinearKind,
    features: np.ndarray,
    targets: np.ndarray,
    width: int,
    *,
    intercept: bool,
    weights: np.ndarray | None = None,
    strength: float | None = None,
    common_scale: bool = False,
    label_texts: int = 0,
) -> LinearFit:
    """Fit a linear model to dense features; regularization is given, or chosen by the loss in cross-validation.

    Each feature is divided by its standard deviation, so that features of large scale do not dominate. With an
    intercept, the mean of each feature is subtracted first. The returned weights and biases apply to the original,
    unscaled features.

    Args:
        features: float [N, D].
        targets: The targets as `Objective.loss_targets` returns them; `LinearKind.can_fit` must be true for them.
        weights: The weight of each example in the training loss, [N]. None: every weight is 1.
        strength: The value of `C`, the inverse strength of regularization. None: cross-validation chooses it.
        common_scale: Whether all features are divided by the root of their mean variance in place of their own standard
            deviations, so that features of large variance have less regularization.
        label_texts: The number of last examples that are texts of labels, such as their names. They are learnt in every
            fold and scored in none. Their features are shifted to the mean of the other examples, because short names
            have something in common that no text has.
    """
    model = linear.model(intercept=intercept)
    features = features.astype(linear.dtype)
    examples = len(features) - label_texts
    if label_texts:
        features[examples:] += features[:examples].mean(axis=0) - features[examples:].mean(axis=0)
    how = partial(_scale, centred=intercept, common=common_scale)
    with expected_warnings_ignored():
        fixed = WITHOUT_FOLDS if strength is None else strength
        model.set_params(**{name: values[0] for name, values in linear.grid([fixed]).items()})
        if strength is None:
            model.set_params(**_best_strength(linear, model, features, targets, width, weights, examples, how))
        centre, scale = how(features)
        features -= centre
        features /= scale
        model.fit(features, targets, **({} if weights is None else {"sample_weight": weights}))
    rows, biases = linear.rows(model, width, features.shape[1])
    rows, biases = rows / scale, np.where(np.abs(biases) < -NEVER, biases, np.sign(biases) * -UNSEEN)
    iterations = linear.iterations(model)
    converged = iterations is None or iterations < MOST_ITERATIONS
    return LinearFit(rows, biases - rows @ centre, linear.strength(model), iterations, converged)


def _best_strength(
    linear: LinearKind,
    model: Any,
    features: np.ndarray,
    targets: np.ndarray,
    width: int,
    weights: np.ndarray | None,
    examples: int,
    how: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """Return the parameter of `model` with the lowest loss in cross-validation; {} if there are too few examples.

    Args:
        examples: The number of first rows that are divided into folds. The others are learnt in every fold.
        how: Returns the centre and the scale of features.
    """
    compared, always = _spread(examples), np.arange(examples, len(features))
    if (folds := linear.folds(targets[compared])) is None:
        return {}

    def scaled(learnt: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if not linear.can_fit(targets[learnt]):
            return None
        centre, scale = how(features[learnt])
        return (features[learnt] - centre) / scale, (features[seen] - centre) / scale

    def score(fitted: Any, inputs: np.ndarray, right: np.ndarray) -> float:
        rows, biases = linear.rows(fitted, width, inputs.shape[1])
        return -linear.loss(inputs @ rows.T + biases, right)

    divided = folds.split(compared, targets[compared])
    parts = [(np.concatenate([compared[a], always]), compared[b]) for a, b in divided]
    choose = _before_the_loss_rises if linear.stops_early else best_setting
    return choose(model, linear.grid(STRENGTHS), parts, targets, scaled, score, weights)


_PARTS, _PARTS_TOGETHER = 2.5, 4.0
"""Number of copies of the compared features, beside the features, at the peak of a cross-validation: of one fold and
of the fold before; or of all folds together, if the linear kind stops early."""

_SCALED = 2  # copies of all features while their standard deviations are computed


def fit_bytes(linear: LinearKind, rows: int, width: int, strength: float | None = None) -> int:
    """Return the bytes of the copies of features, [rows, width], at the peak of `fit_dense`."""
    parts = _PARTS_TOGETHER if linear.stops_early else _PARTS
    compared = min(rows, MOST_COMPARED) if strength is None else 0
    return int(max(_SCALED * rows, rows + parts * compared)) * width * np.dtype(linear.dtype).itemsize


def _before_the_loss_rises(
    model: Any,
    grid: Mapping[str, Sequence[float]],
    folds: Folds,
    targets: np.ndarray,
    features: Callable[[np.ndarray, np.ndarray], tuple[Any, Any] | None],
    score: Callable[[Any, Any, np.ndarray], float],
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the last parameter of `grid` before the mean score over the folds falls; arguments of `best_setting`.

    The fit of a parameter starts with the weights of the parameter before.
    """
    from sklearn import clone

    made = [features(learnt, seen) for learnt, seen in folds]
    if any(each is None for each in made):
        return {}
    given = [{} if weights is None else {"sample_weight": weights[learnt]} for learnt, _ in folds]
    models = [clone(model).set_params(warm_start=True) for _ in folds]
    ((name, values),) = grid.items()
    best, highest = values[0], -np.inf
    for value in values:
        scores = []
        for one, inputs, (learnt, seen), more in zip(models, made, folds, given, strict=True):
            assert inputs is not None
            one.set_params(**{name: value}).fit(inputs[0], targets[learnt], **more)
            scores.append(score(one, inputs[1], targets[seen]))
        if np.mean(scores) <= highest:
            break
        best, highest = value, float(np.mean(scores))
    return {name: best}


HELD = -1  # fold of examples from which no model learns, such as evaluation texts


def cross_fitted(
    linear: LinearKind,
    features: np.ndarray,
    targets: np.ndarray,
    width: int,
    folds: np.ndarray,
    strength: float | None = None,
) -> tuple[np.ndarray, float]:
    """Return the outputs for each example of a model fitted to the other folds, float64 [N, width], and the strength.

    Args:
        folds: The fold of each example, int64 [N]. No model learns from examples of the fold HELD, which are predicted
            by a model of all other examples. `LinearKind.can_fit` must be true for the targets of all other folds but
            one.
        strength: The value of `C`, the inverse strength of regularization. None: the one of STRENGTHS with the lowest
            loss on the folds left out. The values are tried from the lowest until the loss rises.
    """
    if strength is not None:
        return _out_of_fold(linear, features, targets, width, folds, strength), strength
    learnt = np.flatnonzero(folds != HELD)
    compared = learnt[_spread(len(learnt))]
    best, lowest, outputs = STRENGTHS[0], np.inf, np.zeros((0, width))
    for tried in STRENGTHS:
        made = _out_of_fold(linear, features[compared], targets[compared], width, folds[compared], tried)
        loss = linear.loss(made, targets[compared])
        if loss >= lowest:
            break
        best, lowest, outputs = tried, loss, made
    if len(compared) < len(features):
        outputs = _out_of_fold(linear, features, targets, width, folds, best)
    return outputs, best


def _out_of_fold(
    linear: LinearKind, features: np.ndarray, targets: np.ndarray, width: int, folds: np.ndarray, strength: float
) -> np.ndarray:
    outputs = np.zeros((len(features), width))
    for fold in np.unique(folds):
        seen = folds == fold
        learnt = ~seen & (folds != HELD)
        made = fit_dense(linear, features[learnt], targets[learnt], width, intercept=True, strength=strength)
        outputs[seen] = features[seen].astype(np.float64) @ made.weights.T + made.biases
    return outputs


LEAST_SCALE = 1e-9
"""Two of the 384 features of `minilm` are about 1e-33, so that their weights would be 1e31, which no float16 holds."""


def _scale(features: np.ndarray, centred: bool, common: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return each feature's mean (0 if not `centred`) and its scale, by which it is divided.

    A `common` scale is the root of the mean variance of all features, or 1 if all features are constant. Otherwise:
    The scale is the standard deviation, or LEAST_SCALE times that of the median feature if it is smaller. A constant
    feature has its absolute value as scale, or 1 if its value is 0.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    if common:
        return mean if centred else np.zeros_like(mean), np.full_like(mean, np.sqrt((deviation**2).mean()) or 1.0)
    size = np.sqrt(mean**2 + deviation**2)
    constant = deviation <= 1e-6 * size  # float32 features that differ by rounding only
    scale = np.where(constant, np.where(size > 0, size, 1.0), deviation)
    return mean if centred else np.zeros_like(mean), np.maximum(scale, LEAST_SCALE * np.median(scale))


def _spread(count: int) -> np.ndarray:
    """Return evenly spaced indices of `count` examples: all, or MOST_COMPARED of them if there are more."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_COMPARED)).astype(np.int64))
