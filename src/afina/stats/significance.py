"""Significance of the difference of two methods.

The module has the exact McNemar test, Tango's score for paired shares, and Holm's correction for several pairs.
`Evidence` has the difference of two methods, its interval and p values, and how many more examples would decide. For
one seed and answers that are right or wrong, `Evidence` uses McNemar's test and Tango's score, otherwise the mean of
paired differences over examples and seeds (`Crossed` in `intervals.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from afina.stats.intervals import Crossed, Interval, size_of
from afina.stats.metrics import Metric

CHANCE = 0.8
"""The probability that the proposed seeds or examples give a verdict, if the true difference is the observed one."""

MOST_SEEDS, MOST_EXAMPLES = 1_000, 1_000_000  # that `Evidence.needed` tries


@dataclass(frozen=True)
class Evidence:
    """The difference of two methods with its interval and p values, before the correction for several pairs of methods.

    Attributes:
        p_worse: The one-sided p value of the hypothesis that the first method is worse by the margin or more.
        p_better: The one-sided p value of the hypothesis that the first method is better by the margin or more.
        model: The mean squares of the differences, from which `needed` computes how more data would help.
    """

    difference: float
    interval: Interval
    p: float
    p_worse: float
    p_better: float
    model: Crossed

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, margin: float = 0.01, level: float = 0.95) -> Evidence:
        """Return the evidence on two methods from whether each of their answers is right, bool [S, N] each."""
        values = first.astype(float) - second
        if (values == values[0]).all():
            return cls._of_one(first[0], second[0], margin, level)
        model, difference = Crossed.of(values, added=2), float(values.mean())
        centre = difference * values.shape[1] / model.examples
        width = model.width(level)
        interval = Interval(max(-1.0, centre - width), min(1.0, centre + width))
        p = min(1.0, 2 * model.tail(abs(centre)))
        return cls(difference, interval, p, model.tail(centre + margin), model.tail(margin - centre), model)

    @classmethod
    def linear(
        cls,
        first: np.ndarray,
        second: np.ndarray,
        metric: Metric,
        margin: float,
        level: float = 0.95,
        *,
        few: bool = False,
    ) -> Evidence:
        """Return the evidence on two methods from their per-example values of a metric, float [S, N] each.

        The two pseudo-examples of `Crossed.of` have the typical size (`size_of`) of the methods' differences if the
        metric uses probabilities or is graded. For other metrics, or equal differences, the pseudo-examples have the
        typical size of the methods' own values, because two methods often agree on most examples.
        """
        values = np.asarray(first, dtype=np.float64) - second
        if (values == values[0]).all():
            values = values[:1]
        own, between = max(size_of(first), size_of(second)), size_of(values)
        size = (between if metric.chances or metric.graded else own) or own or between or 1.0
        model, difference = Crossed.of(values, added=2, size=size, few=few), float(values.mean())
        width, room = model.width(level), metric.range[1] - metric.range[0]
        interval = Interval(max(-room, difference - width), min(room, difference + width))
        p = min(1.0, 2 * model.tail(abs(difference)))
        less, more = model.tail(difference + margin), model.tail(margin - difference)
        worse, better = (more, less) if metric.lower else (less, more)
        return cls(difference, interval, p, worse, better, model)

    @property
    def equivalence(self) -> float:
        """The p value of the equivalence test (TOST), which is the higher of the two one-sided p values."""
        return max(self.p_worse, self.p_better)

    @classmethod
    def _of_one(cls, first: np.ndarray, second: np.ndarray, margin: float, level: float) -> Evidence:
        b, c, n = *discordant(first, second), len(first)
        interval, p = tango(b, c, n, level), mcnemar(first, second)
        if p >= 1 - level:
            interval = Interval(min(interval.low, 0.0), max(interval.high, 0.0))
        model = Crossed.of((first.astype(float) - second)[None], added=2)
        return cls((b - c) / n, interval, p, above(b, c, n, -margin), above(c, b, n, -margin), model)

    def needed(self, margin: float, level: float, pairs: int) -> tuple[int | None, int | None]:
        """Return how many more seeds alone, and more examples alone, would change the verdict from "undecided".

        `pairs` is the factor by which Holm's correction multiplies the p value of this pair.
        """
        seeds, examples = self.model.seeds, self.model.examples

        def enough(model: Crossed) -> bool:
            return _chance(model, self.difference, margin, level, pairs) >= CHANCE

        by_examples = _smallest(lambda more: enough(self.model.at(seeds, examples + more)), MOST_EXAMPLES)
        if seeds == 1:
            return None, by_examples
        return _smallest(lambda more: enough(self.model.at(seeds + more, examples)), MOST_SEEDS), by_examples


def _chance(model: Crossed, difference: float, margin: float, level: float, pairs: int) -> float:
    """Return the probability of a verdict other than "undecided", given the true difference and variances.

    `model` has the true variances, and the numbers of seeds and examples; `difference` is the true difference.
    """
    from scipy.special import ndtr

    deviation, size = sqrt(model.variance), abs(difference)
    needed = model.width(1 - (1 - level) / pairs)
    chance = ndtr((size - needed) / deviation) + ndtr((-size - needed) / deviation)
    room = margin - model.width(2 * level - 1)
    if room > 0:
        chance += ndtr((room - size) / deviation) - ndtr((-room - size) / deviation)
    return float(min(chance, 1.0))


def _smallest(enough: Callable[[int], bool], most: int) -> int | None:
    """Return the smallest number for which `enough` is true, rounded up to two digits; None if `most` is too small."""
    if not enough(most):
        return None
    low, high = 0, 1
    while not enough(high):
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    unit = int(10 ** max(len(str(high)) - 2, 0))
    return -(-high // unit) * unit


def discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return how many examples only the first method answers right, and how many only the second; both bool [N]."""
    return int(np.sum(first & ~second)), int(np.sum(second & ~first))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact two-sided p value of McNemar's test of the hypothesis that both methods are equally often right.

    McNemar's test is the binomial test of 1/2 on the examples that exactly one method answers right. The p value is 1
    if there are no such examples. The arguments say whether each method answers each example right, bool [N].
    """
    if first.shape != second.shape:
        raise ValueError(f"expected two arrays of the same examples, found {first.shape} and {second.shape}")
    from scipy.stats import binomtest

    only_first, only_second = discordant(first, second)
    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def score(only_first: int, only_second: int, n: int, difference: float) -> float:
    """Return Tango's z score of the hypothesis that the first share exceeds the second by `difference`, for n pairs.

    Tango's score (Statistics in Medicine 17, 1998, 891-908) is the observed difference minus `difference`, divided by
    the maximum-likelihood standard error under the hypothesis.
    """
    a = 2 * n
    b = (2 * n - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    share = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * max(2 * share + difference * (1 - difference), 0.0)
    excess = only_first - only_second - n * difference
    return excess / sqrt(max(variance, 1e-300)) if excess else 0.0


def tango(only_first: int, only_second: int, n: int, level: float = 0.95) -> Interval:
    """Return Tango's interval for the difference of two paired shares: the differences that `score` does not reject."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z, observed = float(ndtri((1 + level) / 2)), (only_first - only_second) / n
    low = brentq(lambda x: score(only_first, only_second, n, x) - z, -1.0, observed) if observed > -1 else -1.0
    high = brentq(lambda x: score(only_first, only_second, n, x) + z, observed, 1.0) if observed < 1 else 1.0
    return Interval(float(low), float(high))


def above(only_first: int, only_second: int, n: int, difference: float) -> float:
    """Return the one-sided p value of the hypothesis that the first share is at most the second plus `difference`.

    The p value comes from Tango's score.
    """
    from scipy.special import ndtr

    return float(ndtr(-score(only_first, only_second, n, difference)))


def holm(p: Sequence[float]) -> list[float]:
    """Return the p values after Holm's correction, in the given order (Scandinavian J. of Statistics 6, 1979, 65-70).

    The smallest of m p values is multiplied by m, the next by m - 1, and so on. An adjusted p value is at least as
    large as the adjusted p value of every smaller p, and at most 1.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted
