"""Figures of answers that are any of L labels: pure functions of an `Answered`, and the values of each example.

UNDEFINED where a figure is not: the F1 of labels that neither occur nor are answered, precision where none occurs.
"""

from __future__ import annotations

import numpy as np

from afina.stats.answered import UNDEFINED, Answered, Order, mean_of_defined, of_ratio


def micro_f1(answered: Answered) -> float:
    """F1 of all labels of all examples taken together."""
    return float(np.mean(micro_f1_values(answered)))


def micro_f1_values(answered: Answered) -> np.ndarray:
    """Of `micro_f1`, a ratio of sums over labels."""
    right, either = _counted(answered)
    return of_ratio(right.sum(axis=1), either.sum(axis=1))


def macro_f1(answered: Answered) -> float:
    """Mean of the F1 of each label that has one: that occurs or is answered."""
    return float(np.mean(macro_f1_values(answered)))


def macro_f1_values(answered: Answered) -> np.ndarray:
    """Of `macro_f1`, a mean of ratios."""
    right, either = _counted(answered)
    return mean_of_defined(of_ratio(right.T, either.T))


def exactly_right(answered: Answered) -> np.ndarray:
    """Whether every label of an example is answered right, bool [N]; the mean is the share of exact matches."""
    found: np.ndarray = (answered.targets.astype(bool) == answered.answers.astype(bool)).all(axis=1)
    return found


def average_precision(answered: Answered) -> float:
    """Mean over the labels that occur of the average precision of their probabilities, by scikit-learn."""
    from sklearn.metrics import average_precision_score

    targets, chances = answered.targets.astype(bool), answered.probabilities
    occurring = np.flatnonzero(targets.any(axis=0))
    if not len(occurring):
        return UNDEFINED
    return float(np.mean([average_precision_score(targets[:, label], chances[:, label]) for label in occurring]))


def average_precision_values(answered: Answered) -> np.ndarray:
    """Of `average_precision`."""
    targets, chances = answered.targets.astype(bool), answered.probabilities
    occurring = np.flatnonzero(targets.any(axis=0))
    if not len(occurring):
        return np.full(len(targets), UNDEFINED)
    values: np.ndarray = np.mean([_of_precision(targets[:, k], chances[:, k]) for k in occurring], axis=0)
    return values


def _of_precision(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of one label's AP = E[y r(s)] / E[y], where r(t) = Q(t) / S(t) is the precision of all that score t or more.

    An example counts itself, if positive, and in the r of every positive below it: in Q, if positive, and in S.
    Deviations are P / (P - 1) times as large where P are positive, about as the jackknife has them.
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
    """Twice whether a label is both right and answered; whether right plus whether answered; float [N, L] each."""
    targets, answers = answered.targets.astype(bool), answered.answers.astype(bool)
    return 2.0 * (targets & answers), targets.astype(float) + answers
