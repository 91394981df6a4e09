"""`Schedule` executes the runs of a study that have no record, in the slots of an executor.

`Slots` executes several runs at the same time, each in its own thread. The watcher and the output directory are used
only in the thread that waits for the runs, so they need not be thread-safe. With one slot, the thread that waits
executes the run. A run waits until enough memory is free (`wait_for_memory`). A run whose process or machine was lost
is started again (`executors/lost_runs.py`). Results and new records are in the study's order. The module loads without
torch.
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

    If an error ends the `with` block, the executor cancels the runs in progress.
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
        """Begin to execute the function `work` in a free slot, under an unused `key`.

        `work` is given a function that queues a call for the thread that waits for the runs.
        """
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
        """Wait until a started function ends.

        Returns the key of the function, and a callable that returns the function's value or raises its error.
        """
        while True:
            if (ended := self._receive()) is not None:
                return ended

    def next_if_full(self) -> tuple[Key, Callable[[], Value]] | None:
        """Wait until a started function ends or a slot is free.

        Returns the result of `next`, or None if a slot is free, for example because the executor has got more slots.
        """
        return self.next_while(lambda: self.full)

    def next_while(self, holds: Callable[[], bool]) -> tuple[Key, Callable[[], Value]] | None:
        """Wait until a started function ends, and return the result of `next`; None if `holds()` is false before."""
        while holds():
            if (ended := self._receive()) is not None:
                return ended
        return None

    def _receive(self) -> tuple[Key, Callable[[], Value]] | None:
        """Wait for one message from the threads of the slots, and handle it.

        Returns the result of `next` if the message says that a function has ended; else None.
        """
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
    """Wait until `run` fits into memory beside the runs in progress.

    A run that never fits into memory is started when no other run is in progress.

    Args:
        run: The run that is to be started.
        memory: The forecast of the memory of all runs. None: do not wait.
        beside: A function that returns the runs in progress.
        end: A function that waits until one of the runs in progress ends.
        watcher: Receives one message if the run waits.
    """
    is_reported = False
    while memory and (left := memory.left(run, beside())) is not None:
        if not is_reported:
            watcher.waits(run, memory.needed[run.key], left)
        is_reported = True
        end()


def carry_out(
    runs: Sequence[Run],
    held: OutputLock,
    so_far: Results,
    executor: Executor,
    watcher: Watcher,
    keep_failed: KeepFailed,
    *,
    fresh: bool,
) -> Results:
    """Execute the runs that have no record, and return the results `so_far` with the results of all `runs`.

    If `fresh` is set, runs that have a record are executed again.
    """
    schedule = Schedule(runs, held, so_far, executor, watcher, keep_failed)
    with Slots[int, Record](executor) as slots:
        schedule.carry_out(slots, fresh=fresh)
    watcher.changed(schedule.so_far)
    return schedule.so_far


def work(
    run: Run,
    held: OutputLock,
    study: str,
    executor: Executor,
    watcher: Watcher,
    until: float | None = None,
    hear: Listener = ignore,
) -> Callable[[Tell], Record]:
    """Prepare the scratch directory of `run`, and return a function that executes the run in a slot of the executor.

    The function `hear` receives the run's progress in the thread of the slot. The argument `until` is the time at which
    the executor stops the run; None: no limit.
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
    """Return the record of one run, which is executed unless it is recorded. Raises the error with which it ends."""
    known = None if fresh else held.known(run.key)
    if known is not None:
        return known.record
    watcher.started(run, 1, 1)
    try:
        record = work(run, held, "", executor, watcher)(lambda call: call())
    except AfinaError as error:
        watcher.failed(run, held.give_up(run.label, str(error)))
        raise
    watcher.finished(run, record, now=True)
    return held.keep(record, run.label).record


@dataclass
class Schedule:
    """The execution of the runs of a study.

    Attributes:
        results: The results of finished runs, by the number of the run, from 1.
        failed: The failures of failed runs, by the number of the run, from 1.
        made: The numbers of the runs that were executed and recorded, not of runs whose record existed before.
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

    def carry_out(self, slots: Slots[int, Record], *, fresh: bool) -> None:
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
            self.watcher.started(run, number, len(self.runs))
            slots.start(number, work(taught, self.held, self.before.name, self.executor, self.watcher))
            while (ended := slots.next_if_full()) is not None:
                self._end(*ended)
        while slots.busy:
            self._end(*slots.next())

    def _in_order(self) -> list[tuple[int, Run]]:
        """Return the runs with their numbers in the order of their execution.

        Runs that ask an endpoint come first: a wrong key or a spent budget is then known before any training.
        """
        asking_first = sorted(enumerate(self.runs, start=1), key=lambda item: not item[1].asks_endpoint)
        return teachers_first(asking_first, lambda item: item[1])

    def _taught(self, number: int, slots: Slots[int, Record]) -> Run | None:
        """Return the run with this number and the directory of its teacher's adapter, after the teacher's run ended.

        None: the teacher's run failed, so that the run fails too.
        """
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
            message = self.held.give_up(run.label, str(error))
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
    """Return a sentence on recorded runs whose data have changed since; the runs are executed on the new data."""
    first, more = records[0], f" and {len(records) - 1} more" * (len(records) > 1)
    stays = f"the earlier adapter stays in {out / first.adapter}" if first.adapter else "the earlier results stay"
    return (
        f"task {first.task}: the data changed after {first.name}, seed {first.seed}{more} was recorded. The runs are "
        f"executed on the new data; {stays}."
    )
