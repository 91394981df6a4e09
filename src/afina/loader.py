"""Which examples make which batch, as Packed. Knows no task, no model and no device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from afina.encode import Encoded
from afina.packed import Packed, pack
from afina.seed import derive

TOKEN_BUDGET = 4096
"""Most tokens of a prediction batch; keeps its memory bounded whatever the texts."""


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of `batch_size` examples in an order drawn anew each epoch from the seed.

    encoded  N sequences;  labels  int64 [N]
    """

    encoded: Encoded
    labels: np.ndarray
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
        return self._order(epoch)[start : start + self.batch_size]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(derive(self.seed, "order", epoch))).permutation(len(self.encoded))

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        """The batches of steps start, ..., stop - 1."""
        return map(self._packed, self._chosen(start, stop))

    def largest(self, stop: int) -> Packed:
        """The batch with the most tokens among steps 0, ..., stop - 1."""
        lengths = self.encoded.lengths
        return self._packed(max(self._chosen(0, stop), key=lambda chosen: int(lengths[chosen].sum())))

    def _chosen(self, start: int, stop: int) -> Iterator[np.ndarray]:
        # As `indices`, with each epoch's order drawn once.
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(start, stop):
            current, position = divmod(step, self.steps_per_epoch)
            if current != epoch:
                epoch, order = current, self._order(current)
            yield order[position * self.batch_size : (position + 1) * self.batch_size]

    def _packed(self, chosen: np.ndarray) -> Packed:
        return pack([self.encoded[index] for index in chosen], self.labels[chosen])


def by_length(encoded: Encoded, budget: int = TOKEN_BUDGET) -> Iterator[tuple[np.ndarray, Packed]]:
    """Every sequence once, shortest first, in batches of at most `budget` tokens (or one longer sequence).

    Yields (indices int64 [B], batch). Sequences of like length share a batch, so that attention's grid has few
    unused cells.
    """
    order = np.argsort(encoded.lengths, kind="stable")
    batch: list[int] = []
    size = 0
    for index in order:
        length = int(encoded.lengths[index])
        if batch and size + length > budget:
            yield np.array(batch), pack([encoded[i] for i in batch])
            batch, size = [], 0
        batch.append(int(index))
        size += length
    if batch:
        yield np.array(batch), pack([encoded[i] for i in batch])
