"""`Executor`: the base class of executors, which execute runs and tuning trials on this machine or on a Ray cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.data.addresses import is_at_hand, is_pinned, reads_files
from afina.data.label_words import no_words_note
from afina.events import Listener, ValidationScore
from afina.models import backbone_spec
from afina.studies.runs import endpoint_run
from afina.studies.runs.inputs import TaskFacts, count_texts, facts_of, lacks_words
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.training.settings import Products


class Overrun(Exception):
    """Raised when a run or a tuning trial is stopped because it has not ended at its time limit."""


class Cancelled(Exception):
    """Raised when a run or a tuning trial was ended by `Executor.cancel`."""


class Lost(Exception):
    """Raised when the process of a run is lost, or its whole machine (`of_node`); the run can be executed again."""

    def __init__(self, reason: str = "", *, of_node: bool = False) -> None:
        super().__init__(reason)
        self.of_node = of_node


@dataclass(frozen=True)
class MemoryForecast:
    """The memory, of the GPU if runs train on one, for all runs at once, and what each run needs, by its key."""

    available: int
    needed: Mapping[str, int]

    def left(self, run: Run, beside: Iterable[Run]) -> int | None:
        """Return the bytes that the runs `beside` leave free, if `run` needs more; None if `run` can start."""
        others = [self.needed.get(one.key, 0) for one in beside]
        left = max(0, self.available - sum(others))
        return left if others and self.needed.get(run.key, 0) > left else None


class Executor(ABC):
    """The interface of every executor.

    The methods `carry_out` and `try_out` block until they have a result. The task and the backbone are read and checked
    on this machine, also if runs are executed on other machines. With several slots, each call of `carry_out` and
    `try_out` is made in a new thread. Their arguments:

    - `out`: The scratch directory of the run, for its adapter, predictions and checkpoint. If `out` has a checkpoint,
      the run continues from the checkpoint.
    - `listen`: A function that receives the progress of this run, in the calling thread.
    - `until`: The time at which the run is ended, by `meter.now()`. None: no limit.

    `slots` may change during a study, so callers read it often. `devices` is the number of processes that execute each
    run together, each on a device: a GPU, or processors.
    """

    slots: int = 1
    devices: int = 1

    _looked: tuple[Run, TaskFacts] | None = None

    def look(self, run: Run) -> TaskFacts | None:
        """Return the facts about the present data of `run`, or raise the errors of reading them. Download nothing.

        None: the address identifies the data, or the data are not on this machine.
        """
        files = reads_files(run.task, run.data.evaluation)
        if not files and (is_pinned(run.task) or not is_at_hand(run.task)):
            return None
        facts = facts_of(run, offline=is_at_hand(run.task))
        self._looked = run, facts
        return facts

    def count_texts(self, run: Run) -> int | None:
        """Return the number of texts in the whole training split; None if the task is not on this machine."""
        return count_texts(run) if is_at_hand(run.task) else None

    def check(self, run: Run) -> list[str]:
        """Check, before any run begins, that the task and the backbone of `run` and of similar runs can be loaded.

        Returns lines about the task for the user. `check` raises the error with which `run` and similar runs would end.
        """
        looked, self._looked = self._looked, None
        facts = looked[1] if looked and looked[0] == run else facts_of(run)
        facts.check_leakage(run)
        if not run.asks_endpoint:
            backbone_spec.check_backbone(run.backbone)
        facts.check(run)
        if run.asks_endpoint:
            endpoint_run.question_of(run, facts)
            return [*facts.lines]
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
        return [*facts.lines, *unasked, *backbone_spec.unused_notes(run.backbone)]

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        """Return the forecast of the memory that `runs` need; None if memory does not limit how many run at once."""
        return None

    @abstractmethod
    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """Execute `run`, write its adapter and predictions into `out` at the record's paths, and return the record.

        Raises RunFailed, Overrun at the time `until`, Lost or Cancelled. After Lost or Cancelled, `out` has the last
        checkpoint of the run.
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
        """Execute the tuning trial `run`, and return its last score on the validation split. Write no file.

        The last score is the first for which `goes_on` returned False, or else the score after the last step. The
        arguments `shares` and `limit` are those of `execute.try_out`. Raises RunFailed, Lost, Cancelled or Overrun.
        """

    def cancel(self, *, at_once: bool = False) -> None:  # noqa: B027 - with one slot nothing is left to cancel
        """Begin to end all runs and trials; the method returns before they have ended, and can be called again.

        Unless `at_once` is set, a run that trains first finishes its step and writes a checkpoint.
        """

    def check_machines(self, run: Run) -> None:  # noqa: B027 - this machine needs no check
        """Check the package versions and the backbone of other machines, after the task was read."""

    def usual_products(self) -> Products:
        """Return `train.products` for runs for which the user gives none: float, unless the machine is known."""
        return "float"

    def check_products(self, products: str) -> None:  # noqa: B027 - another machine checks its own processor
        """Check that the machine of the runs computes `train.products` of this value. Raises InvalidStudy."""

    def prepare(self) -> None:  # noqa: B027 - on other machines a worker starts with its run
        """Start a process that imports torch and the other libraries of runs, without waiting for the imports."""

    def fetch(self, backbone: str) -> None:  # noqa: B027 - other machines get the files with their first run
        """Download a backbone that is not on this machine yet, so that no run waits for the download."""

    def largest_memory(self) -> int | None:
        """Return the bytes of memory of the largest node; None if runs are executed on this machine."""
        return None

    def close(self) -> None:  # noqa: B027 - an executor may hold nothing
        """Release processes and connections that are kept for further runs; the executor can be used again later."""
