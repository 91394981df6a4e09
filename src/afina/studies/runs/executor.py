"""Executor: where a run or a trial is carried out. Nothing above it knows which executor it has. Starts without torch.

An executor never changes a result: the same run ends in the same adapter digest wherever it is carried out. What a
machine needs that has not the files of this one: `Run.inputs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.events import Listener, ValidationScore
from afina.studies.runs.inputs import DataDigests
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run


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
