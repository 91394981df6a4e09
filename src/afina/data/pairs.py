"""Pairs of training texts for contrastive training: `draw_pairs`, and `PairLoader`, whose batches consist of pairs.

A positive pair has two texts of the same label, and a negative pair has two texts of different labels. The module
`pairs` does not know models or methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from afina.data.batch import Loader, MicroBatchLimits, Packed, pack_some
from afina.data.pair_sampling import PairSampling
from afina.digest import derive_seed
from afina.sentence import Sentence


@dataclass(frozen=True)
class PairCounts:
    """Numbers of pairs.

    Attributes:
        positive, negative: Drawn pairs, repeated pairs included.
        all_positive, all_negative: Different pairs of the training texts.
        wanted: The number of pairs that would be drawn without `PairSampling.most`.
        single: The number of labels with a single text, which is in negative pairs only.
        alone: Whether every label has a single text, so that each text is a positive pair with itself.
    """

    positive: int
    negative: int
    all_positive: int
    all_negative: int
    wanted: int
    single: int
    alone: bool

    @property
    def note(self) -> Sentence:
        """A sentence without a subject and without a full stop about the drawn pairs."""
        equal, different = (
            f"{self.positive:,} pairs with equal labels",
            f"{self.negative:,} pairs with different labels",
        )
        parts: list[str] = [f"trains on {equal} and {different}"]
        if self.wanted > self.positive + self.negative:
            parts.append(Sentence.of(", drawn at random from {wanted:,} pairs (`max_pairs`)", wanted=self.wanted))
        if self.alone:
            parts.append("; every label has a single text, which is a pair with itself")
        elif self.single:
            labels = "1 label has" if self.single == 1 else f"{self.single:,} labels have"
            parts.append(f"; {labels} a single text, which is in no pair with equal labels")
        return Sentence(parts)


@dataclass(frozen=True, eq=False)
class DrawnPairs:
    """The P pairs of a contrastive training: the indices of the two texts of each pair, int64 [P, 2]."""

    texts: np.ndarray
    counts: PairCounts

    def __len__(self) -> int:
        return len(self.texts)


def draw_pairs(labels: np.ndarray, sampling: PairSampling, seed: int) -> DrawnPairs:
    """Draw the pairs of a contrastive training, from labels int64 [N]; the same arguments give the same pairs.

    Both texts of a pair are different, unless every label has a single text: then each text is a positive pair with
    itself.
    """
    order = np.argsort(labels, kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    ends = np.repeat(np.cumsum(sizes), sizes)  # the end of each text's label in `order`
    places = np.arange(len(labels))
    alone = bool(len(sizes)) and int(sizes.max()) == 1
    positive = _Partners(order, places if alone else places + 1, places + 1 if alone else ends)
    negative = _Partners(order, ends, np.full(len(labels), len(labels)))
    wanted = _wanted(positive.total, negative.total, len(labels), sampling)
    taken = _at_most(*wanted, sampling.most)
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "pairs")))
    texts = np.concatenate(
        [kind.draw(count, generator) for kind, count in zip((positive, negative), taken, strict=True)]
    )
    counts = PairCounts(*taken, positive.total, negative.total, sum(wanted), int((sizes == 1).sum()), alone)
    return DrawnPairs(texts, counts)


def _wanted(positive: int, negative: int, texts: int, sampling: PairSampling) -> tuple[int, int]:
    """Return the numbers of positive and negative pairs without a limit; 0 for a kind that has no pair."""
    if sampling.iterations is not None:
        each = sampling.iterations * texts
    elif sampling.strategy == "unique":
        return positive, negative
    else:
        each = (max if sampling.strategy == "oversampling" else min)(positive, negative)
        if not positive or not negative:
            each = positive or negative
    return each * bool(positive), each * bool(negative)


def _at_most(positive: int, negative: int, most: int) -> tuple[int, int]:
    """Reduce the numbers of pairs to at most `most` in all, in the same proportion."""
    wanted = positive + negative
    if wanted <= most:
        return positive, negative
    kept = round(most * positive / wanted)
    return kept, most - kept


class _Partners:
    """All pairs of one kind: the text at place i of `order` and each text at the places starts[i] to ends[i] - 1."""

    def __init__(self, order: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        self._order, self._starts = order, starts
        self._last = np.cumsum(ends - starts)
        self.total = int(self._last[-1]) if len(order) else 0

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Return `count` random pairs, int64 [count, 2]; no pair is repeated before every pair was drawn."""
        if count <= self.total:
            ranks = generator.choice(self.total, count, replace=False)
        else:
            ranks = np.resize(generator.permutation(self.total), count)
        first = np.searchsorted(self._last, ranks, side="right")
        before = np.where(first > 0, self._last[first - 1], 0)
        second = self._starts[first] + ranks - before
        return np.stack([self._order[first], self._order[second]], axis=1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class PairLoader(Loader):
    """Training batches of `batch_size` pairs: the sequences 2 i and 2 i + 1 of a batch are pair i.

    The target of both sequences is 1 for a positive pair and 0 for a negative pair. An epoch has every drawn pair once.
    """

    pairs: DrawnPairs = field(kw_only=True)

    @classmethod
    def of(cls, texts: Loader, sampling: PairSampling) -> PairLoader:
        labels = np.asarray(texts.labels)
        pairs = draw_pairs(labels, sampling, texts.seed)
        return cls(texts.encoded, labels, texts.batch_size, texts.seed, texts.weights, pairs=pairs)

    @cached_property
    def texts(self) -> Loader:
        return Loader(self.encoded, self.labels, self.batch_size, self.seed, self.weights)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.pairs) // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Return the indices of the texts of the pairs of a step, int64 [2 B]."""
        return self._texts(super().indices(step))

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of all pairs in the order of an epoch, int64 [P]."""
        return np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch))).permutation(len(self.pairs))

    def chosen(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the indices of the texts of each training batch, int64 [2 B], for the steps start, ..., stop - 1."""
        for pairs in super().chosen(start, stop):
            yield self._texts(pairs)

    def cut(self, chosen: np.ndarray, limits: MicroBatchLimits) -> list[np.ndarray]:
        return cut_pairs(self.encoded.lengths[chosen], limits)

    def _texts(self, pairs: np.ndarray) -> np.ndarray:
        texts: np.ndarray = self.pairs.texts[pairs].reshape(-1)
        return texts

    def _packed(self, chosen: np.ndarray) -> Packed:
        labels = np.asarray(self.labels)[chosen]
        same = (labels[0::2] == labels[1::2]).astype(np.float32)
        return pack_some(self.encoded, chosen, np.repeat(same, 2))


def cut_pairs(lengths: np.ndarray, limits: MicroBatchLimits) -> list[np.ndarray]:
    """Return the indices of the sequences of each micro-batch of pairs, given the sequences' lengths, int64 [2 B].

    Both texts of a pair are in the same micro-batch. `limits.examples` is a number of pairs.
    """
    parts = limits.cut(lengths.reshape(-1, 2).sum(axis=1))
    return [np.stack([2 * part, 2 * part + 1], axis=1).reshape(-1) for part in parts]
