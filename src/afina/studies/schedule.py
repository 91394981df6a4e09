"""`Schedule` executes the runs of a study that have no record, in the slots of an executor.

The watcher and the output directory are used only in the thread that waits for the runs, so they need not be
thread-safe. Results and new records are in the study's order.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from afina.errors import AfinaError
from afina.events import Listener, Progress, ignore
from afina.studies import problems
from afina.studies.descriptions import Failure
from afina.studies.executors.executor import Executor, MemoryForecast
from afina.studies.executors.lost_runs import retry_if_lost
from afina.studies.results import Results, measured_in
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.teachers import teachers_first
from afina.studies.watcher import Watcher

Key = TypeVar("Key")
Value = TypeVar("Value")

KeepFailed = Callable[[tuple[Failure, ...]], object]
"""A function that writes the runs that have failed so far into the output directory."""

Tell = Callable[[Callable[[], object]], object]
"""A function that queues a call, which the thread that waits for the runs then executes."""

_THREADS = 10_000
"""The largest number of threads of `Slots`; a thread is started only when a run needs it."""

_PATIENCE, _AGAIN = 1.0, 0.2
"""The seconds after which a waiting thread checks for Ctrl-C, and after which cancelled runs are cancelled again."""


@dataclass(frozen=True)
class _Ended(Generic[Key]):
    key: Key


class Slots(Generic[Key, Value]):
    """A context manager that executes as many functions at the same time as the executor has slots.

    With one slot, the waiting thread executes them. If an error ends the block, the executor cancels the runs.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._pool: ThreadPoolExecutor | None = None
        self._messages: queue.SimpleQueue[Callable[[], object] | _Ended[Key]] = queue.SimpleQueue()
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
            except KeyboardInterrupt:  # a second Ctrl-C: do not wait for a checkpoint
                at_once = True

    @property
    def busy(self) -> list[Key]:
        return [*self._results]

    @property
    def full(self) -> bool:
        return len(self._results) >= self._executor.slots

    def start(self, key: Key, work: Callable[[Tell], Value]) -> None:
        """Begin `work` in a free slot; it is given a function that queues a call for the thread that waits."""
        if self._pool is None and self._executor.slots > 1:
            self._pool = ThreadPoolExecutor(_THREADS, "afina-slot")
        if self._pool is None:
            self._results[key] = lambda: work(lambda call: call())
            self._messages.put(_Ended(key))
            return
        future = self._pool.submit(work, self._messages.put)
        self._results[key], self._futures[key] = future.result, future
        future.add_done_callback(lambda done: self._messages.put(_Ended(key)))

    def next(self) -> tuple[Key, Callable[[], Value]]:
        """Wait until a started function ends; return its key, and a callable with its value or its error."""
        while True:
            if (ended := self._receive()) is not None:
                return ended

    def next_if_full(self) -> tuple[Key, Callable[[], Value]] | None:
        """Wait for `next`, or return None if a slot is free, for example because the executor has got more slots."""
        return self.next_while(lambda: self.full)

    def next_while(self, holds: Callable[[], bool]) -> tuple[Key, Callable[[], Value]] | None:
        """Wait for `next`, or return None if `holds()` is false before."""
        while holds():
            if (ended := self._receive()) is not None:
                return ended
        return None

    def _receive(self) -> tuple[Key, Callable[[], Value]] | None:
        """Handle one message from the threads of the slots; return the result of `next` if a function has ended."""
        try:
            message = self._messages.get(timeout=_PATIENCE)
        except queue.Empty:
            return None
        if isinstance(message, _Ended):
            self._futures.pop(message.key, None)
            return message.key, self._results.pop(message.key)
        message()
        return None


def wait_for_memory(
    run: Run,
    memory: MemoryForecast | None,
    beside: Callable[[], Iterable[Run]],
    end: Callable[[], object],
    watcher: Watcher,
) -> None:
    """Wait until `run` fits into memory beside the runs in progress, or no other run is in progress.

    `end` waits until one of the runs in progress ends. None as `memory`: do not wait.
    """
    is_reported = False
    while memory and (left := memory.left(run, beside())) is not None:
        if not is_reported:
            watcher.waits(run, memory.needed[run.key], left)
        is_reported = True
        end()


def work(
    run: Run,
    held: OutputLock,
    study: str,
    executor: Executor,
    watcher: Watcher,
    until: float | None = None,
    hear: Listener = ignore,
) -> Callable[[Tell], Record]:
    """Prepare the scratch directory of `run`, and return a function that executes the run in a slot.

    `hear` receives the progress in the thread of the slot.
    """
    out = held.begin(run.label)

    def carried_out(tell: Tell) -> Record:
        def listen(progress: Progress) -> None:
            hear(progress)
            tell(partial(watcher.progress, run, progress))

        def says(words: str) -> None:
            tell(partial(watcher.says, words))

        return retry_if_lost(run, lambda: executor.carry_out(run, out, study, listen, until), says)

    return carried_out


def recorded_alone(run: Run, held: OutputLock, executor: Executor, watcher: Watcher, *, fresh: bool) -> Record:
    """Return the record of one run, executed unless it is recorded. Raises the error with which it ends."""
    known = None if fresh else held.known(run.key)
    if known is not None:
        return known.record
    _say_why_again(run, held, watcher, fresh=fresh)
    watcher.started(run, 1, 1)
    try:
        record = work(run, held, "", executor, watcher)(lambda call: call())
    except AfinaError as error:
        watcher.failed(run, held.give_up(run.label, error.sentence))
        raise
    watcher.finished(run, record, now=True)
    return held.keep(record, run.label).record


