"""Counts of differences between the answers of a shadow version and of the production version, without any text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple, Self

from afina.server import problems
from afina.stats.intervals import Interval, around_mean, wilson

ADDED = ("faults", "left_out", "only_current", "only_shadow", "unanswered")  # counts whose sum is that of both


class AnswerDifference(NamedTuple):
    """The difference between the production version's answer and the shadow version's answer to the same text.

    Attributes:
        flipped: whether the labels (or the generated texts) differ. None for regression.
        drift: the difference in probability (or in the value), of which `ShadowCounts.drift` is the mean over texts.
        by_current: whether the production version is sure enough to answer.
        by_shadow: whether the shadow version is.
    """

    flipped: bool | None
    drift: float
    by_current: bool = True
    by_shadow: bool = True


@dataclass(frozen=True)
class ShadowCounts:
    """Counts over the texts that both the production version and the shadow version computed.

    Attributes:
        flips: the number of texts that both versions answered, and to which they gave different labels (or sets of
            labels, or generated texts). None for regression.
        drift: the mean over texts of the probability that the shadow version gives to a label, minus the probability
            that the production version gives to it. The label is the production version's; for multi-label tasks, its
            most probable one. A label that the shadow version does not have has probability 0. For regression, the mean
            difference of the predicted values; for generated texts, 0.
        scatter: the sum of the squared deviations of the differences from their mean `drift`.
        faults: the number of texts for which the shadow version failed.
        left_out: the number of texts that the shadow version did not compute, because it was not in memory, the queue
            was full, or the time limit was past.
        only_current: the number of texts that the shadow version left unanswered (`Objective.abstentions`).
        only_shadow: the number of texts that the production version left unanswered.
        unanswered: the number of texts that neither version answered.
    """

    texts: int = 0
    flips: int | None = 0
    drift: float = 0.0
    scatter: float = 0.0
    faults: int = 0
    left_out: int = 0
    only_current: int = 0
    only_shadow: int = 0
    unanswered: int = 0

    def seen(self, difference: AnswerDifference) -> ShadowCounts:
        flips = (
            None
            if difference.flipped is None
            else int(difference.flipped and difference.by_current and difference.by_shadow)
        )
        return self.plus(
            ShadowCounts(
                1,
                flips,
                difference.drift,
                only_current=int(difference.by_current and not difference.by_shadow),
                only_shadow=int(difference.by_shadow and not difference.by_current),
                unanswered=int(not difference.by_current and not difference.by_shadow),
            )
        )

    def fault(self) -> ShadowCounts:
        return replace(self, faults=self.faults + 1)

    def left(self) -> ShadowCounts:
        return replace(self, left_out=self.left_out + 1)

    def plus(self, other: ShadowCounts) -> ShadowCounts:
        """Return the sum of two `ShadowCounts`, with mean and sum of squared deviations over the texts of both.

        As in Chan, Golub & LeVeque, The American Statistician 37, 1983, 242-247.
        """
        texts = self.texts + other.texts
        sums = {name: getattr(self, name) + getattr(other, name) for name in ADDED}
        if not texts:
            return replace(self, **sums)
        gap = other.drift - self.drift
        return ShadowCounts(
            texts,
            _sum(self, other),
            self.drift + gap * other.texts / texts,
            self.scatter + other.scatter + gap**2 * self.texts * other.texts / texts,
            **sums,
        )

    @property
    def both(self) -> int:
        """The number of texts that both versions answered."""
        return self.texts - self.only_current - self.only_shadow - self.unanswered

    @property
    def flip_rate(self) -> float | None:
        """The share of flips among the texts that both versions answered. None for regression, or without any."""
        return None if self.flips is None or not self.both else self.flips / self.both

    @property
    def flip_interval(self) -> Interval | None:
        return None if self.flips is None or not self.both else wilson(self.flips, self.both)

    @property
    def drift_interval(self) -> Interval | None:
        """The 95 % confidence interval of `drift`. None if fewer than two texts were compared."""
        if self.texts < 2:
            return None
        within = None if self.flips is None else (-1.0, 1.0)
        return around_mean(self.drift, self.scatter, self.texts, within)

    def as_json(self) -> dict[str, Any]:
        intervals = {"flip_interval": self.flip_interval, "drift_interval": self.drift_interval}
        ends = {
            name: None if interval is None else [interval.low, interval.high] for name, interval in intervals.items()
        }
        return {**self.__dict__, "flip_rate": self.flip_rate, **ends}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the counts that another server sent as JSON values. Raises InvalidData if they are malformed."""
        try:
            flips = values["flips"]
            counts = [int(values[name]) for name in ("texts", "faults", "left_out")]
            abstained = [int(values.get(name, 0)) for name in ("only_current", "only_shadow", "unanswered")]
            parsed = cls(
                counts[0],
                None if flips is None else int(flips),
                float(values["drift"]),
                float(values["scatter"]),
                *counts[1:],
                *abstained,
            )
        except (KeyError, TypeError, ValueError):
            parsed = None
        if (
            parsed is None
            or not isfinite(parsed.drift)
            or min(abstained) < 0
            or not 0 <= (parsed.flips or 0) <= parsed.both
        ):
            raise problems.COUNTS_MALFORMED()
        return parsed


def _sum(counts: ShadowCounts, other: ShadowCounts) -> int | None:
    """Return the sum of the `flips`; None for regression. Counts without texts do not show whether the task is one."""
    if not counts.texts or not other.texts:
        return other.flips if other.texts else counts.flips
    return None if counts.flips is None or other.flips is None else counts.flips + other.flips
