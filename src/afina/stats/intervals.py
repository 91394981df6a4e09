"""Intervals and tests for shares: Wilson, exact McNemar, Tango's score for paired shares, Holm.

Pure functions of counts. Knows nothing of seeds, methods or verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atanh, exp, inf, sqrt, tanh

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import binomtest


@dataclass(frozen=True)
class Interval:
    """A confidence interval, ends included."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether the value lies within."""
        return self.low <= value <= self.high


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a share (JASA 22, 1927, 209-212), by scipy; all of [0, 1] for n = 0."""
    if n == 0:
        return Interval(0.0, 1.0)
    found = binomtest(int(successes), int(n)).proportion_ci(level, "wilson")
    return Interval(float(found.low), float(found.high))


def bounded(share: float, width: float) -> Interval:
    """The interval [share - width, share + width], bent to stay within [0, 1] as Wilson's is.

    Solves |share - x| = width * sqrt(x (1 - x) / (share (1 - share))) for x: for width = z sqrt(share (1 - share) / n)
    that is Wilson's interval. This is his score with the effective number of examples of a clustered sample
    (Korn & Graubard, Survey Methodology 24, 1998, 193-201). Needs 0 < share < 1.
    """
    kappa = width**2 / (share * (1 - share))
    half = sqrt(kappa * share * (1 - share) + kappa**2 / 4)
    return Interval(
        max(0.0, (share + kappa / 2 - half) / (1 + kappa)), min(1.0, (share + kappa / 2 + half) / (1 + kappa))
    )


def bent(value: float, width: float, within: tuple[float, float], *, logit: bool = False) -> Interval:
    """The interval [value - width, value + width], bent to stay within a range, by a scale on which it has no bounds.

    Of a share: `bounded`, or the logit. Of (-1, 1): Fisher's z, artanh. Of (0, inf): the logarithm; of (-inf, 1): that
    of 1 - value. On such a scale the width is multiplied by its slope at the value. At a bound, where that has no end,
    the interval is not bent, but cut.
    """
    low, high = within
    if not low < value < high:
        return Interval(max(low, value - width), min(high, value + width))
    if high == inf:
        return Interval(value * exp(-width / value), value * exp(min(width / value, 500.0)))
    if low == -inf:
        rest = high - value
        return Interval(high - rest * exp(min(width / rest, 500.0)), high - rest * exp(-width / rest))
    if within == (0.0, 1.0) and not logit:
        return bounded(value, width)
    middle, half = (low + high) / 2, (high - low) / 2  # the logit of a share is 2 artanh of (2 share - 1)
    at = (value - middle) / half
    z, stretched = atanh(at), width / half / (1 - at**2)
    return Interval(middle + half * tanh(z - stretched), middle + half * tanh(z + stretched))


def around_mean(
    mean: float, scatter: float, n: int, within: tuple[float, float] | None = None, level: float = 0.95
) -> Interval:
    """Student's t interval for a mean of n >= 2 values, of whose squared deviations `scatter` is the sum.

    within  ends of the range that values can have: then as `bent`, which stays there
    """
    width = float(stdtrit(n - 1, (1 + level) / 2)) * sqrt(max(scatter, 0.0) / (n - 1) / n)
    return Interval(mean - width, mean + width) if within is None else bent(mean, width, within)


def discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How many examples only the first has right, and only the second; both bool [N]."""
    return int(np.sum(first & ~second)), int(np.sum(second & ~first))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test that both are right equally often; bool [N] each, of the same examples.

    The binomial test of one half on the examples that exactly one has right; 1 where there are none.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected two arrays of the same examples, found {first.shape} and {second.shape}")
    only_first, only_second = discordant(first, second)
    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def score(only_first: int, only_second: int, n: int, difference: float) -> float:
    """Tango's z of the hypothesis that the first share exceeds the second by `difference`, of n pairs.

    Tango, Statistics in Medicine 17 (1998) 891-908: the observed difference less the hypothesis, over the standard
    error that maximum likelihood gives under the hypothesis.
    """
    a = 2 * n
    b = (2 * n - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    share = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * max(2 * share + difference * (1 - difference), 0.0)
    excess = only_first - only_second - n * difference
    return excess / sqrt(max(variance, 1e-300)) if excess else 0.0


def tango(only_first: int, only_second: int, n: int, level: float = 0.95) -> Interval:
    """Tango's score interval for the difference of two paired shares: the differences that `score` does not reject."""
    z, observed = float(ndtri((1 + level) / 2)), (only_first - only_second) / n
    low = brentq(lambda x: score(only_first, only_second, n, x) - z, -1.0, observed) if observed > -1 else -1.0
    high = brentq(lambda x: score(only_first, only_second, n, x) + z, observed, 1.0) if observed < 1 else 1.0
    return Interval(float(low), float(high))


def above(only_first: int, only_second: int, n: int, difference: float) -> float:
    """One-sided p against "the first share exceeds the second by at most `difference`", by Tango's score."""
    return float(ndtr(-score(only_first, only_second, n, difference)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p, in the order given (Scandinavian Journal of Statistics 6, 1979, 65-70).

    The smallest is multiplied by their number m, the next by m - 1, and so on; none is less than one before it, or more
    than 1.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted
