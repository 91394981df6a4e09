"""Confidence intervals of metrics, from the answers of S runs with different seeds to the same N examples.

The functions are pure functions of arrays. The share of right answers of one seed has Wilson's interval. Every other
metric is a mean over seeds and examples, and `Crossed` estimates how far the mean may lie from the truth. Comparisons
of two methods are in `significance.py` and `comparison.py`.

`Crossed` is a model of random effects that treats seeds and examples as random samples:

The value of seed s and example i is y[s, i] = mean + seed[s] + example[i] + rest[s, i] with independent effects. The
effects of seeds and examples are crossed, because every seed is evaluated on the same examples. The mean squares (MS)
of the two-way analysis of variance estimate the variances of the three effects. The mean over S seeds and N examples
has the variance

    (MS_seeds + MS_examples - MS_rest) / (S N).

With three seeds, MS_seeds is a poor estimate, because it has only two degrees of freedom, so a normal distribution of
the mean's error would be too narrow. The error of the mean is instead a mixture of t distributions (with N - 1 degrees
of freedom) over possible variances: in each component of the mixture, MS_seeds is replaced by MS_seeds (S - 1) / x for
a quantile x of chi-square with S - 1 degrees of freedom. The mixture of t distributions is the generalised pivotal
quantity of Weerahandi (JASA 88, 1993, 899-905). If only seeds vary, the mixture is Student's t over the seeds; if seeds
do not vary, it is Student's t over the examples.

docs/background/coverage.md has the measured coverage of the intervals of every metric, and the coverage of bootstrap
intervals and of Satterthwaite's approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import atanh, exp, inf, sqrt, tanh

import numpy as np

from afina.stats.answered import UNDEFINED, Answered, mean_of_defined, of_ratio
from afina.stats.metrics import Metric


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval for the share successes / n (JASA 22, 1927), by scipy; [0, 1] for n = 0."""
    if n == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(int(successes), int(n)).proportion_ci(level, "wilson")
    return Interval(float(found.low), float(found.high))


def exact_bounds(successes: int, n: int, error: float) -> Interval:
    """Return the exact binomial bounds of the share successes / n (Clopper and Pearson 1934), by scipy.

    The share is below the lower bound with probability `error`, and above the upper one with the same.
    """
    from scipy.stats import beta

    low = float(beta.ppf(error, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - error, successes + 1, n - successes)) if successes < n else 1.0
    return Interval(low, high)


def bounded(share: float, width: float) -> Interval:
    """Return the interval [share - width, share + width], transformed like Wilson's to stay within [0, 1].

    The ends of the interval are the solutions x of |share - x| = width * sqrt(x (1 - x) / (share (1 - share))). For
    width = z sqrt(share (1 - share) / n), the result is Wilson's interval. Any other width gives Wilson's interval with
    an effective number of examples, as for a clustered sample (Korn & Graubard, Survey Methodology 24, 1998, 193-201).
    The share must be above 0 and below 1.
    """
    kappa = width**2 / (share * (1 - share))
    half = sqrt(kappa * share * (1 - share) + kappa**2 / 4)
    return Interval(
        max(0.0, (share + kappa / 2 - half) / (1 + kappa)), min(1.0, (share + kappa / 2 + half) / (1 + kappa))
    )


def bent(value: float, width: float, within: tuple[float, float], *, logit: bool = False) -> Interval:
    """Return the interval [value - width, value + width], transformed to stay within the range `within`.

    The range decides the transformation. For a share in (0, 1), the interval is that of `bounded`, or with `logit` that
    of the logit. The range (-1, 1) has Fisher's z, artanh; (0, inf) has the logarithm; (-inf, 1) has the logarithm of
    1 - value. The interval is symmetric on the transformed scale, where the width is multiplied by the transformation's
    slope at the value. If the value is at a bound of the range, the slope is infinite, and the interval is cut at the
    bound instead.
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
    """Return Student's t interval for a mean of n >= 2 values, whose squared deviations add up to `scatter`.

    `within` is the range of the values, in which `bent` keeps the interval. None: any number.
    """
    from scipy.special import stdtrit

    width = float(stdtrit(n - 1, (1 + level) / 2)) * sqrt(max(scatter, 0.0) / (n - 1) / n)
    return Interval(mean - width, mean + width) if within is None else bent(mean, width, within)


FEWEST = 10
"""Below this number of examples, only accuracy, exact matches and F1 of a label have a confidence interval.

In the simulation of benchmarks/coverage.py with five examples, the 95 % interval contains the true value in only 16 %
(Matthews correlation), 59 % (log loss) and 63 % (macro F1 of labels) of the studies.
"""

QUANTILES = 200
"""The number of quantiles that represent a chi-square distribution; 20,000 change a width by less than 0.1 %."""


def size_of(values: np.ndarray) -> float:
    """Return the typical distance of an example's value from the mean value, among examples with a distance above 0.

    The `values`, [S, N], are averaged over the S seeds first.

    The typical distance is sqrt(sum d^4 / sum d^2) of the deviations d from the mean. The typical distance is about 1
    if the values are 1 and a few 0, or 0 and a few 1 or -1. It is 0 if all values are equal.
    """
    squares = (values.mean(axis=0) - values.mean()) ** 2
    total = float(squares.sum())
    return sqrt(float((squares**2).sum()) / total) if total > 0 else 0.0


@dataclass(frozen=True)
class Crossed:
    """The mean squares of a table of seeds by examples (two-way analysis of variance).

    With one seed, `between_seeds` and `rest` are 0.

    Attributes:
        examples: The number of examples, with pseudo-examples.
        without: The number of pseudo-examples that do not count for the degrees of freedom.
    """

    seeds: int
    examples: int
    between_seeds: float
    between_examples: float
    rest: float
    without: int = 0

    @classmethod
    def of(cls, values: np.ndarray, added: int = 0, size: float = 1.0, *, few: bool = False) -> Crossed:
        """Return the mean squares of values [S, N], with `added` pseudo-examples that make the variance larger.

        In every seed, half of the pseudo-examples have the value `size`, and half have -`size`. Two pseudo-examples
        keep the coverage of the interval for a difference of two shares if few examples differ (Agresti & Min,
        Statistics in Medicine 24, 2005, 729-740). Without pseudo-examples, two methods that agree on all of 20 examples
        would have an interval of width 0. Of `few` examples, such as documents, they add no degrees of freedom.
        """
        seeds, examples = values.shape
        deviations = values - values.mean()
        by_seed, by_example = deviations.mean(axis=1), deviations.mean(axis=0)
        of_rest = deviations - by_seed[:, None] - by_example
        freedom, total = max(examples + added - 1, 1), examples + added
        return cls(
            seeds,
            total,
            total * float(np.sum(by_seed**2)) / max(seeds - 1, 1),
            seeds * (float(np.sum(by_example**2)) + added * size**2) / freedom,
            float(np.sum(of_rest**2)) / (max(seeds - 1, 1) * freedom),
            added if few else 0,
        )

    def at(self, seeds: int, examples: int) -> Crossed:
        """Return the mean squares expected for another number of seeds and examples, with the same variances."""
        by_seed = max(self.between_seeds - self.rest, 0.0) / self.examples
        by_example = max(self.between_examples - self.rest, 0.0) / self.seeds
        between_seeds, between_examples = examples * by_seed + self.rest, seeds * by_example + self.rest
        return Crossed(seeds, examples, between_seeds, between_examples, self.rest, self.without)

    @property
    def freedom(self) -> int:
        return max(self.examples - self.without - 1, 1)

    @property
    def variance(self) -> float:
        """The estimated variance of the mean over seeds and examples; negative variance estimates count as 0."""
        seeds = max(self.between_seeds - self.rest, 0.0)
        return (seeds + max(self.between_examples, self.rest)) / (self.seeds * self.examples)

    def _deviations(self) -> np.ndarray:
        """Return equally likely values of the mean's standard deviation: `QUANTILES` values, or 1 for one seed."""
        if self.seeds == 1:
            return np.array([sqrt(self.variance)])
        from scipy.special import chdtri

        chi = chdtri(self.seeds - 1, (np.arange(QUANTILES) + 0.5) / QUANTILES)
        seeds = np.maximum((self.seeds - 1) * self.between_seeds / chi - self.rest, 0.0)
        possible: np.ndarray = np.sqrt((seeds + max(self.between_examples, self.rest)) / (self.seeds * self.examples))
        return possible

    def tail(self, distance: float) -> float:
        """Return the probability that the mean exceeds the true mean by `distance` or more; variance must not be 0."""
        from scipy.special import stdtr

        return float(np.mean(stdtr(self.freedom, -distance / self._deviations())))

    def width(self, level: float) -> float:
        """Return half the width of the interval of the mean over seeds and examples; 0 if all values are equal."""
        from scipy.optimize import brentq
        from scipy.special import stdtr, stdtrit

        deviations, freedom = self._deviations(), self.freedom
        highest = float(deviations.max() * stdtrit(freedom, (1 + level) / 2))
        if not highest:
            return 0.0

        def excess(distance: float) -> float:
            return float(np.mean(stdtr(freedom, -distance / deviations))) - (1 - level) / 2

        return float(brentq(excess, 0.0, highest * 1.001, xtol=1e-12, rtol=1e-10))


