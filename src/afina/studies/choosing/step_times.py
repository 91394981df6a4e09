"""The step times of methods on backbones: measured before a method's first training, updated from each training.

The slowest method's step time stands for that of an unmeasured method on the same backbone. Starts without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from afina import meter
from afina.errors import AfinaError
from afina.methods import is_fitted
from afina.studies.choosing import time_budget
from afina.studies.choosing.candidates import reason
from afina.studies.choosing.recommendation import Dropped
from afina.studies.choosing.setup import DEAREST, ChoiceSetup, Way
from afina.studies.choosing.time_budget import StepTime, measure_step_time
from afina.studies.choosing.training_length import AT_LEAST, SHARE
from afina.studies.runs.executor import Overrun

FEWEST = 100
"""The number of held-out texts that are always scored, if there are so many."""


@dataclass
class StepTimes:
    """The step times that are known so far.

    Attributes:
        lowered: Whether training computes in bfloat16.
        known: Step times by way.
    """

    setting: ChoiceSetup
    lowered: bool
    known: dict[Way, StepTime] = field(default_factory=dict)

    def of(self, way: Way) -> StepTime | None:
        """Return the way's step time, or else that of the most expensive method on its backbone.

        A fit, which takes no steps, needs the step time of any method.
        """
        other = self.first if is_fitted(way.method) else self.dearest
        return self.known.get(way) or other(way.backbone)

    def dearest(self, backbone: str) -> StepTime | None:
        """Return the step time of the most expensive method on a backbone, if it is known."""
        return self.known.get(Way(backbone, DEAREST))

    def first(self, backbone: str) -> StepTime | None:
        """Return the step time of the method in steps that was known first on a backbone, as it is now."""
        trained = (way for way in self.known if way.backbone == backbone and not is_fitted(way.method))
        return next((self.known[way] for way in trained), None)

    def seconds(self, way: Way, pace: StepTime, steps: int, scored: int, read: int) -> float:
        """Return the seconds of a training at this step time.

        Args:
            scored: The number of texts that are scored.
            read: The number of training texts. A fit reads each text once and takes one step, if that was measured.
        """
        if not is_fitted(way.method):
            return pace.seconds(steps, scored)
        return pace.seconds(1, scored) if way in self.known else pace.seconds(0, scored + read)

    def measure(self, way: Way, at_once: int, dropped: dict[str, Dropped]) -> None:
        """Measure the step time of a way in `at_once` processes, or note in `dropped` why it is unknown.

        Raises AfinaError if the method cannot be trained.
        """
        setting, clock = self.setting, self.setting.clock
        name = setting.name(way)
        if clock.left <= 0:
            dropped[name] = Dropped(why="start")
            return
        read = setting.read_first
        run = setting.run(way, train_examples=read, validation=min(SHARE, FEWEST / read))
        setting.watcher.says(f"measuring the time of a step of {name}")
        listen = partial(setting.watcher.progress, run)
        until = meter.now() + clock.left / AT_LEAST
        try:
            with setting.stages.of(time_budget.STEP_TIME):
                self.known[way] = measure_step_time(
                    run, setting.executor, listen, until, lowered=self.lowered, at_once=at_once
                )
        except Overrun:
            dropped[name] = Dropped(why="start")
        except AfinaError as error:
            dropped[name] = Dropped(why="error", message=reason(run, error))
            raise
