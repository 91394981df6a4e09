"""Packed batches: a batch as a single row of tokens with sequence boundaries and without padding.

`Loader` chooses the examples of each batch.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from afina.data.tokenize import Encoded
from afina.digest import derive_seed

IGNORED = -100
"""The target of a token that is left out of the loss: `ignore_index` of `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of B sequences, T tokens in all.

    Attributes:
        tokens: int64 [T], all sequences, end to end.
        positions: int64 [T], restart at 0 in every sequence.
        bounds: int32 [B + 1]; sequence i is tokens[bounds[i]:bounds[i + 1]].
        targets: The targets in the objective's form. For each sequence: [B, ...], such as int64 labels, -1 if
            unknown. For each token: int64 [T], IGNORED for tokens that are left out of the loss.
        per_token: Whether there is a target for each token.
        types: Token types, int64 [T]: 1 from the second text of a pair on, else 0. None: no token types.
        weights: float32 [B], the weight of each sequence in the loss. None: all 1.
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    targets: Tensor
    per_token: bool = False
    types: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def learnt(self) -> int:
        """The number of targets over which the loss is a mean: sequences, or tokens that are not IGNORED."""
        return len(self.learnt_at) if self.per_token else len(self)

    @cached_property
    def learnt_at(self) -> Tensor:
        """The tokens whose targets are not IGNORED, int64 [M], in order; for targets of each token."""
        return (self.targets != IGNORED).nonzero()[:, 0]

    def to(self, device: torch.device | str) -> Packed:
        tokens, positions, bounds = (part.to(device) for part in (self.tokens, self.positions, self.bounds))
        types, weights = (None if part is None else part.to(device) for part in (self.types, self.weights))
        return Packed(tokens, positions, bounds, self.targets.to(device), self.per_token, types, weights)

    def by_sequence(self, row: Tensor) -> list[Tensor]:
        """Return a row [T, ...] of the tokens, split into the sequences."""
        return [row[start:end] for start, end in itertools.pairwise(self.bounds.tolist())]

    def take(self, chosen: Sequence[int] | np.ndarray) -> Packed:
        """Return a batch of the sequences at `chosen`, in that order, with their targets; on the CPU."""
        sequences = self.by_sequence(self.tokens)
        targets = self.by_sequence(self.targets) if self.per_token else self.targets
        kept, right = ([row[int(index)].numpy() for index in chosen] for row in (sequences, targets))
        weights = None if self.weights is None else self.weights.numpy()[np.asarray(chosen)]
        if self.types is None:
            return pack(kept, right, per_token=self.per_token, weights=weights)
        first = [int((row == 0).sum()) for row in self.by_sequence(self.types)]
        second = np.array(first)[np.asarray(chosen)]
        return pack(kept, right, per_token=self.per_token, second=second, weights=weights)


def pack(
    sequences: Sequence[np.ndarray],
    targets: Sequence[int] | Sequence[np.ndarray] | np.ndarray | None = None,
    *,
    per_token: bool = False,
    second: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Packed:
    """Concatenate token sequences (integer arrays of length 1 or more) into a packed batch.

    Args:
        targets: A target for each sequence; None: unknown.
        per_token: Each target is an integer array as long as its sequence.
        second: The index in each sequence of the first token of type 1. None: no token types.
        weights: The weight of each sequence in the loss. None: all 1.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if not len(lengths) or not lengths.all():
        raise ValueError("pack: expected at least one sequence, each with at least one token")
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    if per_token:
        given = [] if targets is None else [np.asarray(each) for each in targets]
        if [len(each) for each in given] != lengths.tolist():
            raise ValueError("pack: expected a target for each token of each sequence")
        known = np.concatenate(given)
    else:
        known = np.full(len(lengths), -1) if targets is None else np.asarray(targets)
    return Packed(
        tokens=torch.from_numpy(np.concatenate(sequences).astype(np.int64)),
        positions=torch.from_numpy(positions.astype(np.int64)),
        bounds=torch.from_numpy(bounds.astype(np.int32)),
        targets=torch.from_numpy(known.astype(np.float32 if known.dtype.kind == "f" else np.int64)),
        per_token=per_token,
        types=None if second is None else torch.from_numpy((positions >= np.repeat(second, lengths)).astype(np.int64)),
        weights=None if weights is None else torch.from_numpy(weights.astype(np.float32)),
    )


def pack_some(
    encoded: Encoded,
    chosen: Sequence[int] | np.ndarray,
    targets: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Packed:
    """Return a batch of the sequences at `chosen`, with their token types; `targets` and `weights` are theirs."""
    second = None if encoded.second is None else encoded.second[chosen]
    return pack([encoded[int(index)] for index in chosen], targets, second=second, weights=weights)


def unpack(packed: Packed) -> list[Tensor]:
    """Return the sequences, each int64 [length]."""
    return packed.by_sequence(packed.tokens)


TOKEN_BUDGET = 2048
"""The largest number of tokens in a prediction batch. It bounds memory, and is small enough for the cache."""


@dataclass(frozen=True)
class MicroBatchLimits:
    """The limits of a micro-batch: the part of a training batch in one forward pass.

    Attributes:
        examples: The largest number of sequences.
        tokens: The largest number of tokens; a longer sequence is computed alone.
        before: Virtual tokens before each sequence, which count as tokens of the sequence.
    """

    examples: int = sys.maxsize
    tokens: int = sys.maxsize
    before: int = 0

    def cut(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return the micro-batches, as indices into `lengths` (int64 [B], the lengths of the sequences).

        The batch is cut by examples first, in its order. A part with too many tokens is then cut by tokens, shortest
        sequence first, so that the attention grid has few unused cells. Parts that are not cut keep their order.
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
        """Return the micro-batches of a batch; the batch itself if it stays within the limits."""
        cut = self.cut(np.diff(packed.bounds.numpy()).astype(np.int64))
        if len(cut) == 1:
            return [packed]
        return [packed.take(chosen) for chosen in cut]


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of `batch_size` examples, in an order that is drawn anew for each epoch from the seed.

    Attributes:
        encoded: N sequences.
        labels: The targets, as in `Packed.targets`: [N, ...] for sequences, or as long as the sequences for tokens.
        weights: float64 [N], the weight of each sequence in the loss. None: all 1.
    """

    encoded: Encoded
    labels: np.ndarray | Encoded
    batch_size: int
    seed: int
    weights: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch; the last batch may be smaller."""
        return math.ceil(len(self.encoded) / self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Return the examples of the batch of a step, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self.order(epoch)[start : start + self.batch_size]

    def order(self, epoch: int) -> np.ndarray:
        """Return the order of all examples in an epoch, int64 [N]."""
        return np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch))).permutation(
            len(self.encoded)
        )

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        """Yield the batches of steps start, ..., stop - 1."""
        for chosen in self.chosen(start, stop):
            yield self._packed(chosen)

    def largest(self, stop: int, limits: MicroBatchLimits = MicroBatchLimits()) -> Packed:
        """Return the micro-batch with the most tokens of steps 0, ..., stop - 1."""
        lengths = self.encoded.lengths
        largest, most = np.zeros(0, np.int64), 0
        for chosen in self.chosen(0, stop):
            for part in limits.cut(lengths[chosen]):
                size = int(lengths[chosen[part]].sum()) + limits.before * len(part)
                if size > most:
                    largest, most = chosen[part], size
        return self._packed(largest)

    def tokens(self, stop: int) -> int:
        """Return the number of tokens that steps 0, ..., stop - 1 train on."""
        lengths = self.encoded.lengths
        return sum(int(lengths[chosen].sum()) for chosen in self.chosen(0, stop))

    def most_parts(self, stop: int, limits: MicroBatchLimits) -> int:
        """Return the largest number of micro-batches into which a batch of steps 0, ..., stop - 1 is cut."""
        lengths = self.encoded.lengths
        return max(len(limits.cut(lengths[chosen])) for chosen in self.chosen(0, stop))

    def chosen(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the indices of the examples in the batches of steps start, ..., stop - 1."""
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(start, stop):
            current, position = divmod(step, self.steps_per_epoch)
            if current != epoch:
                epoch, order = current, self.order(current)
            yield order[position * self.batch_size : (position + 1) * self.batch_size]

    def _packed(self, chosen: np.ndarray) -> Packed:
        if isinstance(self.labels, Encoded):
            sequences = [self.encoded[index] for index in chosen]
            return pack(sequences, [self.labels[index] for index in chosen], per_token=True)
        weights = None if self.weights is None else self.weights[chosen]
        return pack_some(self.encoded, chosen, self.labels[chosen], weights)


def by_length(
    encoded: Encoded, budget: int = TOKEN_BUDGET, *, before: int = 0, among: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Packed]]:
    """Yield (indices int64 [B], batch) for all sequences, shortest first, with at most `budget` tokens a batch.

    A longer sequence is a batch of its own. Sequences of similar length share a batch, so that the attention grid has
    few unused cells.

    Args:
        before: Virtual tokens before each sequence, which count as tokens of the sequence.
        among: Only these sequences, int64 [M].
    """
    lengths = encoded.lengths
    order = np.argsort(lengths, kind="stable") if among is None else among[np.argsort(lengths[among], kind="stable")]
    for first, last in runs(lengths[order] + before, budget):
        chosen = order[first:last]
        yield chosen, pack_some(encoded, chosen)


def runs(lengths: np.ndarray, budget: int) -> Iterator[tuple[int, int]]:
    """Yield consecutive (first, last) ranges whose lengths sum to at most `budget`, or that have one item."""
    first, size = 0, 0
    for last, length in enumerate(lengths.tolist()):
        if last > first and size + length > budget:
            yield first, last
            first, size = last, 0
        size += length
    if len(lengths):
        yield first, len(lengths)
