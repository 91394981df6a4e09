"""The class StoreWrites, which checks whether the store can be written; if not, only changes of the store fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from afina import meter
from afina.errors import AfinaError, CannotWrite
from afina.server import logs_and_traces
from afina.store.adapter_store import AdapterStore

PAUSE = 10.0  # seconds between two checks of whether the store can be written


class StoreWrites:
    """A check of whether the store can be written, whose last result is `possible`. Thread-safe.

    After a failed write, or if the disk has little free space, it tries a write that changes nothing.
    """

    def __init__(self, store: AdapterStore, *, clock: Callable[[], float] = meter.now) -> None:
        self._store, self._clock = store, clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="afina-store-writes")
        self._checking: Future[None] | None = None
        self._next = 0.0
        self._lock = threading.Lock()
        self.possible = True

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Record whether the write to the store in the `with` block succeeds. A CannotWrite error is also logged."""
        try:
            yield
        except CannotWrite as error:
            self._learn(error, always=True)
            raise
        self._learn(None)

    def refresh(self) -> None:
        """Check in another thread whether the store can be written, if the last check is `PAUSE` seconds ago."""
        now = self._clock()
        if now >= self._next and (self._checking is None or self._checking.done()):
            self._next = now + PAUSE
            self._checking = self._pool.submit(self._check)

    def _check(self) -> None:
        with suppress(AfinaError):  # the store does not answer, or others write for too long: nothing is learned
            if self.possible and self._store.has_room():
                return
            try:
                self._store.try_write()
            except CannotWrite as error:
                self._learn(error)
            else:
                self._learn(None)

    def _learn(self, error: CannotWrite | None, *, always: bool = False) -> None:
        with self._lock:
            before, self.possible = self.possible, error is None
        if error is not None and (before or always):
            logs_and_traces.note("the store cannot be written", logging.ERROR, problem=str(error))
        elif error is None and not before:
            logs_and_traces.note("the store can be written again")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
