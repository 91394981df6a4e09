"""The time budget of a recommendation: how much of the given minutes is left, and the seconds of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from afina import meter

LATE, CLOSING = 0.04, 0.1
"""Two shares of the given minutes.

LATE: runs may exceed the minutes by this share. CLOSING: at most this share is reserved for the work after the last
run, which compares the results and writes the report.
"""


@dataclass
class TimeBudget:
    """The minutes that the user gave, counted from `began`, by `meter.now()`.

    `closing` seconds are reserved for the work after the last run, such as paired comparisons, and `aside` for a
    student, which is trained after the recommended model.
    """

    began: float
    minutes: float
    closing: float = 0.0
    aside: float = 0.0

    def keep_back(self, seconds: float) -> None:
        """Reserve seconds for the work after the last run, at most the share CLOSING of the given minutes."""
        self.closing = min(seconds, CLOSING * 60 * self.minutes)

    @property
    def left(self) -> float:
        """The seconds that are left for runs; may be negative."""
        return self.began + 60 * self.minutes - self.closing - self.aside - meter.now()

    @property
    def end(self) -> float:
        """The time at which runs in progress are stopped, by `meter.now()`."""
        return self.began + 60 * self.minutes * (1 + LATE) - self.closing - self.aside

    @property
    def spent(self) -> float:
        return meter.now() - self.began


SIMPLE, MEMORY, STEP_TIME = "simple models", "what fits in memory", "measuring"
LABELS = "doubtful labels"
LATENCY = "measuring how fast models answer"
STUDENT = "a student"
ASKING, TRAINING, AGAIN, HALF = "asking in words", "training", "training the selected one again", "half of the texts"


@dataclass(frozen=True)
class StageSeconds:
    """The seconds of each stage of a recommendation, in the order in which the stages began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time of the `with` block to a stage, also if the block raises an exception."""
        began = meter.now()
        try:
            yield
        finally:
            self.add(stage, meter.now() - began)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
