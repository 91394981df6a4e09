"""Slots: work for an executor that goes on at once, a thread each. Knows no run and no record.

What the threads have to tell is told in the thread that waits for them, so that neither a watcher nor a held directory
has to expect several. With one slot the work itself is done in the thread that waits.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from afina.errors import RunFailed
from afina.studies.runs.executor import Executor, Lost
from afina.studies.runs.run import Run

Key = TypeVar("Key")
Value = TypeVar("Value")

Tell = Callable[[Callable[[], object]], object]
"""Have a call made in the thread that waits."""

TRIES = 3
"""How often a run or a trial is begun whose machine is lost."""

_PATIENCE, _AGAIN = 1.0, 0.2
"""Seconds after which a thread that waits looks up for Ctrl-C, and after which what has not ended is told again to."""


@dataclass(frozen=True)
class _Ended(Generic[Key]):
    key: Key


class Slots(Generic[Key, Value]):
    """As much work at once as an executor has slots; what is under way when an error ends the block is cancelled."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._pool = ThreadPoolExecutor(executor.slots, "afina-slot") if executor.slots > 1 else None
        self._told: queue.SimpleQueue[Callable[[], object] | _Ended[Key]] = queue.SimpleQueue()
        self._results: dict[Key, Callable[[], Value]] = {}
        self._futures: dict[Key, Future[Value]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            if kind is not None:
                self._cancel()
            self._pool.shutdown()

    def _cancel(self) -> None:
        at_once = False
        while True:
            try:
                self._executor.cancel(at_once=at_once)
                if not wait(self._futures.values(), _AGAIN).not_done:
                    return
            except KeyboardInterrupt:  # the second one: no checkpoint is waited for
                at_once = True

    @property
    def busy(self) -> list[Key]:
        """The keys of work under way, in the order in which it was begun."""
        return [*self._results]

    @property
    def full(self) -> bool:
        """Whether nothing more can be begun now."""
        return len(self._results) >= self._executor.slots

    def start(self, key: Key, work: Callable[[Tell], Value]) -> None:
        """Begin to work, under a key that nothing under way has; `work` is handed a way to tell what goes on."""
        if self._pool is None:
            self._results[key] = lambda: work(lambda call: call())
            self._told.put(_Ended(key))
            return
        future = self._pool.submit(work, self._told.put)
        self._results[key], self._futures[key] = future.result, future
        future.add_done_callback(lambda done: self._told.put(_Ended(key)))

    def next(self) -> tuple[Key, Callable[[], Value]]:
        """Wait for what ends next: its key, and what gives its value or raises what it ended in."""
        while True:
            try:
                told = self._told.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if isinstance(told, _Ended):
                self._futures.pop(told.key, None)
                return told.key, self._results.pop(told.key)
            told()


def again_where_lost(run: Run, work: Callable[[], Value], says: Callable[[str], object]) -> Value:
    """What `work` gives, an executor's on `run`: it is done again where a machine is lost. Raises RunFailed.

    says  told of it
    """
    for _ in range(TRIES - 1):
        try:
            return work()
        except Lost as error:
            says(f"{run.title}, seed {run.seed}: its machine was lost ({error}); it is tried again.")
    try:
        return work()
    except Lost as error:
        raise RunFailed(
            f"run {run.title}: its machine was lost ({error}), {TRIES} times in all. Start again; a run goes on from "
            "its last checkpoint.",
            code="run.lost",
            run=run.title,
            tries=TRIES,
        ) from None
