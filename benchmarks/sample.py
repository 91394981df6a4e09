"""The batches that a benchmark measures: a random sample of a schedule, with the data's mean length. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from afina.data.tokenize import Encoded

TOLERANCE = 0.01
"""How far a sample's mean of real tokens may be from the data's; 0.03 is what the results promise."""

DRAWS = 20_000


@dataclass(frozen=True, eq=False)
class Batch:
    """Token sequences and their labels, not laid out yet: each arm pads or packs them its own way."""

    rows: Sequence[np.ndarray]
    labels: np.ndarray

    @classmethod
    def of(cls, encoded: Encoded, labels: np.ndarray, indices: Iterable[int]) -> Batch:
        """The examples at `indices`."""
        chosen = list(indices)
        return cls([encoded[index] for index in chosen], labels[chosen])

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(map(len, self.rows))

    @property
    def cells(self) -> int:
        """Tokens after padding to the longest."""
        return len(self.rows) * max(map(len, self.rows))


def to_json(batches: Sequence[Batch]) -> str:
    """For another process."""
    return json.dumps([[[row.tolist() for row in batch.rows], batch.labels.tolist()] for batch in batches])


def from_json(text: str) -> list[Batch]:
    """The sample from the JSON that `to_json` wrote."""
    return [
        Batch([np.array(row, np.int32) for row in rows], np.array(labels, np.int64))
        for rows, labels in json.loads(text)
    ]


def choose(sizes: np.ndarray, mean: float, count: int, seed: int, first: int | None = None) -> list[int]:
    """`count` random members, drawn anew until their mean size and that of the first `first` of them are `mean`.

    Within TOLERANCE; after DRAWS draws, the draw that came closest. All of them where there are not so many.
    """
    count = min(count, len(sizes))
    generator = np.random.default_rng(seed)
    best, closest = np.arange(count), float("inf")
    for _ in range(DRAWS):
        drawn = generator.choice(len(sizes), count, replace=False)
        off = max(abs(sizes[drawn].mean() / mean - 1), abs(sizes[drawn[:first]].mean() / mean - 1))
        if off < closest:
            best, closest = drawn, off
        if closest <= TOLERANCE:
            break
    return [int(index) for index in best]
