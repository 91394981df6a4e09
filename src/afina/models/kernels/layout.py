"""Layout of a packed row: where each token sits in a grid of lines, virtual rows before each text, pooling.

Several short sequences share a line, each seeing only itself, so that the grid has few empty cells: a batch of 16
SST-2 sentences takes about 7 lines of its longest text's length instead of 16. Knows no model.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afina.models.architectures import Pooling


@dataclass(frozen=True, eq=False)
class Grid:
    """N lines of L cells that hold the T tokens of B sequences; cells left empty repeat the row's first token.

    tokens     int64 [N * L]  the row's token in each cell
    cells      int64 [T]      the cell of each token
    sequences  int64 [N, L]   the sequence that each cell belongs to, -1 where it is empty
    """

    tokens: Tensor
    cells: Tensor
    sequences: Tensor

    @classmethod
    def of(cls, bounds: Sequence[int], device: torch.device | str, *, shared: bool) -> Grid:
        """From the boundaries, B + 1 of them. shared: whether short sequences may share a line."""
        starts, ends = np.array(bounds[:-1]), np.array(bounds[1:])
        lengths = ends - starts
        longest, total = int(lengths.max()), int(lengths.sum())
        places = _share(lengths.tolist(), longest) if shared else np.arange(len(lengths)) * longest
        cells = np.repeat(places - (starts - starts[0]), lengths) + np.arange(total)
        lines = int(places.max()) // longest + 1
        tokens = np.zeros(lines * longest, np.int64)
        tokens[cells] = np.arange(total)
        sequences = np.full(lines * longest, -1)
        sequences[cells] = np.repeat(np.arange(len(lengths)), lengths)
        made = (torch.from_numpy(array).to(device) for array in (tokens, cells, sequences.reshape(lines, longest)))
        return cls(*made)

    @property
    def lines(self) -> int:
        """N."""
        return self.sequences.shape[0]

    @property
    def length(self) -> int:
        """L, the longest sequence."""
        return self.sequences.shape[1]

    def fill(self, rows: Tensor) -> Tensor:
        """[H, T, D] -> [H, N, L, D], contiguous."""
        return rows.index_select(1, self.tokens).view(rows.shape[0], self.lines, self.length, rows.shape[2])

    def read(self, grid: Tensor) -> Tensor:
        """[H, N, L, D] -> [T, H, D], contiguous."""
        return grid.reshape(grid.shape[0], -1, grid.shape[-1]).transpose(0, 1).index_select(0, self.cells)

    def visible(self, window: int | None, always: int = 0, *, causal: bool = True) -> Tensor:
        """Whether a query (line) sees a key (column), bool [N, L, L]: its own sequence's; if causal, none after itself.

        window: how many tokens it sees, itself among them. Empty cells see each other, so that no softmax is empty.
        always: how many at a line's start it sees however far they are; for lines of one sequence
        """
        if not causal:
            return self._same()
        steps = torch.arange(self.length, device=self.tokens.device)
        distance = steps[:, None] - steps
        near = (distance >= 0) & ((distance < (window or self.length)) | (steps < always))
        return near & self._same()

    def _same(self) -> Tensor:
        return self.sequences[:, :, None] == self.sequences[:, None, :]


def _share(lengths: Sequence[int], longest: int) -> np.ndarray:
    """The first cell of each sequence, int64 [B]: the longest first, each into the fullest line that has room."""
    places = np.zeros(len(lengths), np.int64)
    room: list[tuple[int, int]] = []  # (cells left, line), ascending
    lines = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        found = bisect_left(room, (lengths[index], 0))
        if found < len(room):
            left, line = room.pop(found)
        else:
            left, line, lines = longest, lines, lines + 1
        places[index] = (line + 1) * longest - left
        if left > lengths[index]:
            insort(room, (left - lengths[index], line))
    return places


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the B sequences of a packed row are, in the forms that attention may want; each made once, when asked for.

    bounds  int32 [B + 1], on the row's device
    before  cells at the start of each sequence that no token of a text has, but a virtual one
    prefix  keys and values, beside the row's own, that stand before those of each sequence
    """

    bounds: Tensor
    before: int = 0
    prefix: int = 0

    def grown(self, before: int, prefix: int = 0) -> Layout:
        """That of a row with so many cells more before each sequence."""
        more = torch.arange(len(self.bounds), dtype=self.bounds.dtype, device=self.bounds.device) * before
        return Layout(self.bounds + more, before, prefix)

    @cached_property
    def extended(self) -> Layout:
        """That of a row with cells for the prefix."""
        return self.grown(self.prefix)

    @cached_property
    def _bounds(self) -> list[int]:
        return self.bounds.tolist()

    @cached_property
    def last(self) -> Tensor:
        """Each sequence's last token, int64 [B]."""
        return self.bounds[1:].long() - 1

    @cached_property
    def longest(self) -> int:
        """The most tokens of a sequence."""
        return max(end - start for start, end in zip(self._bounds, self._bounds[1:], strict=False))

    @cached_property
    def positions(self) -> Tensor:
        """Of each cell in its sequence, int64 [T], counted from the first of the prefix."""
        bounds = np.array(self._bounds)
        steps = np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))
        return torch.from_numpy(steps + self.prefix).to(self.bounds.device)

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """Those of the texts' tokens, int64 [T - B K], and the virtual ones, [B K]."""
        virtual = self.positions < self.before + self.prefix
        return (~virtual).nonzero()[:, 0], virtual.nonzero()[:, 0]

    @cached_property
    def single(self) -> Grid:
        """One sequence a line."""
        return Grid.of(self._bounds, self.bounds.device, shared=False)

    @cached_property
    def shared(self) -> Grid:
        """As few lines as are found."""
        return Grid.of(self._bounds, self.bounds.device, shared=True)

    def made(self) -> Layout:
        """This layout, with every form made now."""
        _ = self.last, self.longest, self.single, self.shared, self.positions, self.cells
        if self.prefix:
            self.extended.made()
        return self

    @cached_property
    def _hidden(self) -> dict[tuple[int | None, bool], Tensor]:
        return {}

    def hidden(self, window: int | None, *, causal: bool = True) -> Tensor:
        """The opposite of `shared.visible`, made once for all layers of a batch: bool [N, L, L].

        With a prefix [N, L, P + L]: only empty cells do not see it, whose gradients would reach it.
        """
        if (window, causal) not in self._hidden:
            hidden = ~self.shared.visible(window, causal=causal)
            if self.prefix:
                empty = (self.shared.sequences < 0)[:, :, None].expand(-1, -1, self.prefix)
                hidden = torch.cat([empty, hidden], 2)
            self._hidden[window, causal] = hidden
        return self._hidden[window, causal]


