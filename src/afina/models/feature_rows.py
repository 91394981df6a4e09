"""`FeatureRows`: the rows of features from which a linear model learns, one for each text or one for each word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """The features of N texts, as M rows in the order of the texts.

    Attributes:
        rows: float32 [M, D].
        words: The start and end of each word of a text, object [N] of int32 [W, 2]. None: each text has a row.
    """

    rows: np.ndarray
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows if self.words is None else self.words)

    @property
    def counts(self) -> np.ndarray:
        """The number of rows of each text, int64 [N]."""
        if self.words is None:
            return np.ones(len(self.rows), np.int64)
        return np.array([len(each) for each in self.words], np.int64)

    @property
    def of_texts(self) -> np.ndarray:
        """The features of each text, float32 [N, D]: the mean of its words' features, or 0 for a text without words."""
        if self.words is None:
            return self.rows
        parts = np.split(self.rows, np.cumsum(self.counts)[:-1])
        return np.stack([part.mean(axis=0) if len(part) else np.zeros(part.shape[1], part.dtype) for part in parts])

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """Return the value of its text for each row, [M], given a value for each text, [N]."""
        return np.repeat(values, self.counts)

    def take(self, indices: Sequence[int] | np.ndarray) -> Self:
        """Return the features of the texts with these indices."""
        chosen = np.asarray(indices, dtype=np.int64)
        if self.words is None:
            return type(self)(self.rows[chosen])
        ends = np.cumsum(self.counts)
        places = [np.arange(ends[one] - len(self.words[one]), ends[one]) for one in chosen.tolist()]
        return type(self)(self.rows[np.concatenate([np.zeros(0, np.int64), *places])], self.words[chosen])
