"""Executor: where a run or a trial is carried out. Nothing above it knows which executor it has. Starts without torch.

An executor never changes a result: the same run ends in the same adapter digest wherever it is carried out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from afina.events import Listener, Score
from afina.studies.record import Record
from afina.studies.recorded import DataDigests
from afina.studies.run import Run


class Overrun(Exception):
    """A run or a trial had not ended when its time was up, and was ended."""


class Executor(ABC):
    """What is asked of any. All methods block until there is an answer; several may be asked at once.

    listen  is told of the progress of this run alone
    until   when to end it, by `meter.now()`
    """

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

    @abstractmethod
    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """The record of `run`, whose adapter and predictions then lie under `out`; it goes on from a checkpoint there.

        study  the name that the record has
        Raises RunFailed; Overrun at `until`.
        """

    @abstractmethod
    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[Score], bool],
        listen: Listener,
        until: float | None = None,
    ) -> Score:
        """The last score of `run`: the one after which `goes_on` said no, or after its last step. Leaves no file.

        shares, limit  as in `afina.studies.trial.try_out`
        Raises RunFailed; Overrun at `until`.
        """
