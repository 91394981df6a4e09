"""The class StoreWatcher, which calls functions that read changes from the store, at regular intervals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from afina import meter
from afina.errors import AfinaError
from afina.server import logs_and_traces

SILENT = 5.0  # seconds after which a read that has not ended shows that the store does not respond

TICKS = 8
"""How often in an interval the thread looks whether a read has ended. A read that takes longer than the interval begins
again at the next tick, and not only after a second interval."""


@dataclass(eq=False)
class _Reading:
    """A function that reads the store, and its running call."""

    read: Callable[[], None]
    running: Future[None] | None = None
    began: float = 0.0
    problem: str | None = None  # of the last finished call
    rests: int = 0  # ticks until the next call is due


class StoreWatcher:
    """A thread that calls functions which read the store, until the method `close` is called.

    Args:
        reads: each runs in a thread of its own, so that a read that hangs does not delay other reads.
        every: the seconds between the starts of two calls of a function, and at most an eighth more after a slow one.
        failed: called with each exception of a read, except an AfinaError.
    """

    def __init__(
        self,
        reads: Sequence[Callable[[], None]],
        every: float,
        failed: Callable[[BaseException], None],
        clock: Callable[[], float] = meter.now,
    ) -> None:
        self._reads, self._every, self._failed, self._clock = [_Reading(one) for one in reads], every, failed, clock
        self._pool = ThreadPoolExecutor(len(reads), thread_name_prefix="afina-store")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="afina-watcher", daemon=True)
        self.answers = True

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop reading the store, without waiting for a read that hangs."""
        self._over.set()
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _watch(self) -> None:
        while not self._over.wait(self._every / TICKS):
            problem = next(
                (reason for reason in [self._turn(reading) for reading in self._reads] if reason is not None), None
            )
            if problem is None and not self.answers:
                logs_and_traces.note("the store answers again")
            elif problem is not None and self.answers:
                logs_and_traces.note("the store does not answer", logging.WARNING, reason=problem)
            self.answers = problem is None

    def _turn(self, reading: _Reading) -> str | None:
        """Start the next call of a read if it is due. Returns why the store does not respond; None: it responds."""
        reading.rests = max(0, reading.rests - 1)
        if reading.running is not None and not reading.running.done():
            is_silent = self._clock() - reading.began > SILENT
            return f"no answer within {SILENT:g} seconds" if is_silent else reading.problem
        if reading.rests:
            return reading.problem
        if reading.running is not None:
            reading.problem = self._problem(reading.running)
        reading.rests = TICKS
        reading.began, reading.running = self._clock(), self._pool.submit(reading.read)
        return reading.problem

    def _problem(self, ended: Future[None]) -> str | None:
        error = ended.exception()
        if error is not None and not isinstance(error, AfinaError):
            self._failed(error)
            return f"a read failed with {type(error).__name__}"
        return None if error is None else str(error)
