"""`OtherRanks`: the processes of a run beside that of rank 0, each of which is followed in a thread until it ends.

A run ends with its first process that ends without a result. The module does not know whether processes are on this
machine or on others.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from afina import meter

GRACE = 2.0
"""After a process of a run has ended, the others have this number of seconds to end by themselves, before they are
ended: the processes notice at once that another one is lost, unless they compute alone."""

LATE = 30.0
"""The seconds to wait for the end of a process that was killed, which a lost machine never reports."""


class RankProcess(ABC):
    @abstractmethod
    def follow(self) -> bool:
        """Wait until the process has ended, and return whether it had a result."""

    @abstractmethod
    def kill(self) -> object:
        """Begin to end the process at once."""


class OtherRanks:
    """The processes of a run with the ranks from 1, beside the process `first` of rank 0.

    `given_up` has the processes that were killed because the run had ended, or because another process was lost; they
    are not the cause of an error.
    """

    def __init__(self, first: RankProcess, others: Sequence[RankProcess]) -> None:
        self.given_up: set[RankProcess] = set()
        self._first, self._lock, self._over = first, threading.Lock(), threading.Event()
        self._threads = {
            one: threading.Thread(target=self._follow, args=(one,), name="afina-rank", daemon=True) for one in others
        }

    def start(self) -> None:
        """Begin to follow the processes. If one ends without a result, rank 0 is killed GRACE seconds later."""
        for thread in self._threads.values():
            thread.start()

    def _follow(self, one: RankProcess) -> None:
        if one.follow() or self._over.wait(GRACE):
            return
        with self._lock:
            if not self._over.is_set() and self._first not in self.given_up:
                self.given_up.add(self._first)
                self._first.kill()

    def finish(self, *, at_once: bool) -> bool:
        """Wait until all processes have ended, at once or after GRACE; return whether they have."""
        with self._lock:
            self._over.set()
        started = {one: thread for one, thread in self._threads.items() if thread.ident is not None}
        _join([] if at_once else [*started.values()], GRACE)
        for one, thread in self._threads.items():
            if one not in started or thread.is_alive():
                self.given_up.add(one)
                one.kill()
        return _join([*started.values()], LATE)


def _join(threads: Sequence[threading.Thread], seconds: float) -> bool:
    until = meter.now() + seconds
    for thread in threads:
        thread.join(max(0.0, until - meter.now()))
    return not any(thread.is_alive() for thread in threads)
