"""Progress of a run: events that training produces and listeners receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf, isnan


@dataclass(frozen=True)
class Progress:
    """A progress event of a run.

    Attributes:
        phase: "load", "encode", "train", "evaluate" or "save"; "download" while files are downloaded; "wait" before the
            run has a place; "draw" if pretrained weights are drawn because the files of the backbone lack them; "copy"
            if a quantised copy of the backbone was written, or could not be.
        step: steps done, or bytes of a download. This and the following attributes are set while downloading, training
            or evaluating.
        steps: number of steps or bytes in total.
        loss: training loss.
        tokens_per_second: training speed.
        seconds_left: estimate for the phase, in seconds.
        note: while the phase is "download": what is downloaded, such as "the model embedded". While the phase is
            "wait": what the run waits for, such as "a node with 3.1 GiB and 1 CPU". While the phase is "draw": the
            weights. While the phase is "copy": a sentence without a subject.
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
    """The score of a candidate on a validation split after `step` of `steps` training steps.

    Attributes:
        step: training steps done.
        steps: training steps in total.
        examples: number of validation texts.
        value: the headline metric. None if training had diverged; NaN if the metric is undefined.
        loss: the validation loss. None if training had diverged.
        train_seconds: training time of all steps so far, in seconds.
        evaluate_seconds: time of this evaluation, in seconds.
        lower: whether a lower value of the metric is better.
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
        """The value, or its negative if lower is better; minus infinity for NaN; None if training had diverged."""
        if self.value is None:
            return None
        return -inf if isnan(self.value) else -self.value if self.lower else self.value


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Ignore a progress event: the default listener."""


_downloads: ContextVar[Listener] = ContextVar("_downloads", default=ignore)


@contextmanager
def downloads_told(listen: Listener) -> Iterator[None]:
    """Pass the progress of downloads in the block to `listen`.

    The listener is not an argument of the functions that open models and data: any of them may download at its first
    use.
    """
    before = _downloads.set(listen)
    try:
        yield
    finally:
        _downloads.reset(before)


@contextmanager
def download(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that tells the listener of downloads how many bytes of how many are there."""
    listen, told = _downloads.get(), False

    def tell(done: int, total: int) -> None:
        nonlocal told
        told = True
        listen(Progress("download", min(done, total), total, note=what))

    try:
        yield tell
    finally:
        if told:
            listen(Progress("load"))


Says = Callable[[str], object]
"""A function that receives a few words about the step that begins, for work that is not a run."""


def silent(words: str) -> None:
    """Ignore the words: the default `Says`."""
