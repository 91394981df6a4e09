"""Metrics of classes and of labels, and the temperature and thresholds that calibrate probabilities.

The functions are pure functions of arrays. A function such as `mcc_values` returns one value per example; the metric is
the mean of these values (answered.py). An undefined metric, such as the F1 of a class that is neither in the targets
nor predicted, is UNDEFINED (NaN).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afina.stats.answered import MISSING, UNDEFINED, Answered, Order, mean_of_defined, of_ratio

BINS = 15  # of the calibration error, as in Guo et al. (ICML 2017)


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of predictions that equal the label; both int [N]."""
    return float(np.mean(gold == predicted))


def probabilities(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    result: np.ndarray = softmax(logits, axis=-1)
    return result


def log_loss(gold: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean cross-entropy in nats; labels int [N], logits [N, classes]."""
    from scipy.special import log_softmax

    return float(-np.mean(log_softmax(logits, axis=1)[np.arange(len(gold)), gold]))


def f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Return F1 of class 1 for two classes, else the unweighted mean over the classes for which F1 is defined.

    F1 is undefined for a class that is neither in `gold` nor predicted, as with scikit-learn's `zero_division=nan`.
    """
    from sklearn.metrics import f1_score

    if classes == 2:
        either = int(np.sum(gold == 1) + np.sum(predicted == 1))
        return 2 * int(np.sum((gold == 1) & (predicted == 1))) / either if either else UNDEFINED
    return float(f1_score(gold, predicted, labels=list(range(classes)), average="macro", zero_division=UNDEFINED))


# By class, by confidence


def reliability(chances: np.ndarray, targets: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean confidence, share of right predictions, and count of each non-empty bin, least confident first.

    Confidence is the probability of the likeliest class. The bins of confidence are equally wide and include their
    upper ends.
    """
    confidence, right = _confidence(chances, targets)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    used = counts > 0
    counts = counts[used]
    sums = [np.bincount(place, weights, bins)[used] / counts for weights in (confidence, right)]
    return sums[0], sums[1], counts


def risk_coverage(chances: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shares k / N and the accuracy of the k most confident predictions, for k = 1, ..., N; float [N] each.

    If only some of several equally confident predictions are among the k, they count as chosen at random: their
    accuracy is the mean accuracy of all equally confident predictions.
    """
    confidence, right = _confidence(chances, targets)
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(place, right) / counts
    taken = np.arange(1, len(right) + 1)
    return taken / len(right), np.cumsum(np.repeat(share, counts)) / taken


def _confidence(chances: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chances = np.asarray(chances, dtype=np.float64)
    return chances.max(axis=1), (chances.argmax(axis=1) == targets).astype(float)


# Figures, and the values of each example


def right(answered: Answered) -> np.ndarray:
    """Return whether each prediction equals its target, bool [N]; the mean of the array is accuracy."""
    found: np.ndarray = answered.answers == answered.targets
    return found


def f1_values(answered: Answered) -> np.ndarray:
    """Return per-example values whose mean is `f1`, [N], from the ratio 2 TP / (TP + FP + TP + FN) of each class."""
    rows = []
    for label in [1] if answered.classes == 2 else range(answered.classes):
        is_gold, is_found = answered.targets == label, answered.answers == label
        rows.append(of_ratio(2.0 * (is_gold & is_found), is_gold.astype(float) + is_found))
    return mean_of_defined(np.stack(rows))


def balanced_accuracy_values(answered: Answered) -> np.ndarray:
    """Return per-example values, [N], whose mean is the mean recall over the classes that occur in the targets.

    Deviations are multiplied by n / (n - 1) for a class of n examples, as in the jackknife; without this factor, the
    standard error is too small for small classes.
    """
    counts = np.bincount(answered.targets)
    hits = right(answered).astype(float)
    recall = np.divide(np.bincount(answered.targets, hits), counts, out=np.zeros(len(counts)), where=counts > 0)
    occurring = counts > 0
    own = (hits - recall[answered.targets]) * len(hits) / np.maximum(counts - 1, 1)[answered.targets]
    values: np.ndarray = recall[occurring].mean() + own / occurring.sum()
    return values


def mcc_values(answered: Answered) -> np.ndarray:
    """Return per-example values, [N], whose mean is the Matthews correlation.

    For three or more classes, it is R_K (Gorodkin, Comput. Biol. Chem. 28, 2004). With the shares t and p of each class
    among the targets and the predictions, mcc = C / sqrt(V_t V_p), where C = accuracy - sum(t p), V_t = 1 - sum(t²) and
    V_p = 1 - sum(p²). The per-example values are UNDEFINED if the targets have only one class, and 0, as in
    scikit-learn, if the predictions have only one class. Missing answers count as a further class of the predictions,
    as in scikit-learn.
    """
    targets, n, size = answered.targets, len(answered.targets), answered.classes
    answers = np.where(answered.answers == MISSING, size, answered.answers)
    t, p = (np.bincount(labels, minlength=size + 1) / n for labels in (targets, answers))
    hits = right(answered).astype(float)
    both, of_targets, of_answers = float(p @ t), 1 - float(t @ t), 1 - float(p @ p)
    if of_targets <= 1e-12:
        return np.full(n, UNDEFINED)
    if of_answers <= 1e-12:
        return np.zeros(n)
    scale = np.sqrt(of_targets * of_answers)
    score = (hits.mean() - both) / scale
    covariance = hits - hits.mean() - (p[targets] - both) - (t[answers] - both)
    variances = (t @ t - t[targets]) / of_targets + (p @ p - p[answers]) / of_answers
    values: np.ndarray = score + covariance / scale - score * variances
    return values


def auroc(answered: Answered) -> float:
    """Return the area under the ROC curve of the probability of class 1; UNDEFINED if the targets have one class."""
    from sklearn.metrics import roc_auc_score

    positive = answered.targets == 1
    if positive.all() or not positive.any():
        return UNDEFINED
    return float(roc_auc_score(positive, answered.probabilities[:, 1]))


def auroc_values(answered: Answered) -> np.ndarray:
    """Return per-example values whose mean is `auroc`, [N], by DeLong's method (Biometrics 44, 1988).

    The value of an example is computed from its placement, the share of the other class's examples that the model ranks
    correctly relative to the example. Deviations are multiplied by n / (n - 1) for a class of n examples, as in the
    jackknife; without this factor, the standard error is too small for few examples.
    """
    positive, scores = answered.targets == 1, answered.probabilities[:, 1]
    if positive.all() or not positive.any():
        return np.full(len(scores), UNDEFINED)
    above, below = scores[positive], scores[~positive]
    placed = np.empty(len(scores))
    placed[positive] = _outranked(np.sort(below), above)
    placed[~positive] = 1 - _outranked(np.sort(above), below)
    area = placed[positive].mean()
    others = np.maximum(np.where(positive, len(above), len(below)) - 1, 1)
    values: np.ndarray = area + (placed - area) * len(scores) / others
    return values


def _outranked(ordered: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return for each score the share of the sorted array `ordered` that is smaller; equal numbers count half."""
    places = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    shares: np.ndarray = places / (2 * len(ordered))
    return shares


def cross_entropy_values(answered: Answered) -> np.ndarray:
    """Return the cross-entropy of each example in nats, with probabilities clipped at 2.2e-16 as in scikit-learn."""
    chances, epsilon = answered.probabilities, np.finfo(np.float64).eps
    given = chances[np.arange(len(chances)), answered.targets]
    losses: np.ndarray = -np.log(np.clip(given, epsilon, 1 - epsilon))
    return losses


def brier_values(answered: Answered) -> np.ndarray:
    """Return each example's Brier score, [N]: the squared error of the probabilities, summed over classes.

    For two classes, the Brier score is half of the sum, the squared error of the probability of class 1, between 0
    and 1. For three or more classes, the Brier score is between 0 and 2. Both are scikit-learn 1.7's definition.
    """
    chances = answered.probabilities
    errors = chances - np.eye(chances.shape[1])[answered.targets]
    summed: np.ndarray = (errors**2).sum(axis=1)
    return summed / 2 if chances.shape[1] == 2 else summed


def ece(answered: Answered) -> float:
    """Return the expected calibration error: the mean of |mean confidence - accuracy| over bins, weighted by count."""
    confidence, share, counts = reliability(answered.probabilities, answered.targets, BINS)
    return float(np.sum(np.abs(confidence - share) * counts) / counts.sum())


def micro_f1_values(answered: Answered) -> np.ndarray:
    right, either = _counted(answered)
    return of_ratio(right.sum(axis=1), either.sum(axis=1))


def macro_f1_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is the mean F1 over the labels that occur in the targets or the predictions."""
    right, either = _counted(answered)
    return mean_of_defined(of_ratio(right.T, either.T))


def exactly_right(answered: Answered) -> np.ndarray:
    """Return whether all labels of each example are right, bool [N]; the mean is the share of exact matches.

    A missing answer is wrong, even if the example has no label.
    """
    found: np.ndarray = (answered.targets.astype(np.int64) == answered.answers.astype(np.int64)).all(axis=1)
    return found


def average_precision(answered: Answered) -> float:
    """Return the mean of scikit-learn's average precision over the labels that occur in the targets."""
    from sklearn.metrics import average_precision_score

    targets, chances = answered.targets.astype(bool), answered.probabilities
    occurring = np.flatnonzero(targets.any(axis=0))
    if not len(occurring):
        return UNDEFINED
    return float(np.mean([average_precision_score(targets[:, label], chances[:, label]) for label in occurring]))


def average_precision_values(answered: Answered) -> np.ndarray:
    targets, chances = answered.targets.astype(bool), answered.probabilities
    occurring = np.flatnonzero(targets.any(axis=0))
    if not len(occurring):
        return np.full(len(targets), UNDEFINED)
    values: np.ndarray = np.mean([_of_precision(targets[:, k], chances[:, k]) for k in occurring], axis=0)
    return values


def _of_precision(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return per-example values, [N], whose mean is the average precision of one label, AP = E[y r(s)] / E[y].

    The precision r(t) = Q(t) / S(t) is over all examples with a score of t or more: S(t) examples, of which Q(t) are
    positive. An example with score s changes r(t) for every t <= s: through S(t), and if it is positive also through
    Q(t). Deviations are multiplied by P / (P - 1) for P positive examples; the jackknife gives about the same.
    """
    order, y = Order.of(scores), positive.astype(float)
    share, found = y.mean(), order.mean_from(np.ones(len(scores)))
    precision = order.mean_from(y) / found
    score = np.mean(y * precision) / share
    in_positives, in_all = order.mean_upto(y / found), order.mean_upto(y * precision / found)
    influence = (y * precision + y * in_positives - in_all) / share - score * y / share
    count = int(positive.sum())
    values: np.ndarray = score + influence * count / max(count - 1, 1)
    return values


def _counted(answered: Answered) -> tuple[np.ndarray, np.ndarray]:
    """Return F1's numerator (2 x true positive) and denominator (target + prediction) per label; float [N, L] each."""
    targets, answers = answered.targets.astype(bool), answered.answers > 0  # a missing answer has no label
    return 2.0 * (targets & answers), targets.astype(float) + answers


DEFAULT_THRESHOLD = 0.5  # least probability of a predicted label, unless another was fitted


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature between 1/20 and 20 with the smallest `loss(temperature)` (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda exponent: loss(float(np.exp(exponent))), bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def fit_threshold(targets: np.ndarray, chances: np.ndarray) -> float:
    """Return the threshold with the highest F1 of one label; of several such thresholds, the nearest to 0.5.

    A threshold is the middle between two neighbouring probabilities. The result is 0.5 if the label never occurs.
    `targets` says whether each text has the label, 0 or 1, [N].
    """
    order = np.argsort(-chances, kind="stable")
    ranked, hits = chances[order], np.cumsum(targets[order])
    if not len(hits) or not hits[-1]:
        return DEFAULT_THRESHOLD
    scores = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    scores[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no threshold parts equal ones
    between = (ranked + np.append(ranked[1:], 0.0)) / 2
    best = np.flatnonzero(scores == scores.max())
    return float(between[best[np.argmin(np.abs(between[best] - DEFAULT_THRESHOLD))]])
