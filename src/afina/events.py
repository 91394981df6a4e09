"""Progress: how far a run is. Made by the procedure, shown by whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isnan


@dataclass(frozen=True)
class Progress:
    """phase is one of load, encode, train, evaluate, save; the rest is known while training or evaluating."""

    phase: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class ValidationScore:
    """How well a candidate does on a validation split after `step` of `steps`.

    value, loss  the headline metric and the loss, of `examples` texts; None where training had diverged; a value is NaN
                 where the metric is undefined
    lower        whether less of the metric is better
    train_seconds, evaluate_seconds  of all steps so far, and of scoring this time
    """

    step: int
    steps: int
    examples: int
    value: float | None
    loss: float | None
    train_seconds: float = field(default=0.0, compare=False)
    evaluate_seconds: float = field(default=0.0, compare=False)
    lower: bool = False

    @property
    def gain(self) -> float | None:
        """The value, or where less is better its negative; less than any other where it is undefined."""
        if self.value is None:
            return None
        return -inf if isnan(self.value) else -self.value if self.lower else self.value


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener that does nothing."""


Says = Callable[[str], object]
"""Told in a few words what begins, by what is no run."""


def silent(words: str) -> None:
    """The one that does nothing."""
