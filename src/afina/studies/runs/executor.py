"""Executor: where a run or a trial is executed. The modules above do not know which executor they use.

An executor never changes a result: the same run produces the same adapter digest wherever it is executed. `Run.inputs`
returns the files that another machine needs. `LocalExecutor` gives each run a process of its own (`worker.py`) on this
machine. So a run's peak memory is its own, a crash does not affect other runs, and the process ends with its caller.
Starts without torch.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from afina import allocator, meter
from afina.data.addresses import is_at_hand, is_pinned, reads_files
from afina.errors import LESS_MEMORY, RunFailed
from afina.events import Listener, ValidationScore, ignore
from afina.models import backbone_spec
from afina.studies.runs.inputs import DataDigests, TaskFacts, facts_of
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.runs.worker import (
    CarryOut,
    Failed,
    Foresee,
    GoOn,
    MemoryForeseen,
    Message,
    Progressed,
    Recorded,
    Request,
    Scored,
    Stop,
    TryOut,
    decode,
    encode,
)


class Overrun(Exception):
    """Raised when a run or a trial has not ended at its time limit. The run is stopped."""


class Lost(Exception):
    """Raised when the process or the machine of a run or a trial is lost. Another process can execute the run.

    Attributes:
        of_node: Whether the machine was lost, so that the run itself is not suspected.
    """

    def __init__(self, reason: str = "", *, of_node: bool = False) -> None:
        super().__init__(reason)
        self.of_node = of_node


class Cancelled(Exception):
    """Raised when `Executor.cancel` ended a run or a trial."""


@dataclass(frozen=True)
class MemoryForecast:
    """The memory that is available and the memory that runs need: GPU memory if they train on a GPU.

    Attributes:
        available: Bytes for all runs that are executed at the same time.
        needed: Bytes of each run, by its key. A run without an entry does not wait.
    """

    available: int
    needed: Mapping[str, int]

    def left(self, run: Run, beside: Iterable[Run]) -> int | None:
        """Return the bytes that other runs leave to `run` if it needs more than that; None if it can start."""
        others = [self.needed.get(one.key, 0) for one in beside]
        left = max(0, self.available - sum(others))
        return left if others and self.needed.get(run.key, 0) > left else None


class Executor(ABC):
    """The contract of every executor. `carry_out` and `try_out` block until they have a result.

    With several slots, each call is made in a thread of its own. The methods share these arguments:

    - `out`: The executor's scratch directory. The adapter, the predictions and the checkpoint are returned as files in
    `out`. If `out` has a checkpoint, the run continues from it.
    - `listen`: Receives the progress of this run alone, in the calling thread.
    - `until`: The time at which to end the run, by `meter.now()`.

    Attributes:
        slots: The number of runs or trials that can be executed at the same time. The number may change during a study;
            it is read often.
    """

    slots: int = 1

    def check(self, run: Run) -> str:
        """Check, before any run begins, that the task and the backbone of `run` and of similar runs can be loaded.

        Returns a line about the task that was read; empty if this executor cannot check. Raises the error that each of
        the runs would end with.
        """
        return ""

    def look(self, run: Run) -> DataDigests | None:
        """Return the digests of `run`'s data as the data are now, without downloading anything.

        Returns None if the address identifies the data, or if this executor cannot know. Raises the same errors as
        reading the data.
        """
        return None

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        """Return the memory that `runs` need and share; None if any number of them can be executed at the same time."""
        return None

    @abstractmethod
    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """Execute `run`, write its adapter and predictions to `out` as the record says, and return the record.

        Args:
            study: The name of the study in the record.

        Raises:
            RunFailed: The run failed.
            Overrun: The run had not ended at `until`.
            Lost, Cancelled: The last checkpoint that was returned is in `out`.
        """

    @abstractmethod
    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[ValidationScore], bool],
        listen: Listener,
        until: float | None = None,
    ) -> ValidationScore:
        """Return the last score of `run`: where `goes_on` returned False, or after the last step.

        Writes no file. `shares` and `limit` are those of `afina.studies.runs.execute.try_out`. Raises RunFailed, Lost
        or Cancelled, and Overrun at `until`.
        """

    def cancel(self, *, at_once: bool = False) -> None:  # noqa: B027 - with one slot nothing is left to cancel
        """End all work in other threads; a run that trains writes a checkpoint first.

        Returns before the work has ended, and can be called again until it has.

        Args:
            at_once: Do not wait for the end of a step, and so do not write a checkpoint.
        """

    def largest_memory(self) -> int | None:
        """Return the memory in bytes of the largest machine for a run; None: the memory of this machine."""
        return None

    def close(self) -> None:  # noqa: B027 - an executor may hold nothing
        """Release what is kept for further runs. The executor can be used again."""


class LocalExecutor(Executor):
    """Executes each run in a process of its own on this machine.

    With several slots, the processes share the processors equally.

    Args:
        slots: The number of runs at the same time.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self._facts: tuple[Run, TaskFacts] | None = None
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()

    def look(self, run: Run) -> DataDigests | None:
        """Read the task again, unless its address identifies the data or reading needs the network."""
        files = reads_files(run.task, run.data.evaluation)
        if not files and (is_pinned(run.task) or not is_at_hand(run.task)):
            return None
        self._facts = run, facts_of(run, offline=is_at_hand(run.task))
        return DataDigests.of(self._facts[1])

    def check(self, run: Run) -> str:
        """Read the task unless `look` has read it, locate the backbone, and check that given words can be used."""
        looked, self._facts = self._facts, None
        facts = looked[1] if looked and looked[0] == run else facts_of(run)
        facts.check_leakage(run)
        backbone_spec.check_backbone(run.backbone)
        facts.check(run)
        template = run.ask.template
        if run.ask.words or (template is not None and "{text}" not in template):
            from afina.studies.runs.prepared import check_words  # loads torch

            check_words(run, facts)
        return facts.told

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """Execute `run` in a process of its own."""
        made: Record | None = None
        with self._worker(CarryOut(run=run, out=str(out), study=study), until) as worker:
            for message in worker.answers(listen):
                if isinstance(message, Recorded):
                    made = message.record
        if made is None:
            raise worker.failure()
        return made.beside(worker.most)

    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[ValidationScore], bool],
        listen: Listener,
        until: float | None = None,
    ) -> ValidationScore:
        """Try `run` out in a process of its own."""
        with self._worker(TryOut(run=run, shares=shares, limit=limit), until) as worker:
            for message in worker.answers(listen):
                if isinstance(message, Scored):
                    if not goes_on(message.score) or message.last:
                        return message.score
                    worker.send(GoOn())
        raise worker.failure()

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        """Forecast memory in another process, since a forecast loads torch. A run's seed does not change its memory."""
        alike = {run.key: run.model_copy(update={"seed": 0}) for run in runs}
        asked = {run.key: run for run in alike.values()}
        with self._worker(Foresee(runs=tuple(asked.values()))) as worker:
            for message in worker.answers(ignore):
                if isinstance(message, MemoryForeseen):
                    needed = {key: message.needed[run.key] for key, run in alike.items() if run.key in message.needed}
                    return MemoryForecast(message.available, needed)
        raise worker.failure()

    def cancel(self, *, at_once: bool = False) -> None:
        """Ask each worker to stop, or kill it."""
        with self._lock:
            for worker in self._workers:
                worker.cancel(at_once=at_once)

    @contextmanager
    def _worker(self, request: Request, until: float | None = None) -> Iterator[_Worker]:
        """Yield a worker that is registered among the workers in progress."""
        with _Worker(request, until, self._threads) as worker:
            with self._lock:
                self._workers.add(worker)
                for each in self._workers:
                    each.most = max(each.most, len(self._workers))
            try:
                yield worker
            finally:
                with self._lock:
                    self._workers.remove(worker)

    @property
    def _threads(self) -> int | None:
        """Threads of a worker; None: torch's default."""
        return max(1, meter.processors() // self.slots) if self.slots > 1 else None


class _Worker:
    """One process that works on a request. The process ends with the block, or at `until`.

    Attributes:
        threads: The number of torch threads of the process, unless OMP_NUM_THREADS is set. None: torch's default.
        most: The largest number of workers at the same time, this worker included.
    """

    def __init__(self, request: Request, until: float | None, threads: int | None) -> None:
        self.request, self.until, self.threads = request, until, threads
        self.timer: threading.Timer | None = None
        self.problem: Failed | None = None
        self.most, self.told, self.cancelled = 1, threading.Lock(), False

    def __enter__(self) -> _Worker:
        with _ctrl_c_later():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "afina.studies.runs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=({} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)})
                | allocator.environment_of_one_run(),
            )
        if self.until is not None:
            seconds = min(max(0.0, self.until - meter.now()), threading.TIMEOUT_MAX / 2)
            # A timer and not the progress messages: a process that loads or saves sends none for a long time.
            self.timer = threading.Timer(seconds, self.process.kill)
            self.timer.daemon = True
            self.timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.timer is not None:
            self.timer.cancel()
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self.send(Stop())  # the worker writes a checkpoint; a second Ctrl-C ends it at once
                for _ in self.process.stdout:
                    pass  # the worker cannot end while its lines are not read
        finally:
            self._end()

    def _end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # the worker ends when its standard input closes, also after an interrupt
        self.process.wait()
        self.process.stdout.close()

    def send(self, message: Message) -> None:
        """Write one line to the process, which may have ended."""
        assert self.process.stdin is not None
        with self.told, suppress(BrokenPipeError, ValueError):  # ValueError: closed
            self.process.stdin.write(encode(message))
            self.process.stdin.flush()

    def cancel(self, *, at_once: bool) -> None:
        """End the process from another thread: ask it to stop, or kill it."""
        if at_once:
            self.process.kill()
        elif not self.cancelled:
            self.send(Stop())
        self.cancelled = True

    def answers(self, listen: Listener) -> Iterator[Message]:
        """Send the request; yield messages other than progress and errors."""
        assert self.process.stdout is not None
        self.send(self.request)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # the worker was killed while it wrote this line
            message = decode(line)
            if isinstance(message, Progressed):
                listen(message.progress)
            elif isinstance(message, Failed):
                self.problem = message
            else:
                yield message

    def failure(self) -> RunFailed | Overrun | Cancelled:
        """Return why the process ended without an answer; called after the block."""
        title = "memory forecast" if isinstance(self.request, Foresee) else self.request.run.title
        if self.cancelled:
            return Cancelled()
        if self.until is not None and meter.now() >= self.until:
            return Overrun()
        if self.problem is not None:
            return RunFailed(self.problem.error, run=title, cause=self.problem.code, of_cause=self.problem.fields)
        status = self.process.returncode
        if status < 0:
            return RunFailed(
                f"run {title}: signal {-status} killed its process, most likely because memory ran out. "
                f"{LESS_MEMORY}, then start again.",
                code="run.killed",
                run=title,
                signal=-status,
            )
        return RunFailed(
            f"run {title}: a bug in afina ended its process (traceback above). Please report the bug. "
            "The other runs are not affected.",
            code="run.fault",
            run=title,
        )


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Block SIGINT and SIGTERM in a process that starts in the block, and delay them in this process until its end.

    Ctrl-C reaches the whole process group, and the end of a service reaches all its processes. With both signals
    blocked in the workers, the study alone decides what happens to a run, however early the signal comes.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
