"""n-grams of many texts at once, in integer arrays: counts, and how many an answer shares with its references."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order in a list of texts, P places.

    Attributes:
        ids: Equal for equal n-grams, int64 [P], below `distinct`.
        owners: The text of each n-gram, int64 [P].
        prefixes: The id of the n-gram without its last token, among the n-grams of the order below, int64 [P].
    """

    order: int
    ids: np.ndarray
    owners: np.ndarray
    prefixes: np.ndarray
    distinct: int


@dataclass(frozen=True)
class Counts:
    """How often each distinct n-gram occurs in each text; K pairs of a text and an n-gram, sorted.

    Attributes:
        keys: text * distinct + n-gram, int64 [K], ascending.
        counts: int64 [K].
    """

    keys: np.ndarray
    counts: np.ndarray
    distinct: int

    @classmethod
    def grouped(cls, keys: np.ndarray, counts: np.ndarray, distinct: int, how: np.ufunc = np.add) -> Counts:
        """Return the counts of each key combined by `how`, from keys in any order that may repeat."""
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        starts = np.append(0, starts) if len(keys) else starts
        return cls(keys[starts], how.reduceat(counts, starts) if len(keys) else counts, distinct)

    @property
    def owners(self) -> np.ndarray:
        """The text of each pair, int64 [K]."""
        return self.keys // self.distinct

    @property
    def ids(self) -> np.ndarray:
        """The n-gram of each pair, int64 [K]."""
        return self.keys % self.distinct

    @property
    def total(self) -> np.ndarray:
        """The count of each n-gram in all texts, float64 [distinct]."""
        return np.bincount(self.ids, self.counts, self.distinct)

    def of(self, keys: np.ndarray) -> np.ndarray:
        """Return the counts of other keys; 0 for keys that do not occur."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0)


@dataclass(frozen=True)
class Overlap:
    """The n-grams of one order that N answers share with their R references.

    Attributes:
        answers, references: The counts in each answer, and in each reference.
        shared: For each reference, the number of n-grams that its answer shares with it, int64 [R].
        hits: The counts in each answer, at most the largest count in any one reference of the answer; 0 left out.
        prefixes: The id of each n-gram's prefix in the order below, int64 [distinct]; 0 for order 1.
    """

    order: int
    answers: Counts
    references: Counts
    shared: np.ndarray
    hits: Counts
    prefixes: np.ndarray

    @property
    def distinct(self) -> int:
        return self.answers.distinct


@dataclass(frozen=True)
class Paired:
    """N answers and their R references as tokens.

    Attributes:
        codes: The tokens of all answers, then of all references, int64 [T]; equal for equal tokens.
        owners: The text of each token: 0 to N - 1 is an answer, N + r is reference r; int64 [T].
        examples: The answer to which each reference belongs, int64 [R], ascending.
    """

    codes: np.ndarray
    owners: np.ndarray
    examples: np.ndarray
    size: int

    @classmethod
    def of(cls, answers: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Sequence[Hashable]]]) -> Paired:
        known: dict[Hashable, int] = {}
        flat = [one for several in references for one in several]
        texts = [*answers, *flat]
        lengths = [len(one) for one in texts]
        total = sum(lengths)
        codes = np.fromiter((known.setdefault(token, len(known)) for one in texts for token in one), np.int64, total)
        examples = np.repeat(np.arange(len(references)), [len(several) for several in references])
        return cls(codes, np.repeat(np.arange(len(texts)), lengths), examples, len(answers))

    @property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of tokens of each answer, int64 [N], and of each reference, int64 [R]."""
        counts = np.bincount(self.owners, minlength=self.size + len(self.examples))
        return counts[: self.size], counts[self.size :]

    def overlaps(self, most: int) -> Iterator[Overlap]:
        """Yield the shared n-grams of the orders 1 to `most`."""
        for grams in _orders(self.codes, self.owners, most):
            yield self._overlap(grams)

    def _overlap(self, grams: Grams) -> Overlap:
        distinct = grams.distinct
        keys, counts = np.unique(grams.owners * distinct + grams.ids, return_counts=True)
        border = int(np.searchsorted(keys, self.size * distinct))
        answers = Counts(keys[:border], counts[:border], distinct)
        references = Counts(keys[border:] - self.size * distinct, counts[border:], distinct)
        found = self.examples[references.owners] * distinct + references.ids
        common = np.minimum(answers.of(found), references.counts)
        shared = np.bincount(references.owners, common, len(self.examples)).astype(np.int64)
        hits = Counts.grouped(found[common > 0], common[common > 0], distinct, np.maximum)
        prefixes = np.zeros(distinct, dtype=np.int64)
        prefixes[grams.ids] = grams.prefixes
        return Overlap(grams.order, answers, references, shared, hits, prefixes)


def _orders(codes: np.ndarray, owners: np.ndarray, most: int) -> Iterator[Grams]:
    """Yield the n-grams of the orders 1 to `most`; an order without any has empty arrays."""
    width = int(codes.max(initial=0)) + 1
    ids, prefixes = codes, np.zeros(len(codes), dtype=np.int64)
    for order in range(1, most + 1):
        if order > 1:
            prefixes = ids[:-1]
            ids = np.unique(prefixes * width + codes[order - 1 :], return_inverse=True)[1].astype(np.int64)
        inside = owners[: len(ids)] == owners[order - 1 :]
        yield Grams(order, ids[inside], owners[: len(ids)][inside], prefixes[inside], int(ids.max(initial=0)) + 1)


def longest_common(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence (bit-parallel: Hyyrö, Software 34, 2004).

    Each bit of `rest` is a place of `first`; a place is cleared when the subsequence has grown there.
    """
    places: dict[Hashable, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    rest = full
    for token in second:
        matched = rest & places.get(token, 0)
        rest = ((rest + matched) | (rest - matched)) & full
    return len(first) - rest.bit_count()
