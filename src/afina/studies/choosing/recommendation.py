"""`Recommendation`: the recommended method and the comparisons behind it, the content of `recommendation.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf, isnan
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from afina.data.kinds import CLASSES, Kind
from afina.data.reading_options import ReadingOptions
from afina.schema import Count, Figure, Frozen, Sealed
from afina.stats.comparison import Comparison
from afina.studies.choosing import floors
from afina.studies.choosing.recorded_curves import FEW_LABELS
from afina.studies.runs.record import Below, EndpointUse, Prompting
from afina.training.settings import Products, Training

NAME = "choose"
"""The study name in the records of a recommendation's runs, which is the name of the command `afina choose`."""

EPOCHS = 3
"""The largest number of epochs of a training of `afina choose`."""

DISTILLED = "distilled"
"""The beginning of the name of a student's run, before the name of its backbone."""

BATCH = Training().batch_size

SHOTS = "-shots"
"""The end of the name of a contender with examples in its prompt, after the number of examples."""

ENOUGH = 20
"""A training with fewer than 20 steps does not show how good its method is, unless it has three epochs.

In recorded trainings, the accuracy after 4 or 10 steps was up to 26 points below that of a training of full length.
"""


FEW_STEPS = 40
"""The steps of a training on fewer than FEW_LABELS texts, of which three epochs would be only 3 to 15 steps.

Of 20, 40 and 80 steps, 40 were the most accurate with 64 texts (docs/LOG.md).
"""


def whole_steps(texts: int, epoch: int) -> int:
    """Return the steps of a training of full length on `texts` training texts, of which an epoch has `epoch` steps."""
    return max(EPOCHS * epoch, FEW_STEPS if texts < FEW_LABELS else 0)


class Contender(Frozen):
    """A baseline or a method that a recommendation compares, and its metrics and costs.

    The name of a method also has the learning rate if it is not the default, and the backbone if several are compared.
    If the selected candidate was trained again on all texts, `validation`, `validation_examples`, `weighed` and `ended`
    are of the first training.

    Attributes:
        method: None for a baseline and for the untrained model.
        backbone: None if only one is compared, and for a baseline.
        setting: The hyperparameter that a baseline chose by cross-validation, in words.
        validation: The headline metric on the validation set.
        weighed: `validation`, shrunk towards the accuracy that recorded trainings on other tasks suggest, for ranking.
        ended: The seconds from the start of `afina choose` to the end of the training.
        metrics: All metrics on the held-out texts, the usual headline metric first; empty without an evaluation.
        examples: The number of training texts.
        memory: The peak memory of the training process, in bytes.
        key: The key of the run's record; None for a baseline.
        adapter: Relative to the output directory; None if no adapter was saved.
    """

    name: str
    method: str | None = None
    backbone: str | None = None
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
    endpoint: EndpointUse | None = None

    @property
    def trained(self) -> bool:
        """Whether the contender is an adapted model that was trained and evaluated on the held-out texts."""
        return self.adapter is not None and self.steps is not None

    @model_validator(mode="after")
    def _has_its_figures(self) -> Self:
        figures = (self.examples, self.seconds, self.trainable, self.total)
        if self.trained and (None in figures or not self.total or not self.metrics):
            raise ValueError(f"{self.name} was trained and evaluated, but a figure is missing")
        return self


class Dropped(Frozen):
    """The reason why a method, or one of its learning rates, was not trained.

    Attributes:
        why: "memory": `needed` and `available`, in bytes. "start": no time was left to measure the time of a
            prediction. "train": no time was left to train and evaluate. "overrun": stopped at the time limit. "error":
            the training failed with `message`. "latency": a prediction takes `milliseconds`, which is more than
            allowed. "words": a language model cannot predict the labels, which are not words. "ended": the user ended
            `afina choose` before.
        smaller: The bytes that the method needs in int8, if no method fits in memory and this one would in int8.
    """

    why: Literal["memory", "start", "train", "overrun", "error", "latency", "words", "ended"]
    needed: Count | None = None
    available: Count | None = None
    message: str = ""
    milliseconds: float | None = None
    smaller: Count | None = None

    @model_validator(mode="after")
    def _says_what_lacked(self) -> Self:
        if self.why == "memory" and None in (self.needed, self.available):
            raise ValueError("why is 'memory', but needed or available is missing")
        if self.why == "latency" and self.milliseconds is None:
            raise ValueError("why is 'latency', but milliseconds is missing")
        return self


HALF = "half of the texts"

READ = 0.75
"""A training on this share of the training texts counts as a training on all, because the rest may be the validation
set."""


class Fewer(Frozen):
    """The result of training the selected candidate on half of the texts, and its comparison with that on all."""

    name: str
    examples: Count
    metrics: dict[str, Figure]
    comparison: Comparison


class Student(Frozen):
    """A smaller and faster model that learned from the recommended model: the second answer of a recommendation.

    Attributes:
        comparison: That of the student with its teacher on the held-out texts. None: the metric is undefined.
        milliseconds: The median time of a prediction for a single text with the student, before training.
        of_teacher: The same with the recommended model.
        examples: The number of labelled training texts; `unlabelled` is that of texts without labels.
        available: The number of texts without labels that could be used. None: an earlier version did not say it.
        answering: The seconds in which the teacher answered the texts.
    """

    name: str
    backbone: str
    method: str
    teacher: str
    metrics: dict[str, Figure]
    comparison: Comparison | None
    milliseconds: float
    of_teacher: float
    examples: Count
    unlabelled: Count
    available: Count | None = None
    steps: Count
    seconds: float
    answering: float
    key: str
    adapter: Below


