"""Shadow versions: versions that answer the same texts as production, in the same batch, for comparison.

The version with the alias `shadow` runs beside the version with the alias `production`, once it has been loaded and has
passed its golden test. Clients never notice its answers, its errors or its loading time. Knows no
protocol.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from afina.engine.engine import Engine
from afina.errors import AfinaError, Busy, CannotWrite, NotFound
from afina.server.limits import OtherBackbone
from afina.server.metrics import Metrics
from afina.server.versions.served_versions import ServedVersions
from afina.server.versions.shadowed import (
    FAILED,
    LOADING,
    NONE,
    PROMOTED,
    RIDING,
    UNFORESEEN,
    UNSEEN,
    ShadowLease,
    ShadowStatus,
)
from afina.store.reader import StoreReader
from afina.store.versions import SHADOW, Name, Reference, Version

MOST = 65_536
"""Largest number of remembered names."""

LATE = "the version was not loaded in time, or the store does not respond. The server tries again."
UNSERVABLE = "the version fails its golden test, or cannot run here. `afina store check` says more."
"""Why a shadow version does not run."""


class Shadows:
    """The shadows of all names. Thread-safe; reads the store, loads and tests in threads of its own.

    Args:
        store: the store to follow.
        engine: the engine.
        served: loads versions and runs their golden tests.
        metrics: the server's metrics.
    """

    def __init__(self, store: StoreReader, engine: Engine, served: ServedVersions, metrics: Metrics) -> None:
        self._store, self._engine, self._served, self._metrics = store, engine, served, metrics
        self._statuses: dict[Name, ShadowStatus] = {}
        self._again: set[Name] = set()
        self._last, _ = store.news(0, ())
        self._lock = threading.Lock()
        self._looking = ThreadPoolExecutor(
            1, thread_name_prefix="afina-shadow"
        )  # one thread, so that lookups keep their order
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="afina-shadow-load")

    def count(self, state: str) -> int:
        """Return the number of names whose shadow has this state."""
        with self._lock:
            return sum(status.state == state for status in self._statuses.values())

    def lease_for(self, name: Name, current: Version, texts: int) -> ShadowLease | None:
        """Return a lease of the shadow to compare with `current`; None if there is none. Does not wait."""
        status = self._statuses.get(name)
        if status is None:
            self._begin(name)
            return None
        if status.state != RIDING or status.version is None or status.version.digest == current.digest:
            return None
        try:
            shadow = ShadowLease(status, self._engine.lease(status.version), str(current), self._metrics)
        except AfinaError:  # the engine is closed
            return None
        if not shadow.lease.ready:  # evicted; the adapter is being loaded again
            shadow.left_out(texts)
            shadow.release()
            return None
        return shadow

    def status_json(self, name: Name, current: Version) -> dict[str, Any]:
        """Return state and counts of a name's shadow as JSON values.

        Raises:
            Busy: the name was never looked up in the store, and the store does not respond now.
        """
        unseen = ShadowStatus(None, UNSEEN)
        if self._statuses.get(name, unseen).state == UNSEEN:
            self._looking.submit(self._look, name).result()
        status = self._statuses.get(name, unseen)
        if status.state == UNSEEN:
            raise Busy("the store does not respond. Try again later.", code="server.store-silent")
        version, state = status.version, status.state
        if version is not None and version.digest == current.digest:
            state = PROMOTED
        counts = status.counts(current)
        head = {"name": str(name), "current": current.number, "shadow": None if version is None else version.number}
        return {**head, "state": state, "problem": status.problem, **counts.as_json()}

    def refresh(self, news: bool) -> None:
        """Follow the store.

        `news`: whether the store has changed since the last call. Raises the errors of reading the store.
        """
        touched: set[Name] = set()
        if news:
            with self._lock:
                known = [*self._statuses]
            self._last, found = self._store.news(self._last, known)
            touched |= {*found}
        with self._lock:
            again, self._again = self._again, set()
        for name in touched | again:
            self._soon(name)

    def _begin(self, name: Name) -> None:
        with self._lock:
            if name in self._statuses:
                return
            if len(self._statuses) >= MOST:
                self._statuses.clear()
            self._statuses[name] = ShadowStatus(None, UNSEEN)
        self._soon(name)

    def _soon(self, name: Name) -> None:
        with suppress(RuntimeError):  # closed
            self._looking.submit(self._look, name)

    def _look(self, name: Name) -> None:
        """Look up the shadow version in the store.

        Another version that was running stops before the new one is loaded.
        """
        try:
            version = self._store.known(Reference(name, alias=SHADOW))
            if version is not None and not self._served.fits(version):
                version = None
        except AfinaError:  # the store does not answer
            self._later(name)
            return
        made = ShadowStatus(version, NONE if version is None else LOADING)
        with self._lock:
            before = self._statuses.get(name)
            if before is not None and made.identity == before.identity:
                if before.state not in (FAILED, UNSEEN):
                    return
                made.counts_by_version = before.counts_by_version
            if before is not None:
                before.stop()  # its waiting texts are not computed
            self._statuses[name] = made
        if version is not None:
            with suppress(RuntimeError):  # closed
                self._loading.submit(self._board, name, made)

    def _later(self, name: Name) -> None:
        with self._lock:
            self._again.add(name)

    def _board(self, name: Name, status: ShadowStatus) -> None:
        assert status.version is not None
        try:
            self._served.demand(status.version)
        except OtherBackbone:  # known now, so that the next look finds no shadow for this server
            status.fail(UNSERVABLE)
            self._later(name)
        except (Busy, NotFound, CannotWrite):
            status.fail(LATE)
            self._later(name)
        except AfinaError:
            status.fail(UNSERVABLE)
        except Exception as error:  # noqa: BLE001 - no error of a shadow may reach a client
            status.fail(UNFORESEEN.format(type(error).__name__))
        else:
            status.board()

    def close(self) -> None:
        """Stop following the store."""
        self._looking.shutdown(cancel_futures=True)
        self._loading.shutdown(cancel_futures=True)
