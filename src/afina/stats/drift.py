"""Drift: tests whether two samples of texts have the same distribution, from counts alone.

Both samples are finite, so every test is a two-sample test: of a reference, such as the evaluation texts of a model,
and of later texts. The tests assume that texts are drawn independently: a text that is repeated counts each time, and
makes p values too small. The package `stats` does not know models: `afina.models.answer_profile` passes the counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, sqrt
from typing import Any, Literal, Self

import numpy as np

from afina.stats.significance import CHANCE, holm

LEVEL = 0.01  # probability of a false alarm in one comparison of two samples
EFFECT = 0.1  # share of texts, below which a difference is called small

EXPECTED = 5.0  # least expected count of a category in the chi-squared test (Cochran 1954)

State = Literal["none", "few", "small", "drift"]


@dataclass(frozen=True)
class DriftTest:
    """A test of one property of texts or answers.

    Attributes:
        of: The property: `scores`, `labels` or `tokens`.
        distance: The difference of the two samples, as a share of texts from 0 to 1. Scores: the largest difference of
            the cumulative shares (Kolmogorov-Smirnov distance of the bins). One label for each text: half of the sum of
            the differences of the labels' shares (total variation distance). Several labels, and tokens: the largest
            difference of a share.
        p: The p value of the hypothesis that both samples have the same distribution.
        adjusted: The p value after Holm's correction for all tests of the comparison.
        most: The name of the category whose share has changed most. None: the categories have no names.
        shares: The shares of the category that has changed most: before and now. For scores, the shares of the texts
            below the edge at which the cumulative shares differ most.
        edge: For scores, the index of this edge. None: not of scores.
    """

    of: str
    distance: float
    p: float
    shares: tuple[float, float]
    most: str | None = None
    edge: int | None = None
    adjusted: float = 1.0


@dataclass(frozen=True)
class Drift:
    """The comparison of two samples of texts.

    Attributes:
        reference: The number of texts of the reference.
        texts: The number of later texts.
        tests: The tests, with p values that are corrected for the number of tests.
        level: The probability of a false alarm, over all tests.
        effect: The smallest difference that is not called small.
        needed: The number of later texts with which a difference of a share by `effect` would be noticed with
            probability 0.8. None: the reference has too few texts for it.
        noticeable: The smallest difference of a share that would be noticed with probability 0.8, with the present
            numbers of texts. None: there are no later texts.
        state: `drift`: a difference is significant and not small. `small`: all significant differences are small.
            `few`: no difference is significant, and fewer texts than `needed` were compared. `none`: no difference is
            significant.
    """

    reference: int
    texts: int
    tests: tuple[DriftTest, ...]
    level: float
    effect: float
    needed: int | None
    noticeable: float | None
    state: State

    @classmethod
    def of(cls, tests: Sequence[DriftTest], reference: int, texts: int, *, level: float, effect: float) -> Self:
        adjusted = holm([one.p for one in tests])
        made = tuple(replace(one, adjusted=p) for one, p in zip(tests, adjusted, strict=True))
        differing = [one for one in made if one.adjusted <= level]
        needed = texts_needed(reference, level, effect)
        state: State = "none" if needed is not None and texts >= needed else "few"
        if differing:
            state = "drift" if any(one.distance >= effect for one in differing) else "small"
        least = noticeable(reference, texts, level) if reference and texts else None
        return cls(reference, texts, made, level, effect, needed, least, state)

    @property
    def p(self) -> float:
        """The smallest corrected p value; 1 without tests."""
        return min((one.adjusted for one in self.tests), default=1.0)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "p": self.p, "tests": [asdict(one) for one in self.tests]}


def ordered_test(of: str, reference: Sequence[int], later: Sequence[int]) -> DriftTest:
    """Return the chi-squared test of homogeneity of counts in bins, of which neighbouring rare bins are merged."""
    one, other = _counts(reference, later)
    below, now = (np.cumsum(each)[:-1] / each.sum() for each in (one, other))
    edge = int(np.argmax(np.abs(now - below)))
    distance = float(abs(now[edge] - below[edge]))
    merged = _merged(one, other, np.arange(len(one)))
    return DriftTest(of, distance, _chi_squared(*merged), (float(below[edge]), float(now[edge])), edge=edge)


def categories_test(of: str, reference: Sequence[int], later: Sequence[int], names: Sequence[str]) -> DriftTest:
    """Return the chi-squared test of homogeneity of texts in categories without an order; rare ones are merged."""
    one, other = _counts(reference, later)
    before, now = one / one.sum(), other / other.sum()
    most = int(np.argmax(np.abs(now - before)))
    merged = _merged(one, other, np.argsort(one + other, kind="stable"))
    distance = float(np.abs(now - before).sum() / 2)
    return DriftTest(of, distance, _chi_squared(*merged), (float(before[most]), float(now[most])), names[most])


def shares_test(
    of: str,
    reference: Sequence[int],
    later: Sequence[int],
    sizes: tuple[int, int],
    names: Sequence[str] | None = None,
) -> DriftTest:
    """Return a test of the shares of texts that have each property, where a text may have any number of properties.

    The p value is that of Fisher's exact test of the property with the largest standardised difference, multiplied by
    the number of properties (Bonferroni). Properties that all texts have, or none, cannot differ and do not count.
    `reference` and `later` count the texts with each property, and `sizes` all texts.
    """
    from scipy.stats import fisher_exact

    (one, other), (n, m) = _counts(reference, later), sizes
    pooled = (one + other) / (n + m)
    varies = (pooled > 0) & (pooled < 1)
    if not varies.any():
        return DriftTest(of, 0.0, 1.0, (float(pooled[0]), float(pooled[0])), names[0] if names else None)
    gaps = np.abs(other / m - one / n)
    scores = np.where(varies, gaps / np.sqrt(np.where(varies, pooled * (1 - pooled), 1.0)), -1.0)
    tested, most = int(np.argmax(scores)), int(np.argmax(gaps))
    table = [[one[tested], n - one[tested]], [other[tested], m - other[tested]]]
    p = min(1.0, float(fisher_exact(table).pvalue) * int(varies.sum()))
    shares = (float(one[most] / n), float(other[most] / m))
    return DriftTest(of, float(gaps[most]), p, shares, names[most] if names else None)


def _counts(reference: Sequence[int], later: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(reference, np.int64), np.asarray(later, np.int64)


def _merged(one: np.ndarray, other: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge categories in this order until the expected counts of both samples are at least EXPECTED.

    The merging depends only on the sums of both samples, so it does not change the level of the test.
    """
    smaller = min(one.sum(), other.sum()) / (one.sum() + other.sum())
    groups: list[list[int]] = [[]]
    expected = 0.0
    for index in order.tolist():
        if expected >= EXPECTED:
            groups.append([])
            expected = 0.0
        groups[-1].append(index)
        expected += (one[index] + other[index]) * smaller
    if expected < EXPECTED and len(groups) > 1:
        rest = groups.pop()
        groups[-1] += rest
    return np.array([one[group].sum() for group in groups]), np.array([other[group].sum() for group in groups])


def _chi_squared(one: np.ndarray, other: np.ndarray) -> float:
    from scipy.stats import chi2_contingency

    if len(one) < 2:
        return 1.0
    return float(chi2_contingency([one, other], correction=False).pvalue)


def _deviations(level: float) -> float:
    """Return by how many standard errors a share must differ to be noticed with probability 0.8.

    Three tests share the level, and the share is of one of two sides.
    """
    from scipy.special import ndtri

    return float(ndtri(1 - level / 6) + ndtri(CHANCE))


def noticeable(reference: int, texts: int, level: float) -> float:
    """Return the smallest difference of a share of about a half that is noticed with probability 0.8, at most 1."""
    return min(1.0, 0.5 * _deviations(level) * sqrt(1 / reference + 1 / texts))


def texts_needed(reference: int, level: float, effect: float) -> int | None:
    """Return the later texts with which a difference of a share by `effect` is noticed with probability 0.8.

    A share of a half varies most, so fewer texts are enough for other shares. None: the reference has too few texts.
    """
    if not reference:
        return None
    room = (2 * effect / _deviations(level)) ** 2 - 1 / reference
    return ceil(1 / room) if room > 0 else None
