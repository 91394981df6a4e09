"""Halving: methods and learning rates raced under a time limit, on a validation cut of the training split.

Each method gets as many seconds as the others in every round; after a round the worse half of its learning rates, and
of the methods, is out. What training costs here is measured first, so a round asks for as many steps as its seconds
buy. Knows nothing of the held-out split: the runs it is given must have a `validation` share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from afina import meter
from afina.errors import RunFailed
from afina.events import Listener, Score
from afina.methods import make
from afina.studies.executors.executor import Executor, Overrun
from afina.studies.run import Run
from afina.studies.trials import Trial
from afina.studies.watcher import Watcher

PACE = 4
"""Steps that measure what a step costs."""

SLACK = 1.15
"""A trial's seconds are spent as if everything took this much longer than measured."""

RATES = {1: (1.0,), 2: (1.0, 3.0), 3: (1 / 3, 1.0, 3.0)}
"""Multiples of a method's learning rate that are raced, by how many there is time for."""

WORTH = 3.0
"""A trial's seconds are at least this many times what it costs before the first step and for its score."""

LEAST_RACED = 3
"""So many methods are raced however short the time is, and more where each has time for a trial that is worth it."""

EPOCHS = 3
"""No run goes more often through the training split."""


@dataclass(frozen=True)
class Speed:
    """What a run costs here: seconds beside steps and scoring, of a step, and of scoring one text."""

    opening: float
    step: float
    text: float

    @classmethod
    def of(cls, score: Score, seconds: float) -> Speed:
        """That of a trial which took so many seconds in all."""
        beside = seconds - score.train_seconds - score.evaluate_seconds
        return cls(beside, score.train_seconds / score.step, score.evaluate_seconds / score.examples)

    def seconds(self, steps: float, texts: float) -> float:
        """What so many steps take, the opening and the scoring of `texts` included."""
        return self.opening + steps * self.step + texts * self.text

    def steps(self, seconds: float, texts: float, slack: float = SLACK) -> int:
        """The steps that `seconds` buy, the opening and the scoring of `texts` included; may be negative."""
        return math.floor((seconds / slack - self.seconds(0, texts)) / self.step)


@dataclass(frozen=True)
class Standing:
    """How a method's best learning rate did in the last round that it ran.

    value     of the headline metric on the validation cut, in training's precision, of `examples` texts; None where
              training diverged;  gain  the same, or its negative where less is better
    speed     of its trial, where that came to an end
    """

    method: str
    rate: float
    value: float | None
    loss: float | None
    steps: int
    rounds: int
    speed: Speed | None = None
    examples: int = 0
    gain: float | None = None

    @property
    def order(self) -> tuple[float, float, float]:
        """Smaller is better: the later round, the greater gain, the lower loss."""
        if self.gain is None or self.loss is None:
            return (-self.rounds, math.inf, math.inf)
        return (-self.rounds, -self.gain, self.loss)


def measure(run: Run, executor: Executor, listen: Listener, until: float) -> Speed:
    """Take a few steps and score once. Raises RunFailed, Overrun."""
    began = meter.now()
    score = executor.try_out(run, (1.0,), PACE, lambda score: False, listen, until)
    if score.value is None:
        raise RunFailed(f"run {run.title}: the loss is not a number from the first steps on.")
    return Speed.of(score, meter.now() - began)


def affords_another(speeds: Mapping[str, Speed], seconds: float, texts: int) -> bool:
    """Whether a race of so many seconds, each trial scored on `texts`, has room for one more than those of `speeds`."""
    each = seconds / (len(speeds) + 1)
    return len(speeds) < LEAST_RACED or all(each >= WORTH * speed.seconds(0, texts) for speed in speeds.values())


@dataclass(frozen=True)
class Race:
    """What all trials of a race share.

    texts    in the validation cut
    longest  most steps of a trial
    seconds  that all of it may take, about
    until    when whatever goes on is ended, by `meter.now()`
    """

    texts: int
    longest: int
    seconds: float
    until: float
    executor: Executor
    watcher: Watcher

    def standings(self, runs: Mapping[str, Run], speeds: Mapping[str, Speed]) -> list[Standing]:
        """Where each method of `runs` stands after all rounds, the best first."""
        counts = {name: self._rates(speeds[name], len(runs)) for name in runs}
        rates = {name: [factor * _rate(run) for factor in RATES[counts[name]]] for name, run in runs.items()}
        rounds = 2 if min(counts.values()) == 3 else 1
        began, number = meter.now(), 0
        found: dict[str, Standing] = {}
        for turn in range(1, rounds + 1):
            each = self.seconds / rounds / len(rates)
            placed: dict[str, list[Standing]] = {}
            for name, raced in rates.items():
                placed[name] = []
                for rate in raced:
                    number += 1
                    self.watcher.trying(runs[name], number, min(1.0, (meter.now() - began) / self.seconds))
                    seconds = each / len(raced)
                    placed[name].append(self._try(runs[name], rate, speeds[name], seconds, number, turn))
                placed[name].sort(key=lambda one: one.order)
                if placed[name][0].value is not None or name not in found:  # a lost second round undoes no first
                    found[name] = placed[name][0]
            best = sorted(placed, key=lambda name: placed[name][0].order)[: max(2, math.ceil(len(placed) / 2))]
            rates = {name: [one.rate for one in placed[name][: math.ceil(len(placed[name]) / 2)]] for name in best}
        return sorted(found.values(), key=lambda one: one.order)

    def _rates(self, speed: Speed, methods: int) -> int:
        """How many learning rates of a method there is time for."""
        return max(1, min(3, int(self.seconds / methods / (WORTH * speed.seconds(0, self.texts)))))

    def _try(self, run: Run, rate: float, speed: Speed, seconds: float, number: int, turn: int) -> Standing:
        steps = max(1, min(self.longest, speed.steps(seconds, self.texts)))
        changed = {"learning_rate": rate, "max_steps": steps}
        this = run.model_copy(update={"training": run.training.model_copy(update=changed)})
        began = meter.now()
        until = min(self.until, began + max(2 * seconds, seconds + 5))
        try:
            score = self.executor.try_out(
                this, (1.0,), None, lambda score: False, partial(self.watcher.progress, run), until
            )
        except (Overrun, RunFailed):
            return Standing(run.method, rate, None, None, 0, turn)
        taken = meter.now() - began
        trial = Trial(setting={"learning_rate": rate}, steps=score.step, value=score.value, seconds=taken)
        self.watcher.tried(run, number, trial, steps)
        if score.value is None:
            return Standing(run.method, rate, None, None, score.step, turn)
        speed = Speed.of(score, taken)
        counted = score.value, score.loss, score.step, turn, speed, score.examples, score.gain
        return Standing(run.method, rate, *counted)


def _rate(run: Run) -> float:
    return run.training.learning_rate or make(run.method).learning_rate
