"""Packed: one batch as a single row of tokens with sequence boundaries; no padding token, ever."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of B sequences, T tokens in all.

    tokens     int64 [T]      all sequences, end to end
    positions  int64 [T]      restart at 0 in every sequence
    bounds     int32 [B + 1]  sequence i is tokens[bounds[i]:bounds[i + 1]]
    targets    [B, ...]       what is to be learnt, as the objective has it; int64 labels, -1 where unknown
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on another device."""
        parts = (self.tokens, self.positions, self.bounds, self.targets)
        return Packed(*(part.to(device) for part in parts))


def pack(sequences: Sequence[np.ndarray], targets: Sequence[int] | np.ndarray | None = None) -> Packed:
    """Lay token sequences (each an integer array of length >= 1) end to end."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if not len(lengths) or not lengths.all():
        raise ValueError("pack: expected at least one sequence, each with at least one token")
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    known = np.full(len(lengths), -1) if targets is None else np.asarray(targets)
    return Packed(
        tokens=torch.from_numpy(np.concatenate(sequences).astype(np.int64)),
        positions=torch.from_numpy(positions.astype(np.int64)),
        bounds=torch.from_numpy(bounds.astype(np.int32)),
        targets=torch.from_numpy(known.astype(np.float32 if known.dtype.kind == "f" else np.int64)),
    )


def unpack(packed: Packed) -> list[Tensor]:
    """The sequences again, each int64 [length]."""
    bounds = packed.bounds.tolist()
    return [packed.tokens[start:end] for start, end in itertools.pairwise(bounds)]
