"""Candidates of a recommendation: methods at learning rates, in the order in which they are trained, and the runs of a
task that they make (ChoiceSetup).

The order was learnt from recorded learning curves: each next setting is the one that adds most to those before it. So
was what to expect of each, which counts beside the few texts that are set aside to select by (benchmarks/choose.py,
docs/background/choose.md). Starts without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afina.data.addresses import reads_files
from afina.data.task import Task
from afina.errors import AfinaError
from afina.methods import make
from afina.models.objective import Objective
from afina.studies.choosing import time_budget
from afina.studies.choosing.time_budget import StageSeconds, TimeBudget
from afina.studies.runs.executor import Executor, MemoryForecast
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask, Data, Training
from afina.studies.schedule import Watcher

LEARNT: tuple[tuple[str, float], ...] = (
    ("full", 1.0),
    ("full", 3.0),
    ("full", 1 / 3),
    ("lora", 1.0),
    ("ia3", 1.0),
    ("lora", 1 / 3),
    ("head", 1.0),
    ("lora", 3.0),
)
"""Methods, and multiples of their own learning rates."""

AHEAD: Mapping[tuple[str, float], float] = {
    ("full", 1.0): 0.023,
    ("full", 3.0): 0.005,
    ("full", 1 / 3): 0.012,
    ("lora", 1.0): 0.006,
    ("ia3", 1.0): 0.008,
    ("lora", 1 / 3): -0.012,
    ("head", 1.0): -0.043,
    ("lora", 3.0): 0.001,
}
"""Held-out accuracy on the recorded curves, less the mean of all settings there: a mean over tasks and sizes."""

COUNTS = 370
"""So many texts set aside tell as much as AHEAD does: the variance of a setting's answer on one text, by the variance
between tasks of how far it is ahead.
"""

DEAREST, CHEAPEST = "full", 0.2
"""The method whose steps take longest, so that its pace stands for that of a method which was not measured; and the
share of its steps' time that any method takes at least (docs/learning-curves.jsonl has paces,
docs/background/benchmarks.md more).
"""

EPOCHS = 3
"""No candidate is trained more often on its texts."""


@dataclass(frozen=True)
class Candidate:
    """A method at a learning rate.

    name   what its run and its row are called: the method's key, with the rate where that is not its own
    ahead  of the mean setting, as an accuracy, before anything is known of the task; 0 where nothing is recorded
    """

    method: str
    rate: float
    name: str
    ahead: float = 0.0

    def weighed(self, accuracy: float, examples: int) -> float:
        """An accuracy on so many texts and what was to be expected, each by what it tells; a mean setting has 0 of the
        latter, so that it says who is better and not how good.
        """
        return (examples * accuracy + COUNTS * self.ahead) / (examples + COUNTS)


def in_learnt_order(methods: Iterable[str]) -> list[Candidate]:
    """Of these methods: first those that were learnt, in their order, then the others, each at its own rate."""
    there = list(methods)
    learnt = [(method, factor) for method, factor in LEARNT if method in there]
    others = [(method, 1.0) for method in there if method not in {name for name, _ in learnt}]
    return [_candidate(method, factor) for method, factor in (*learnt, *others)]


def _candidate(method: str, factor: float) -> Candidate:
    rate = float(f"{factor * make(method).learning_rate:.3g}")
    name = method if factor == 1 else f"{method}-{rate:g}"
    return Candidate(method, rate, name, AHEAD.get((method, factor), 0.0))


BATCH = Training().batch_size

MORE = 2
"""No method takes more than so many times the memory of the dearest one."""

AT_FIRST = 2_000
"""Training texts that are read before it is known how many there is time for."""


@dataclass(frozen=True)
class ChoiceSetup:
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
    clock: TimeBudget
    watcher: Watcher
    executor: Executor
    objective: Objective
    metric: str
    stages: StageSeconds = field(default_factory=StageSeconds)

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

    @property
    def read_first(self) -> int:
        """How many training texts are read before it is known how many there is time for."""
        return min(AT_FIRST, len(self.task.train))

    def run_like(self, method: str) -> Run:
        """A run that needs as much memory as the trainings of a method."""
        return self.run(method, train_examples=self.read_first)

    def memory_of(self, methods: Sequence[str]) -> MemoryForecast | None:
        """What trainings of these methods need, by the keys of runs like them; None where it is no matter."""
        executor = self.executor
        if executor.slots == 1:
            return None
        with self.stages.of(time_budget.MEMORY):
            if DEAREST in methods:  # to foresee the others too takes seconds each
                dearest = self.run_like(DEAREST)
                found = executor.foresee([dearest])
                if found is None or executor.slots * MORE * found.needed.get(dearest.key, math.inf) <= found.available:
                    return None
            return executor.foresee([self.run_like(method) for method in methods])


def reason(run: Run, error: AfinaError) -> str:
    """What an error says, without the name of its run."""
    return str(error).removeprefix(f"run {run.title}: ")
