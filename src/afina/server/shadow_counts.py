"""What came of comparing a shadow version with the one that answers: numbers, which those of several servers add up to.

Knows no model and keeps no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple, Self

from afina.errors import InvalidData
from afina.stats.intervals import Interval, around_mean, wilson


class AnswerDifference(NamedTuple):
    """Of one text. flipped: whether the label is another, None of numbers; drift: as in `ShadowCounts`."""

    flipped: bool | None
    drift: float


@dataclass(frozen=True)
class ShadowCounts:
    """Of the texts that both answered.

    texts     how many;  flips  those with another label, or another set of labels; None of numbers
    drift     mean difference, candidate less current, of the probability of the current label (where there may be
              several, of the most probable; 0 where the candidate has no such label); of numbers, of the value
    scatter   sum of squares of those differences, less their mean
    faults    texts that the candidate did not answer, though the current one did
    left_out  texts that the candidate was not asked, since it was not in memory or too much was waiting
    """

    texts: int = 0
    flips: int | None = 0
    drift: float = 0.0
    scatter: float = 0.0
    faults: int = 0
    left_out: int = 0

    def seen(self, one: AnswerDifference) -> ShadowCounts:
        """With one text more."""
        return self.plus(ShadowCounts(1, None if one.flipped is None else int(one.flipped), one.drift))

    def fault(self) -> ShadowCounts:
        """With one text more that the candidate did not answer."""
        return replace(self, faults=self.faults + 1)

    def left(self, texts: int) -> ShadowCounts:
        """With texts more that it was not asked."""
        return replace(self, left_out=self.left_out + texts)

    def plus(self, other: ShadowCounts) -> ShadowCounts:
        """Of the texts of both (Chan, Golub & LeVeque, The American Statistician 37, 1983, 242-247)."""
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
        """Share of texts with another label; None of numbers, and of no text."""
        return None if self.flips is None or not self.texts else self.flips / self.texts

    @property
    def flip_interval(self) -> Interval | None:
        """Where it may lie, 95 %, by Wilson."""
        return None if self.flips is None or not self.texts else wilson(self.flips, self.texts)

    @property
    def drift_interval(self) -> Interval | None:
        """Where the mean difference may lie, 95 %; None for less than two texts."""
        if self.texts < 2:
            return None
        within = None if self.flips is None else (-1.0, 1.0)
        return around_mean(self.drift, self.scatter, self.texts, within)

    def as_json(self) -> dict[str, Any]:
        """JSON values: the numbers that it is, and what they come to."""
        made = {"flip_interval": self.flip_interval, "drift_interval": self.drift_interval}
        ends = {name: None if one is None else [one.low, one.high] for name, one in made.items()}
        return {**self.__dict__, "flip_rate": self.flip_rate, **ends}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From JSON of another server. Raises InvalidData for what is none."""
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
            raise InvalidData(
                "what a server counted is not what is expected of one. Is it afina's, of this version?",
                code="server.counts-malformed",
            )
        return made


def _sum(one: ShadowCounts, other: ShadowCounts) -> int | None:
    """Flips of both; counts of no text says nothing of the kind."""
    if not one.texts or not other.texts:
        return other.flips if other.texts else one.flips
    return None if one.flips is None or other.flips is None else one.flips + other.flips
