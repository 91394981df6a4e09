"""The progress of a run: events that training sends to listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf, isnan
from typing import Self

STATE_DIRECTORY = "AFINA_STATE_DIRECTORY"
"""Variable with a directory for a command's error and progress as JSON, set by the program that started the command."""

NOTED = ("copy", "shots", "teacher", "pairs", "abstain")
"""The phases of `Progress` whose note is shown to the user as a line of its own."""


@dataclass(frozen=True)
class Progress:
    """An event about the progress of a run.

    Attributes:
        phase: the phase of the run: "load", "encode", "train", "evaluate" or "save"; "download" while files are
            downloaded; "wait" while the run waits for a node or a server; "draw" if weights are initialised at random
            because the files of the backbone do not have them; "copy" if a quantised copy of the backbone was written,
            or could not be written; "teacher" while a teacher answers the texts; "pairs" if the run trains on pairs of
            texts; "shots" if training examples stand in each prompt; "abstain" when a threshold of abstention was
            chosen.
        step, steps: the number of finished steps, or of downloaded bytes, and their total.
        tokens_per_second: the training speed.
        seconds_left: the estimated time until the end of the phase.
        note: what is downloaded ("the model embedded"), waited for ("a node with 3.1 GiB and 1 CPU") or drawn; in the
            phases "copy" and "pairs" a sentence without a subject; in "shots" and "abstain" sentences.
    """

    phase: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ValidationScore:
    """The score of a model in training on a validation split, after `step` of `steps` training steps."""

    step: int
    steps: int
    examples: int
    value: float | None  # of the headline metric; None: training had diverged; NaN: the metric is undefined
    loss: float | None  # None: training had diverged
    train_seconds: float = field(default=0.0, compare=False)  # of all steps so far
    evaluate_seconds: float = field(default=0.0, compare=False)  # of this evaluation
    lower: bool = False  # whether a lower value of the metric is better

    @property
    def gain(self) -> float | None:
        """The score for which higher is better; minus infinity for NaN, and None if training had diverged."""
        if self.value is None:
            return None
        return -inf if isnan(self.value) else -self.value if self.lower else self.value


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Ignore a progress event."""


_downloads: ContextVar[Listener] = ContextVar("_downloads", default=ignore)


@contextmanager
def downloads_told(listen: Listener) -> Iterator[None]:
    """Pass the progress of all downloads in the `with` block to `listen`: any function may download files."""
    before = _downloads.set(listen)
    try:
        yield
    finally:
        _downloads.reset(before)


@contextmanager
def download(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (bytes done, bytes in total) that reports the progress of downloading `what`."""
    listen, has_begun = _downloads.get(), False

    def tell(done: int, total: int) -> None:
        nonlocal has_begun
        has_begun = True
        listen(Progress("download", min(done, total), total, note=what))

    try:
        yield tell
    finally:
        if has_begun:
            listen(Progress("load"))


Says = Callable[[str], object]
"""A function that receives a few words about the step of work that begins, for work that is not a run."""


class ShareSaid(str):
    """A message about progress that also has the share of the work that is done."""

    share: float

    def __new__(cls, words: str, share: float) -> Self:
        made = super().__new__(cls, words)
        made.share = share
        return made


def silent(words: str) -> None:
    """Ignore the words."""
