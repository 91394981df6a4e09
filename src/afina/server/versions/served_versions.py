"""The version that the server serves for each reference, such as `client/task@production`.

- A version is served once it has been loaded and has passed its golden test.
- If an alias moves to another version, a thread of a pool loads that version. Until then, the previous version answers.
  A version that the server has served before is not loaded again, and answers at once.
- If a version cannot be loaded or fails its golden test, the previous version stays. The server tries a failed version
  again after a pause, since the store may have been repaired. The pause doubles after each failure of the version,
  since loading may take most of the machine's time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from afina import meter
from afina.errors import AfinaError, Busy, CannotWrite, NotFound
from afina.server import logs_and_traces
from afina.server.metrics import Metrics
from afina.server.tenants import Missing, OtherBackbone
from afina.server.versions.golden_tests import GoldenTests
from afina.store.reader import StoreReader
from afina.store.versions import Reference, Version

MOST = 65_536  # the largest number of references whose versions are cached. A full cache is emptied.

PAUSE, SHORT, LONGEST = 0.5, 5.0, 300.0
"""The pauses before a version that failed is tried again, in seconds: the first pause (`PAUSE`), the longest pause
after a temporary failure such as a store that does not respond (`SHORT`), and the longest pause for a damaged version
(`LONGEST`).
"""


@dataclass(frozen=True)
class LoadFailure:
    """The last failure of a version that cannot be served, and when it is tried again."""

    error: AfinaError
    tries: int
    until: float = 0.0

    def again(self, now: float) -> LoadFailure:
        longest = SHORT if isinstance(self.error, Busy | NotFound | CannotWrite) else LONGEST
        return replace(self, until=now + min(longest, PAUSE * 2.0 ** min(self.tries - 1, 20)))


class ServedVersions:
    """The versions that the server serves, by reference. Thread-safe."""

    def __init__(
        self,
        store: StoreReader,
        tests: GoldenTests,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = meter.now,
    ) -> None:
        self._store, self._tests, self._metrics, self._clock = store, tests, metrics, clock
        self._served: dict[Reference, Version] = {}
        self._proven: set[str] = set()
        self._damaged: dict[str, LoadFailure] = {}
        self._behind: dict[Reference, Version] = {}
        self._loading: dict[str, Future[None]] = {}
        self._turn = 0
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="afina-switch")

    @property
    def behind(self) -> int:
        return len(self._behind)

    @property
    def damaged(self) -> Sequence[str]:
        return [*self._damaged]

    def named(self, digests: Collection[str]) -> set[str]:
        """Return the names (`client/task`) that have a served version whose adapter has one of the given digests."""
        with self._lock:
            served = [*self._served.items()]
        return {str(reference.name) for reference, version in served if version.digest in digests}

    def knows(self, reference: Reference) -> bool:
        """Return whether the version of a reference is cached, so that `find` does not read the store."""
        return reference in self._served

    def find(self, reference: Reference) -> Version:
        """Return the version that the server serves for a reference, and load the version if it is not cached.

        Raises:
            Missing: The store has no such version, or the version was made for another backbone (OtherBackbone).
            AfinaError: The version cannot be loaded or fails its golden test, and no previous version is served.
        """
        while (served := self._served.get(reference)) is None:
            turn = self._turn
            version = self._store.known(reference)
            if version is None:
                raise Missing()
            self.demand(version)
            with self._lock:
                if len(self._served) >= MOST:
                    self._served.clear()
                if turn == self._turn:  # otherwise `refresh` has run meanwhile, without this reference
                    self._served[reference] = version
        return served

    def demand(self, version: Version) -> None:
        """Load a version and run its golden test, unless the test has passed before.

        The golden test runs once for all versions with the same adapter. If it has failed, it runs again after a pause;
        until then, the exception of the failure is raised again. Raises AfinaError for a version that cannot be served.
        """
        if version.digest in self._proven:
            return
        self._tests.demand_backbone(version)
        with self._lock:
            before, now = self._damaged.get(str(version)), self._clock()
            if before is not None:
                if now < before.until:
                    raise before.error
                self._damaged[str(version)] = before.again(now)  # other threads do not try at the same time
        try:
            self._tests.run(version)
        except OtherBackbone:
            self._damaged.pop(str(version), None)
            raise
        except AfinaError as error:
            self.distrust(version, error)
            raise
        self._proven.add(version.digest)
        self._damaged.pop(str(version), None)

    def fits(self, version: Version) -> bool:
        """Return False if a version is known to be made for another backbone than the server's."""
        try:
            self._tests.demand_backbone(version)
        except OtherBackbone:
            return False
        return True

    def distrust(self, version: Version, error: AfinaError) -> None:
        """Record why a version cannot be served, and start the pause before the next attempt."""
        with self._lock:
            self._proven.discard(version.digest)
            before = self._damaged.get(str(version))
            if len(self._damaged) >= MOST:
                self._damaged.clear()
            failure = LoadFailure(error, 1 if before is None else before.tries + 1).again(self._clock())
            self._damaged[str(version)] = failure
        logs_and_traces.note(
            "version not served", logging.ERROR, version=str(version), problem=str(error), tries=failure.tries
        )

    @property
    def _due(self) -> bool:
        """Whether a version that is not served yet has now passed its golden test, or may be tried again."""
        return any(version.digest in self._proven or self._may_try(version) for version in [*self._behind.values()])

    def _may_try(self, version: Version) -> bool:
        """Return whether a version is not being loaded, and no pause is running."""
        loading, failure = self._loading.get(str(version)), self._damaged.get(str(version))
        return (loading is None or loading.done()) and (failure is None or failure.until <= self._clock())

    def refresh(self) -> bool:
        """Read changed aliases and versions from the store, without waiting for loads.

        Return whether there were any.
        """
        last, _ = self._store.news(self._last, ())
        if last == self._last and not self._due:
            return False
        with self._lock:
            self._turn += 1
            known = [*self._served]
        # Log entries added from here on are read again the next time, when more references may be known.
        _, touched = self._store.news(self._last, {reference.name for reference in known})
        problem: AfinaError | None = None
        for reference in known:
            if reference.name in touched or reference in self._behind:
                try:
                    self._follow(reference)
                except AfinaError as error:  # a damaged row of one client must not delay the others
                    problem = error
        if problem is not None:
            raise problem
        news, self._last = last != self._last, last
        return news

    def _follow(self, reference: Reference) -> None:
        """Serve the version that a reference means in the store now, or start to load it."""
        version = self._store.known(reference)
        if version is None or not self.fits(version):
            with self._lock:
                self._served.pop(reference, None)
            self._behind.pop(reference, None)
        elif version.digest in self._proven:
            self._behind.pop(reference, None)
            with self._lock:
                before = self._served.get(reference)
                self._served[reference] = version
            if before is not None and before.digest != version.digest:
                self._metrics.switches.inc()
        else:
            self._behind[reference] = version
            if self._may_try(version):
                self._loading = {name: one for name, one in self._loading.items() if not one.done()}
                self._loading[str(version)] = self._pool.submit(self._load, version)

    def _load(self, version: Version) -> None:
        with suppress(AfinaError):  # damaged, not loaded in time, or the store does not respond: recorded by `demand`
            self.demand(version)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
