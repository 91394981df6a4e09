"""Runs whose process or node was lost are executed again, and continue from their last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from afina.errors import RunFailed
from afina.problems import RANK_LOST as ANOTHER_LOST
from afina.studies.executors import problems
from afina.studies.executors.executor import Lost, Overrun
from afina.studies.runs.run import Run

Value = TypeVar("Value")

TRIES, NODES = 3, 20
"""A run or trial fails when its process has been lost TRIES times, or its machine NODES times."""

GRACE = 2.0
"""After a process of a run has ended, the others have this number of seconds to end by themselves, before they are
ended: the processes notice at once that another one is lost, unless they compute alone."""

LATE = 30.0
"""The seconds to wait for the end of a process that was killed, which a lost machine never reports."""


def retry_if_lost(run: Run, work: Callable[[], Value], says: Callable[[str], object]) -> Value:
    """Return the value of `work()`, which executes `run`; call `work` again if the run's process or machine is lost."""
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


RANK_LOST = ANOTHER_LOST.code
"""The code of the error of a process that another process of its run does not answer."""


def cause(errors: Sequence[Exception]) -> Exception:
    """Return that error of the processes of one run from which the others follow: the first of the most likely.

    The loss of a machine or a process makes the other processes fail in any way. If no process has an error but that
    another one does not answer, the run is lost.
    """
    found = min(errors, key=_order)
    if isinstance(found, RunFailed) and _code(found) == RANK_LOST:
        return Lost("its processes lost each other")
    return found


def _order(error: Exception) -> int:
    if isinstance(error, Overrun):
        return 0
    if isinstance(error, Lost):
        return 1 if error.of_node else 2
    return {"run.killed": 2, "run.fault": 4, RANK_LOST: 5}.get(_code(error), 3)


def _code(error: Exception) -> str:
    return str(error.fields.get("cause", error.code)) if isinstance(error, RunFailed) else ""
