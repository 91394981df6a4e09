"""Targets and answers of the evaluated examples, and the writing of any metric as a mean of one value per example.

If example i gets a little more weight, a metric T changes in proportion to an influence IF[i], whose mean is 0. The
per-example values T + IF[i] have the mean T. To first order, the mean of T + IF[i] (metric plus influence of example i)
has the standard error of the metric T. Standard errors from the influences IF[i] are the delta method, or infinitesimal
jackknife (Efron & Tibshirani 1993, chapter 21).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

UNDEFINED = float("nan")
"""NaN, the value of a metric that is undefined, such as the AUROC of texts of one class; `null` in JSON."""

DOCUMENT = "document"
"""A group of examples that depend on each other: a key of `Answered.extras`, and the word in sentences."""

MISSING = -1
"""The class, or the value of each label, that stands for a missing answer, such as a model's refusal."""


@dataclass(frozen=True)
class Answered:
    """The targets and answers (predictions) of N examples.

    Attributes:
        targets: The right answers. Classes: int64 [N]. Numbers: float64 [N]. Labels: bool or int [N, L]. For generated
            texts: tuples of one or more references, object [N].
        answers: The predictions, with the shape and dtype of the targets. Predicted texts: strings, object [N]. Of
            classes and labels, MISSING stands for a missing answer, which is wrong and counts as no label.
        chances: Predicted probabilities. Classes: float [N, C]. Labels: float [N, L]. None for numbers and texts, and
            for answers that are labels without probabilities.
        extras: Arrays for texts that a language model wrote, with these keys. `nll`: the negative log-likelihood of
            all references of an example in nats, float64 [N]. `reference_tokens`: the number of tokens of all
            references with eos, int64 [N]. `new_tokens`: the number of tokens of the answer with eos, int64 [N].
            `ended`: whether eos or a stop string ended the answer, bool [N]. For entities, `words`: the start and end
            of each word, object [N] of int [W, 2]. `document`: the number of the text's document, int [N].
        labels: The number of classes, for answers without probabilities. None: `chances` or the labels that occur
            give the number.
    """

    targets: np.ndarray
    answers: np.ndarray
    chances: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: int | None = None
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        if name not in self._kept:
            self._kept[name] = compute()
        kept: T = self._kept[name]
        return kept

    @cached_property
    def groups(self) -> np.ndarray | None:
        """The group of each example, such as its document, as numbers from 0, int64 [N].

        None: the examples are independent, because `extras` has no `document`. If all examples are of one document,
        they are one observation, which does not show how documents vary.
        """
        if not len(self.extras.get(DOCUMENT, ())):
            return None
        places: np.ndarray = np.unique(self.extras[DOCUMENT], return_inverse=True)[1]
        return places

    @property
    def unit(self) -> str:
        """The word for what intervals and comparisons take as one observation: "example" or "document"."""
        return "example" if self.groups is None else DOCUMENT

    def by_group(self, values: np.ndarray) -> np.ndarray:
        """Return one value for each of G groups, [G], from per-example values, [N]; unchanged without groups.

        The values are the jackknife's pseudo-values of groups, to first order: the value of a group of n examples is
        the metric plus (G - 1) / (N - n) times the sum of the examples' deviations from the metric, all shifted so that
        the mean stays the metric. The standard error of their mean is that of a cluster sample, with G - 1 degrees of
        freedom. The factor 1 / (N - n) in place of 1 / N widens intervals if groups differ in size (Bell & McCaffrey,
        Survey Methodology 28, 2002, 169-181). One group has the metric as its value.
        """
        if self.groups is None:
            return values
        if not self.groups.any():
            return np.array([values.mean()])
        score, sizes = values.mean(), np.bincount(self.groups)
        without = np.bincount(self.groups, values - score) * (len(sizes) - 1) / (len(values) - sizes)
        grouped: np.ndarray = score + without - without.mean()
        return grouped

    @property
    def probabilities(self) -> np.ndarray:
        if self.chances is None:
            raise ValueError("expected the probability of each label, found none")
        return np.asarray(self.chances, dtype=np.float64)

    @property
    def wrong(self) -> np.ndarray:
        """Whether each answer is wrong, bool [N]. An answer with several labels is wrong if any label is."""
        different: np.ndarray = (self.answers != self.targets).reshape(len(self.targets), -1).any(axis=1)
        return different

    @property
    def turned(self) -> Answered:
        """The same examples with classes 0 and 1 exchanged, for metrics (F1, AUROC) that refer to class 1."""
        chances = None if self.chances is None else self.chances[:, ::-1]
        answers = np.where(self.answers == MISSING, MISSING, 1 - self.answers)
        return Answered(1 - self.targets, answers, chances, labels=self.labels)

    @property
    def classes(self) -> int:
        if self.chances is not None:
            return int(self.chances.shape[1])
        if self.labels is not None:
            return self.labels
        return max(2, 1 + int(max(self.targets.max(initial=0), self.answers.max(initial=0))))


def of_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return per-example values whose mean is mean(above) / mean(below) over the last axis; UNDEFINED for 0 / 0."""
    size = below.mean(axis=-1, keepdims=True)
    score = np.divide(above.mean(axis=-1, keepdims=True), size, out=np.full_like(size, UNDEFINED), where=size > 0)
    values: np.ndarray = score + np.divide(above - score * below, size, out=np.zeros_like(below), where=size > 0)
    return values


def mean_of_defined(rows: np.ndarray) -> np.ndarray:
    """Return the mean of the rows of [K, N] that have no NaN, [N]; UNDEFINED if every row has a NaN."""
    defined = rows[~np.isnan(rows).any(axis=1)]
    values: np.ndarray = defined.mean(axis=0) if len(defined) else np.full(rows.shape[1], UNDEFINED)
    return values


@dataclass(frozen=True)
class Order:
    """The ranks of N numbers, int [N], and the count of numbers of each rank; equal numbers have the same rank."""

    place: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> Order:
        _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return cls(place, counts)

    @property
    def share_below(self) -> np.ndarray:
        """For each number, the share of smaller numbers, with equal numbers counted half: midranks in (0, 1)."""
        middle: np.ndarray = (np.cumsum(self.counts) - self.counts / 2)[self.place] / len(self.place)
        return middle

    def mean_above(self, weights: np.ndarray) -> np.ndarray:
        """Return for each number (sum of `weights` of greater numbers + half the sum of equal numbers' weights) / N."""
        sums = np.bincount(self.place, weights, len(self.counts))
        above: np.ndarray = (np.cumsum(sums[::-1])[::-1] - sums / 2)[self.place] / len(self.place)
        return above

    def mean_from(self, weights: np.ndarray) -> np.ndarray:
        """Return for each number the sum of the `weights` of all numbers that are equal or greater, divided by N."""
        sums = np.bincount(self.place, weights, len(self.counts))
        found: np.ndarray = np.cumsum(sums[::-1])[::-1][self.place] / len(self.place)
        return found

    def mean_upto(self, weights: np.ndarray) -> np.ndarray:
        """Return for each number the sum of the `weights` of all numbers that are equal or smaller, divided by N."""
        sums = np.bincount(self.place, weights, len(self.counts))
        found: np.ndarray = np.cumsum(sums)[self.place] / len(self.place)
        return found
