"""Which version each reference means, as far as that is served. Knows no protocol and no client.

A version is served once it is loaded and has computed its golden probe as it did when it was made. One that does not is
not served: where a reference meant another before, that goes on. It is tried again after a pause that doubles, since
somebody may have mended the store, and reading it each time may be most of what the machine can do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from afina import meter
from afina.errors import AfinaError, Busy, NotFound
from afina.server import logs_and_traces
from afina.server.limits import Missing
from afina.server.metrics import Metrics
from afina.store.reader import StoreReader
from afina.store.versions import Reference, Version

MOST = 65_536
"""References that are remembered."""

PAUSE, SHORT, LONGEST = 0.5, 5.0, 300.0
"""Seconds before a version that could not be served is tried again: at first, at last where it was not to be had at the
moment, and at last where it is damaged.
"""


@dataclass(frozen=True)
class LoadFailure:
    """Why a version is not served, how often it was tried, and when it may be again, by the clock."""

    error: AfinaError
    tries: int
    until: float = 0.0

    def again(self, now: float) -> LoadFailure:
        """The same, after a pause from now on: a short one where nothing says that the version is damaged."""
        longest = SHORT if isinstance(self.error, Busy | NotFound) else LONGEST
        return replace(self, until=now + min(longest, PAUSE * 2.0 ** min(self.tries - 1, 20)))


class ServedVersions:
    """May be asked by many threads.

    prove  loads a version and replays its probe; raises AfinaError where it is not to be served
    clock  seconds
    """

    def __init__(
        self,
        store: StoreReader,
        prove: Callable[[Version], None],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = meter.now,
    ) -> None:
        self._store, self._prove, self._metrics, self._clock = store, prove, metrics, clock
        self._served: dict[Reference, Version] = {}
        self._proven: set[str] = set()
        self._damaged: dict[str, LoadFailure] = {}
        self._behind: dict[Reference, str] = {}
        self._turn = 0
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="afina-switch")

    @property
    def behind(self) -> int:
        """References that the store lets mean a version that is not served."""
        return len(self._behind)

    @property
    def damaged(self) -> Sequence[str]:
        """Versions that could not be served when they were tried last."""
        return [*self._damaged]

    def find(self, reference: Reference) -> Version:
        """What is served. Raises Missing, and what `prove` raises where nothing else was served before."""
        while (found := self._served.get(reference)) is None:
            turn = self._turn
            version = self._store.known(reference)
            if version is None:
                raise Missing()
            self.demand(version)
            with self._lock:
                if len(self._served) >= MOST:
                    self._served.clear()
                if turn == self._turn:  # else `refresh` has looked meanwhile, and did not know of this one
                    self._served[reference] = version
        return found

    def demand(self, version: Version) -> None:
        """Prove a version, once for all that are the same adapter; one that did not pass, not before its pause is over.

        Raises what keeps it from being served.
        """
        if version.digest in self._proven:
            return
        with self._lock:
            before, now = self._damaged.get(str(version)), self._clock()
            if before is not None:
                if now < before.until:
                    raise before.error
                self._damaged[str(version)] = before.again(now)  # the others wait for what comes of it
        try:
            self._prove(version)
        except AfinaError as error:
            self.distrust(version, error)
            raise
        self._proven.add(version.digest)
        self._damaged.pop(str(version), None)

    def distrust(self, version: Version, error: AfinaError) -> None:
        """Note why a version cannot be served, and do not try it again before a pause."""
        with self._lock:
            self._proven.discard(version.digest)
            before = self._damaged.get(str(version))
            if len(self._damaged) >= MOST:
                self._damaged.clear()
            made = LoadFailure(error, 1 if before is None else before.tries + 1).again(self._clock())
            self._damaged[str(version)] = made
        logs_and_traces.note(
            "version not served", logging.ERROR, version=str(version), problem=str(error), tries=made.tries
        )

    @property
    def _due(self) -> bool:
        """Whether a version that is not served yet may be tried again."""
        now, found = self._clock(), [self._damaged.get(version) for version in [*self._behind.values()]]
        return any(one is None or one.until <= now for one in found)

    def refresh(self) -> bool:
        """Follow the store; whether there was news."""
        last, _ = self._store.news(self._last, ())
        if last == self._last and not self._due:
            return False
        with self._lock:
            self._turn += 1
            known = [*self._served]
        # what is added to the log from here on is news once more the next time, when more may be known
        _, touched = self._store.news(self._last, {reference.name for reference in known})
        followed = [one for one in known if one.name in touched or one in self._behind]
        for _ in self._pool.map(self._follow, followed):
            pass
        news, self._last = last != self._last, last
        return news

    def _follow(self, reference: Reference) -> None:
        """Serve what a reference means now; where that cannot be, what it meant before."""
        version = self._store.known(reference)
        if version is None:
            with self._lock:
                self._served.pop(reference, None)
            self._behind.pop(reference, None)
            return
        try:
            self.demand(version)
        except AfinaError:  # damaged, not loaded in time, or nothing answered
            self._behind[reference] = str(version)
        else:
            self._behind.pop(reference, None)
            with self._lock:
                before = self._served.get(reference)
                self._served[reference] = version
            if before is not None and before.digest != version.digest:
                self._metrics.switches.inc()

    def close(self) -> None:
        """Follow no more."""
        self._pool.shutdown(cancel_futures=True)
