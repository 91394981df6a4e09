"""Candidates of a recommendation: methods with learning rates, in the order in which they are trained.

The order was learned from recorded learning curves: each next candidate improves most on the candidates before it. The
expected accuracy of each candidate was learned too. It counts beside the few texts that are set aside for selecting
(benchmarks/choose.py, docs/background/choose.md). `ChoiceSetup` makes the runs of a task. Starts without torch.
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
"""Methods, and factors of their default learning rates, in the learned order."""

RECORDED: frozenset[str] = frozenset({"classes"})
"""Kinds of the tasks whose learning curves were recorded. For another kind, AHEAD is unknown, and the order a guess."""

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
"""Held-out accuracy on the recorded curves minus the mean of all candidates there, averaged over tasks and sizes."""

COUNTS = 370
"""The number of texts that are worth as much evidence as AHEAD.

This is the variance of a candidate's answer on one text, divided by the variance of its advantage between tasks.
"""

DEAREST, CHEAPEST = "full", 0.2
"""The method with the slowest steps, and the lowest share of its step time that another method may take.

The slowest method's step time stands for that of an unmeasured method. docs/learning-curves.jsonl has step times,
docs/background/benchmarks.md has more.
"""

EPOCHS = 3
"""The largest number of epochs of a training."""


@dataclass(frozen=True)
class Candidate:
    """A method with a learning rate.

    Attributes:
        name: The name of its run and of its table row: the method's key, with the rate if that is not the default.
        ahead: The expected accuracy minus that of the mean candidate, before the task is known; 0 if nothing is
            recorded of the setting. None: nothing is recorded of the kind of task.
    """

    method: str
    rate: float
    name: str
    ahead: float | None = 0.0

    def weighed(self, accuracy: float, examples: int) -> float | None:
        """Return the mean of `accuracy` on `examples` texts and the expected advantage, weighted by their evidence.

        The result ranks candidates. It is not an accuracy, since the mean candidate's expected value is 0. None:
        nothing is recorded of the kind of task.
        """
        if self.ahead is None:
            return None
        return (examples * accuracy + COUNTS * self.ahead) / (examples + COUNTS)


def in_order(methods: Iterable[str], kind: str) -> list[Candidate]:
    """Return candidates of these methods: first the learned ones in their order, then others at their default rate.

    For a kind that is not recorded, every learned method comes at its default rate before any comes at another rate, so
    that a short time compares methods, and no candidate is expected to be better than another.
    """
    there = list(methods)
    learnt = [(method, factor) for method, factor in LEARNT if method in there]
    if kind not in RECORDED:
        learnt.sort(key=lambda one: one[1] != 1)
    others = [(method, 1.0) for method in there if method not in {name for name, _ in learnt}]
    return [_candidate(method, factor, kind) for method, factor in (*learnt, *others)]


def _candidate(method: str, factor: float, kind: str) -> Candidate:
    rate = float(f"{factor * make(method).learning_rate:.3g}")
    name = method if factor == 1 else f"{method}-{rate:g}"
    return Candidate(method, rate, name, AHEAD.get((method, factor), 0.0) if kind in RECORDED else None)


BATCH = Training().batch_size

MORE = 2
"""No method takes more than this many times the memory of the most expensive method."""

AT_FIRST = 2_000
"""Training texts that are read before it is known for how many there is time."""


@dataclass(frozen=True)
class ChoiceSetup:
    """Values that stay the same while a recommendation is made.

    Attributes:
        task: The whole task, read once.
        objective: The objective of the task.
        ask: How the runs ask about the texts.
        data: How the runs read the task. Leakage was checked in the whole task, so the runs do not check their part of
            it.
        metric: The metric by which methods are chosen.
        stages: The time that each stage has taken so far.
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
        """Return a run on the task; `data` overrides fields of `Data`."""
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
        """The number of training texts that are read before it is known for how many there is time."""
        return min(AT_FIRST, len(self.task.train))

    def run_like(self, method: str) -> Run:
        """Return a run that needs as much memory as the trainings of a method."""
        return self.run(method, train_examples=self.read_first)

    def memory_of(self, methods: Sequence[str]) -> MemoryForecast | None:
        """Return the memory of trainings of these methods; None if memory does not limit them."""
        executor = self.executor
        if executor.slots == 1:
            return None
        with self.stages.of(time_budget.MEMORY):
            if DEAREST in methods:  # a forecast of each other method would take seconds
                dearest = self.run_like(DEAREST)
                found = executor.foresee([dearest])
                if found is None or executor.slots * MORE * found.needed.get(dearest.key, math.inf) <= found.available:
                    return None
            return executor.foresee([self.run_like(method) for method in methods])


def reason(run: Run, error: AfinaError) -> str:
    """Return the error's message without the name of its run."""
    return str(error).removeprefix(f"run {run.title}: ")
