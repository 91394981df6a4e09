"""Recommendation: a fact. Which way of adapting, and the evidence; `recommendation.json` of an output directory.

Knows which it is; not how it is put in words (`afina.report.recommendation`). Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from afina.schema import Frozen
from afina.stats.comparison import Comparison
from afina.studies import floors
from afina.studies.record import Asked
from afina.studies.spec import Data

NAME = "choose"
"""What the records of finalists have as their study's name: the command's."""


class Contender(Frozen):
    """What was tried, and how it did on the held-out texts, where it came so far.

    name      a floor's, or a method's key
    setting   what a floor chose for itself
    rounds    that a method's trials went through; none for a floor
    rate      the learning rate that did best in the last of them; finished: whether it gave numbers there
    validation, validation_examples  its accuracy there on the validation cut, and how many texts that is; chose it, or
              left it out, and is not comparable with what follows
    examples  training texts that it learnt from
    seconds   its training;  memory  bytes, the peak of its process
    ask       how its texts were asked about
    key       of its record, where it is of a run;  adapter  relative to the output directory
    """

    name: str
    setting: str = ""
    rounds: int = 0
    rate: float | None = None
    finished: bool = True
    validation: float | None = None
    validation_examples: int | None = None
    accuracy: float | None = None
    f1: float | None = None
    examples: int | None = None
    steps: int | None = None
    seconds: float | None = None
    memory: int | None = None
    trainable: int | None = None
    total: int | None = None
    ask: Asked = Asked()
    key: str | None = None
    adapter: str | None = None

    @property
    def trained(self) -> bool:
        """Whether it is an adapted model that came as far as the held-out texts."""
        return self.adapter is not None and self.steps is not None

    @model_validator(mode="after")
    def _has_its_figures(self) -> Self:
        figures = (self.accuracy, self.f1, self.examples, self.seconds, self.trainable, self.total)
        if self.trained and (None in figures or not self.total):
            raise ValueError(f"{self.name} was trained and evaluated, and lacks a figure of it")
        return self


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

    @model_validator(mode="after")
    def _says_what_lacked(self) -> Self:
        if self.why == "memory" and None in (self.needed, self.available):
            raise ValueError("left out for want of memory, without saying how much")
        return self


class Recommendation(Frozen):
    """The answer and its evidence.

    recommended     a method's key, or the name of a floor
    adapter         of what is recommended, relative to the output directory; None for the majority class
    contenders      floors first, then the model that nothing trained, then methods, the best of the race first
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

    @model_validator(mode="after")
    def _has_what_it_recommends(self) -> Self:
        if not any(one.name == self.recommended and one.accuracy is not None for one in self.contenders):
            raise ValueError(f"{self.recommended} is recommended, and was not evaluated")
        return self

    def contender(self, name: str) -> Contender:
        """The one of that name."""
        return next(one for one in self.contenders if one.name == name)


def decide(
    order: Sequence[str],
    right: Mapping[str, np.ndarray],
    right_of_simple: Mapping[str, np.ndarray],
    compared: Sequence[Comparison],
) -> str:
    """Of the finalists that beat all that trains nothing, the best in the race, or another that is surely better.

    Where none does, the best of what trains nothing.

    order            the finalists, the best in the race first;  right  whether each answer is right, bool [1, N]
    right_of_simple  the same of the floors, and of the model as it is
    """
    simple = max(right_of_simple, key=lambda name: (right_of_simple[name].mean(), name != floors.MAJORITY))
    better = [name for name in order if right[name].mean() > right_of_simple[simple].mean()]
    if not better:
        return simple
    chosen = better[0]
    for other in better[1:]:
        between = next(one for one in compared if (one.first, one.second) == (chosen, other))
        if between.verdict == "worse":
            chosen = other
    return chosen
