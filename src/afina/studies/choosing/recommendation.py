"""Recommendation: a fact. Which way of adapting, and the evidence; `recommendation.json` of an output directory.

Knows which it is; not how it is put in words (`afina.report.recommendation`). Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from afina.data.kinds import CLASSES, Kind
from afina.schema import Count, Figure, Frozen, Sealed, Sparing
from afina.stats.comparison import Comparison
from afina.studies.choosing import floors
from afina.studies.runs.record import Below, Prompting
from afina.studies.runs.spec import Data

NAME = "choose"
"""What the records of its runs have as their study's name: the command's."""


class Contender(Frozen):
    """What was tried, and how it did on the held-out texts, where it came so far.

    name      a floor's, or a method's key, with the learning rate where that is not the method's own
    method    its key; None of a floor and of the model as it is
    setting   what a floor chose for itself
    rate      the learning rate
    validation, validation_examples  its headline metric on texts that were set aside to select by, and how many these
              are; whatever is selected may be trained once more, on all texts: then what follows is of that
    weighed   that, weighed with what recorded trainings on other tasks lead to expect: who is ahead, not how good it is
    ended     when its training ended, seconds from the start
    metrics   on the held-out texts, the kind's usual headline first; empty where it did not come so far
    examples  training texts that it learnt from
    seconds   its training;  memory  bytes, the peak of its process
    ask       how its texts were asked about
    key       of its record, where it is of a run;  adapter  relative to the output directory
    """

    name: str
    method: str | None = None
    setting: str = ""
    rate: float | None = None
    validation: float | None = None
    validation_examples: Count | None = None
    weighed: float | None = None
    ended: float | None = None
    metrics: dict[str, Figure] = Field(default_factory=dict)
    examples: Count | None = None
    steps: Count | None = None
    seconds: float | None = None
    memory: Count | None = None
    trainable: Count | None = None
    total: Count | None = None
    ask: Prompting = Prompting()
    key: str | None = None
    adapter: Below | None = None

    @property
    def trained(self) -> bool:
        """Whether it is an adapted model that came as far as the held-out texts."""
        return self.adapter is not None and self.steps is not None

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_files(cls, given: Any) -> Any:
        """They have accuracy and F1 by themselves, and raced in rounds."""
        if not isinstance(given, dict):
            return given
        given = {key: value for key, value in given.items() if key not in ("rounds", "finished")}
        if not {"accuracy", "f1"} & given.keys():
            return given
        there = {name: given[name] for name in ("accuracy", "f1") if given.get(name) is not None}
        return {key: value for key, value in given.items() if key not in ("accuracy", "f1")} | {"metrics": there}

    @model_validator(mode="after")
    def _has_its_figures(self) -> Self:
        figures = (self.examples, self.seconds, self.trainable, self.total)
        if self.trained and (None in figures or not self.total or not self.metrics):
            raise ValueError(f"{self.name} was trained and evaluated, and lacks a figure of it")
        return self


class Dropped(Frozen):
    """Why a method, or one of its learning rates, was not trained.

    why      memory: it does not fit (`needed`, `available`: bytes). start: no time was left to measure its pace.
             train: none was left to train and evaluate it. overrun: its training took longer than there was time for.
             error: it failed, with `message`
    """

    why: Literal["memory", "start", "train", "overrun", "error"]
    needed: Count | None = None
    available: Count | None = None
    message: str = ""

    @model_validator(mode="after")
    def _says_what_lacked(self) -> Self:
        if self.why == "memory" and None in (self.needed, self.available):
            raise ValueError("left out for want of memory, without saying how much")
        return self


HALF = "half of the texts"


class Fewer(Frozen):
    """What fewer labels would have come to: `name` trained the same way on `examples` texts, half of them.

    metrics     on the held-out texts;  comparison  of all texts, and half
    """

    name: str
    examples: Count
    metrics: dict[str, Figure]
    comparison: Comparison


class Recommendation(Sparing, Sealed):
    """The answer and its evidence.

    kind, metric    of the task, and what the methods were chosen by
    recommended     a method's key, or the name of a floor
    adapter         of what is recommended, relative to the output directory; None for the majority class
    contenders      floors first, then the model that nothing trained, then what was trained, in its order
    comparisons     of every pair of floors, of the model as it is, and of each method's best, by their names
    dropped         by the method's key, or the name of what would have been trained
    fewer           what half of the texts come to; None where there was no time to see
    train_examples, examples  training texts there are, held-out texts evaluated
    data            how the task was read for that
    at_once         the most trainings that went on at once
    minutes, seconds  given, and taken;  stages  the seconds by what they went to; empty in files of earlier versions
    """

    unwritten: ClassVar[frozenset[str]] = frozenset({"at_once"})

    name: str = NAME
    task: str
    data: Data
    backbone: str
    kind: Kind = CLASSES
    metric: str = "accuracy"
    recommended: str
    adapter: Below | None
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    dropped: dict[str, Dropped]
    fewer: Fewer | None = None
    train_examples: Count
    examples: Count
    minutes: float
    seconds: float
    stages: dict[str, float] = Field(default_factory=dict)
    at_once: int = Field(default=1, ge=1)
    command: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_what_it_recommends(self) -> Self:
        if not any(one.name == self.recommended and self.metric in one.metrics for one in self.contenders):
            raise ValueError(f"{self.recommended} is recommended, and was not evaluated")
        return self

    def contender(self, name: str) -> Contender:
        """The one of that name."""
        return next(one for one in self.contenders if one.name == name)


def decide(
    order: Sequence[str],
    scores: Mapping[str, np.ndarray],
    scores_of_simple: Mapping[str, np.ndarray],
    compared: Sequence[Comparison],
    *,
    lower: bool = False,
) -> str:
    """Of what was trained and beats all that trains nothing, the best by what was set aside, or another that is surely
    better.

    Where none does, the best of what trains nothing.

    order             what was trained, the best by what was set aside first;  scores  what each answer adds to the
                      metric, [1, N]
    scores_of_simple  the same of the floors, and of the model as it is
    lower             whether less of the metric is better
    """
    sign = -1 if lower else 1
    of_simple = {name: _or_least(sign * one.mean()) for name, one in scores_of_simple.items()}
    simple = max(of_simple, key=lambda name: (of_simple[name], name not in floors.CONSTANTS))
    better = [name for name in order if _or_least(sign * scores[name].mean()) > of_simple[simple]]
    if not better:
        return simple
    chosen = better[0]
    for other in better[1:]:
        between = next(one for one in compared if (one.first, one.second) == (chosen, other))
        if between.verdict == "worse":
            chosen = other
    return chosen


def _or_least(gain: float) -> float:
    """A gain that can be ranked: what is undefined is won by nothing."""
    return -inf if isnan(gain) else gain
