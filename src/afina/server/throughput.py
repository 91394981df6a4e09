"""Throughput: what a server did in the last seconds, for whoever looks at it now. Knows no client and no text."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from afina import meter
from afina.server.batching import Computed

WINDOW = 5
"""Whole seconds that are looked at."""


@dataclass
class _Second:
    """What was done in one of them; fill: the sum over its batches of tokens, as a share of what there was room for."""

    requests: int = 0
    tokens: int = 0
    texts: int = 0
    batches: int = 0
    fill: float = 0.0


@dataclass(frozen=True)
class Rates:
    """A second's share of each; fill: the mean of the batches, None where there was none."""

    requests: float
    tokens: float
    texts: float
    fill: float | None

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Throughput:
    """May be told by many threads. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = meter.now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[int, _Second] = {}

    def requested(self) -> None:
        """Count a request."""
        with self._lock:
            self._now().requests += 1

    def computed(self, batch: Computed) -> None:
        """Count a batch."""
        with self._lock:
            now = self._now()
            now.tokens += batch.tokens
            now.texts += batch.texts
            now.batches += 1
            now.fill += min(1.0, batch.tokens / batch.budget)

    def _now(self) -> _Second:
        """The present second; those that nobody looks at any more are forgotten. The lock is held."""
        at = int(self._clock())
        if at not in self._seconds:
            self._seconds = {when: one for when, one in self._seconds.items() if at - when <= WINDOW}
            self._seconds[at] = _Second()
        return self._seconds[at]

    def rates(self) -> Rates:
        """Over the last `WINDOW` whole seconds: the one that goes on now would look like less than it is."""
        with self._lock:
            at = int(self._clock())
            seen = [one for when, one in self._seconds.items() if at - WINDOW <= when < at]
        total = {one.name: sum(getattr(second, one.name) for second in seen) for one in fields(_Second)}
        fill = total["fill"] / total["batches"] if total["batches"] else None
        return Rates(total["requests"] / WINDOW, total["tokens"] / WINDOW, total["texts"] / WINDOW, fill)
