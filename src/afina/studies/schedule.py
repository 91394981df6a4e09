"""Schedule: a study's runs in an executor's slots; those that are recorded are skipped. Watcher: who is told of it.

Slots is work that goes on at once, a thread each. What the threads have to tell is told in the thread that waits for
them, so that neither a watcher nor a locked directory has to expect several. With one slot the work itself is done in
the thread that waits. Runs that share memory wait for it (`wait_for_memory`). Results and records stand in the study's
order, in any order of ending. Starts without torch. Knows no display.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from afina import repr_html
from afina.errors import AfinaError, RunFailed
from afina.events import Progress
from afina.studies.results import Failure, Results, measured_in
from afina.studies.runs.executor import Executor, Lost, MemoryForecast
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run

if TYPE_CHECKING:
    from afina.events import Progress
    from afina.studies.results import Results
    from afina.studies.runs.record import Record
    from afina.studies.runs.run import Run
    from afina.studies.trials import Trial


class Watcher:
    """Does nothing; override what is of interest. Whatever is told of a run names the run."""

    def says(self, words: str) -> None:
        """Something begins that is no run."""

    def started(self, run: Run, number: int, total: int) -> None:
        """A run begins."""

    def waits(self, run: Run, needed: int, available: int) -> None:
        """A run needs more bytes of memory than are available beside those under way; told once of a run."""

    def progress(self, run: Run, progress: Progress) -> None:
        """A run or a trial goes on."""

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """A run is recorded; `now` is false where it was recorded already."""

    def failed(self, run: Run, message: str) -> None:
        """A run could not be carried out; the others go on."""

    def trying(self, run: Run, number: int, spent: float) -> None:
        """The trial of a candidate for a run's settings begins, which is a run of the same name; `spent` is the share
        of the budget that is gone.
        """

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """A trial took its steps, all of `length` unless it was stopped early."""

    def changed(self, results: Results) -> None:
        """There is more to show: what there is so far. The last call has all."""

    def stop(self) -> None:
        """The work is interrupted."""


@contextmanager
def watching(given: Watcher | None) -> Iterator[Watcher]:
    """The watcher for the block: `given`, or a notebook's display where this process is one's kernel.

    Whatever ends the block early stops it.
    """
    watcher: Watcher = given or repr_html.make_watcher() or Watcher()
    try:
        yield watcher
    except BaseException:
        watcher.stop()
        raise


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


def retry_if_lost(run: Run, work: Callable[[], Value], says: Callable[[str], object]) -> Value:
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


def wait_for_memory(
    run: Run,
    memory: MemoryForecast | None,
    beside: Callable[[], Iterable[Run]],
    end: Callable[[], object],
    watcher: Watcher,
) -> None:
    """Have runs end until `run` fits beside those under way; one that fits beside none goes on alone.

    beside  the runs under way;  end  waits for one of them
    """
    told = False
    while memory and (left := memory.left(run, beside())) is not None:
        if not told:
            watcher.waits(run, memory.needed[run.key], left)
        told = True
        end()


def carry_out(
    runs: Sequence[Run], held: OutputLock, so_far: Results, executor: Executor, watcher: Watcher, *, fresh: bool
) -> Results:
    """`so_far` with the results of `runs`, which are carried out where they are not known, or all of them `fresh`."""
    schedule = Schedule(runs, held, so_far, executor, watcher)
    with Slots[int, Record](executor) as slots:
        schedule.carry_out(slots, fresh=fresh)
    watcher.changed(schedule.so_far)
    return schedule.so_far


def work(
    run: Run, held: OutputLock, study: str, executor: Executor, watcher: Watcher, until: float | None = None
) -> Callable[[Tell], Record]:
    """The work of a slot that carries `run` out; its scratch is ready then."""
    out = held.begin(run.label)

    def carried_out(tell: Tell) -> Record:
        def listen(progress: Progress) -> None:
            tell(partial(watcher.progress, run, progress))

        def says(words: str) -> None:
            tell(partial(watcher.says, words))

        return retry_if_lost(run, lambda: executor.carry_out(run, out, study, listen, until), says)

    return carried_out


@dataclass
class Schedule:
    """The runs of a study on their way.

    results, failed  by the numbers of their runs, from 1
    """

    runs: Sequence[Run]
    held: OutputLock
    before: Results
    executor: Executor
    watcher: Watcher
    results: dict[int, Result] = field(default_factory=dict)
    failed: dict[int, Failure] = field(default_factory=dict)

    @property
    def so_far(self) -> Results:
        """The results so far, in the study's order."""
        results = tuple(self.results[number] for number in sorted(self.results))
        failed = tuple(self.failed[number] for number in sorted(self.failed))
        waiting = len(self.runs) - len(results) - len(failed)
        return replace(self.before, results=results, failed=(*self.before.failed, *failed), waiting=waiting)

    def carry_out(self, slots: Slots[int, Record], *, fresh: bool) -> None:
        """Every run, as many at once as there are slots and memory for."""
        todo = [run for run in self.runs if fresh or not self.held.has(run.key)]
        memory = self.executor.foresee(todo) if self.executor.slots > 1 and len(todo) > 1 else None
        for number, run in enumerate(self.runs, start=1):
            while run.key in {self.runs[other - 1].key for other in slots.busy}:  # the same run under two names
                self._end(*slots.next())
            known = None if fresh else self.held.known(run.key)
            if known is not None:
                self._show(number, known, now=False)
                continue
            wait_for_memory(
                run,
                memory,
                lambda: [self.runs[other - 1] for other in slots.busy],
                lambda: self._end(*slots.next()),
                self.watcher,
            )
            self.watcher.started(run, number, len(self.runs))
            slots.start(number, work(run, self.held, self.before.name, self.executor, self.watcher))
            while slots.full:
                self._end(*slots.next())
        while slots.busy:
            self._end(*slots.next())

    def _end(self, number: int, made: Callable[[], Record]) -> None:
        run = self.runs[number - 1]
        try:
            record = made()
        except AfinaError as error:
            message = self.held.give_up(run.label, str(error))
            self.watcher.failed(run, message)
            self.failed[number] = Failure(run.title, run.method, run.seed, message)
            return
        later = {self.runs[other - 1].key for other in self.results if other > number}
        self._show(number, self.held.keep(record, run.label, later), now=True)

    def _show(self, number: int, found: Result, *, now: bool) -> None:
        run = self.runs[number - 1]
        self.results[number] = measured_in(found, run.metric)
        self.watcher.finished(run, self.results[number].record, now=now)
        self.watcher.changed(self.so_far)
