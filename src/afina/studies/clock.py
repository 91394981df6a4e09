"""Clock: what is left of a number of minutes. Knows no work."""

from __future__ import annotations

from dataclasses import dataclass

from afina import meter

EARLY, LATE = 0.03, 0.08
"""Shares of the minutes: what is kept back when work is planned, and how much more work under way may take."""


@dataclass(frozen=True)
class Clock:
    """`minutes` from `began`, which is by `meter.now()`, as `end` is."""

    began: float
    minutes: float

    @property
    def left(self) -> float:
        """Seconds to plan with; negative when they are gone."""
        return self.began + 60 * self.minutes * (1 - EARLY) - meter.now()

    @property
    def end(self) -> float:
        """When whatever goes on is ended."""
        return self.began + 60 * self.minutes * (1 + LATE)

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return meter.now() - self.began
