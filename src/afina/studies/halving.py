"""Race: methods and learning rates under a time limit, on a validation cut of the training split.

Each method gets as many seconds as the others in every round; after a round the worse half of its learning rates, and
of the methods, is out. What training costs here is measured first, so a round asks for as many steps as its seconds
buy. Knows nothing of the held-out split: the runs it is given must have a `validation` share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from afina import meter
from afina.errors import RunFailed
from afina.events import Listener, Score
from afina.methods import METHODS
from afina.studies.executors import local
from afina.studies.executors.local import Overrun
from afina.studies.run import Run

PACE = 4
"""Steps that measure what a step costs."""

SLACK = 1.15
"""Seconds are spent as if everything took this much longer than measured."""

RATES = {1: (1.0,), 2: (1.0, 3.0), 3: (1 / 3, 1.0, 3.0)}
"""Multiples of a method's learning rate that are raced, by how many there is time for."""

WORTH = 3.0
"""A candidate's seconds are at least this many times what it costs before the first step and for its score."""

EPOCHS = 3
"""No run goes more often through the training split."""


@dataclass(frozen=True)
class Speed:
    """What a method costs here: seconds before the first step, of a step, and of scoring one text."""

    opening: float
    step: float
    text: float

    def steps(self, seconds: float, texts: float) -> int:
        """The steps that `seconds` buy, the opening and the scoring of `texts` included; may be negative."""
        return math.floor((seconds / SLACK - self.opening - texts * self.text) / self.step)


@dataclass(frozen=True)
class Standing:
    """How a method's best learning rate did in the last round that it ran.

    accuracy  on the validation cut, in training's precision; None where training diverged
    """

    method: str
    rate: float
    accuracy: float | None
    loss: float | None
    steps: int
    rounds: int
    seconds: float = 0.0

    @property
    def order(self) -> tuple[float, float, float]:
        """Smaller is better: the later round, the higher accuracy, the lower loss."""
        if self.accuracy is None or self.loss is None:
            return (-self.rounds, math.inf, math.inf)
        return (-self.rounds, -self.accuracy, self.loss)


def measure(run: Run, listen: Listener, until: float) -> Speed:
    """Take a few steps and score once. Raises RunFailed, Overrun."""
    began = meter.now()
    score = local.try_out(run, (1.0,), PACE, lambda score: False, listen, until)
    whole = meter.now() - began
    if score.accuracy is None:
        raise RunFailed(f"run {run.title}: the loss is not a number from the first steps on.")
    step = score.train_seconds / score.step
    opening = whole - score.train_seconds - score.evaluate_seconds
    return Speed(opening, step, score.evaluate_seconds / score.examples)


def race(
    runs: Mapping[str, Run],
    speeds: Mapping[str, Speed],
    texts: int,
    longest: int,
    seconds: float,
    trying: Callable[[Run, int], Listener],
) -> list[Standing]:
    """Best first: where each method of `runs` stands after races that take about `seconds` in all.

    texts    in the validation cut;  longest  most steps that a candidate takes
    trying   told of each candidate; gives who listens to it
    """
    counts = {name: max(1, min(3, int(seconds / len(runs) / (WORTH * _fixed(speeds[name], texts))))) for name in runs}
    rates = {name: [factor * _rate(run) for factor in RATES[counts[name]]] for name, run in runs.items()}
    rounds = 2 if min(counts.values()) == 3 else 1
    standings: dict[str, Standing] = {}
    number = 0
    for turn in range(1, rounds + 1):
        each = seconds / rounds / len(rates)
        placed: dict[str, list[Standing]] = {}
        for name, tried in rates.items():
            placed[name] = []
            for rate in tried:
                number += 1
                listen = trying(runs[name], number)
                placed[name].append(
                    _candidate(runs[name], rate, speeds[name], texts, longest, each / len(tried), listen, turn)
                )
            placed[name].sort(key=lambda one: one.order)
            if placed[name][0].accuracy is not None or name not in standings:  # a lost second round undoes no first
                standings[name] = placed[name][0]
        best = sorted(placed, key=lambda name: placed[name][0].order)[: max(2, math.ceil(len(placed) / 2))]
        rates = {name: [one.rate for one in placed[name][: math.ceil(len(placed[name]) / 2)]] for name in best}
    return sorted(standings.values(), key=lambda one: one.order)


def _candidate(
    run: Run, rate: float, speed: Speed, texts: int, longest: int, seconds: float, listen: Listener, turn: int
) -> Standing:
    steps = max(1, min(longest, speed.steps(seconds, texts)))
    changed = {"learning_rate": rate, "max_steps": steps}
    this = run.model_copy(update={"training": run.training.model_copy(update=changed)})
    began = meter.now()
    lost = Standing(run.method, rate, None, None, 0, turn)
    try:
        score: Score = local.try_out(
            this, (1.0,), None, lambda score: False, listen, began + max(2 * seconds, seconds + 5)
        )
    except (Overrun, RunFailed):
        return lost
    return Standing(run.method, rate, score.accuracy, score.loss, score.step, turn, meter.now() - began)


def _rate(run: Run) -> float:
    return run.training.learning_rate or METHODS[run.method].learning_rate


def _fixed(speed: Speed, texts: int) -> float:
    return speed.opening + texts * speed.text