@dataclass(frozen=True)
class Estimate:
    """A metric of one method: the mean over seeds, the standard deviation over seeds, and a confidence interval.

    The mean, the standard deviation and the interval are UNDEFINED if the metric is undefined for a seed. The interval
    is also UNDEFINED for most metrics if there are fewer than FEWEST examples or all examples have the same value
    (`estimate` has the exact rule). The standard deviation `spread` divides by n - 1 and is None for one seed. With one
    seed, the interval says how the metric of one trained model would vary on other examples; with several seeds, how
    the metric of the method would vary on other examples and with other seeds.
    """

    mean: float
    spread: float | None
    interval: Interval


def estimate_of_answers(answered: Sequence[Answered], metric: Metric, level: float = 0.95) -> Estimate:
    """Return the mean of a metric with its interval, from the answers of each seed to the same examples."""
    if metric.name == "f1":
        return f1_estimate(answered[0].targets, np.stack([one.answers for one in answered]), answered[0].classes, level)
    if metric.values is None:
        raise ValueError(f"{metric.words} is no mean over examples, so it has no interval")
    counts = None if metric.counts is None else min(metric.counts(one) for one in answered)
    values = np.stack([metric.values(one) for one in answered])
    return estimate(values, metric, level, counts, few=answered[0].groups is not None)


