"""Time budget of a recommendation: the minutes that are left, what a step takes here, and what the time went to.

Starts without torch. Knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from functools import partial

from afina import meter
from afina.errors import RunFailed
from afina.events import Listener, Progress, ValidationScore, silent
from afina.studies.runs.executor import Executor
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, retry_if_lost

EARLY, LATE = 0.03, 0.08
"""Shares of the minutes: what is kept back when work is planned, and how much more work under way may take."""


@dataclass(frozen=True)
class TimeBudget:
    """`minutes` from `began`, which is by `meter.now()`, as `end` is."""

    began: float
    minutes: float

    @property
    def left(self) -> float:
        """Seconds to plan with; negative when they are gone."""
        return self.began + 60 * self.minutes * (1 - EARLY) - meter.now()

    @property
    def end(self) -> float:
        """When whatever goes on is ended."""
        return self.began + 60 * self.minutes * (1 + LATE)

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return meter.now() - self.began


SIMPLE, MEMORY, STEP_TIME = "simple models", "what fits in memory", "measuring paces"
ASKING, TRAINING, AGAIN, HALF = "asking in words", "training", "training the selected one again", "half of the texts"


@dataclass(frozen=True)
class StageSeconds:
    """Seconds by stage, in the order in which the stages began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block's time as that stage's, whatever ends the block."""
        began = meter.now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + meter.now() - began


MEASURED = 4
"""Steps that measure what a step costs."""

FLOAT32, REOPENING = 3.0, 0.8
"""Where training computes in bfloat16, texts are scored in float32, which takes up to three times as long, and the
model is opened once more for it, in this share of what starting took. A guess until a training of the method is done.
"""


@dataclass(frozen=True)
class StepTime:
    """Seconds beside steps and scoring, of a step, and of scoring one text."""

    opening: float
    step: float
    text: float

    @classmethod
    def of_trial(cls, score: ValidationScore, seconds: float, *, lowered: bool) -> StepTime:
        """Of a whole run, by a trial that took so many seconds in all; `lowered`: it trained in bfloat16."""
        beside = seconds - score.train_seconds - score.evaluate_seconds
        step, text = score.train_seconds / score.step, score.evaluate_seconds / score.examples
        return cls(beside * (1 + REOPENING * lowered), step, text * (FLOAT32 if lowered else 1))

    @classmethod
    def of_run(cls, made: Record, seconds: float) -> StepTime:
        """Of a run that took so many seconds in all."""
        seen, texts = made.seconds, made.examples + (made.selection.examples if made.selection else 0)
        opening = max(0.0, seconds - seen.train - seen.evaluate)
        return cls(opening, seen.train / max(1, made.steps), seen.evaluate / texts)

    def at_least(self, share: float) -> StepTime:
        """With steps of that share of the time: what another method takes at least, which opens and scores alike."""
        return replace(self, step=share * self.step)

    def seconds(self, steps: float, texts: float) -> float:
        """What so many steps take, the opening and the scoring of `texts` included."""
        return self.opening + steps * self.step + texts * self.text

    def steps(self, seconds: float, texts: float) -> int:
        """The steps that `seconds` buy, the opening and the scoring of `texts` included; may be negative."""
        return math.floor((seconds - self.seconds(0, texts)) / max(self.step, 1e-9))


def measure_step_time(
    run: Run, executor: Executor, listen: Listener, until: float, *, lowered: bool = False, at_once: int = 1
) -> StepTime:
    """Take a few steps and score once, in so many processes at once: the pace of the slowest.

    Raises RunFailed, Overrun.
    """

    def measured(tell: Tell) -> StepTime:
        def heard(progress: Progress) -> None:
            tell(partial(listen, progress))

        return retry_if_lost(run, lambda: _measure(run, executor, heard, until, lowered=lowered), silent)

    with Slots[int, StepTime](executor) as slots:
        for number in range(at_once):
            slots.start(number, measured)
        ended = [slots.next()[1] for _ in range(at_once)]
    # Not in the block, which an error would leave by cancelling trainings of the same executor.
    paces = [pace() for pace in ended]
    return StepTime(*(max(figures) for figures in zip(*map(astuple, paces), strict=True)))


def _measure(run: Run, executor: Executor, listen: Listener, until: float, *, lowered: bool) -> StepTime:
    began = meter.now()
    score = executor.try_out(run, (1.0,), MEASURED, lambda score: False, listen, until)
    if score.value is None:
        raise RunFailed(
            f"run {run.title}: the loss is not a number from the first steps on.",
            code="run.loss-not-finite",
            run=run.title,
        )
    return StepTime.of_trial(score, meter.now() - began, lowered=lowered)
