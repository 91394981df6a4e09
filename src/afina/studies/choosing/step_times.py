"""The time of a training step of each method on each backbone, measured in a training's first steps.

The step time of a method that has not run is estimated from another run on the same backbone and from recorded ratios.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from afina import meter
from afina.events import Progress
from afina.methods import is_fitted
from afina.studies.choosing.candidates import takes_steps
from afina.studies.choosing.recorded_curves import STEP_COSTS
from afina.studies.choosing.setup import DEAREST, Way
from afina.studies.runs.record import Record

MEASURED = 4
"""The number of training steps (or scored texts), after the first, from which the time of one step (or text) is
measured."""

FLOAT32, REOPENING = 3.0, 0.4
"""Two factors that forecast the time of a training in bfloat16, until a training of the method has ended.

FLOAT32: texts are scored in float32, which takes up to three times as long as in bfloat16. REOPENING: the model is
opened a second time for the evaluation, which takes this share of the time that the start of the run took.
"""


@dataclass(frozen=True)
class StepTime:
    """The seconds of a training step (`step`), of scoring a text (`text`), and of the rest of a run (`opening`)."""

    opening: float
    step: float
    text: float

    @classmethod
    def of_run(cls, made: Record, seconds: float) -> StepTime:
        """Return the step time of a finished run; that of a linear probe is the time to read one training text."""
        seen, texts = made.seconds, made.examples + (made.selection.examples if made.selection else 0)
        opening = max(0.0, seconds - seen.train - seen.evaluate)
        steps = made.steps if made.training["learning_rate"] is not None else made.steps * made.trained_on
        return cls(opening, seen.train / max(1, steps), seen.evaluate / texts)

    def seconds(self, steps: float, texts: float) -> float:
        return self.opening + steps * self.step + texts * self.text

    def steps(self, seconds: float, texts: float) -> int:
        """Return the number of training steps that fit in `seconds`; may be negative."""
        return math.floor((seconds - self.seconds(0, texts)) / max(self.step, 1e-9))


class Stopwatch:
    """A stopwatch of a run in progress, from the time `began` at which it had a machine, by `meter.now()`."""

    def __init__(self) -> None:
        self.began, self._waits, self.phase = meter.now(), False, ""
        self._first = self._last = 0.0, 0

    def hear(self, progress: Progress) -> None:
        """Note a progress event; restart when the run stops waiting for a machine."""
        here = meter.now(), progress.step
        if self._waits:
            self.began = here[0]
        self._waits = progress.phase == "wait"
        if progress.phase != self.phase:
            self.phase, self._first = progress.phase, here
        self._last = here

    @property
    def done(self) -> int:
        """The number of training steps (or of scored texts) that are done in the current phase."""
        return self._last[1]

    @property
    def each(self) -> float | None:
        """The seconds of one training step (or of scoring one text); None while too few are done."""
        (start, before), (now, done) = self._first, self._last
        return (now - start) / (done - before) if done - before >= MEASURED else None

    @property
    def opening(self) -> float:
        """The seconds from the start of the run to the first training step (or scored text) of the current phase."""
        start, before = self._first
        return max(0.0, start - self.began - before * (self.each or 0.0))


def _texts(method: str) -> float:
    """Return how many texts can be scored in the time of one training step of a method; by default of DEAREST."""
    return STEP_COSTS.get(method, STEP_COSTS[DEAREST])


@dataclass
class StepTimes:
    """The step times that have been measured so far, by method and backbone, the latest last."""

    lowered: bool
    known: dict[Way, StepTime] = field(default_factory=dict)

    def note(self, way: Way, pace: StepTime) -> None:
        self.known.pop(way, None)
        self.known[way] = pace

    def of(self, way: Way) -> StepTime | None:
        """Return the measured or estimated step time; None if none was measured on the backbone."""
        if way in self.known:
            return self.known[way]
        near = [(one, pace) for one, pace in self.known.items() if one.backbone == way.backbone]
        if not near:
            return None
        other, pace = next((each for each in reversed(near) if takes_steps(each[0].method)), near[-1])
        if not takes_steps(way.method):
            return replace(pace, step=pace.text)
        if takes_steps(other.method):
            return replace(pace, step=pace.step * _texts(way.method) / _texts(other.method))
        read = pace.step or pace.text / self._slower
        return replace(pace, step=read * _texts(way.method))

    def seen(self, way: Way, stopwatch: Stopwatch) -> StepTime | None:
        """Return the step time of a run in progress; None while too few steps or texts are done."""
        each, is_trained = stopwatch.each, takes_steps(way.method) or is_fitted(way.method)
        if each is None or stopwatch.phase != ("train" if is_trained else "evaluate"):
            return None
        if not is_trained:
            return StepTime(stopwatch.opening, 0.0, each)
        guess, read = self.of(way), each / _texts(way.method) if takes_steps(way.method) else each
        opening = stopwatch.opening * (1 + REOPENING * self.lowered)
        return StepTime(opening, each, guess.text if guess else read * self._slower)

    @property
    def _slower(self) -> float:
        """The time of scoring a text divided by the time of reading a text in training."""
        return FLOAT32 if self.lowered else 1.0

    def seconds(self, way: Way, pace: StepTime, steps: int, scored: int, read: int) -> float:
        """Return the seconds of a run that scores `scored` texts; a linear probe has `read` texts for `steps`."""
        return pace.seconds(steps if takes_steps(way.method) else read * is_fitted(way.method), scored)
