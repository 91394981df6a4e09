"""Which examples make which batch, as Packed. Knows no task, no model and no device."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from afina.data.batch import Packed, pack
from afina.data.tokenize import Encoded
from afina.digest import derive_seed

TOKEN_BUDGET = 2048
"""Most tokens of a prediction batch; keeps its memory bounded whatever the texts, and small enough to be kept."""


@dataclass(frozen=True)
class Limits:
    """The most of a training batch that is computed at once.

    examples  sequences
    tokens    all their tokens; a longer sequence is computed alone
    before    virtual tokens that stand before each sequence, which count as its own
    """

    examples: int = sys.maxsize
    tokens: int = sys.maxsize
    before: int = 0

    def cut(self, lengths: np.ndarray) -> list[np.ndarray]:
        """The parts of a batch, as indices into `lengths` (int64 [B], its sequences').

        First by examples, in the batch's order; what still has too many tokens is then cut by tokens, shortest first,
        so that attention's grid has few unused cells. What need not be cut keeps its order.
        """
        parts = []
        lengths = lengths + self.before
        for start in range(0, len(lengths), self.examples):
            chosen = np.arange(start, min(start + self.examples, len(lengths)))
            if lengths[chosen].sum() > self.tokens:
                chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
                parts += [chosen[first:last] for first, last in runs(lengths[chosen], self.tokens)]
            else:
                parts.append(chosen)
        return parts

    def parts(self, packed: Packed) -> list[Packed]:
        """The batch cut into what is computed at once; the batch itself where that is all of it."""
        cut = self.cut(np.diff(packed.bounds.numpy()).astype(np.int64))
        if len(cut) == 1:
            return [packed]
        return [packed.take(chosen) for chosen in cut]


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of `batch_size` examples in an order drawn anew each epoch from the seed.

    encoded  N sequences
    labels   what is to be learnt, as `Packed.targets`: [N, ...] of each sequence, or as long as these of each token
    """

    encoded: Encoded
    labels: np.ndarray | Encoded
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return math.ceil(len(self.encoded) / self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """The examples of the step-th batch since the start of training, counted over epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self.order(epoch)[start : start + self.batch_size]

    def order(self, epoch: int) -> np.ndarray:
        """Every example once, as an epoch takes them: int64 [N]."""
        return np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch))).permutation(
            len(self.encoded)
        )

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        """The batches of steps start, ..., stop - 1."""
        for chosen in self.chosen(start, stop):
            yield self._packed(chosen)

    def largest(self, stop: int, limits: Limits = Limits()) -> Packed:
        """Of all that steps 0, ..., stop - 1 compute at once, what has the most tokens."""
        lengths = self.encoded.lengths
        largest, most = np.zeros(0, np.int64), 0
        for chosen in self.chosen(0, stop):
            for part in limits.cut(lengths[chosen]):
                size = int(lengths[chosen[part]].sum()) + limits.before * len(part)
                if size > most:
                    largest, most = chosen[part], size
        return self._packed(largest)

    def tokens(self, stop: int) -> int:
        """Of all that steps 0, ..., stop - 1 train on."""
        lengths = self.encoded.lengths
        return sum(int(lengths[chosen].sum()) for chosen in self.chosen(0, stop))

    def most_parts(self, stop: int, limits: Limits) -> int:
        """The most parts that a batch of steps 0, ..., stop - 1 is cut into."""
        lengths = self.encoded.lengths
        return max(len(limits.cut(lengths[chosen])) for chosen in self.chosen(0, stop))

    def chosen(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The examples of the batches of steps start, ..., stop - 1."""
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(start, stop):
            current, position = divmod(step, self.steps_per_epoch)
            if current != epoch:
                epoch, order = current, self.order(current)
            yield order[position * self.batch_size : (position + 1) * self.batch_size]

    def _packed(self, chosen: np.ndarray) -> Packed:
        sequences = [self.encoded[index] for index in chosen]
        if isinstance(self.labels, Encoded):
            return pack(sequences, [self.labels[index] for index in chosen], per_token=True)
        return pack(sequences, self.labels[chosen])


def by_length(
    encoded: Encoded, budget: int = TOKEN_BUDGET, *, before: int = 0, among: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Packed]]:
    """Every sequence once, shortest first, in batches of at most `budget` tokens (or one longer sequence).

    before  virtual tokens that stand before each sequence, which count as its own
    among   only these, int64 [M]

    Yields (indices int64 [B], batch). Sequences of like length share a batch, so that attention's grid has few
    unused cells.
    """
    lengths = encoded.lengths
    order = np.argsort(lengths, kind="stable") if among is None else among[np.argsort(lengths[among], kind="stable")]
    for first, last in runs(lengths[order] + before, budget):
        chosen = order[first:last]
        yield chosen, pack([encoded[index] for index in chosen])


def runs(lengths: np.ndarray, budget: int) -> Iterator[tuple[int, int]]:
    """Consecutive (first, last) whose lengths add up to at most `budget`, as many in each as fit, at least one."""
    first, size = 0, 0
    for last, length in enumerate(lengths.tolist()):
        if last > first and size + length > budget:
            yield first, last
            first, size = last, 0
        size += length
    if len(lengths):
        yield first, len(lengths)
