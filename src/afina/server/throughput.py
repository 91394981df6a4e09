"""Throughput: what a server did for each client in the last seconds, for whoever looks at it now. Knows no text."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from afina import meter
from afina.server.batching import Computed

WINDOW = 5
"""Whole seconds that are looked at."""

REQUESTS, TOKENS, TEXTS = "requests", "tokens", "texts"


class _Counted(NamedTuple):
    """Of a client, what."""

    client: str
    what: str


@dataclass(frozen=True)
class Rates:
    """A second's share of each."""

    requests: float
    tokens: float
    texts: float

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Throughput:
    """May be told by many threads. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = meter.now) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[int, Counter[_Counted]] = {}

    def requested(self, client: str) -> None:
        """Count a request."""
        with self._lock:
            self._now()[_Counted(client, REQUESTS)] += 1

    def computed(self, batch: Computed) -> None:
        """Count a batch's texts, each as its client's."""
        with self._lock:
            now = self._now()
            for client, tokens in batch.clients:
                now[_Counted(client, TOKENS)] += tokens
                now[_Counted(client, TEXTS)] += 1

    def _now(self) -> Counter[_Counted]:
        """The present second; those that nobody looks at any more are forgotten. The lock is held."""
        at = int(self._clock())
        if at not in self._seconds:
            self._seconds = {when: one for when, one in self._seconds.items() if at - when <= WINDOW}
            self._seconds[at] = Counter()
        return self._seconds[at]

    def rates(self, client: str) -> Rates:
        """Over the last `WINDOW` whole seconds: the one that goes on now would look like less than it is."""
        with self._lock:
            at = int(self._clock())
            seen = [one for when, one in self._seconds.items() if at - WINDOW <= when < at]
            total = {what: sum(one[_Counted(client, what)] for one in seen) for what in (REQUESTS, TOKENS, TEXTS)}
        return Rates(*(total[what] / WINDOW for what in (REQUESTS, TOKENS, TEXTS)))
