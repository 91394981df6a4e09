"""Counts from comparing a shadow version with the production version. Counts of several servers can be added.

The counts contain no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple, Self

from afina.server import problems
from afina.stats.intervals import Interval, around_mean, wilson


class AnswerDifference(NamedTuple):
    """The difference of two answers to the same text.

    `flipped`: whether the labels differ, None for regression; `drift`: one text's term of `ShadowCounts.drift`.
    """

    flipped: bool | None
    drift: float


@dataclass(frozen=True)
class ShadowCounts:
    """Counts over the texts that both the production version and the shadow version answered.

    Attributes:
        texts: number of texts.
        flips: number of texts with another label, or another set of labels; None for regression.
        drift: mean difference, candidate minus current, of the probability of the current label. For multi-label tasks:
            of the most probable label. For regression: of the value. A missing label has probability 0.
        scatter: sum of squared deviations of the differences from their mean `drift`.
        faults: number of texts that only the current version answered.
        left_out: number of texts that the candidate did not compute: not in memory, queue full, or time limit past.
    """

    texts: int = 0
    flips: int | None = 0
    drift: float = 0.0
    scatter: float = 0.0
    faults: int = 0
    left_out: int = 0

    def seen(self, one: AnswerDifference) -> ShadowCounts:
        return self.plus(ShadowCounts(1, None if one.flipped is None else int(one.flipped), one.drift))

    def fault(self) -> ShadowCounts:
        return replace(self, faults=self.faults + 1)

    def left(self) -> ShadowCounts:
        return replace(self, left_out=self.left_out + 1)

    def plus(self, other: ShadowCounts) -> ShadowCounts:
        """Return the sum of both counts (Chan, Golub & LeVeque, The American Statistician 37, 1983, 242-247)."""
        texts = self.texts + other.texts
        if not texts:
            return replace(self, faults=self.faults + other.faults, left_out=self.left_out + other.left_out)
        gap = other.drift - self.drift
        return ShadowCounts(
            texts,
            _sum(self, other),
            self.drift + gap * other.texts / texts,
            self.scatter + other.scatter + gap**2 * self.texts * other.texts / texts,
            self.faults + other.faults,
            self.left_out + other.left_out,
        )

    @property
    def flip_rate(self) -> float | None:
        """The share of texts with another label; None for regression, or without texts."""
        return None if self.flips is None or not self.texts else self.flips / self.texts

    @property
    def flip_interval(self) -> Interval | None:
        return None if self.flips is None or not self.texts else wilson(self.flips, self.texts)

    @property
    def drift_interval(self) -> Interval | None:
        """The 95 % confidence interval of the drift; None for fewer than two texts."""
        if self.texts < 2:
            return None
        within = None if self.flips is None else (-1.0, 1.0)
        return around_mean(self.drift, self.scatter, self.texts, within)

    def as_json(self) -> dict[str, Any]:
        made = {"flip_interval": self.flip_interval, "drift_interval": self.drift_interval}
        ends = {name: None if one is None else [one.low, one.high] for name, one in made.items()}
        return {**self.__dict__, "flip_rate": self.flip_rate, **ends}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return counts from the JSON of another server. Raises InvalidData."""
        try:
            flips = given["flips"]
            counts = [int(given[name]) for name in ("texts", "faults", "left_out")]
            made = cls(
                counts[0],
                None if flips is None else int(flips),
                float(given["drift"]),
                float(given["scatter"]),
                *counts[1:],
            )
        except (KeyError, TypeError, ValueError):
            made = None
        if made is None or not isfinite(made.drift) or not 0 <= (made.flips or 0) <= made.texts:
            raise problems.COUNTS_MALFORMED()
        return made


def _sum(one: ShadowCounts, other: ShadowCounts) -> int | None:
    """Return the flips of both counts. Counts without texts do not show whether the task is a regression."""
    if not one.texts or not other.texts:
        return other.flips if other.texts else one.flips
    return None if one.flips is None or other.flips is None else one.flips + other.flips
