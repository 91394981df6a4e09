"""Canary versions: a share of the requests for `production` is answered by the version with the alias `canary`.

A request's sticky id decides, so that the same id is always answered by the same version. Knows no protocol.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from afina.errors import AfinaError
from afina.server.limits import Missing
from afina.server.versions.served_versions import ServedVersions
from afina.store.reader import StoreReader
from afina.store.versions import CANARY, PRODUCTION, Name, Reference

MOST = 65_536
"""Largest number of remembered names."""


def place(name: Name, sticky: str) -> float:
    """Return a number from 0 to 100, the same for the same name and sticky id, and evenly distributed over ids."""
    drawn = hashlib.blake2b(f"{name}\0{sticky}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 100 * int.from_bytes(drawn, "big") / 2**64


class Canaries:
    """The canaries of all names. Thread-safe; reads the store and loads versions in a thread of its own.

    A canary answers requests once its version is loaded and has passed its golden test. Until then, and if that fails,
    `production` answers.

    Args:
        store: the store to follow.
        served: loads versions and runs their golden tests.
    """

    def __init__(self, store: StoreReader, served: ServedVersions) -> None:
        self._store, self._served = store, served
        self._shares: dict[Name, float] = {}
        self._again: set[Name] = set()
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="afina-canary")

    @property
    def count(self) -> int:
        """Number of names whose canary answers requests."""
        with self._lock:
            return sum(share > 0 for share in self._shares.values())

    def answers(self, name: Name) -> bool:
        """Return whether a canary of this name answers requests."""
        return self._shares.get(name, 0.0) > 0

    def drawn(self, reference: Reference, sticky: str) -> Reference:
        """Return the reference of the canary if it is to answer, otherwise the given reference. Does not wait."""
        name = reference.name
        if reference.alias != PRODUCTION and reference != Reference(name):
            return reference
        share = self._shares.get(name)
        if share is None:
            self._begin(name)
            return reference
        return Reference(name, alias=CANARY) if share and place(name, sticky) < share else reference

    def refresh(self) -> None:
        """Follow the store. Raises the errors of reading the store."""
        with self._lock:
            known = [*self._shares]
        self._last, touched = self._store.news(self._last, known)
        with self._lock:
            again, self._again = self._again, set()
        for name in {*touched, *again}:
            self._soon(name)

    def _begin(self, name: Name) -> None:
        with self._lock:
            if name in self._shares:
                return
            if len(self._shares) >= MOST:
                self._shares.clear()
            self._shares[name] = 0.0
        self._soon(name)

    def _soon(self, name: Name) -> None:
        with suppress(RuntimeError):  # closed
            self._pool.submit(self._look, name)

    def _look(self, name: Name) -> None:
        try:
            found = self._store.canary(name)
            if found is not None:
                self._served.find(Reference(name, alias=CANARY))
            share = 0.0 if found is None else found.share
        except Missing:  # ended meanwhile
            share = 0.0
        except AfinaError:  # not servable, or the store does not answer
            share = 0.0
            with self._lock:
                self._again.add(name)
        with self._lock:
            self._shares[name] = share

    def close(self) -> None:
        """Stop following the store."""
        self._pool.shutdown(cancel_futures=True)
