"""`Schedule` executes the runs of a study that have no record in the slots of an executor; `Watcher` receives progress.

`Slots` executes several runs at the same time, each in its own thread. The watcher and the output directory are used
only in the thread that waits for the runs, so they need not be thread-safe. With one slot, the waiting thread executes
the run. A run waits until enough memory is free (`wait_for_memory`). A run whose process or machine was lost is started
again (`retry_if_lost`). Results and new records are in the study's order. The module can be imported without torch.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from afina import repr_html
from afina.errors import AfinaError
from afina.events import Listener, Progress, ignore
from afina.studies import problems
from afina.studies.backbones import backbone_names, on_backbone
from afina.studies.descriptions import Failure
from afina.studies.executors.executor import Executor, Lost, MemoryForecast
from afina.studies.results import Results, measured_in
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run

if TYPE_CHECKING:
    from afina.studies.trials import Trial


class Watcher:
    """A receiver of the progress of a study; subclasses override the methods that they need.

    Every method of this class does nothing. Methods about a run have the run as their first argument.
    """

    def says(self, words: str) -> None:
        """Called when work other than a run begins, such as a download; the text `words` describes the work."""

    def fetched(self, seconds: float) -> None:
        """Called when all backbones of a recommendation are downloaded.

        The `seconds` of the download are not part of the minutes that the user gave.
        """

    def started(self, run: Run, number: int, total: int) -> None:
        """Called when a run begins; `number` is its number from 1 to `total`."""

    def waits(self, run: Run, needed: int, available: int) -> None:
        """Called once for a run that waits for memory: it needs `needed` bytes, and only `available` bytes are free."""

    def progress(self, run: Run, progress: Progress) -> None:
        """Called when a run or a tuning trial makes progress."""

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """Called when a run has a record; `now` is False if the record existed before this call of `Study.run`."""

    def failed(self, run: Run, message: str) -> None:
        """Called when a run has failed with the error `message`; the other runs continue."""

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Called when the trial of a candidate setting begins; `spent` is the used share of the tuning budget."""

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """Called when a tuning trial has ended; a trial that is not stopped early takes `length` steps."""

    def changed(self, results: Results) -> None:
        """Called with all results so far whenever there are new results; the last call has the complete results."""

    def stop(self) -> None:
        """Called when the study is interrupted by an exception."""


class WithBackbones(Watcher):
    """A watcher that passes progress on to another watcher, and names each run by its method and backbone."""

    @classmethod
    def of(cls, watcher: Watcher, backbones: Sequence[str]) -> Watcher:
        """Return a watcher for a study of these backbones: the given watcher itself if there is one backbone."""
        return cls(watcher, backbone_names(backbones)) if len(backbones) > 1 else watcher

    def __init__(self, watcher: Watcher, names: Mapping[str, str]) -> None:
        self._names = names
        self._named_runs: dict[str, Run] = {}
        self.says, self.changed, self.stop = watcher.says, watcher.changed, watcher.stop  # type: ignore[method-assign]
        for name in ("started", "waits", "progress", "finished", "failed", "trying", "tried"):
            setattr(self, name, partial(self._pass_on, getattr(watcher, name)))

    def _pass_on(self, told: Callable[..., None], run: Run, *rest: Any, **named: Any) -> None:
        if run.key not in self._named_runs:
            name = on_backbone(run.title, self._names[run.backbone])
            self._named_runs[run.key] = run.model_copy(update={"name": name})  # the key does not depend on the name
        begin = f"run {run.title}: "  # of the message of a failed run; the new name stands for it
        told(
            self._named_runs[run.key],
            *(one.removeprefix(begin) if isinstance(one, str) else one for one in rest),
            **named,
        )


@contextmanager
def watching(given: Watcher | None) -> Iterator[Watcher]:
    """Yield the watcher `given` for a `with` block, or a default watcher if `given` is None.

    The default watcher is a progress display in a notebook, and does nothing elsewhere. If an exception ends the `with`
    block, the watcher's method `stop` is called.
    """
    if given is not None and not hasattr(given, "says"):
        raise problems.WATCHER_TYPE(option="watcher", found=type(given).__name__)
    watcher: Watcher = given or repr_html.make_watcher() or Watcher()
    try:
        yield watcher
    except BaseException:
        watcher.stop()
        raise


Key = TypeVar("Key")
Value = TypeVar("Value")

KeepFailed = Callable[[tuple[Failure, ...]], object]
"""A function that writes the runs that have failed so far into the output directory."""

Tell = Callable[[Callable[[], object]], object]
"""A function that queues a call, which the thread that waits for the runs then executes."""

TRIES, NODES = 3, 20
"""A run or trial fails when its process has been lost TRIES times, or its machine NODES times."""

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

        The argument of `work` is a function that queues a call for the waiting thread.
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
        """Wait until a started function ends or `holds()` is false; return the result of `next`, or None."""
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


def retry_if_lost(run: Run, work: Callable[[], Value], says: Callable[[str], object]) -> Value:
    """Return the value of `work()`, which executes `run`; call `work` again if the run's process or machine is lost.

    Raises RunFailed if the process was lost TRIES times, or the machine NODES times. The function `says` receives a
    sentence about each repetition.
    """
    lost = {False: 0, True: 0}
    while True:
        try:
            return work()
        except Lost as error:
            lost[error.of_node] += 1
            what, tries = ("machine", NODES) if error.of_node else ("process", TRIES)
            if lost[error.of_node] == tries:
                raise problems.LOST(lost=what, reason=error, run=run.title, tries=tries) from None
            says(f"{run.title}, seed {run.seed}: the {what} of this run was lost ({error}). The run is tried again.")


def wait_for_memory(
    run: Run,
    memory: MemoryForecast | None,
    beside: Callable[[], Iterable[Run]],
    end: Callable[[], object],
    watcher: Watcher,
) -> None:
    """Wait until `run` fits into memory beside the runs in progress.

    A run that never fits is started when no other run is in progress.

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
    """Prepare the scratch directory of `run`, and return the function that executes the run in a slot.

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
            while (ended := slots.next_if_full()) is not None:
                self._end(*ended)
        while slots.busy:
            self._end(*slots.next())

    def _end(self, number: int, made: Callable[[], Record]) -> None:
        run = self.runs[number - 1]
        try:
            record = made()
        except AfinaError as error:
            message = self.held.give_up(run.label, str(error))
            self.watcher.failed(run, message)
            on = run.backbone if len(self.before.backbones) > 1 else None
            self.failed[number] = Failure(run.title, run.method, run.seed, message, on, run.key)
            self.keep_failed(self.so_far.failed)
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
    return (
        f"task {first.task}: the data changed after {first.name}, seed {first.seed}{more} was recorded. The runs are "
        f"executed on the new data; the earlier adapter stays in {out / first.adapter}."
    )
