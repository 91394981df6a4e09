"""Executor: where a run or a trial is carried out. Nothing above it knows which executor it has. Starts without torch.

An executor never changes a result: the same run ends in the same adapter digest wherever it is carried out. What a
machine needs that has not the files of this one: `Run.inputs`. LocalExecutor gives each run a process of its own
(`worker.py`) on this machine, so that its peak memory is its own, a crash takes nothing else with it, and it ends when
whoever asked for it does.
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
    """A run or a trial had not ended when its time was up, and was ended."""


class Lost(Exception):
    """The machine of a run or a trial is gone, which says nothing of the run: another one may carry it out."""


class Cancelled(Exception):
    """A run or a trial was ended by `Executor.cancel`."""


@dataclass(frozen=True)
class MemoryForecast:
    """The memory that is there and that runs need: a GPU's where they train on one.

    available  bytes for all runs that are carried out at once
    needed     bytes of a run, by its key; a run that is not in it is not waited with
    """

    available: int
    needed: Mapping[str, int]

    def left(self, run: Run, beside: Iterable[Run]) -> int | None:
        """Bytes that other runs leave to `run` where it needs more; None where it fits, or is beside none."""
        others = [self.needed.get(one.key, 0) for one in beside]
        left = max(0, self.available - sum(others))
        return left if others and self.needed.get(run.key, 0) > left else None


class Executor(ABC):
    """What is asked of any. Carrying out and trying out block until there is an answer, each in a thread of its own
    where there are several slots.

    slots   how many runs or trials it carries out at once
    out     the executor's scratch, in which adapter, predictions and checkpoint come back as files; where it goes on
            from a checkpoint, that lies there
    listen  is told of the progress of this run alone, in the thread that asked
    until   when to end it, by `meter.now()`
    """

    slots: int = 1

    def check(self, run: Run) -> str:
        """Look, before any run is begun, whether the task and the backbone of `run` and all its like can be had.

        What was found in the task, in a line; empty where this executor cannot know. Raises what each of the runs would
        end with.
        """
        return ""

    def look(self, run: Run) -> DataDigests | None:
        """What the data of `run` are now; None where its address says which they are, or this executor cannot know.

        Fetches nothing. Raises what reading them does.
        """
        return None

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        """The memory that `runs` need and share; None where any number of them may go on at once."""
        return None

    @abstractmethod
    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """The record of `run`, whose adapter and predictions then lie in `out` where the record says.

        study  the name that the record has
        Raises RunFailed; Overrun at `until`; Lost, and Cancelled, with the last checkpoint that came back in `out`.
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
        """The last score of `run`: the one after which `goes_on` said no, or after its last step. Leaves no file.

        shares, limit  as in `afina.studies.runs.execute.try_out`
        Raises RunFailed; Overrun at `until`; Lost; Cancelled.
        """

    def cancel(self, *, at_once: bool = False) -> None:  # noqa: B027 - with one slot nothing is left to cancel
        """End all that is carried out and tried out in other threads; a run that trains leaves a checkpoint.

        Returns before they have ended, and may be called again until they have.
        at_once  without waiting for a step to end, and so for a checkpoint
        """


