"""What was right and what was answered, and how a figure made of means is taken apart into one value per example.

A figure T of a sample changes, where example i gets a little more weight, in proportion to an influence IF[i], whose
mean is 0. The values T + IF[i] have the mean T, and to first order (the delta method, the infinitesimal jackknife;
Efron & Tibshirani 1993, chapter 21) their spread is to T what the spread of right answers is to accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNDEFINED = float("nan")
"""A figure that these answers do not have, such as the AUROC of texts of one class; `null` in JSON."""


@dataclass(frozen=True)
class Answered:
    """What was right and what was answered, of N examples.

    targets  classes: int64 [N]; number: float64 [N]; labels: bool or int [N, L]
    answers  in the form of targets
    chances  classes: float [N, C]; labels: float [N, L]; None for numbers
    """

    targets: np.ndarray
    answers: np.ndarray
    chances: np.ndarray | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """`chances` as float64. Raises ValueError where there are none."""
        if self.chances is None:
            raise ValueError("expected the probability of each label, found none")
        return np.asarray(self.chances, dtype=np.float64)

    @property
    def turned(self) -> Answered:
        """The same of two classes with class 0 as class 1, for figures that are about class 1."""
        chances = None if self.chances is None else self.chances[:, ::-1]
        return Answered(1 - self.targets, 1 - self.answers, chances)

    @property
    def classes(self) -> int:
        """How many there are to choose from."""
        if self.chances is not None:
            return int(self.chances.shape[1])
        return max(2, 1 + int(max(self.targets.max(initial=0), self.answers.max(initial=0))))


def of_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Values, over the last axis, of mean(above) / mean(below), all of them UNDEFINED where that is 0 / 0."""
    size = below.mean(axis=-1, keepdims=True)
    score = np.divide(above.mean(axis=-1, keepdims=True), size, out=np.full_like(size, UNDEFINED), where=size > 0)
    values: np.ndarray = score + np.divide(above - score * below, size, out=np.zeros_like(below), where=size > 0)
    return values


def mean_of_defined(rows: np.ndarray) -> np.ndarray:
    """Mean over the first axis of the rows that are defined; UNDEFINED where none is. [K, N] to [N]."""
    defined = rows[~np.isnan(rows).any(axis=1)]
    values: np.ndarray = defined.mean(axis=0) if len(defined) else np.full(rows.shape[1], UNDEFINED)
    return values


@dataclass(frozen=True)
class Order:
    """Numbers in order, equal ones in one place.

    place   of each number, int [N];  counts  numbers in each place
    """

    place: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> Order:
        """Of float [N]."""
        _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return cls(place, counts)

    @property
    def share_below(self) -> np.ndarray:
        """For each number the share that is less, equal ones by half: midranks in (0, 1)."""
        middle: np.ndarray = (np.cumsum(self.counts) - self.counts / 2)[self.place] / len(self.place)
        return middle

    def mean_above(self, weights: np.ndarray) -> np.ndarray:
        """For each number the mean over all of `weights` where theirs is greater, equal ones by half."""
        sums = np.bincount(self.place, weights, len(self.counts))
        above: np.ndarray = (sums[::-1].cumsum()[::-1] - sums / 2)[self.place] / len(self.place)
        return above

    def mean_from(self, weights: np.ndarray) -> np.ndarray:
        """For each number the mean over all of `weights` where theirs is as great or greater."""
        sums = np.bincount(self.place, weights, len(self.counts))
        found: np.ndarray = sums[::-1].cumsum()[::-1][self.place] / len(self.place)
        return found

    def mean_upto(self, weights: np.ndarray) -> np.ndarray:
        """For each number the mean over all of `weights` where theirs is as great or less."""
        sums = np.bincount(self.place, weights, len(self.counts))
        found: np.ndarray = sums.cumsum()[self.place] / len(self.place)
        return found
