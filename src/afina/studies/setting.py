"""Setting: what a recommendation is asked for, and with what it is found. Starts without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from afina.data.addresses import reads_files
from afina.data.task import Task
from afina.errors import AfinaError
from afina.models.objective import Objective
from afina.studies.clock import Clock
from afina.studies.runs.executor import Executor
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask, Data, Training
from afina.studies.stages import Stages
from afina.studies.watcher import Watcher

BATCH = Training().batch_size


@dataclass(frozen=True)
class Setting:
    """Fixed while a recommendation is made.

    task  all of it, read once;  objective  what is asked of its texts
    ask   how the runs ask about its texts
    data  how the runs read it: they need not check leakage, which was checked in the whole and may be more in a part
    metric  what methods are chosen by
    stages  what the time went to so far
    """

    task: Task
    data: Data
    backbone: str
    ask: Ask
    clock: Clock
    watcher: Watcher
    executor: Executor
    objective: Objective
    metric: str
    stages: Stages = field(default_factory=Stages)

    def run(self, method: str, *, rate: float | None = None, steps: int | None = None, **data: Any) -> Run:
        """A run on the task; `data` is what it has of it."""
        return Run(
            backbone=self.backbone,
            task=self.task.address,
            method=method,
            data=self.data.model_copy(update=data),
            ask=self.ask,
            training=Training(learning_rate=rate, max_steps=steps),
            metric=self.metric,
            data_digest=self.task.data_digest if reads_files(self.task.address, self.data.evaluation) else None,
        )


def reason(run: Run, error: AfinaError) -> str:
    """What an error says, without the name of its run."""
    return str(error).removeprefix(f"run {run.title}: ")
