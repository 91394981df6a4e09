"""`Recommendation`: the recommended method and the comparisons behind it, the content of `recommendation.json`.

The module `afina.report.recommendation` puts a recommendation into sentences. This module can be imported without
torch.
"""

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

    Attributes:
        name: The name of the baseline, or the method's key. The name of a method also has the learning rate if this is
            not the default, and the backbone if several are compared.
        method: The method's key; None for a baseline and for the untrained model.
        backbone: The address of the backbone if several are compared; None for a baseline without a language model.
        setting: The hyperparameter that a baseline chose by cross-validation, in words.
        rate: The learning rate.
        validation: The headline metric on the validation set. If the selected candidate was trained again on all texts,
            `validation`, `validation_examples`, `weighed` and `ended` are of the first training, and all other figures
            are of the second training.
        validation_examples: The number of texts in the validation set.
        weighed: The metric `validation`, shrunk towards the accuracy that recorded trainings on other tasks suggest.
            `weighed` ranks candidates and is not an accuracy.
        ended: The time at which the training ended, in seconds from the start of `afina choose`.
        metrics: All metrics on the held-out texts, the usual headline metric first; empty without an evaluation.
        examples: The number of training texts.
        seconds: The training time in seconds.
        memory: The peak memory of the training process, in bytes.
        ask: The prompt template and label words of the run.
        key: The key of the run's record; None for a baseline.
        adapter: The path of the adapter, relative to the output directory; None if no adapter was saved.
        endpoint: Facts about the answers of a model behind an API; None for every other contender.
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
        why: "memory": the method does not fit in memory (`needed` and `available`, in bytes). "start": no time was left
            to measure the time of a prediction. "train": no time was left to train and evaluate the method. "overrun":
            the run was stopped at the time limit. "error": the training failed with `message`. "latency": a prediction
            takes `milliseconds`, which is more than allowed. "words": a language model cannot predict the labels,
            because the labels are not words.
        smaller: The bytes that the method needs with frozen weights in int8; None unless no method fits in memory and
            this method would fit in int8.
    """

    why: Literal["memory", "start", "train", "overrun", "error", "latency", "words"]
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
    """The result of training the selected candidate on half of the training texts.

    Attributes:
        name: The name of the selected candidate.
        examples: The number of training texts, half of all training texts.
        metrics: All metrics on the held-out texts.
        comparison: The paired comparison of the training on all texts with the training on half of the texts.
    """

    name: str
    examples: Count
    metrics: dict[str, Figure]
    comparison: Comparison


class Student(Frozen):
    """A smaller and faster model that learned from the recommended model: the second answer of a recommendation.

    Attributes:
        name: The name of the student's run.
        teacher: The name of the recommended contender, from which the student learned.
        metrics: All metrics on the held-out texts.
        comparison: The paired comparison of the student with its teacher on the held-out texts. None: the metric is
            undefined.
        milliseconds: The median milliseconds of a prediction for a single text with the student, before training.
        of_teacher: The median milliseconds of a prediction for a single text with the recommended model.
        examples: The number of labelled training texts.
        unlabelled: The number of texts without labels from which the student learned.
        available: The number of texts without labels in the file, without those that were left out. None: a
            recommendation of an earlier version of afina, which does not say it.
        seconds: The training time in seconds.
        answering: The seconds in which the teacher answered the texts.
        adapter: The path of the adapter, relative to the output directory.
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

    Attributes:
        method: The name of the baseline that predicted each text after learning from others.
        texts: The number of labels that were looked at, of training and evaluation texts.
        doubtful: The number of doubtful labels, among which are many hard texts with right labels.
        wrong: The estimated number of labels that are as wrong as labels that were flipped on purpose.
        at_most: The upper end of a one-sided 95 % confidence interval of `wrong`.
    """

    method: str
    texts: Count
    doubtful: Count
    wrong: float
    at_most: float


class Recommendation(Sealed):
    """The recommended method, and the contenders (baselines and methods) with which it was compared.

    Attributes:
        data: The options with which the task was read.
        backbone: The backbone of the recommended method; the first backbone if a baseline is recommended.
        backbones: The backbones that were compared; empty if there was only one.
        kind: The kind of the task.
        unasked: The labels of the task if training started from a random head because they are not words; else empty.
        metric: The metric by which methods were chosen.
        recommended: The name of the recommended contender, such as a method's key or the name of a baseline.
        adapter: The path of the recommended adapter, relative to the output directory; None if a baseline is
            recommended that cannot be saved as an adapter, or a model behind an API.
        instead_of: If a model behind an API is recommended, the name of the contender that would be recommended without
            it; else None.
        contenders: Baselines first, then the zero-shot model, then trained candidates in the order of training.
        comparisons: A paired comparison for every two of the baselines, the zero-shot model and each method's best
            candidate. A training that was too short to judge its method is compared only if it is recommended.
        dropped: The reason why a method or candidate was not trained, by the method's key or the candidate's name.
        fewer: The result of training on half of the texts; None if there was no time for this training.
        student: A smaller model that learned from the recommended model. None: no file of texts without labels was
            given, or `no_student` says why there is no student.
        no_student: The reason why there is no student, as a clause; empty if there is one, or none was asked for.
        labels: The number of doubtful labels. None: they were not counted (`label_doubts.count_doubtful`).
        train_examples: The number of training texts in the task.
        examples: The number of held-out texts on which contenders were evaluated.
        held_out: The number of held-out texts of the task; more than `examples` if there was no time to evaluate
            contenders on all of them. None: a recommendation of an earlier version of afina, which does not say it.
        minutes: The minutes that the user gave.
        seconds: The seconds that the recommendation took.
        stages: The seconds of each stage of `afina choose`, such as "training".
        at_once: The largest number of trainings at the same time.
        products: The type of numbers in which trainings computed products with frozen weights, "float" or "int8".
        latency: The largest allowed milliseconds of a prediction for a single text. None: no limit.
        latencies: The median milliseconds of a prediction for a single text, by the name of a backbone or of a method
            on a backbone. Empty if `latency` is None.
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

    def is_short(self, one: Contender) -> bool:
        """Return whether a contender's training was too short to show how good its method is."""
        whole = whole_steps(self.train_examples, ceil(READ * self.train_examples / BATCH))
        return one.trained and one.rate is not None and (one.steps or 0) < min(ENOUGH, whole)


class Prior(NamedTuple):
    """The expected accuracies of contenders from recorded trainings.

    Attributes:
        expected: The expected accuracy by contender, minus a number that is the same for all.
        counts: The number of held-out texts that has the same weight as an expected accuracy.
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
        return _or_least(measured if prior is None else prior.weighed(name, measured, values.size))

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


def _or_least(gain: float) -> float:
    """Return `gain`, or -inf if `gain` is NaN, so that gains can be sorted."""
    return -inf if isnan(gain) else gain