class LocalExecutor(Executor):
    """A process a run, and of several at once each with its share of the processors.

    slots  how many runs at once
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self._facts: tuple[Run, TaskFacts] | None = None
        self._workers: set[_Worker] = set()
        self._lock = threading.Lock()

    def look(self, run: Run) -> DataDigests | None:
        """Read the task again, where it is not pinned and takes no network."""
        files = reads_files(run.task, run.data.evaluation)
        if not files and (is_pinned(run.task) or not is_at_hand(run.task)):
            return None
        self._facts = run, facts_of(run, offline=is_at_hand(run.task))
        return DataDigests.of(self._facts[1])

    def check(self, run: Run) -> str:
        """Read the task, unless `look` did; look for the backbone; whether words that are given can be asked in."""
        looked, self._facts = self._facts, None
        facts = looked[1] if looked and looked[0] == run else facts_of(run)
        facts.check_leakage(run)
        backbone_spec.check_backbone(run.backbone)
        facts.check(run)
        if run.ask.words:
            from afina.studies.runs.prepared import check_words  # loads torch

            check_words(run, facts)
        return facts.told

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """As the contract says."""
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
        """As the contract says."""
        with self._worker(TryOut(run=run, shares=shares, limit=limit), until) as worker:
            for message in worker.answers(listen):
                if isinstance(message, Scored):
                    if not goes_on(message.score) or message.last:
                        return message.score
                    worker.send(GoOn())
        raise worker.failure()

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        """In a process of its own, since that takes torch; a run needs as much whatever its seed."""
        alike = {run.key: run.model_copy(update={"seed": 0}) for run in runs}
        asked = {run.key: run for run in alike.values()}
        with self._worker(Foresee(runs=tuple(asked.values()))) as worker:
            for message in worker.answers(ignore):
                if isinstance(message, MemoryForeseen):
                    needed = {key: message.needed[run.key] for key, run in alike.items() if run.key in message.needed}
                    return MemoryForecast(message.available, needed)
        raise worker.failure()

    def cancel(self, *, at_once: bool = False) -> None:
        """Tell each worker, or end it."""
        with self._lock:
            for worker in self._workers:
                worker.cancel(at_once=at_once)

    @contextmanager
    def _worker(self, request: Request, until: float | None = None) -> Iterator[_Worker]:
        """A worker for the block, among those that go on."""
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
        """Of a worker; None: as many as torch takes by itself."""
        return max(1, meter.processors() // self.slots) if self.slots > 1 else None


class _Worker:
    """One process at work on a request; the end of the block ends it, and so does the clock at `until`.

    threads  that it computes in, unless OMP_NUM_THREADS says so; None: torch's own choice
    most     workers, itself among them, that were at work at once while it was
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
            # Not by what it tells: a process that loads or saves is silent for long.
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
                self.send(Stop())  # it leaves a checkpoint; to interrupt once more ends it at once
                for _ in self.process.stdout:
                    pass  # it could not end while it has lines to write
        finally:
            self._end()

    def _end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # the worker ends when this closes, also when we were interrupted
        self.process.wait()
        self.process.stdout.close()

    def send(self, message: Message) -> None:
        """Write one line to it; it may be gone."""
        assert self.process.stdin is not None
        with self.told, suppress(BrokenPipeError, ValueError):  # ValueError: closed
            self.process.stdin.write(encode(message))
            self.process.stdin.flush()

    def cancel(self, *, at_once: bool) -> None:
        """Have it end, from another thread: once it is asked to, and then it is ended."""
        if at_once:
            self.process.kill()
        elif not self.cancelled:
            self.send(Stop())
        self.cancelled = True

    def answers(self, listen: Listener) -> Iterator[Message]:
        """Send the request; yield what is neither progress nor an error."""
        assert self.process.stdout is not None
        self.send(self.request)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # it was killed while it wrote
            message = decode(line)
            if isinstance(message, Progressed):
                listen(message.progress)
            elif isinstance(message, Failed):
                self.problem = message
            else:
                yield message

    def failure(self) -> RunFailed | Overrun | Cancelled:
        """Why it ended without an answer; for after the block."""
        title = "in foreseeing memory" if isinstance(self.request, Foresee) else self.request.run.title
        if self.cancelled:
            return Cancelled()
        if self.until is not None and meter.now() >= self.until:
            return Overrun()
        if self.problem is not None:
            return RunFailed(self.problem.error, run=title, cause=self.problem.code, of_cause=self.problem.fields)
        status = self.process.returncode
        if status < 0:
            return RunFailed(
                f"run {title}: its process was killed by signal {-status}, most likely for want of memory. "
                f"{LESS_MEMORY}, then start again.",
                code="run.killed",
                run=title,
                signal=-status,
            )
        return RunFailed(
            f"run {title}: a fault in afina (above). Please report it; the other runs are not affected.",
            code="run.fault",
            run=title,
        )


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C reaches the whole process group, and what ends a service all its processes. A process started in the block
    never hears either; this one does after it.

    So it is the study alone that decides what becomes of a run, however early in its life.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
