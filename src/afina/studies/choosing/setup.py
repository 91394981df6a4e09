"""The setup of a recommendation: the values that do not change while it is made, and the runs of its task.

A `Way` is a method on a backbone, such as LoRA on the encoder `minilm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from afina.data.addresses import reads_files
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.methods import is_fitted, make
from afina.models.backbone_spec import files_digest
from afina.models.objective import Objective
from afina.studies.backbones import ON, backbone_names
from afina.studies.choosing import recorded_curves, time_budget
from afina.studies.choosing.recorded_curves import Lessons
from afina.studies.choosing.time_budget import StageSeconds, TimeBudget
from afina.studies.executors.executor import Executor, MemoryForecast
from afina.studies.runs.inputs import digests_beside, embeds_sentences, lacks_words
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask
from afina.studies.watcher import Watcher
from afina.training.settings import Products, Training

DEAREST = "full"
"""The method with the slowest training steps, whose step time is assumed for methods without a recorded step cost."""

MOST_TEXTS = 1_000
"""The largest number of held-out texts that are scored with several backbones, or with a model behind an API.

With several backbones, the number is limited because the speed of the later backbones is not known at first; with a
model behind an API, because each text has a price.
"""

MORE = 2
"""Any method is assumed to need at most this many times the memory of the method DEAREST."""

AT_FIRST = 2_000
"""The number of training texts of the first run, when no step time yet tells how many texts fit in the time."""


class Way(NamedTuple):
    backbone: str
    method: str


@dataclass(frozen=True)
class ChoiceSetup:
    """The values that do not change while a recommendation is made, and the stopwatch of its stages.

    Attributes:
        task: The whole task, read once.
        data: The options with which the runs read the task, without the check for leakage: the whole task was checked.
        products: As in `Training`; a method for which int8 is not possible trains in float.
        latency: The largest allowed milliseconds of a prediction for a single text. None: no limit.
        stages: The seconds that each stage of the recommendation has taken so far.
    """

    task: Task
    data: ReadingOptions
    backbones: tuple[str, ...]
    ask: Ask
    clock: TimeBudget
    watcher: Watcher
    executor: Executor
    objective: Objective
    metric: str
    products: Products = "float"
    latency: float | None = None
    stages: StageSeconds = field(default_factory=StageSeconds)

    @property
    def unlabelled(self) -> str | None:
        """The path of a file of texts without labels, from which a student learns, if any."""
        return self.task.data.unlabelled if self.task.data else None

    @cached_property
    def lessons(self) -> Lessons:
        """The facts that recorded trainings with about as many training texts teach."""
        few_are_recorded = self.objective.kind in recorded_curves.RECORDED
        return recorded_curves.lessons(len(self.task.train)) if few_are_recorded else recorded_curves.MANY

    @cached_property
    def names(self) -> Mapping[str, str]:
        return backbone_names(self.backbones)

    def names_with(self, backbone: str) -> Mapping[str, str]:
        """Return the names of the backbones and of one more, such as that of a student."""
        return self.names if backbone in self.names else backbone_names((*self.backbones, backbone))

    @cached_property
    def files(self) -> Mapping[str, str | None]:
        """The digest of each backbone's files by its address; None if the address identifies the files."""
        return {address: files_digest(address) for address in self.backbones}

    def name(self, way: Way, rate: str = "") -> str:
        """Return the name of a run in tables and files; `rate` is "" for the method's default rate."""
        stem = f"{way.method}-{rate}" if rate else way.method
        return f"{stem}{ON}{self.names_with(way.backbone)[way.backbone]}" if len(self.backbones) > 1 else stem

    def run(self, way: Way, *, rate: float | None = None, steps: int | None = None, shots: int = 0, **data: Any) -> Run:
        """Return a run of the task; `shots`: examples in each zero-shot prompt; `data`: reading options."""
        ask = self.ask
        embeds = embeds_sentences(way.backbone)
        if is_fitted(way.method) or embeds:  # the head does not start from words
            words = ask.words if is_fitted(way.method) and embeds else None
            head = "random" if ask.head == "words" else ask.head
            ask = ask.model_copy(update={"head": head, "words": words, "offset": False})
        return Run(
            backbone=way.backbone,
            task=self.task.address,
            method=way.method,
            hyperparameters={"shots": shots} if shots else {},
            name=self.name(way) if len(self.backbones) > 1 else "",
            data=replace(self.data, **data),
            ask=ask,
            training=Training(
                learning_rate=rate,
                max_steps=steps,
                products=self.products if make(way.method).multiplies_frozen else "float",
            ),
            metric=self.metric,
            data_digest=self.data_digest,
            without_digest=self.without_digest,
            backbone_files=self.files[way.backbone] if way.backbone in self.files else files_digest(way.backbone),
        )

    @property
    def data_digest(self) -> str | None:
        """The digest of the task's files; None if the address identifies the texts."""
        return self.task.data_digest if reads_files(self.task.address, self.data.evaluation) else None

    @cached_property
    def without_digest(self) -> str | None:
        """The digest of the file of rows that are left out of the training texts, if any."""
        return digests_beside(self.data)["without_digest"]

    @property
    def lacks_words(self) -> bool:
        """Whether training starts from a random head on at least one backbone because the labels are not words."""
        return any(lacks_words(self.run(Way(backbone, DEAREST)), self.task) for backbone in self.backbones)

    @property
    def read_first(self) -> int:
        """The number of training texts of the first run, from which the time of a training step is measured."""
        return min(AT_FIRST, len(self.task.train))

    def run_like(self, way: Way) -> Run:
        """Return a run that needs as much memory as the trainings of the method on the backbone."""
        return self.run(way, train_examples=self.read_first)

    def memory_of(self, ways: Sequence[Way]) -> MemoryForecast | None:
        """Return the memory forecast of the trainings; None if memory does not limit how many run at once."""
        executor = self.executor
        if executor.slots == 1:
            return None
        with self.stages.of(time_budget.MEMORY):
            dearest = [self.run_like(way) for way in ways if way.method == DEAREST]
            if {run.backbone for run in dearest} == {way.backbone for way in ways}:
                found = executor.foresee(dearest)  # a forecast of each other method would take seconds
                if found is None:
                    return None
                needed = max(found.needed.get(run.key, math.inf) for run in dearest)
                if executor.slots * MORE * needed <= found.available:
                    return None
            return executor.foresee([self.run_like(way) for way in ways])
