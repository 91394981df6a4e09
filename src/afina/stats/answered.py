"""Targets and answers, and how a metric is written as a mean of one value per example.

If example i gets a little more weight, a metric T changes in proportion to an influence IF[i], whose mean is 0. The
values T + IF[i] have the mean T. To first order, their spread is for T what the spread of right answers is for
accuracy. This is the delta method, or infinitesimal jackknife (Efron & Tibshirani 1993, chapter 21).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

UNDEFINED = float("nan")
"""NaN: a metric that is undefined for these answers, such as the AUROC of texts of one class; `null` in JSON."""


@dataclass(frozen=True)
class Answered:
    """The targets and answers of N examples.

    Attributes:
        targets: Classes: int64 [N]. Numbers: float64 [N]. Labels: bool or int [N, L]. Texts: tuples of one or more
            references, object [N].
        answers: Predictions in the form of targets. Texts: strings, object [N].
        chances: Predicted probabilities. Classes: float [N, C]. Labels: float [N, L]. None for numbers and texts.
        extras: For texts that a language model answered. `nll`: negative log-likelihood of all references in nats,
            float64 [N]. `reference_tokens`: tokens of all references with eos, int64 [N]. `new_tokens`: tokens of the
            answer with eos, int64 [N]. `ended`: whether eos or a stop string ended the answer, bool [N].
    """

    targets: np.ndarray
    answers: np.ndarray
    chances: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return `compute()`, which is computed once for these answers and kept by this name."""
        if name not in self._kept:
            self._kept[name] = compute()
        kept: T = self._kept[name]
        return kept

    @property
    def probabilities(self) -> np.ndarray:
        """`chances` as float64. Raises ValueError if there are none."""
        if self.chances is None:
            raise ValueError("expected the probability of each label, found none")
        return np.asarray(self.chances, dtype=np.float64)

    @property
    def turned(self) -> Answered:
        """The same two classes with class 0 as class 1, for metrics that refer to class 1."""
        chances = None if self.chances is None else self.chances[:, ::-1]
        return Answered(1 - self.targets, 1 - self.answers, chances)

    @property
    def classes(self) -> int:
        if self.chances is not None:
            return int(self.chances.shape[1])
        return max(2, 1 + int(max(self.targets.max(initial=0), self.answers.max(initial=0))))


def of_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return values of mean(above) / mean(below) over the last axis; all UNDEFINED if that is 0 / 0."""
    size = below.mean(axis=-1, keepdims=True)
    score = np.divide(above.mean(axis=-1, keepdims=True), size, out=np.full_like(size, UNDEFINED), where=size > 0)
    values: np.ndarray = score + np.divide(above - score * below, size, out=np.zeros_like(below), where=size > 0)
    return values


def mean_of_defined(rows: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of the defined rows, [K, N] to [N]; UNDEFINED if no row is defined."""
    defined = rows[~np.isnan(rows).any(axis=1)]
    values: np.ndarray = defined.mean(axis=0) if len(defined) else np.full(rows.shape[1], UNDEFINED)
    return values


@dataclass(frozen=True)
class Order:
    """Numbers by rank; equal numbers share a place.

    Attributes:
        place: The rank of each number among the different numbers, int [N].
        counts: The count of numbers in each place.
    """

    place: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> Order:
        """Rank numbers, float [N]."""
        _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return cls(place, counts)

    @property
    def share_below(self) -> np.ndarray:
        """For each number, the share of smaller numbers; equal numbers count half. These are midranks in (0, 1)."""
        middle: np.ndarray = (np.cumsum(self.counts) - self.counts / 2)[self.place] / len(self.place)
        return middle

    def mean_above(self, weights: np.ndarray) -> np.ndarray:
        """Return for each number the mean of `weights` over all, counting only greater numbers, and equal ones half."""
        sums = np.bincount(self.place, weights, len(self.counts))
        above: np.ndarray = (np.cumsum(sums[::-1])[::-1] - sums / 2)[self.place] / len(self.place)
        return above

    def mean_from(self, weights: np.ndarray) -> np.ndarray:
        """Return for each number the mean of `weights` over all, counting numbers that are as great or greater."""
        sums = np.bincount(self.place, weights, len(self.counts))
        found: np.ndarray = np.cumsum(sums[::-1])[::-1][self.place] / len(self.place)
        return found

    def mean_upto(self, weights: np.ndarray) -> np.ndarray:
        """Return for each number the mean of `weights` over all, counting numbers that are as small or smaller."""
        sums = np.bincount(self.place, weights, len(self.counts))
        found: np.ndarray = np.cumsum(sums)[self.place] / len(self.place)
        return found
