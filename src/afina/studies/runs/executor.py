"""Executor: where a run or a trial is executed. The modules above do not know which executor they use.

An executor never changes a result: the same run produces the same adapter digest wherever it is executed. `Run.inputs`
returns the files that another machine needs. `LocalExecutor` gives each run a process of its own (`worker.py`) on this
machine. So a run's peak memory is its own, a crash does not affect other runs, and the process ends with its caller.
Starts without torch.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from afina import meter
from afina.data.addresses import is_at_hand, is_pinned, reads_files
from afina.data.label_words import no_words_note
from afina.events import Listener, ValidationScore, ignore
from afina.models import backbone_spec
from afina.studies.runs.inputs import DataDigests, TaskFacts, count_texts, facts_of, lacks_words
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.runs.worker import CarryOut, Foresee, GoOn, MemoryForeseen, Recorded, Request, Scored, TryOut
from afina.studies.runs.worker_process import Cancelled as Cancelled
from afina.studies.runs.worker_process import Overrun as Overrun
from afina.studies.runs.worker_process import WorkerProcess


class Lost(Exception):
    """Raised when the process or the machine of a run or a trial is lost. Another process can execute the run.

    Attributes:
        of_node: Whether the machine was lost, so that the run itself is not suspected.
    """

    def __init__(self, reason: str = "", *, of_node: bool = False) -> None:
        super().__init__(reason)
        self.of_node = of_node


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

        Returns lines about the task that was read; empty if this executor cannot check. Raises the error that each of
        the runs would end with.
        """
        return ""

    def look(self, run: Run) -> DataDigests | None:
        """Return the digests of `run`'s data as the data are now, without downloading anything.

        Returns None if the address identifies the data, or if this executor cannot know. Raises the same errors as
        reading the data.
        """
        return None

    def count_texts(self, run: Run) -> int | None:
        """Return the number of texts in the whole training split of `run`'s task, without downloading anything.

        Returns None if this executor cannot know. Raises the same errors as reading the data.
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

    def check_machines(self, run: Run) -> None:  # noqa: B027 - this machine needs no check
        """Check that the other machines can execute `run` and similar runs: their versions and their backbone.

        Part of `check`, for callers that have read the task themselves.
        """

    def fetch(self, backbone: str) -> None:  # noqa: B027 - other machines get the files with their first run
        """Download a backbone that is not on this machine yet, so that no run waits for it."""

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
        self._workers: set[WorkerProcess] = set()
        self._lock = threading.Lock()

    def look(self, run: Run) -> DataDigests | None:
        """Read the task again, unless its address identifies the data or reading needs the network."""
        files = reads_files(run.task, run.data.evaluation)
        if not files and (is_pinned(run.task) or not is_at_hand(run.task)):
            return None
        self._facts = run, facts_of(run, offline=is_at_hand(run.task))
        return DataDigests.of(self._facts[1])

    def count_texts(self, run: Run) -> int | None:
        """Read the whole task, unless reading needs the network."""
        return count_texts(run) if is_at_hand(run.task) else None

    def check(self, run: Run) -> str:
        """Read the task unless `look` has read it, locate the backbone, and check that given words can be used."""
        looked, self._facts = self._facts, None
        facts = looked[1] if looked and looked[0] == run else facts_of(run)
        facts.check_leakage(run)
        backbone_spec.check_backbone(run.backbone)
        facts.check(run)
        if backbone_spec.PRECISIONS[run.training.precision].needs:
            from afina.studies.runs.prepared import check_precision  # loads torch

            check_precision(run)
        template = run.ask.template or "{text}"
        others = template.replace("{text_pair}", "").replace("{text}", "", 1)
        if run.ask.words or "{" in others or "{text}" not in template:  # names that only the task's columns settle
            from afina.studies.runs.prepared import check_words  # loads torch

            check_words(run, facts)
        if run.training.retention:
            from afina.studies.retention import check_run  # loads torch

            check_run(run)
        unasked = [no_words_note(facts.label_names, facts.train_examples)] if lacks_words(run, facts) else []
        return "\n".join([facts.told, *unasked])

    def fetch(self, backbone: str) -> None:
        """Download and convert the backbone, or find it in the cache."""
        from afina.models.pretrained import locate  # loads torch

        locate(backbone)

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
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
        with self._lock:
            for worker in self._workers:
                worker.cancel(at_once=at_once)

    @contextmanager
    def _worker(self, request: Request, until: float | None = None) -> Iterator[WorkerProcess]:
        """Yield a worker that is registered among the workers in progress."""
        with WorkerProcess(request, until, self._threads) as worker:
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
