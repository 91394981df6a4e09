"""The time budget of a recommendation: how much of the given minutes is left, and the seconds of each stage.

The module loads without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from afina import meter

LATE, CLOSING = 0.04, 0.1
"""Shares of the given minutes: by how much they may be exceeded, and the most that is kept back for what follows.

Comparing the results and writing the report follow the last run.
"""


@dataclass
class TimeBudget:
    """The given minutes, counted from a start time. `began` and `end` are times of `meter.now()`.

    Attributes:
        closing: The seconds kept back for the work after the last run, such as paired comparisons.
    """

    began: float
    minutes: float
    closing: float = 0.0

    def keep_back(self, seconds: float) -> None:
        """Keep `seconds` back for the work after the last run, but at most a small share of the given minutes."""
        self.closing = min(seconds, CLOSING * 60 * self.minutes)

    @property
    def left(self) -> float:
        """The seconds that can still be planned for runs; negative when the time is used up."""
        return self.began + 60 * self.minutes - self.closing - meter.now()

    @property
    def end(self) -> float:
        """The time at which runs in progress are stopped."""
        return self.began + 60 * self.minutes * (1 + LATE) - self.closing

    @property
    def spent(self) -> float:
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
        """Add the time of the `with` block to the stage, also if the block raises."""
        began = meter.now()
        try:
            yield
        finally:
            self.add(stage, meter.now() - began)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
