"""What one pair of methods says by itself: the difference, its interval, p, and what it would take to know.

Right and wrong answers of one seed are counted (`intervals.py`); all else is a mean of paired differences, over
examples and seeds (`random_effects.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import ndtr

from afina.stats.intervals import Interval, above, discordant, mcnemar, tango
from afina.stats.metrics import Metric
from afina.stats.random_effects import Crossed, size_of

CHANCE = 0.8
"""How likely the additional seeds or examples named settle an undecided pair, were the difference as observed."""

MOST_SEEDS, MOST_EXAMPLES = 1_000, 1_000_000
"""More than these are not proposed."""


@dataclass(frozen=True)
class Evidence:
    """What one pair says by itself, before others are counted.

    `difference` is first less second. `p_worse` and `p_better` are against the first being worse, better, by the margin
    or more. `model` holds the components that say what another number of seeds or examples would give.
    """

    difference: float
    interval: Interval
    p: float
    p_worse: float
    p_better: float
    model: Crossed

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, margin: float = 0.01, level: float = 0.95) -> Evidence:
        """Of two methods' right answers, bool [S, N] each."""
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
        cls, first: np.ndarray, second: np.ndarray, metric: Metric, margin: float, level: float = 0.95
    ) -> Evidence:
        """Of two methods' values of a metric, float [S, N] each.

        Two added examples (`Crossed.of`) are as large as one that counts. Where methods agree on most, the differences
        do not tell how large that is: then, and for figures of answers alone, the methods' own values do.
        """
        values = np.asarray(first, dtype=np.float64) - second
        if (values == values[0]).all():
            values = values[:1]
        own, between = max(size_of(first), size_of(second)), size_of(values)
        size = (between if metric.chances or metric.graded else own) or own or between or 1.0
        model, difference = Crossed.of(values, added=2, size=size), float(values.mean())
        width, room = model.width(level), metric.range[1] - metric.range[0]
        interval = Interval(max(-room, difference - width), min(room, difference + width))
        p = min(1.0, 2 * model.tail(abs(difference)))
        less, more = model.tail(difference + margin), model.tail(margin - difference)
        worse, better = (more, less) if metric.lower else (less, more)
        return cls(difference, interval, p, worse, better, model)

    @property
    def equivalence(self) -> float:
        """Of the two one-sided tests, the p that is higher."""
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
        """Additional seeds alone, additional examples alone; `pairs` is the factor that Holm applies to this p."""
        seeds, examples = self.model.seeds, self.model.examples

        def enough(model: Crossed) -> bool:
            return _chance(model, self.difference, margin, level, pairs) >= CHANCE

        by_examples = _smallest(lambda more: enough(self.model.at(seeds, examples + more)), MOST_EXAMPLES)
        if seeds == 1:
            return None, by_examples
        return _smallest(lambda more: enough(self.model.at(seeds + more, examples)), MOST_SEEDS), by_examples


def _chance(model: Crossed, difference: float, margin: float, level: float, pairs: int) -> float:
    """How likely a study of this size settles the pair, either way, if `difference` and the components are true."""
    deviation, size = sqrt(model.variance), abs(difference)
    needed = model.width(1 - (1 - level) / pairs)
    chance = ndtr((size - needed) / deviation) + ndtr((-size - needed) / deviation)
    room = margin - model.width(2 * level - 1)
    if room > 0:
        chance += ndtr((room - size) / deviation) - ndtr((-room - size) / deviation)
    return float(min(chance, 1.0))


def _smallest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest number that is enough, to two digits, rounded up; None where `most` is not."""
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
