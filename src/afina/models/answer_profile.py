"""`AnswerProfile`: many texts and an adapter's answers to them, as counts of scores, labels and tokens, without a text.

The score of an answer is the confidence of classes and labels, or the predicted number (`counted_kinds`). Two
profiles with the same bins can be added and compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from afina.schema import Count, Frozen
from afina.stats import drift
from afina.stats.drift import Drift

CONFIDENCE_EDGES = (
    *(step / 20 for step in range(1, 19)),
    *(0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995),
)
"""The upper ends of the bins of a probability, without the last one, which is 1. Most answers of a trained model are
near 1, so the bins are narrow there."""

MOST_BINS = 64

TOKEN_GROUPS = 256
"""The number of groups of tokens. The group of a token is its id modulo TOKEN_GROUPS, so that counts by group show that
the words of the texts have changed, but not which words the texts have."""


def token_groups(tokens: np.ndarray) -> np.ndarray:
    """Return the different groups of a text's token ids, int [G]."""
    groups: np.ndarray = np.unique(tokens % TOKEN_GROUPS)
    return groups


class AnswerProfile(Frozen):
    """Counts over many texts.

    Attributes:
        edges: The upper ends of all bins of scores except the last bin, which has no end, ascending. A score that
            equals an edge is in the bin below the edge.
        scores: The number of texts in each bin.
        labels: The number of texts with each label, by the label's name; empty for numbers.
        tokens: The number of texts with a token of each group (`token_groups`); empty if no text was tokenized.
    """

    edges: tuple[float, ...] = Field(min_length=1, max_length=MOST_BINS - 1)
    scores: tuple[Count, ...]
    labels: dict[str, Count] = Field(default_factory=dict)
    tokens: tuple[Count, ...] = Field(default=(), max_length=TOKEN_GROUPS)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.scores) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges divide scores into {len(self.edges) + 1} bins")
        if not all(low < high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("expected finite edges in ascending order")
        if len(self.tokens) not in (0, TOKEN_GROUPS):
            raise ValueError(f"expected {TOKEN_GROUPS} groups of tokens")
        if any(count > self.texts for count in (*self.labels.values(), *self.tokens)):
            raise ValueError("a label or a group of tokens has more texts than there are")
        return self

    @property
    def texts(self) -> int:
        return sum(self.scores)

    @classmethod
    def empty(cls, edges: Sequence[float], label_names: Iterable[str]) -> Self:
        """Return the counts of no texts."""
        return cls(edges=tuple(edges), scores=(0,) * (len(edges) + 1), labels=dict.fromkeys(label_names, 0))

    def plus(self, other: AnswerProfile) -> AnswerProfile:
        """Return the counts of both profiles together. Raises ValueError if their bins differ."""
        if self.edges != other.edges:
            raise ValueError("expected profiles with the same bins")
        names = {**self.labels, **other.labels}
        return AnswerProfile(
            edges=self.edges,
            scores=_added(self.scores, other.scores),
            labels={name: self.labels.get(name, 0) + other.labels.get(name, 0) for name in names},
            tokens=_added(self.tokens, other.tokens) if self.tokens and other.tokens else self.tokens or other.tokens,
        )

    def drift(
        self, now: AnswerProfile, *, one_label: bool, level: float = drift.LEVEL, effect: float = drift.EFFECT
    ) -> Drift:
        """Return how far the profile `now` of later texts differs from this profile, with p values.

        Args:
            level: The probability of a false alarm, over all tests together.
            effect: The smallest difference, as a share of texts from 0 to 1, that is not called small.
        """
        if self.edges != now.edges:
            raise ValueError("expected profiles with the same bins")
        sizes, tests = (self.texts, now.texts), []
        if min(sizes):
            tests.append(drift.ordered_test("scores", self.scores, now.scores))
        if min(sizes) and self.labels:
            names = tuple(self.labels)
            counts = [self.labels[name] for name in names], [now.labels.get(name, 0) for name in names]
            if one_label:
                tests.append(drift.categories_test("labels", *counts, names))
            else:
                tests.append(drift.shares_test("labels", *counts, sizes, names))
        if min(sizes) and self.tokens and now.tokens:
            tests.append(drift.shares_test("tokens", self.tokens, now.tokens, sizes))
        return Drift.of(tests, *sizes, level=level, effect=effect)


def _added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(sum, zip(one, other, strict=True)))


class AnswerTally:
    """A running count of texts and answers, from which `profile` makes an `AnswerProfile`. Not thread-safe."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._scores, self._labels = [0] * (len(edges) + 1), Counter[str]()
        self._tokens, self._tokenized = np.zeros(TOKEN_GROUPS, np.int64), False

    def add(self, score: float, labels: Iterable[str], groups: np.ndarray | None = None) -> None:
        """Count an answer by its score and its labels, and its text by the groups of its tokens, if it has tokens."""
        self._scores[bisect_left(self._edges, score)] += 1
        for label in labels:
            self._labels[label] += 1
        if groups is not None and len(groups):
            self._tokens[groups] += 1
            self._tokenized = True

    def profile(self, label_names: Iterable[str]) -> AnswerProfile:
        """Return the counts; `label_names` are all labels that are counted."""
        labels: Mapping[str, int] = {name: self._labels[name] for name in label_names}
        tokens = tuple(self._tokens.tolist()) if self._tokenized else ()
        return AnswerProfile(edges=self._edges, scores=tuple(self._scores), labels=dict(labels), tokens=tokens)
