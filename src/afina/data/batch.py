"""Packed: a batch as a single row of tokens with sequence boundaries, no padding token; which examples make a batch.

Knows no task, no model and no device.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from afina.data.tokenize import Encoded
from afina.digest import derive_seed

IGNORED = -100
"""The target of a token of which nothing is to be learnt: what `torch.nn.functional.cross_entropy` leaves out."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of B sequences, T tokens in all.

    tokens     int64 [T]      all sequences, end to end
    positions  int64 [T]      restart at 0 in every sequence
    bounds     int32 [B + 1]  sequence i is tokens[bounds[i]:bounds[i + 1]]
    targets    what is to be learnt, as the objective has it. Of each sequence: [B, ...], int64 labels, -1 where
               unknown. Of each token: int64 [T], IGNORED where nothing is, which is the mask
    per_token  whether targets are of each token
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    targets: Tensor
    per_token: bool = False

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def learnt(self) -> int:
        """How many targets a mean loss is the mean of: sequences, or tokens that are not IGNORED."""
        return int((self.targets != IGNORED).sum()) if self.per_token else len(self)

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on another device."""
        tokens, positions, bounds = (part.to(device) for part in (self.tokens, self.positions, self.bounds))
        return Packed(tokens, positions, bounds, self.targets.to(device), self.per_token)

    def by_sequence(self, row: Tensor) -> list[Tensor]:
        """A row [T, ...] of the tokens, cut into the sequences."""
        return [row[start:end] for start, end in itertools.pairwise(self.bounds.tolist())]

    def take(self, chosen: Sequence[int] | np.ndarray) -> Packed:
        """A batch of the sequences at `chosen`, in that order, with their targets; on the CPU."""
        sequences = self.by_sequence(self.tokens)
        targets = self.by_sequence(self.targets) if self.per_token else self.targets
        kept, right = ([row[int(index)].numpy() for index in chosen] for row in (sequences, targets))
        return pack(kept, right, per_token=self.per_token)


def pack(
    sequences: Sequence[np.ndarray],
    targets: Sequence[int] | Sequence[np.ndarray] | np.ndarray | None = None,
    *,
    per_token: bool = False,
) -> Packed:
    """Lay token sequences (each an integer array of length >= 1) end to end.

    targets    one a sequence; None: unknown
    per_token  they are an integer array a sequence, as long as the sequence
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
    )


def unpack(packed: Packed) -> list[Tensor]:
    """The sequences again, each int64 [length]."""
    return packed.by_sequence(packed.tokens)


TOKEN_BUDGET = 2048
"""Most tokens of a prediction batch; keeps its memory bounded whatever the texts, and small enough to be kept."""


@dataclass(frozen=True)
class MicroBatchLimits:
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

    def largest(self, stop: int, limits: MicroBatchLimits = MicroBatchLimits()) -> Packed:
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

    def most_parts(self, stop: int, limits: MicroBatchLimits) -> int:
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
