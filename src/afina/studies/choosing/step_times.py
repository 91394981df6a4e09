"""The step times of methods on backbones: seen in the first steps of a training, and updated from each training.

A method without a step time has an estimate: from another run on the backbone, and from the recorded costs of methods.
Starts without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from afina.methods import is_fitted
from afina.studies.choosing.candidates import takes_steps
from afina.studies.choosing.learned_order import STEP_COSTS
from afina.studies.choosing.setup import DEAREST, Way
from afina.studies.choosing.time_budget import FLOAT32, REOPENING, StepTime, Stopwatch


def _texts(method: str) -> float:
    """Return the number of texts that are scored in the time of a step; the most if the method was not recorded."""
    return STEP_COSTS.get(method, STEP_COSTS[DEAREST])


@dataclass
class StepTimes:
    """The step times that are known so far.

    Attributes:
        lowered: Whether training computes in bfloat16.
        known: Step times by way, the last one last.
    """

    lowered: bool
    known: dict[Way, StepTime] = field(default_factory=dict)

    def note(self, way: Way, pace: StepTime) -> None:
        """Note the step time of a way."""
        self.known.pop(way, None)
        self.known[way] = pace

    def of(self, way: Way) -> StepTime | None:
        """Return the way's step time, or an estimate; None if nothing is known of the backbone."""
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
        """Return the step time of a run in progress; None while the run shows too little."""
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
        """How many times as long a text takes to score as to read in training."""
        return FLOAT32 if self.lowered else 1.0

    def seconds(self, way: Way, pace: StepTime, steps: int, scored: int, read: int) -> float:
        """Return the seconds of a run at this step time.

        Args:
            scored: The number of texts that are scored.
            read: The number of training texts. A step of a fit is a text that it reads.
        """
        return pace.seconds(steps if takes_steps(way.method) else read * is_fitted(way.method), scored)
