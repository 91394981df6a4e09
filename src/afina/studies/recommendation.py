"""Recommendation: a fact. Which way of adapting, and the evidence; `recommendation.json` of an output directory.

Knows which it is; not how it is put in words (`afina.report.recommendation`). Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from afina.schema import Frozen
from afina.stats.comparison import Comparison
from afina.studies import floors
from afina.studies.spec import Data

NAME = "choose"
"""What the records of finalists have as their study's name: the command's."""


class Contender(Frozen):
    """What was tried, and how it did on the held-out texts, where it came so far.

    name      a floor's, or a method's key
    setting   what a floor chose for itself
    rounds    that a method's trials went through; none for a floor
    rate      the learning rate that did best in the last of them; finished: whether it gave numbers there
    examples  training texts that it learnt from
    seconds   its training;  memory  bytes, the peak of its process
    key       of its record;  adapter  relative to the output directory
    """

    name: str
    setting: str = ""
    rounds: int = 0
    rate: float | None = None
    finished: bool = True
    accuracy: float | None = None
    f1: float | None = None
    examples: int | None = None
    steps: int | None = None
    seconds: float | None = None
    memory: int | None = None
    trainable: int | None = None
    total: int | None = None
    key: str | None = None
    adapter: str | None = None


class Dropped(Frozen):
    """Why a method is no contender, or no finalist.

    why      memory: it does not fit (`needed`, `available`: bytes). start: no time was left to measure its pace.
             train: none was left to train and evaluate it. overrun: its last training took longer than there was time
             for. error: it failed, with `message`
    """

    why: Literal["memory", "start", "train", "overrun", "error"]
    needed: int | None = None
    available: int | None = None
    message: str = ""


class Recommendation(Frozen):
    """The answer and its evidence.

    recommended     a method's key, or the name of a floor
    adapter         of the recommended method, relative to the output directory; None for a floor
    contenders      floors first, then methods, the best of the race first
    comparisons     of every pair that was evaluated, by their names
    dropped         by the method's key
    train_examples, examples  training texts there are, held-out texts evaluated
    data            how the task was read for that
    minutes, seconds  given, and taken
    """

    name: str = NAME
    task: str
    data: Data
    backbone: str
    recommended: str
    adapter: str | None
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    dropped: dict[str, Dropped]
    train_examples: int
    examples: int
    minutes: float
    seconds: float
    command: tuple[str, ...] = ()

    def contender(self, name: str) -> Contender:
        """The one of that name."""
        return next(one for one in self.contenders if one.name == name)


def decide(
    order: Sequence[str],
    right: Mapping[str, np.ndarray],
    right_of_floors: Mapping[str, np.ndarray],
    compared: Sequence[Comparison],
) -> str:
    """The race's winner, or the other where that is surely better on held-out texts; a floor that neither beats.

    order  the finalists, the best in the race first;  right  whether each answer is right, bool [1, N]
    """
    best_floor = max(right_of_floors, key=lambda name: (right_of_floors[name].mean(), name == floors.TFIDF))
    if not order:
        return best_floor
    chosen = order[0]
    for other in order[1:]:
        between = next(one for one in compared if (one.first, one.second) == (chosen, other))
        if between.verdict == "worse":
            chosen = other
    return chosen if right[chosen].mean() > right_of_floors[best_floor].mean() else best_floor
