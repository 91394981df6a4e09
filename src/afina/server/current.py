"""Current: which version each reference means, as far as it is served. Knows no protocol and no client.

A version is served once it is loaded and has computed its golden probe as it did when it was made. One that does not is
not served: where a reference meant another before, that goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from afina.errors import AfinaError, CorruptAdapter
from afina.server.figures import Figures
from afina.server.missing import Missing
from afina.store.names import Reference
from afina.store.reader import Reader
from afina.store.version import Version

MOST = 65_536
"""References that are remembered."""


class Current:
    """May be asked by many threads.

    prove  loads a version and replays its probe; raises AfinaError where it is not to be served
    """

    def __init__(self, store: Reader, prove: Callable[[Version], None], figures: Figures) -> None:
        self._store, self._prove, self._figures = store, prove, figures
        self._served: dict[Reference, Version] = {}
        self._proven: set[str] = set()
        self._failed: dict[str, AfinaError] = {}
        self._behind: set[Reference] = set()
        self._again: set[Reference] = set()
        self._turn = 0
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="afina-switch")

    @property
    def behind(self) -> int:
        """References that the store lets mean a version that is not served."""
        return len(self._behind)

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
        """Prove a version, once for all that are the same adapter. What did not pass does not until there is news."""
        if version.digest in self._proven:
            return
        if version.digest in self._failed:
            raise self._failed[version.digest]
        try:
            self._prove(version)
        except CorruptAdapter as error:
            self._failed[version.digest] = error
            raise
        self._proven.add(version.digest)

    def refresh(self) -> bool:
        """Follow the store; whether there was news."""
        last, _ = self._store.news(self._last, ())
        if last == self._last and not self._again:
            return False
        with self._lock:
            self._turn += 1
            known = [*self._served]
        # what is added to the log from here on is news once more the next time, when more may be known
        _, touched = self._store.news(self._last, {reference.name for reference in known})
        if last != self._last:
            self._failed.clear()
        again, self._again = self._again, set()
        followed = [one for one in known if one.name in touched or one in again or one in self._behind]
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
            self._behind.discard(reference)
            return
        try:
            self.demand(version)
        except CorruptAdapter:
            self._behind.add(reference)
        except AfinaError:  # not loaded in time, or nothing answered
            self._behind.add(reference)
            self._again.add(reference)
        else:
            self._behind.discard(reference)
            with self._lock:
                before = self._served.get(reference)
                self._served[reference] = version
            if before is not None and before.digest != version.digest:
                self._figures.switches.inc()

    def close(self) -> None:
        """Follow no more."""
        self._pool.shutdown(cancel_futures=True)
