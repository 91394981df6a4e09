"""Progress: how far a run is. Made by the procedure, shown by whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """phase is one of load, encode, train, evaluate, save; the rest is known while training or evaluating."""

    phase: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener that does nothing."""
