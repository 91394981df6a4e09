"""Current: which version each reference means, as far as it is served. Knows no protocol and no client.

A version is served once it is loaded and has computed its golden probe as it did when it was made. One that does not is
not served: where a reference meant another before, that goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from afina.errors import AfinaError, CorruptAdapter, NotFound
from afina.server.figures import Figures
from afina.store.names import Name, Reference
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
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="afina-switch")

    @property
    def last(self) -> int:
        """The last entry of the store's log that is known here."""
        return self._last

    @property
    def behind(self) -> int:
        """References whose version did not pass, so that another than the store's is served, or none."""
        return len(self._behind)

    def find(self, reference: Reference) -> Version:
        """What is served. Raises NotFound, and what `prove` raises where nothing else was served before."""
        found = self._served.get(reference)
        if found is not None:
            return found
        version = self._store.known(reference)
        if version is None:
            raise NotFound("no such model")
        self._demand(version)
        with self._lock:
            if len(self._served) >= MOST:
                self._served.clear()
            return self._served.setdefault(reference, version)

    def _demand(self, version: Version) -> None:
        """Prove a version, once for all that are the same adapter. An error is remembered until there is news."""
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
        known = {reference.name for reference in self._served}
        last, touched = self._store.news(self._last, known)
        if last == self._last:
            return False
        self._failed.clear()
        names: set[Name] = {*touched} | {reference.name for reference in self._behind}
        for done in self._pool.map(self._follow, [one for one in [*self._served] if one.name in names]):
            assert done is None
        self._last = last
        return True

    def _follow(self, reference: Reference) -> None:
        version = self._store.known(reference)
        before = self._served.get(reference)
        if version is None:
            with self._lock:
                self._served.pop(reference, None)
                self._behind.discard(reference)
            return
        with suppress(AfinaError):
            self._behind.add(reference)
            self._demand(version)
            with self._lock:
                self._served[reference] = version
            self._behind.discard(reference)
            if before is not None and before.digest != version.digest:
                self._figures.switches.inc()

    def close(self) -> None:
        """Follow no more."""
        self._pool.shutdown(cancel_futures=True)
