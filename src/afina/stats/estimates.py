"""Figures with their intervals, from the answers of S runs with different seeds to the same N examples.

Pure functions of arrays. The intervals underneath are in `intervals.py` (shares, one seed) and `random_effects.py`;
what is said of two methods is in `comparison.py`.

Coverage of 95 % intervals in simulated studies, the lowest and the highest of all metrics (docs/coverage.md has each,
benchmarks/coverage.py the simulation): of one method, made here, and of the difference of two, made in `evidence.py`.

    seeds  examples  one method      difference
    1      200       0.941 to 0.973  0.945 to 0.986
    1      1000      0.944 to 0.959  0.945 to 0.962
    3      200       0.965 to 0.995  0.979 to 0.998
    3      1000      0.973 to 0.986  0.960 to 0.984
    5      200       0.950 to 0.979  0.963 to 0.995
    5      1000      0.958 to 0.981  0.953 to 0.978
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from afina.stats.answered import UNDEFINED, Answered, mean_of_defined, of_ratio
from afina.stats.intervals import Interval, bent, bounded, wilson
from afina.stats.metrics import Metric
from afina.stats.random_effects import Crossed, size_of


@dataclass(frozen=True)
class Estimate:
    """A figure of one method: the mean over its seeds, the standard deviation over them (n - 1; None for one), and
    where the truth may lie. All of them UNDEFINED where the figure is, for one of the seeds.

    With one seed the interval is about this trained model on other examples; with several it is about the method, on
    other examples and with other seeds.
    """

    mean: float
    spread: float | None
    interval: Interval


def of_answers(answered: Sequence[Answered], metric: Metric, level: float = 0.95) -> Estimate:
    """Of what was answered, seed by seed, to the same examples: by `f1` for F1, by `estimate` for all else."""
    if metric.name == "f1":
        return f1(answered[0].targets, np.stack([one.answers for one in answered]), answered[0].classes, level)
    if metric.values is None:
        raise ValueError(f"{metric.words} is no mean over examples, so it has no interval")
    return estimate(np.stack([metric.values(one) for one in answered]), metric, level)


def estimate(values: np.ndarray, metric: Metric, level: float = 0.95) -> Estimate:
    """Of what `metric.values` gives, [S, N], or [N] for one seed.

    Shares of right answers as `accuracy`. Others by `random_effects.py`, with two added examples as for differences
    (Agresti & Coull do the same to one share, The American Statistician 52, 1998, 119-126), and with an interval that
    stays within the metric's range: shares bent as Wilson's, those of probabilities by their logit, correlations by
    Fisher's z, losses by their logarithm, R² by that of 1 - R². docs/coverage.md has the coverage of each.
    """
    if metric.counted:
        return accuracy(values, level)
    table = _table(values).astype(float)
    if np.isnan(table).any():
        return _undefined(table)
    mean, spread, table = _seeds(table, table.mean(axis=1))
    if not table.var() > 1e-24 and metric.range == (0.0, 1.0) and mean in metric.range:
        return Estimate(mean, spread, wilson(int(mean) * table.shape[1], table.shape[1], level))
    width = Crossed.of(table, added=2, size=size_of(table)).width(level)
    return Estimate(mean, spread, bent(mean, width, metric.range, logit=metric.chances))


def accuracy(correct: np.ndarray, level: float = 0.95) -> Estimate:
    """Share of right answers; bool [S, N], or [N] for one seed.

    Wilson's interval for one seed, and where all seeds answered alike; else that of
    `random_effects.py`, bent to [0, 1].
    """
    values = _table(correct).astype(float)
    single = wilson(int(values[0].sum()), values.shape[1], level)
    return _estimate(values, values.mean(axis=1), single, level)


def f1(gold: np.ndarray, predicted: np.ndarray, classes: int, level: float = 0.95) -> Estimate:
    """F1 of class 1 for two classes, else the plain mean of the F1 of each that has one; int [N] and int [S, N].

    For one seed and two classes the interval is the "Wilson indirect" of Lam, Gopal & Qian (arXiv:2309.14621): Wilson's
    for the share TP / (TP + FP + FN), of which F1 is a monotone function. For more classes or seeds, F1 is linearised:
    each example has the value F + (2 tp - F (gold + predicted)) / mean(gold + predicted), whose mean is F and whose
    spread is, to first order, that of F (the delta method); these values are treated as accuracy's are.
    """
    predicted = _table(predicted)
    if gold.shape != predicted.shape[1:]:
        raise ValueError(f"expected one label for each of {predicted.shape[1]} predictions, found {gold.shape}")
    chosen = [1] if classes == 2 else list(range(classes))
    by_class, singles = [], []
    for label in chosen:
        is_gold, is_found = gold == label, predicted == label
        by_class.append(of_ratio(2.0 * (is_gold & is_found), is_gold.astype(float) + is_found))
        if either := int(np.sum(is_gold | is_found[0])):
            share = wilson(int(np.sum(is_gold & is_found[0])), either, level)
            singles.append((2 * share.low / (1 + share.low), 2 * share.high / (1 + share.high)))
    values = np.stack([mean_of_defined(rows) for rows in np.stack(by_class, axis=1)])
    if np.isnan(values).any():
        return _undefined(values)
    single = None
    if classes == 2 or not values[0].var() > 1e-24:
        single = Interval(*(float(np.mean(ends)) for ends in zip(*singles, strict=True)))
    return _estimate(values, values.mean(axis=1), single, level)


def _undefined(values: np.ndarray) -> Estimate:
    return Estimate(UNDEFINED, UNDEFINED if len(values) > 1 else None, Interval(UNDEFINED, UNDEFINED))


def _table(values: np.ndarray) -> np.ndarray:
    """[S, N] of [N] or [S, N]."""
    table = np.atleast_2d(values)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"expected an array of seeds by examples, found the shape {values.shape}")
    return table


def _seeds(values: np.ndarray, by_seed: np.ndarray) -> tuple[float, float | None, np.ndarray]:
    """Mean and standard deviation over seeds, and the values: of one seed where all are alike."""
    mean = float(by_seed.mean())
    spread = float(by_seed.std(ddof=1)) if len(values) > 1 else None
    if (values == values[0]).all():
        return float(by_seed[0]), None if spread is None else 0.0, values[:1]
    return mean, spread, values


def _estimate(values: np.ndarray, by_seed: np.ndarray, single: Interval | None, level: float) -> Estimate:
    """`single` is the interval where there is but one seed, or all agree."""
    mean, spread, values = _seeds(values, by_seed)
    if len(values) == 1 and single:
        return Estimate(mean, spread, single)
    return Estimate(mean, spread, bounded(mean, Crossed.of(values).width(level)))
