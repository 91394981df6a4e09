"""Rate limits that make callers wait. Knows no request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from afina import meter


class TokenBucket:
    """A rate limit.

    rate     tokens a second;  burst  tokens of a full bucket;  longest  the longest wait in seconds;  clock  seconds
    """

    def __init__(self, rate: float, burst: float, longest: float, clock: Callable[[], float] = meter.now) -> None:
        self._rate, self._burst, self._longest, self._clock = rate, burst, longest, clock
        self._left, self._at = burst, clock()

    def wait(self, amount: float) -> float:
        """Take `amount` tokens; return the seconds to wait for them."""
        now = self._clock()
        left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._left, self._at = max(left, -self._longest * self._rate), now
        return max(0.0, -self._left / self._rate)

    @property
    def rested(self) -> bool:
        """Whether it is full."""
        return self._left + (self._clock() - self._at) * self._rate >= self._burst


class TokenBuckets:
    """A bucket for each name. Full buckets are forgotten. For one event loop."""

    def __init__(self, rate: float, burst: float, longest: float) -> None:
        self._made = rate, burst, longest
        self._buckets: dict[str, TokenBucket] = {}

    async def take(self, name: str, amount: float) -> float:
        """Wait until `name` may take `amount` tokens; return the seconds waited."""
        if name not in self._buckets:
            self._buckets = {one: bucket for one, bucket in self._buckets.items() if not bucket.rested}
            self._buckets[name] = TokenBucket(*self._made)
        if seconds := self._buckets[name].wait(amount):
            await asyncio.sleep(seconds)
        return seconds
