"""TokenLengths: how long the texts of a task are in tokens of a backbone, on a sample, and how many are truncated.

The module does not know a backbone: it takes a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from afina.data.kinds import WRITTEN
from afina.data.task import Task

SAMPLE = 2000
"""The most texts that are tokenized."""

MOST_CHARACTERS = 8_000_000
"""The most characters that are tokenized, which takes a few seconds."""

PER_TOKEN = 16
"""Characters of a text for each token that the backbone reads; what follows is not tokenized."""


@dataclass(frozen=True)
class TokenLengths:
    """Lengths in tokens of a sample of a task's texts.

    Attributes:
        most: The most tokens of a text that the backbone reads; a longer text is truncated.
        median, longest: A text of more than PER_TOKEN * `most` characters counts with the tokens of that many.
        long_targets: How many of the sampled texts have a target of more than half of `most` tokens. 0 for kinds whose
            targets are not texts.
    """

    backbone: str
    most: int
    sampled: int
    truncated: int
    median: int
    longest: int
    long_targets: int = 0

    @classmethod
    def of(cls, task: Task, tokenizer: Any, most: int, backbone: str) -> TokenLengths:
        """Return the lengths of evenly spaced training texts, at most SAMPLE of them."""
        rows = _rows(task, PER_TOKEN * most)
        texts = [task.train.texts[row][: PER_TOKEN * most] for row in rows]
        pairs = None if task.train.pairs is None else [task.train.pairs[row][: PER_TOKEN * most] for row in rows]
        lengths = _lengths(tokenizer, texts, pairs)
        long_targets = 0
        if task.kind == WRITTEN:
            targets = [max(task.train.labels[row], key=len)[: PER_TOKEN * most] for row in rows]
            long_targets = int((_lengths(tokenizer, targets) > most // 2).sum())
        truncated = int((lengths > most).sum())
        middle, longest = int(np.median(lengths)), int(lengths.max())
        return cls(backbone, most, len(rows), truncated, middle, longest, long_targets)


def _rows(task: Task, longest: int) -> list[int]:
    """Return evenly spaced rows of the training split whose texts have at most MOST_CHARACTERS together."""
    rows = np.unique(np.linspace(0, len(task.train) - 1, SAMPLE).astype(int)).tolist()
    characters = np.cumsum([min(longest, len(task.train.texts[row])) for row in rows])
    count = max(1, int((characters <= MOST_CHARACTERS).sum()))
    return [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, count).astype(int)).tolist()]


def _lengths(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    given = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    return np.array([len(ids) for ids in given["input_ids"]])
