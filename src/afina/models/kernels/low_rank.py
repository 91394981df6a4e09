"""What LoRA adds to a layer of a row that several adapters share: a product each, or one for several neighbours.

A few rows of a few ranks are no work, and a call is: so neighbours share one until its product costs as much as the
call. Each row is then multiplied by its neighbours' ranks as well, and by zeros that take them away again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afina.models.kernels.riding import Ridden
from afina.models.rider import Change

CALL = {torch.float32: 3e7, torch.bfloat16: 2e8}
"""Floating-point operations that take as long as the calls of a product, on two cores that compute both natively. 32
adapters of rank 4 are 1.3 times as fast in one as each by itself on GPT-2 in bfloat16, and as fast in float32.
"""

Masks = dict[tuple[tuple[int, int, float], ...], Tensor]
"""By the rows, rank and scaling of each neighbour: [rows of all, ranks of all], its scaling where both are its own."""


@dataclass(frozen=True, eq=False)
class LowRank(Change):
    """What the layer adds to W x + b: scaling B A x. down [r, K]; up [r, M], B transposed."""

    down: Tensor
    up: Tensor
    scaling: float

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """inputs [N, K], outputs [N, M]."""
        assert inputs is not None
        outputs.addmm_(inputs @ self.down.t(), self.up, alpha=self.scaling)

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)

    @property
    def width(self) -> int:
        """K + M."""
        return self.down.shape[1] + self.up.shape[1]


@dataclass(frozen=True, eq=False)
class LowRanks(Change):
    """What neighbours add, each to its own rows: down [R, K], up [R, M], masks by how many rows there are."""

    down: Tensor
    up: Tensor
    masks: Mapping[int, Tensor]

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """inputs [N, K], outputs [N, M]."""
        assert inputs is not None
        outputs.addmm_((inputs @ self.down.t()).mul_(self.masks[len(outputs)]), self.up)


def joined(riding: Sequence[Ridden], masks: Masks) -> list[Ridden]:
    """The changes of one layer in their order, where neighbours' low ranks share a product if that is faster.

    masks  of the row, for all its layers; what is missing is put there
    """
    found: list[Ridden] = []
    run: list[tuple[LowRank, Ridden]] = []
    begin = end = ranks = 0
    for one in riding:
        change, tokens = one.change, one.tokens
        if type(change) is not LowRank:  # what is made of it does more
            found += [*_as_one(run, masks), one]
            run = []
            continue
        ranks += change.rank
        if not run or tokens.start != end or 2 * (tokens.stop - begin) * ranks * change.width > CALL[change.down.dtype]:
            found += _as_one(run, masks)
            run, begin, ranks = [], tokens.start, change.rank
        run.append((change, one))
        end = tokens.stop
    return [*found, *_as_one(run, masks)]


def _as_one(run: Sequence[tuple[LowRank, Ridden]], masks: Masks) -> list[Ridden]:
    """Neighbours as one change, in a list; an empty one of none."""
    if len(run) < 2:
        return [one for _, one in run]
    changes, (_, first), (_, last) = [change for change, _ in run], run[0], run[-1]
    made = LowRanks(
        torch.cat([change.down for change in changes]),
        torch.cat([change.up for change in changes]),
        dict(
            _mask(changes, where, masks)
            for where in ([one.tokens for _, one in run], [one.sequences for _, one in run])
        ),
    )
    tokens, sequences = slice(first.tokens.start, last.tokens.stop), slice(first.sequences.start, last.sequences.stop)
    return [Ridden(made, tokens, sequences)]


def _mask(changes: Sequence[LowRank], slices: Sequence[slice], masks: Masks) -> tuple[int, Tensor]:
    """How many rows, and whose."""
    rows = [each.stop - each.start for each in slices]
    key = tuple((count, change.rank, change.scaling) for count, change in zip(rows, changes, strict=True))
    if key not in masks:
        made = changes[0].down.new_zeros(sum(rows), sum(change.rank for change in changes))
        row = rank = 0
        for count, size, scaling in key:
            made[row : row + count, rank : rank + size] = scaling
            row, rank = row + count, rank + size
        masks[key] = made
    return sum(rows), masks[key]
