"""The time budget of a recommendation: the time that is left, the time of a step, and the time that each stage took.

Starts without torch. The module knows no task.
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
from afina.studies.runs.executor import Executor, Overrun
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, retry_if_lost

EARLY, LATE = 0.03, 0.08
"""Shares of the given minutes: the part kept back in planning, and by how much work in progress may exceed them."""


@dataclass(frozen=True)
class TimeBudget:
    """The given minutes from a start time. `began` and `end` are times of `meter.now()`."""

    began: float
    minutes: float

    @property
    def left(self) -> float:
        """Seconds that can still be planned; negative when the time is used up."""
        return self.began + 60 * self.minutes * (1 - EARLY) - meter.now()

    @property
    def end(self) -> float:
        """The time at which work in progress is stopped."""
        return self.began + 60 * self.minutes * (1 + LATE)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return meter.now() - self.began


class Stopwatch:
    """The time at which a run began, without the time that it waited for a place in a cluster."""

    def __init__(self) -> None:
        self.began, self._waits = meter.now(), False

    def hear(self, progress: Progress) -> None:
        """Begin again when a wait ends."""
        if self._waits:
            self.began = meter.now()
        self._waits = progress.phase == "wait"


SIMPLE, MEMORY, STEP_TIME = "simple models", "what fits in memory", "measuring paces"
LATENCY = "measuring how fast models answer"
ASKING, TRAINING, AGAIN, HALF = "asking in words", "training", "training the selected one again", "half of the texts"


@dataclass(frozen=True)
class StageSeconds:
    """Seconds by stage, in the order in which the stages began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time of the block to the stage, also if the block raises."""
        began = meter.now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + meter.now() - began


MEASURED = 4
"""The number of steps in which the step time is measured."""

FLOAT32, REOPENING = 3.0, 0.8
"""Factors for a run that trains in bfloat16, used until a training of the method has ended.

Texts are scored in float32, which takes up to three times as long. The model is opened a second time, in this share of
the time that starting took.
"""


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step, of scoring a text, and of everything else in a run (`opening`)."""

    opening: float
    step: float
    text: float

    @classmethod
    def of_trial(cls, score: ValidationScore, seconds: float, *, lowered: bool) -> StepTime:
        """Return a run's step time, estimated from a trial of `seconds`; `lowered`: the trial trained in bfloat16."""
        beside = seconds - score.train_seconds - score.evaluate_seconds
        step, text = score.train_seconds / score.step, score.evaluate_seconds / score.examples
        return cls(beside * (1 + REOPENING * lowered), step, text * (FLOAT32 if lowered else 1))

    @classmethod
    def of_run(cls, made: Record, seconds: float) -> StepTime:
        """Return the step time of a run that took `seconds` in all."""
        seen, texts = made.seconds, made.examples + (made.selection.examples if made.selection else 0)
        opening = max(0.0, seconds - seen.train - seen.evaluate)
        return cls(opening, seen.train / max(1, made.steps), seen.evaluate / texts)

    def at_least(self, share: float) -> StepTime:
        """Return a lower bound for another method: its step takes at least this share of the step here."""
        return replace(self, step=share * self.step)

    def seconds(self, steps: float, texts: float) -> float:
        """Return the seconds of a run with these steps and scored texts."""
        return self.opening + steps * self.step + texts * self.text

    def steps(self, seconds: float, texts: float) -> int:
        """Return the number of steps for which `seconds` suffice in a run that scores `texts`; may be negative."""
        return math.floor((seconds - self.seconds(0, texts)) / max(self.step, 1e-9))


def measure_step_time(
    run: Run, executor: Executor, listen: Listener, until: float, *, lowered: bool = False, at_once: int = 1
) -> StepTime:
    """Measure the step time in `at_once` processes at the same time, and return the largest times.

    Processes that have not ended at `until` are left out if another has: they waited for a place. Raises RunFailed, or
    Overrun if all are left out.
    """

    def measured(tell: Tell) -> StepTime:
        def heard(progress: Progress) -> None:
            tell(partial(listen, progress))

        return retry_if_lost(run, lambda: _measure(run, executor, heard, until, lowered=lowered), silent)

    with Slots[int, StepTime](executor) as slots:
        for number in range(at_once):
            slots.start(number, measured)
        ended = [slots.next()[1] for _ in range(at_once)]
    # Outside the block: an error inside would cancel trainings in progress in the same executor.
    paces, late = [], Overrun()
    for pace in ended:
        try:
            paces.append(pace())
        except Overrun as error:
            late = error
    if not paces:
        raise late
    return StepTime(*(max(figures) for figures in zip(*map(astuple, paces), strict=True)))


def _measure(run: Run, executor: Executor, listen: Listener, until: float, *, lowered: bool) -> StepTime:
    stopwatch = Stopwatch()

    def heard(progress: Progress) -> None:
        stopwatch.hear(progress)
        listen(progress)

    score = executor.try_out(run, (1.0,), MEASURED, lambda score: False, heard, until)
    if score.value is None:
        raise RunFailed(
            f"run {run.title}: the loss is NaN or infinite from the first steps on.",
            code="run.loss-not-finite",
            run=run.title,
        )
    return StepTime.of_trial(score, meter.now() - stopwatch.began, lowered=lowered)
