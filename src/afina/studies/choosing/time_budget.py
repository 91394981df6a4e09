"""The time budget of a recommendation: the time that is left, the time of a step, and the time that each stage took.

Starts without torch. The module knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from afina import meter
from afina.events import Progress
from afina.studies.runs.record import Record

LATE, CLOSING = 0.04, 0.1
"""Shares of the given minutes: by how much they may be exceeded, and the most that is kept back for what follows.

Comparing the results and writing the report follow the last run.
"""


@dataclass
class TimeBudget:
    """The given minutes from a start time. `began` and `end` are times of `meter.now()`.

    Attributes:
        closing: The seconds kept back for what follows the last run.
    """

    began: float
    minutes: float
    closing: float = 0.0

    def keep_back(self, seconds: float) -> None:
        """Keep back the seconds for what follows the last run, but only a small share of the minutes."""
        self.closing = min(seconds, CLOSING * 60 * self.minutes)

    @property
    def left(self) -> float:
        """Seconds that can still be planned; negative when the time is used up."""
        return self.began + 60 * self.minutes - self.closing - meter.now()

    @property
    def end(self) -> float:
        """The time at which work in progress is stopped."""
        return self.began + 60 * self.minutes * (1 + LATE) - self.closing

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return meter.now() - self.began


SIMPLE, MEMORY, STEP_TIME = "simple models", "what fits in memory", "measuring"
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
            self.add(stage, meter.now() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to the stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


MEASURED = 4
"""The number of steps, or of texts, after the first one that tell the time of a step or a text."""

FLOAT32, REOPENING = 3.0, 0.4
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
    def of_run(cls, made: Record, seconds: float) -> StepTime:
        """Return the step time of a run that took `seconds` in all. A step of a fit is a text that it reads."""
        seen, texts = made.seconds, made.examples + (made.selection.examples if made.selection else 0)
        opening = max(0.0, seconds - seen.train - seen.evaluate)
        steps = made.steps if made.training["learning_rate"] is not None else made.steps * made.train_examples
        return cls(opening, seen.train / max(1, steps), seen.evaluate / texts)

    def seconds(self, steps: float, texts: float) -> float:
        """Return the seconds of a run with these steps and scored texts."""
        return self.opening + steps * self.step + texts * self.text

    def steps(self, seconds: float, texts: float) -> int:
        """Return the number of steps for which `seconds` suffice in a run that scores `texts`; may be negative."""
        return math.floor((seconds - self.seconds(0, texts)) / max(self.step, 1e-9))


class Stopwatch:
    """The time of a run in progress, without the time that it waited for a place in a cluster.

    Attributes:
        began: When the run had a place.
        phase: The phase of the last event.
    """

    def __init__(self) -> None:
        self.began, self._waits, self.phase = meter.now(), False, ""
        self._first = self._last = 0.0, 0

    def hear(self, progress: Progress) -> None:
        """Note the time of an event; begin again when a wait ends."""
        here = meter.now(), progress.step
        if self._waits:
            self.began = here[0]
        self._waits = progress.phase == "wait"
        if progress.phase != self.phase:
            self.phase, self._first = progress.phase, here
        self._last = here

    @property
    def done(self) -> int:
        """The number of steps, or of texts, that are done in the phase."""
        return self._last[1]

    @property
    def each(self) -> float | None:
        """The seconds of a step, or of a text; None while too few are done."""
        (start, before), (now, done) = self._first, self._last
        return (now - start) / (done - before) if done - before >= MEASURED else None

    @property
    def opening(self) -> float:
        """The seconds before the first step or text of the phase."""
        start, before = self._first
        return max(0.0, start - self.began - before * (self.each or 0.0))