def _say_why_again(run: Run, held: OutputLock, watcher: Watcher, *, fresh: bool) -> None:
    if not fresh and (lack := held.lack(run.key)):
        watcher.says(f"{run.title}, seed {run.seed}: recorded before, and executed again. {lack}")


@dataclass
class Schedule:
    """The execution of the runs of a study.

    `results` and `failed` are by the number of the run, from 1. `made`: the runs that were executed now.
    """

    runs: Sequence[Run]
    held: OutputLock
    before: Results
    executor: Executor
    watcher: Watcher
    keep_failed: KeepFailed
    results: dict[int, Result] = field(default_factory=dict)
    failed: dict[int, Failure] = field(default_factory=dict)
    made: set[int] = field(default_factory=set)

    @property
    def so_far(self) -> Results:
        results = tuple(self.results[number] for number in sorted(self.results))
        failed = tuple(self.failed[number] for number in sorted(self.failed))
        waiting = len(self.runs) - len(results) - len(failed)
        return replace(self.before, results=results, failed=(*self.before.failed, *failed), waiting=waiting)

    def carry_out(self, *, fresh: bool) -> Results:
        """Execute the runs that have no record, or all if `fresh`, and return `before` with their results."""
        with Slots[int, Record](self.executor) as slots:
            self._carry_out(slots, fresh=fresh)
        self.watcher.changed(self.so_far)
        return self.so_far

    def _carry_out(self, slots: Slots[int, Record], *, fresh: bool) -> None:
        todo = [run for run in self.runs if fresh or not self.held.has(run.key)]
        memory = self.executor.foresee(todo) if len(todo) > 1 and self.executor.slots > 1 else None
        for number, run in self._in_order():
            while run.key in {self.runs[other - 1].key for other in slots.busy}:  # the same run under two names
                self._end(*slots.next())
            known = None if fresh else self.held.known(run.key)
            if known is not None:
                self._show(number, known, now=False)
                continue
            if (taught := self._taught(number, slots)) is None:
                continue
            wait_for_memory(
                run,
                memory,
                lambda: [self.runs[other - 1] for other in slots.busy],
                lambda: self._end(*slots.next()),
                self.watcher,
            )
            _say_why_again(run, self.held, self.watcher, fresh=fresh)
            self.watcher.started(run, number, len(self.runs))
            slots.start(number, work(taught, self.held, self.before.name, self.executor, self.watcher))
            while (ended := slots.next_if_full()) is not None:
                self._end(*ended)
        while slots.busy:
            self._end(*slots.next())

    def _in_order(self) -> list[tuple[int, Run]]:
        """Return the runs by number; those that ask an endpoint come first, so that a wrong key is known early."""
        asking_first = sorted(enumerate(self.runs, start=1), key=lambda item: not item[1].asks_endpoint)
        return teachers_first(asking_first, lambda item: item[1])

    def _taught(self, number: int, slots: Slots[int, Record]) -> Run | None:
        """Return the run with the directory of its teacher's adapter; None if the teacher's run failed."""
        run = self.runs[number - 1]
        if run.teacher is None or run.teacher.run is None:
            return run
        teachers = [other for other, one in enumerate(self.runs, start=1) if one.key == run.teacher.run]
        while any(other in slots.busy for other in teachers):
            self._end(*slots.next())
        found = next((self.results[other].record for other in teachers if other in self.results), None)
        if found is None or found.adapter is None:
            name = self.runs[teachers[0] - 1].title if teachers else run.teacher.run
            message = str(problems.TEACHER_FAILED(run=run.title, teacher=name))
            self.watcher.failed(run, message)
            self._fail(number, message)
            return None
        path = str((self.held.out / found.adapter).absolute())
        return run.model_copy(update={"teacher": run.teacher.model_copy(update={"path": path})})

    def _fail(self, number: int, message: str) -> None:
        run = self.runs[number - 1]
        on = run.backbone if len(self.before.backbones) > 1 else None
        self.failed[number] = Failure(run.title, run.method, run.seed, message, on, run.key)
        self.keep_failed(self.so_far.failed)

    def _end(self, number: int, made: Callable[[], Record]) -> None:
        run = self.runs[number - 1]
        try:
            record = made()
        except AfinaError as error:
            message = self.held.give_up(run.label, error.sentence)
            self.watcher.failed(run, message)
            self._fail(number, message)
            return
        later = {self.runs[other - 1].key for other in self.made if other > number}
        self.made.add(number)
        self._show(number, self.held.keep(record, run.label, later), now=True)

    def _show(self, number: int, found: Result, *, now: bool) -> None:
        run = self.runs[number - 1]
        found = replace(found, record=found.record.called(run.title))
        self.results[number] = measured_in(found, run.metric)
        self.watcher.finished(run, self.results[number].record, now=now)
        self.watcher.changed(self.so_far)


def other_data_note(records: Sequence[Record], out: Path) -> str:
    first, more = records[0], f" and {len(records) - 1} more" * (len(records) > 1)
    stays = f"the earlier adapter stays in {out / first.adapter}" if first.adapter else "the earlier results stay"
    return (
        f"task {first.task}: the data changed after {first.name}, seed {first.seed}{more} was recorded. The runs are "
        f"executed on the new data; {stays}."
    )
