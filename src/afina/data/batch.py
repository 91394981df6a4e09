"""Packed: one batch as a single row of tokens with sequence boundaries; no padding token, ever."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
