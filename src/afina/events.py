"""The progress of a run: events that training sends to listeners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf, isnan

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
        step: the number of finished steps, or of downloaded bytes. The attributes `step`, `steps`, `loss`,
            `tokens_per_second` and `seconds_left` are set while the run downloads, trains or evaluates.
        steps: the total number of steps or bytes.
        loss: the training loss.
        tokens_per_second: the training speed in tokens per second.
        seconds_left: the estimated number of seconds until the end of the phase.
        note: a description that depends on the phase. In the phase "download", the note says what is downloaded, such
            as "the model embedded". In the phase "wait", the note says what the run waits for, such as "a node with 3.1
            GiB and 1 CPU". In the phase "draw", the note names the drawn weights. In the phases "copy" and
            "pairs", the note is a sentence without a subject, about the quantised copy or the pairs. In the phases
            "shots" and "abstain", the note is sentences about the examples or the threshold.
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
    """The score of a model in training on a validation split, after `step` of `steps` training steps.

    Attributes:
        step: the number of training steps done.
        steps: the total number of training steps.
        examples: the number of validation texts.
        value: the value of the headline metric. None: training had diverged. NaN: the metric is undefined.
        loss: the validation loss. None: training had diverged.
        train_seconds: the training time of all steps so far, in seconds.
        evaluate_seconds: the time of this evaluation, in seconds.
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
        """The score for which higher is better: the metric, or minus the metric if a lower metric is better.

        The gain is minus infinity for NaN, and None if training had diverged.
        """
        if self.value is None:
            return None
        return -inf if isnan(self.value) else -self.value if self.lower else self.value


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Ignore a progress event; this function is the default listener."""


_downloads: ContextVar[Listener] = ContextVar("_downloads", default=ignore)


@contextmanager
def downloads_told(listen: Listener) -> Iterator[None]:
    """Return a context manager that passes the progress of all downloads in the `with` block to `listen`.

    The listener is no argument of the functions that open models and data, because any of these functions may download
    files on first use.
    """
    before = _downloads.set(listen)
    try:
        yield
    finally:
        _downloads.reset(before)


@contextmanager
def download(what: str) -> Iterator[Callable[[int, int], None]]:
    """Return a context manager that yields a function (bytes done, bytes in total) that reports a download's progress.

    Args:
        what: a description of the downloaded files, such as "the model embedded".
    """
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
"""The type of a function that receives a few words about the step of work that begins, for work that is not a run."""


def silent(words: str) -> None:
    """Ignore a message about the work that begins; this function is the default `Says`."""
