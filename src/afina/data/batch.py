"""Packed batches: a packed batch is a single row of tokens with sequence boundaries and without padding."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from afina.data.tokenize import NO_WORD, Encoded
from afina.digest import derive_seed
from afina.ranks import ALONE, Ranks

IGNORED = NO_WORD
"""The target of a token that is left out of the loss: `ignore_index` of `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """The outputs of a teacher for the B texts of a batch, from which a student learns (Hinton et al. 2015).

    Attributes:
        outputs: float32 [B, width], the targets in the form that `Objective.soft_losses` takes.
        labelled: float32 [B], 1 for a text with a label, 0 for a text without.
    """

    outputs: Tensor
    labelled: Tensor

    def to(self, device: torch.device | str) -> SoftTargets:
        return SoftTargets(self.outputs.to(device), self.labelled.to(device))

    def take(self, chosen: Sequence[int] | np.ndarray) -> SoftTargets:
        indices = torch.from_numpy(np.asarray(chosen, dtype=np.int64))
        return SoftTargets(self.outputs[indices], self.labelled[indices])


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed batch of B sequences with T tokens in all.

    Attributes:
        tokens: int64 [T], the token ids of all sequences, concatenated.
        positions: int64 [T], the position of each token in its sequence, from 0.
        bounds: int32 [B + 1], the sequence boundaries: sequence i is tokens[bounds[i]:bounds[i + 1]].
        targets: The training targets. Targets of sequences have the shape [B, ...], such as int64 labels with -1 for an
            unknown label. Targets of tokens are int64 [T], with IGNORED for tokens that are left out of the loss.
        per_token: Whether `targets` has a target for each token, not for each sequence.
        types: int64 [T], the token types: 1 from the second text of a pair on, else 0. None: no token types.
        weights: float32 [B], the weight of each sequence in the loss. None: all weights are 1.
        soft: A teacher's outputs for the sequences. None: there is no teacher.
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    targets: Tensor
    per_token: bool = False
    types: Tensor | None = None
    weights: Tensor | None = None
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def learnt(self) -> int:
        """The number of targets over which the loss is averaged: sequences, or tokens whose target is not IGNORED."""
        return len(self.learnt_at) if self.per_token else len(self)

    @cached_property
    def learnt_at(self) -> Tensor:
        """The indices of the tokens whose targets are not IGNORED, int64 [M], ascending; requires `per_token`."""
        return (self.targets != IGNORED).nonzero()[:, 0]

    @property
    def learnt_targets(self) -> Tensor:
        """The targets over which the loss is averaged: those of sequences [B, ...], or those of `learnt_at`, [M]."""
        return self.targets.index_select(0, self.learnt_at) if self.per_token else self.targets

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each sequence, int64 [B]; requires a batch on the CPU."""
        lengths: np.ndarray = np.diff(self.bounds.numpy()).astype(np.int64)
        return lengths

    def parts(self, cut: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Packed]]:
        """Yield the part of the batch for each array of indices of sequences, with the indices."""
        for chosen in cut:
            yield chosen, self if len(cut) == 1 and len(chosen) == len(self) else self.take(chosen)

    def to(self, device: torch.device | str) -> Packed:
        tokens, positions, bounds = (part.to(device) for part in (self.tokens, self.positions, self.bounds))
        types, weights = (None if part is None else part.to(device) for part in (self.types, self.weights))
        soft = None if self.soft is None else self.soft.to(device)
        return Packed(tokens, positions, bounds, self.targets.to(device), self.per_token, types, weights, soft)

    def by_sequence(self, row: Tensor) -> list[Tensor]:
        """Split a tensor [T, ...] into one tensor for each sequence."""
        return [row[start:end] for start, end in itertools.pairwise(self.bounds.tolist())]

    def take(self, chosen: Sequence[int] | np.ndarray) -> Packed:
        sequences = self.by_sequence(self.tokens)
        targets = self.by_sequence(self.targets) if self.per_token else self.targets
        kept, right = ([row[int(index)].numpy() for index in chosen] for row in (sequences, targets))
        weights = None if self.weights is None else self.weights.numpy()[np.asarray(chosen)]
        second = None
        if self.types is not None:
            first = [int((row == 0).sum()) for row in self.by_sequence(self.types)]
            second = np.array(first)[np.asarray(chosen)]
        made = pack(kept, right, per_token=self.per_token, second=second, weights=weights)
        return made if self.soft is None else replace(made, soft=self.soft.take(chosen))


def pack(
    sequences: Sequence[np.ndarray],
    targets: Sequence[int] | Sequence[np.ndarray] | np.ndarray | None = None,
    *,
    per_token: bool = False,
    second: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Packed:
    """Concatenate token sequences (integer arrays of at least one token) into a packed batch.

    `second` has for each sequence the index of its first token of type 1; None: no token types.
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
    """Return a packed batch of the sequences `chosen`; `targets` and `weights` have a value for each of them.

    If words are read (`Encoded.reads`), the tokens at which words are read have the target 0, and the others IGNORED.
    """
    if encoded.reads is not None:
        parts = [slice(*encoded.offsets[index : index + 2]) for index in np.asarray(chosen).tolist()]
        read = [np.where(encoded.reads[part] == NO_WORD, IGNORED, 0) for part in parts]
        return pack([encoded.tokens[part] for part in parts], read, per_token=True)
    second = None if encoded.second is None else encoded.second[chosen]
    return pack([encoded[int(index)] for index in chosen], targets, second=second, weights=weights)


def unpack(packed: Packed) -> list[Tensor]:
    return packed.by_sequence(packed.tokens)


TOKEN_BUDGET = 2048
"""The largest number of tokens in a prediction batch; so few tokens bound memory and fit into the processor's cache."""


@dataclass(frozen=True)
class MicroBatchLimits:
    """The limits of a micro-batch, which is the part of a training batch that is computed in one forward pass.

    Attributes:
        tokens: The largest number of tokens; a longer sequence is a micro-batch of its own.
        before: The number of virtual tokens before each sequence, which count as tokens of the sequence.
        ranks: The processes that compute the training together; each has the micro-batches of its share of a batch.
    """

    examples: int = sys.maxsize
    tokens: int = sys.maxsize
    before: int = 0
    ranks: Ranks = ALONE

    def cut(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Return the indices of this process's sequences of each micro-batch, given the sequences' lengths (int64 [B]).

        The process's share is first cut into parts of at most `examples` sequences, in the order of the batch. A part
        with more than `tokens` tokens is sorted by length and cut again, because sequences of similar length waste few
        cells of the attention grid.
        """
        parts = []
        lengths = lengths + self.before
        own = self.ranks.share(lengths)
        for start in range(0, len(own), self.examples):
            chosen = own[start : start + self.examples]
            if lengths[chosen].sum() > self.tokens:
                chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
                parts += [chosen[first:last] for first, last in runs(lengths[chosen], self.tokens)]
            else:
                parts.append(chosen)
        return parts


@dataclass(frozen=True, eq=False)
class Loader:
    """Training batches of `batch_size` texts; the seed determines the order of the texts in each epoch.

    An example is a token sequence: a text, or a window of a text.

    Attributes:
        encoded: The N token sequences of the examples.
        labels: The targets: an array [N, ...] with a target for each sequence, or an `Encoded` with a target for each
            token.
        weights: float64 [N], the weight of each sequence in the loss. None: all weights are 1.
        soft: float32 [N, width], a teacher's outputs for the examples. None: there is no teacher.
        labelled: The number of examples with a label, which are the first ones. None: all examples have a label.
        owners: int64 [N], ascending, the number of the text of which each example is a window. The windows of a text
            are in the same batch. None: each example is a text.
        label_texts: The number of last examples that are no texts of the task but texts of labels, such as their names.
    """

    encoded: Encoded
    labels: np.ndarray | Encoded
    batch_size: int
    seed: int
    weights: np.ndarray | None = None
    soft: np.ndarray | None = None
    labelled: int | None = None
    owners: np.ndarray | None = None
    label_texts: int = 0

    def with_label_texts(self, encoded: Encoded, labels: np.ndarray, weights: np.ndarray) -> Loader:
        """Return a loader with further examples: texts of labels, with their labels and their weights in the loss."""
        assert not isinstance(self.labels, Encoded)
        own = np.ones(len(self.encoded)) if self.weights is None else self.weights
        return replace(
            self,
            encoded=Encoded.joined([self.encoded, encoded]),
            labels=np.concatenate([self.labels, labels]),
            weights=np.concatenate([own, weights]),
            label_texts=len(encoded),
        )

    @property
    def text_count(self) -> int:
        return len(self.encoded) if self.owners is None else int(self.owners[-1]) + 1

    @property
    def learnt_targets(self) -> np.ndarray:
        """The targets without those that are IGNORED, in the order of the sequences, [N, ...] or int64 [M]."""
        if isinstance(self.labels, Encoded):
            tags = self.labels.tokens
            return np.asarray(tags[tags != IGNORED], dtype=np.int64)
        return np.asarray(self.labels)

    @property
    def steps_per_epoch(self) -> int:
        """The number of training batches in an epoch; the last batch of an epoch may be smaller."""
        return math.ceil(self.text_count / self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Return the indices of the examples in the training batch of a step; steps count from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return self.examples_of(self.order(epoch)[start : start + self.batch_size])

    def order(self, epoch: int) -> np.ndarray:
        """Return the numbers of all texts in the order of an epoch, int64 [number of texts]."""
        return np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch))).permutation(self.text_count)

    def examples_of(self, texts: np.ndarray) -> np.ndarray:
        if self.owners is None:
            return texts
        starts = np.searchsorted(self.owners, texts)
        return each_of(starts, np.searchsorted(self.owners, texts, side="right") - starts)

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        for chosen in self.chosen(start, stop):
            yield self._packed(chosen)

    def largest(self, stop: int, limits: MicroBatchLimits = MicroBatchLimits()) -> Packed:
        """Return the micro-batch with the most tokens among the training batches of steps 0, ..., stop - 1."""
        lengths = self.encoded.lengths
        largest, most = np.zeros(0, np.int64), 0
        for chosen in self.chosen(0, stop):
            for part in self.cut(chosen, limits):
                size = int(lengths[chosen[part]].sum()) + limits.before * len(part)
                if size > most:
                    largest, most = chosen[part], size
        if not most:  # no batch has a sequence for this process
            return self.largest(stop, replace(limits, ranks=ALONE))
        return self._packed(largest)

    def tokens(self, stop: int) -> int:
        lengths = self.encoded.lengths
        return sum(int(lengths[chosen].sum()) for chosen in self.chosen(0, stop))

    def most_parts(self, stop: int, limits: MicroBatchLimits) -> int:
        """Return the largest number of micro-batches of any of these training batches."""
        return max(len(self.cut(chosen, limits)) for chosen in self.chosen(0, stop))

    def cut(self, chosen: np.ndarray, limits: MicroBatchLimits) -> list[np.ndarray]:
        return limits.cut(self.encoded.lengths[chosen])

    def chosen(self, start: int, stop: int) -> Iterator[np.ndarray]:
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(start, stop):
            current, position = divmod(step, self.steps_per_epoch)
            if current != epoch:
                epoch, order = current, self.order(current)
            yield self.examples_of(order[position * self.batch_size : (position + 1) * self.batch_size])

    def soft_targets(self, chosen: np.ndarray) -> SoftTargets | None:
        """Return a teacher's outputs for the examples with these indices, int64 [B]; None: there is no teacher."""
        if self.soft is None:
            return None
        labelled = chosen < (len(self.encoded) if self.labelled is None else self.labelled)
        return SoftTargets(torch.from_numpy(self.soft[chosen]), torch.from_numpy(labelled.astype(np.float32)))

    def _packed(self, chosen: np.ndarray) -> Packed:
        if isinstance(self.labels, Encoded):
            sequences = [self.encoded[index] for index in chosen]
            return pack(sequences, [self.labels[index] for index in chosen], per_token=True)
        weights = None if self.weights is None else self.weights[chosen]
        made = pack_some(self.encoded, chosen, self.labels[chosen], weights)
        return made if self.soft is None else replace(made, soft=self.soft_targets(chosen))


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Return the first row of each text, int64 [N], if texts have so many rows each, one text after the other."""
    starts: np.ndarray = np.cumsum(counts) - counts
    return starts


def each_of(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return all rows of texts, int64 [sum of counts], given the first row of each text and its number of rows."""
    return np.repeat(starts - starts_of(counts), counts) + np.arange(int(counts.sum()))


def by_length(
    encoded: Encoded, budget: int = TOKEN_BUDGET, *, before: int = 0, among: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Packed]]:
    """Yield packed batches of at most `budget` tokens, shortest sequences first, as (indices int64 [B], batch).

    `before` virtual tokens stand before each sequence.
    """
    lengths = encoded.lengths
    order = np.argsort(lengths, kind="stable") if among is None else among[np.argsort(lengths[among], kind="stable")]
    for first, last in runs(lengths[order] + before, budget):
        chosen = order[first:last]
        yield chosen, pack_some(encoded, chosen)


def runs(lengths: np.ndarray, budget: int) -> Iterator[tuple[int, int]]:
    """Yield ranges [first, last) of items with a total length of at most `budget`, or of a single longer item."""
    first, size = 0, 0
    for last, length in enumerate(lengths.tolist()):
        if last > first and size + length > budget:
            yield first, last
            first, size = last, 0
        size += length
    if len(lengths):
        yield first, len(lengths)
