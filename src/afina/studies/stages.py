"""Stages: what the time of a recommendation goes to, in seconds. Knows no work. Starts without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from afina import meter

SIMPLE, MEMORY, PACE = "simple models", "what fits in memory", "measuring paces"
ASKING, TRAINING, AGAIN, HALF = "asking in words", "training", "training the selected one again", "half of the texts"


@dataclass(frozen=True)
class Stages:
    """Seconds by stage, in the order in which the stages began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block's time as that stage's, whatever ends the block."""
        began = meter.now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + meter.now() - began
