"""Pace: what a run costs here in seconds, and what so many seconds buy. Starts without torch."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from functools import partial

from afina import meter
from afina.errors import RunFailed
from afina.events import Listener, Progress, ValidationScore, silent
from afina.studies.runs.executor import Executor
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.slots import Slots, Tell, again_where_lost

MEASURED = 4
"""Steps that measure what a step costs."""

FLOAT32, REOPENING = 3.0, 0.8
"""Where training computes in bfloat16, texts are scored in float32, which takes up to three times as long, and the
model is opened once more for it, in this share of what starting took. A guess until a training of the method is done.
"""


@dataclass(frozen=True)
class Pace:
    """Seconds beside steps and scoring, of a step, and of scoring one text."""

    opening: float
    step: float
    text: float

    @classmethod
    def of_trial(cls, score: ValidationScore, seconds: float, *, lowered: bool) -> Pace:
        """Of a whole run, by a trial that took so many seconds in all; `lowered`: it trained in bfloat16."""
        beside = seconds - score.train_seconds - score.evaluate_seconds
        step, text = score.train_seconds / score.step, score.evaluate_seconds / score.examples
        return cls(beside * (1 + REOPENING * lowered), step, text * (FLOAT32 if lowered else 1))

    @classmethod
    def of_run(cls, made: Record, seconds: float) -> Pace:
        """Of a run that took so many seconds in all."""
        seen, texts = made.seconds, made.examples + (made.selection.examples if made.selection else 0)
        opening = max(0.0, seconds - seen.train - seen.evaluate)
        return cls(opening, seen.train / max(1, made.steps), seen.evaluate / texts)

    def at_least(self, share: float) -> Pace:
        """With steps of that share of the time: what another method takes at least, which opens and scores alike."""
        return replace(self, step=share * self.step)

    def seconds(self, steps: float, texts: float) -> float:
        """What so many steps take, the opening and the scoring of `texts` included."""
        return self.opening + steps * self.step + texts * self.text

    def steps(self, seconds: float, texts: float) -> int:
        """The steps that `seconds` buy, the opening and the scoring of `texts` included; may be negative."""
        return math.floor((seconds - self.seconds(0, texts)) / max(self.step, 1e-9))


def measure(
    run: Run, executor: Executor, listen: Listener, until: float, *, lowered: bool = False, at_once: int = 1
) -> Pace:
    """Take a few steps and score once, in so many processes at once: the pace of the slowest.

    Raises RunFailed, Overrun.
    """

    def measured(tell: Tell) -> Pace:
        def heard(progress: Progress) -> None:
            tell(partial(listen, progress))

        return again_where_lost(run, lambda: _measure(run, executor, heard, until, lowered=lowered), silent)

    with Slots[int, Pace](executor) as slots:
        for number in range(at_once):
            slots.start(number, measured)
        ended = [slots.next()[1] for _ in range(at_once)]
    # Not in the block, which an error would leave by cancelling trainings of the same executor.
    paces = [pace() for pace in ended]
    return Pace(*(max(figures) for figures in zip(*map(astuple, paces), strict=True)))


def _measure(run: Run, executor: Executor, listen: Listener, until: float, *, lowered: bool) -> Pace:
    began = meter.now()
    score = executor.try_out(run, (1.0,), MEASURED, lambda score: False, listen, until)
    if score.value is None:
        raise RunFailed(
            f"run {run.title}: the loss is not a number from the first steps on.",
            code="run.loss-not-finite",
            run=run.title,
        )
    return Pace.of_trial(score, meter.now() - began, lowered=lowered)
