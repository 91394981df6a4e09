"""Runs whose process or node was lost, on this machine or on a Ray cluster: such a run is executed again.

The process that executes a lost run again continues from the run's last checkpoint. The module does not know how an
executor finds out that a process or a node is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from afina.studies.executors import problems
from afina.studies.executors.executor import Lost
from afina.studies.runs.run import Run

Value = TypeVar("Value")

TRIES, NODES = 3, 20
"""A run or trial fails when its process has been lost TRIES times, or its machine NODES times."""


def retry_if_lost(run: Run, work: Callable[[], Value], says: Callable[[str], object]) -> Value:
    """Return the value of `work()`, which executes `run`; call `work` again if the run's process or machine is lost.

    Raises RunFailed if the process was lost TRIES times, or the machine NODES times. The function `says` receives a
    sentence each time that the run is executed again.
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