def insert(rows: Tensor, virtual: Tensor, layout: Layout) -> Tensor:
    """The texts' rows [..., T - B K, D], and before each sequence the same K others [..., K, D]: [..., T, D].

    layout  of the T rows, in which K are `before` each sequence
    """
    result: Tensor = _Insert.apply(rows, virtual, *layout.cells)  # type: ignore[no-untyped-call]
    return result


def take_out(rows: Tensor, layout: Layout) -> Tensor:
    """Of rows [T, ...], the texts' alone."""
    result: Tensor = _TakeOut.apply(rows, layout.cells[0])  # type: ignore[no-untyped-call]
    return result


class _Insert(torch.autograd.Function):
    """By copies in both directions: torch's `index_select` adds up its gradient row by row, on a CPU one at a time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, virtual: Tensor, own: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(own, others)
        ctx.count = virtual.shape[-2]
        repeats = len(others) // ctx.count
        whole = rows.new_empty(*rows.shape[:-2], len(own) + len(others), rows.shape[-1])
        whole.index_copy_(-2, own, rows)
        return whole.index_copy_(-2, others, virtual.repeat(*(1 for _ in rows.shape[:-2]), repeats, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        own, others = ctx.saved_tensors
        rows = grad.index_select(-2, own) if ctx.needs_input_grad[0] else None
        virtual = None
        if ctx.needs_input_grad[1]:
            each = grad.index_select(-2, others)
            virtual = each.view(*each.shape[:-2], -1, ctx.count, each.shape[-1]).sum(-3)
        return rows, virtual, None, None


class _TakeOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, own: Tensor) -> Tensor:
        ctx.save_for_backward(own)
        ctx.shape = rows.shape
        return rows.index_select(0, own)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (own,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, own, grads[0]), None


def pool(hidden: Tensor, layout: Layout, pooling: Pooling) -> Tensor:
    """Hidden states [T, D] -> [B, D]: of each text's own tokens, without the virtual ones before them."""
    if pooling == "last":
        return hidden.index_select(0, layout.bounds[1:].long() - 1)
    if pooling == "first":
        return hidden.index_select(0, layout.bounds[:-1].long() + layout.before)
    places = torch.arange(len(hidden), device=hidden.device)
    bounds = layout.bounds.long()
    sequence = torch.searchsorted(bounds[1:], places, right=True)
    own = places - bounds.index_select(0, sequence) >= layout.before
    total = hidden.new_zeros(len(bounds) - 1, hidden.shape[1], dtype=torch.float32)
    total = total.index_add(0, sequence, hidden.float() * own[:, None])
    return total / (bounds.diff() - layout.before)[:, None]
