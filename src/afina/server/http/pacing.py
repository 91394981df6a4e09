"""Pacing: so much a second and no more, by waiting. Knows no request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from afina import meter


class Pace:
    """rate: a second; burst: at once, after a rest; longest: seconds that anybody waits; clock: seconds."""

    def __init__(self, rate: float, burst: float, longest: float, clock: Callable[[], float] = meter.now) -> None:
        self._rate, self._burst, self._longest, self._clock = rate, burst, longest, clock
        self._left, self._at = burst, clock()

    def wait(self, amount: float) -> float:
        """Take so much more; seconds to wait for that."""
        now = self._clock()
        left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._left, self._at = max(left, -self._longest * self._rate), now
        return max(0.0, -self._left / self._rate)

    @property
    def rested(self) -> bool:
        """Whether it is as new."""
        return self._left + (self._clock() - self._at) * self._rate >= self._burst


class Paces:
    """A pace for each name that is asked for; those that have rested are forgotten. On one event loop."""

    def __init__(self, rate: float, burst: float, longest: float) -> None:
        self._made = rate, burst, longest
        self._paces: dict[str, Pace] = {}

    async def take(self, name: str, amount: float) -> float:
        """Wait until that name may have so much more; the seconds that it took."""
        if name not in self._paces:
            self._paces = {one: pace for one, pace in self._paces.items() if not pace.rested}
            self._paces[name] = Pace(*self._made)
        if seconds := self._paces[name].wait(amount):
            await asyncio.sleep(seconds)
        return seconds
