"""Counts of n-grams in many texts at once, as integer arrays, and of the n-grams an answer shares with references."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order (n) in a list of texts, in P places.

    Attributes:
        ids: The id of the n-gram in each place, int64 [P], below `distinct`. Equal n-grams have the same id.
        owners: The index of the text that has the n-gram, int64 [P].
        prefixes: The id of the n-gram's prefix, which is the (n - 1)-gram without the last token, int64 [P].
    """

    order: int
    ids: np.ndarray
    owners: np.ndarray
    prefixes: np.ndarray
    distinct: int


@dataclass(frozen=True)
class Counts:
    """How often each distinct n-gram occurs in each text, int64 [K], for K sorted pairs of a text and an n-gram.

    `keys` are the pairs as numbers, text * distinct + id of the n-gram, int64 [K], ascending.
    """

    keys: np.ndarray
    counts: np.ndarray
    distinct: int

    @classmethod
    def grouped(cls, keys: np.ndarray, counts: np.ndarray, distinct: int, how: np.ufunc = np.add) -> Counts:
        """Return the counts from unsorted keys; the counts of a key that occurs several times are combined by `how`."""
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        starts = np.append(0, starts) if len(keys) else starts
        return cls(keys[starts], how.reduceat(counts, starts) if len(keys) else counts, distinct)

    @property
    def owners(self) -> np.ndarray:
        return self.keys // self.distinct

    @property
    def ids(self) -> np.ndarray:
        return self.keys % self.distinct

    @property
    def total(self) -> np.ndarray:
        return np.bincount(self.ids, self.counts, self.distinct)

    def of(self, keys: np.ndarray) -> np.ndarray:
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0)


@dataclass(frozen=True)
class Overlap:
    """The n-grams of one order that N answers share with their R references.

    Attributes:
        answers: The counts of n-grams in each answer.
        references: The counts of n-grams in each reference.
        shared: For each reference, the number of n-grams that its answer shares with it, int64 [R].
        hits: The clipped counts of BLEU: the count of an n-gram in the answer, or its largest count in one reference
            if that is smaller. Counts of 0 are left out.
        prefixes: The id of each n-gram's prefix, the (n - 1)-gram without the last token, int64 [distinct]; 0 for
            order 1.
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
    """N answers and their R references as arrays of T tokens.

    Attributes:
        codes: The token ids of all answers, then of all references, int64 [T]. Equal tokens have the same id.
        owners: The index of the text that has the token, int64 [T]: i for answer i, N + r for reference r.
        examples: The index of the answer to which each reference belongs, int64 [R], ascending.
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
        """Yield the n-grams that answers and references share, for each order from 1 to `most`."""
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
    """Yield the n-grams of each order from 1 to `most`; an order without n-grams has empty arrays."""
    width = int(codes.max(initial=0)) + 1
    ids, prefixes = codes, np.zeros(len(codes), dtype=np.int64)
    for order in range(1, most + 1):
        if order > 1:
            prefixes = ids[:-1]
            ids = np.unique(prefixes * width + codes[order - 1 :], return_inverse=True)[1].astype(np.int64)
        inside = owners[: len(ids)] == owners[order - 1 :]
        yield Grams(order, ids[inside], owners[: len(ids)][inside], prefixes[inside], int(ids.max(initial=0)) + 1)


def longest_common(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence by a bit-parallel algorithm (Hyyrö, Software 34, 2004).

    Each bit of the variable `rest` stands for a token of `first`. The number of cleared bits of `rest` is the length of
    the longest common subsequence with the tokens of `second` so far.
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