def estimate(
    values: np.ndarray, metric: Metric, level: float = 0.95, counts: int | None = None, *, few: bool = False
) -> Estimate:
    """Return the mean of a metric with its interval, from `metric.values`: [S, N], or [N] for one seed.

    Shares of right answers use `accuracy_estimate`. Other metrics use `Crossed` with two pseudo-examples, as
    comparisons of two methods do (Agresti & Coull add pseudo-examples for one share, The American Statistician 52,
    1998, 119-126). The interval stays within the metric's range: shares are transformed as in Wilson's interval,
    metrics of probabilities by their logit, correlations by Fisher's z, losses by their logarithm, R² by the logarithm
    of 1 - R². docs/background/coverage.md has the measured coverage of each interval. The interval is UNDEFINED for
    fewer than FEWEST examples. If all examples have the same value, a metric of range (0, 1) that is 0 or 1 has
    Wilson's interval, and any other metric has an UNDEFINED interval, because the data do not show how examples vary.

    Args:
        counts: The number of examples that the metric is about (`Metric.counts`): fewer than FEWEST of them give no
            interval, and Wilson's interval is for this number. None: all examples.
        few: Whether the values are of documents, of which there may be only a few (`Crossed.of`).
    """
    if metric.counted:
        return accuracy_estimate(values, level)
    table = _table(values).astype(float)
    if np.isnan(table).any():
        return _undefined(table)
    mean, spread, table = _seeds(table, table.mean(axis=1))
    constant, size = not table.var() > 1e-24, table.shape[1] if counts is None else counts
    if size >= FEWEST and constant and metric.range == (0.0, 1.0) and mean in metric.range:
        return Estimate(mean, spread, wilson(int(mean) * size, size, level))
    if size < FEWEST or constant:
        return Estimate(mean, spread, Interval(UNDEFINED, UNDEFINED))
    width = Crossed.of(table, added=2, size=size_of(table), few=few).width(level)
    return Estimate(mean, spread, bent(mean, width, metric.range, logit=metric.chances))


def accuracy_estimate(correct: np.ndarray, level: float = 0.95) -> Estimate:
    """Return the share of right answers with its interval, from bool [S, N], or [N] for one seed.

    The interval is Wilson's for one seed, or if all seeds are right on the same examples. For several seeds that
    differ, the interval is that of `Crossed`, transformed to stay in [0, 1].
    """
    values = _table(correct).astype(float)
    single = wilson(int(values[0].sum()), values.shape[1], level)
    return _estimate(values, values.mean(axis=1), single, level)


def f1_estimate(gold: np.ndarray, predicted: np.ndarray, classes: int, level: float = 0.95) -> Estimate:
    """Return F1 with its interval: F1 of class 1 for two classes, else the mean over classes with a defined F1.

    For one seed and two classes, the interval is the "Wilson indirect" of Lam, Gopal & Qian (arXiv:2309.14621):
    Wilson's interval for the share TP / (TP + FP + FN), of which F1 is a monotone function. For more classes or seeds,
    F1 is linearised: each example has the value F + (2 tp - F (gold + predicted)) / mean(gold + predicted). The mean of
    these per-example values is F, and the standard error of their mean is to first order that of F (the delta method).
    The interval of F1 comes from these values as the interval of accuracy comes from right answers. F1 of more than two
    classes has no interval for fewer than FEWEST examples, unless all per-example values are equal.
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
    found = _estimate(values, values.mean(axis=1), single, level)
    few = single is None and len(gold) < FEWEST
    return replace(found, interval=Interval(UNDEFINED, UNDEFINED)) if few else found


def _undefined(values: np.ndarray) -> Estimate:
    return Estimate(UNDEFINED, UNDEFINED if len(values) > 1 else None, Interval(UNDEFINED, UNDEFINED))


def _table(values: np.ndarray) -> np.ndarray:
    table = np.atleast_2d(values)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"expected an array of seeds by examples, found the shape {values.shape}")
    return table


def _seeds(values: np.ndarray, by_seed: np.ndarray) -> tuple[float, float | None, np.ndarray]:
    """Return mean and standard deviation over seeds, and `values`, cut to one row if all seeds are equal."""
    mean = float(by_seed.mean())
    spread = float(by_seed.std(ddof=1)) if len(values) > 1 else None
    if (values == values[0]).all():
        return float(by_seed[0]), None if spread is None else 0.0, values[:1]
    return mean, spread, values


def _estimate(values: np.ndarray, by_seed: np.ndarray, single: Interval | None, level: float) -> Estimate:
    """Return an estimate with the interval `single` for one seed or equal seeds, else with that of `Crossed`."""
    mean, spread, values = _seeds(values, by_seed)
    if len(values) == 1 and single:
        return Estimate(mean, spread, single)
    return Estimate(mean, spread, bounded(mean, Crossed.of(values).width(level)))