class DoubtfulCount(Frozen):
    """The number of labels that a linear model on TF-IDF finds doubtful, as `afina.studies.labelling.doubts` says.

    `doubtful` includes many hard texts with right labels. `wrong` is the estimated number of labels that are as wrong
    as labels that were flipped on purpose, and `at_most` the upper end of its one-sided 95 % confidence interval.
    """

    method: str
    texts: Count
    doubtful: Count
    wrong: float
    at_most: float


class Recommendation(Sealed):
    """The recommended method, and the contenders (baselines and methods) with which it was compared.

    Attributes:
        backbone: That of the recommended method; the first one if a baseline is recommended.
        backbones: Those that were compared; empty if there was only one.
        unasked: The labels of the task if training started from a random head because they are not words; else empty.
        adapter: The recommended adapter, relative to the output directory; None if a baseline is recommended that
            cannot be saved, or a model behind an API.
        instead_of: The name of the contender that would be recommended without a recommended model behind an API.
        contenders: Baselines first, then the zero-shot model, then trained candidates in the order of training.
        comparisons: One for every two of the baselines, the zero-shot model and each method's best candidate. A
            training that was too short to judge its method is compared only if it is recommended.
        dropped: By the method's key or the candidate's name.
        fewer: None if there was no time for this training.
        student: None: no file of texts without labels was given, or `no_student` says why, as a clause.
        labels: None: the doubtful labels were not counted.
        early: Whether methods were still to be tried, or the selected one to be trained again: it is an answer so far,
            or the user has ended `afina choose`.
        examples: The number of held-out texts on which contenders were evaluated, of `held_out` (None: unknown).
        stages: The seconds of each stage of `afina choose`, such as "training".
        at_once: The largest number of trainings at the same time.
        latency: The largest allowed milliseconds of a prediction for a single text. None: no limit.
        latencies: The median milliseconds, by the name of a backbone or of a method on a backbone.
    """

    name: str = NAME
    task: str
    data: ReadingOptions
    backbone: str
    backbones: tuple[str, ...] = ()
    kind: Kind = CLASSES
    unasked: tuple[str, ...] = ()
    metric: str = "accuracy"
    recommended: str
    adapter: Below | None
    instead_of: str | None = None
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    dropped: dict[str, Dropped]
    fewer: Fewer | None = None
    student: Student | None = None
    no_student: str = ""
    labels: DoubtfulCount | None = None
    early: bool = False
    train_examples: Count
    examples: Count
    held_out: Count | None = None
    minutes: float
    seconds: float
    stages: dict[str, float] = Field(default_factory=dict)
    at_once: int = Field(default=1, ge=1)
    products: Products = "float"
    latency: float | None = None
    latencies: dict[str, float] = Field(default={})
    command: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_what_it_recommends(self) -> Self:
        if not any(one.name == self.recommended and self.metric in one.metrics for one in self.contenders):
            raise ValueError(f"{self.recommended} is recommended, but was not evaluated")
        return self

    def contender(self, name: str) -> Contender:
        return next(one for one in self.contenders if one.name == name)

    @property
    def waiting(self) -> list[str]:
        """The contenders that were not tried because the user has ended the choice, or that are tried next."""
        return [name for name, one in self.dropped.items() if one.why == "ended"]

    def is_short(self, one: Contender) -> bool:
        whole = whole_steps(self.train_examples, ceil(READ * self.train_examples / BATCH))
        return one.trained and one.rate is not None and (one.steps or 0) < min(ENOUGH, whole)


class Prior(NamedTuple):
    """The expected accuracies of contenders from recorded trainings, minus a number that is the same for all.

    `counts`: the number of held-out texts that has the same weight as an expected accuracy.
    """

    expected: Mapping[str, float]
    counts: float

    def weighed(self, name: str, accuracy: float, examples: int) -> float:
        """Return the weighted mean of a contender's measured and expected accuracy, which only ranks contenders."""
        return (examples * accuracy + self.counts * self.expected[name]) / (examples + self.counts)


def decide(
    order: Sequence[str],
    scores: Mapping[str, np.ndarray],
    scores_of_simple: Mapping[str, np.ndarray],
    compared: Sequence[Comparison],
    *,
    lower: bool = False,
    prior: Prior | None = None,
) -> str:
    """Return the name of the recommended contender.

    Only trained candidates are considered whose metric on the held-out texts is better than that of every baseline and
    of the zero-shot model. The candidate that is best on the validation set is recommended, unless another candidate is
    significantly better on the held-out texts. If no candidate is better than all baselines and the zero-shot model,
    the best of these is recommended.

    Args:
        order: The names of the trained candidates, the best on the validation set first.
        scores: The per-example values of the metric on the held-out texts, [1, N], by candidate.
        scores_of_simple: The per-example values, [1, N], of the baselines and the zero-shot model, by name.
        compared: The paired comparisons of all contenders.
        lower: Whether lower values of the metric are better.
        prior: What recorded trainings tell about the contenders: with few held-out texts, more than the texts do. None:
            the held-out texts alone decide.
    """

    def value(name: str, values: np.ndarray) -> float:
        measured = float(values.mean()) * (-1 if lower else 1)
        gain = measured if prior is None else prior.weighed(name, measured, values.size)
        return -inf if isnan(gain) else gain  # so that gains can be sorted

    of_simple = {name: value(name, one) for name, one in scores_of_simple.items()}
    simple = max(of_simple, key=lambda name: (of_simple[name], name not in floors.CONSTANTS))
    better = [name for name in order if value(name, scores[name]) > of_simple[simple]]
    if not better:
        return simple
    chosen = better[0]
    for other in better[1:]:
        between = next(one for one in compared if (one.first, one.second) == (chosen, other))
        if between.verdict == "worse":
            chosen = other
    return chosen
