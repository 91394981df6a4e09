"""The layout of a padding-free row of texts: arrangement as a grid, virtual tokens before each text, and pooling.

On a CPU, several short texts (sequences) share a line of the grid, and each text attends only to itself. Sharing lines
leaves few empty cells in the grid: a batch of 16 SST-2 sentences takes about 7 lines of the length of its longest
sentence, instead of 16 lines. The module `layout` does not know models.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from afina.models.architectures import Pooling


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of N lines with L cells, for the T tokens of B texts of a row; empty cells repeat the first token.

    Attributes:
        tokens: For each cell, the index of the row's token, int64 [N * L].
        cells: For each token of the row, the index of its cell, int64 [T].
        sequences: For each cell, the index of the text, int64 [N, L]; -1 for an empty cell.
    """

    tokens: Tensor
    cells: Tensor
    sequences: Tensor

    @classmethod
    def of(cls, bounds: Sequence[int], device: torch.device | str, *, shared: bool) -> Grid:
        """Build the grid from the B + 1 boundaries of texts; `shared`: whether short texts may share a line."""
        starts, ends = np.array(bounds[:-1]), np.array(bounds[1:])
        lengths = ends - starts
        longest, total = int(lengths.max()), int(lengths.sum())
        places = _share(lengths.tolist(), longest) if shared else np.arange(len(lengths)) * longest
        cells = np.repeat(places - (starts - starts[0]), lengths) + np.arange(total)
        lines = int(np.max(places)) // longest + 1
        tokens = np.zeros(lines * longest, np.int64)
        tokens[cells] = np.arange(total)
        sequences = np.full(lines * longest, -1)
        sequences[cells] = np.repeat(np.arange(len(lengths)), lengths)
        made = (torch.from_numpy(array).to(device) for array in (tokens, cells, sequences.reshape(lines, longest)))
        return cls(*made)

    @property
    def lines(self) -> int:
        return self.sequences.shape[0]

    @property
    def length(self) -> int:
        return self.sequences.shape[1]

    @property
    def filled(self) -> Tensor | None:
        """Whether each cell has a token, bool [N, L]; None: every cell has a token."""
        return None if len(self.cells) == self.lines * self.length else self.sequences >= 0

    def fill(self, rows: Tensor) -> Tensor:
        """Copy a row's tensor [H, T, D] into the cells of the grid, [H, N, L, D], contiguous."""
        return rows.index_select(1, self.tokens).view(rows.shape[0], self.lines, self.length, rows.shape[2])

    def read(self, grid: Tensor) -> Tensor:
        """Copy the grid's cells [H, N, L, D] back to a row, [T, H, D], contiguous."""
        return grid.reshape(grid.shape[0], -1, grid.shape[-1]).transpose(0, 1).index_select(0, self.cells)

    def visible(self, window: int | None, always: int = 0, *, causal: bool = True) -> Tensor:
        """Return whether each query attends to each key of its line, bool [N, L, L]: only within the same text.

        Empty cells attend to each other, because a softmax over nothing would be NaN. `always` first tokens of a line
        are seen at any distance, in a grid with one text in each line.
        """
        if not causal and window is None:
            return self._same()
        steps = torch.arange(self.length, device=self.tokens.device)
        distance = steps[:, None] - steps
        near = (distance.abs() < (window or self.length)) | (steps < always)
        return (near & (distance >= 0) if causal else near) & self._same()

    def _same(self) -> Tensor:
        return self.sequences[:, :, None] == self.sequences[:, None, :]


def _share(lengths: Sequence[int], longest: int) -> np.ndarray:
    """Return the first cell of each text, int64 [B]: longest text first, each in the fullest line with enough room."""
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
    """Where the B texts (sequences) of a padding-free row are; each form of it is computed when it is first used.

    Attributes:
        bounds: The boundaries of the texts, int32 [B + 1], on the row's device.
        before: Number of cells with virtual tokens at the start of each text.
        prefix: Number of keys and values of a prefix before each text, which are not cells of the row.
        chosen: Cells whose outputs are read, int64 [M], each once. None: the last token of each text.
        by_token: Whether the outputs of the chosen cells are read without pooling them for each text.
    """

    bounds: Tensor
    before: int = 0
    prefix: int = 0
    chosen: Tensor | None = None
    by_token: bool = False

    def grown(self, before: int, prefix: int = 0) -> Layout:
        """Return the layout of a row with `before` additional cells before each text."""
        more = torch.arange(len(self.bounds), dtype=self.bounds.dtype, device=self.bounds.device) * before
        return Layout(self.bounds + more, before, prefix)

    @cached_property
    def extended(self) -> Layout:
        return self.grown(self.prefix)

    @cached_property
    def _bounds(self) -> list[int]:
        return self.bounds.tolist()

    def reading(self, tokens: Tensor) -> Layout:
        """Return this layout for reading the outputs of `tokens`, int64 [M], indices that skip virtual tokens."""
        cells = self.cells[0].index_select(0, tokens) if self.before else tokens
        return Layout(self.bounds, self.before, self.prefix, cells, by_token=True)

    def pooling(self, *poolings: Pooling) -> Layout:
        needed = set(poolings)
        if needed <= {"last"}:
            return self
        cells = self.bounds[:-1].long() + self.before
        if needed != {"first"}:
            cells = torch.arange(self._bounds[-1], device=self.bounds.device)
        return Layout(self.bounds, self.before, self.prefix, cells)

    @cached_property
    def read(self) -> Tensor:
        """Cells whose outputs are read, int64 [M]: the chosen cells, or the last token of each text."""
        return self.bounds[1:].long() - 1 if self.chosen is None else self.chosen

    @cached_property
    def longest(self) -> int:
        return max(end - start for start, end in zip(self._bounds, self._bounds[1:], strict=False))

    @cached_property
    def positions(self) -> Tensor:
        """Position of each cell in its text, int64 [T]; the prefix's positions come before."""
        bounds = np.array(self._bounds)
        steps = np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))
        return torch.from_numpy(steps + self.prefix).to(self.bounds.device)

    @cached_property
    def sequences(self) -> Tensor:
        """The index of the text of each cell, int64 [T]."""
        bounds = np.array(self._bounds)
        return torch.from_numpy(np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))).to(self.bounds.device)

    @cached_property
    def cells(self) -> tuple[Tensor, Tensor]:
        """The cells of the texts' tokens, int64 [T - B K], and the cells of virtual tokens, int64 [B K]."""
        virtual = self.positions < self.before + self.prefix
        return (~virtual).nonzero()[:, 0], virtual.nonzero()[:, 0]

    @cached_property
    def single(self) -> Grid:
        return Grid.of(self._bounds, self.bounds.device, shared=False)

    @cached_property
    def shared(self) -> Grid:
        return Grid.of(self._bounds, self.bounds.device, shared=True)

    def made(self) -> Layout:
        _ = self.read, self.longest, self.single, self.shared, self.positions, self.cells, self.sequences
        if self.prefix:
            self.extended.made()
        return self

    @cached_property
    def _hidden(self) -> dict[tuple[int | None, bool], Tensor]:
        return {}

    def hidden(self, window: int | None, *, causal: bool = True) -> Tensor:
        """Return the negation of `shared.visible`, bool [N, L, L], computed once for all layers.

        With a prefix, the mask is [N, L, P + L], and empty cells do not attend to the prefix, because their gradients
        would reach the prefix.
        """
        if (window, causal) not in self._hidden:
            hidden = ~self.shared.visible(window, causal=causal)
            if self.prefix:
                empty = (self.shared.sequences < 0)[:, :, None].expand(-1, -1, self.prefix)
                hidden = torch.cat([empty, hidden], 2)
            self._hidden[window, causal] = hidden
        return self._hidden[window, causal]

    @cached_property
    def _in_blocks(self) -> dict[int, Tensor]:
        return {}

    def in_blocks(self, window: int) -> Tensor:
        """Return what each token of each block of `window` tokens attends to, bool [N, window, 3 * window].

        The keys are those of the block before, of the block itself and of the next block. Cells after the end of the
        row attend to each other, so that each cell attends to something.
        """
        if window not in self._in_blocks:
            bounds = np.array(self._bounds)
            count = -(-bounds[-1] // window)
            sequences = np.full((count + 2) * window, -1)
            sequences[window : window + bounds[-1]] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
            keys = np.lib.stride_tricks.sliding_window_view(sequences, 3 * window)[::window]
            near = np.abs(np.arange(window)[:, None] + window - np.arange(3 * window)) < window
            same = keys[:, window : 2 * window, None] == keys[:, None]
            self._in_blocks[window] = torch.from_numpy(near & same).to(self.bounds.device)
        return self._in_blocks[window]


def insert(rows: Tensor, virtual: Tensor, layout: Layout) -> Tensor:
    """Return rows [..., T - B K, D] with the K virtual rows [..., K, D] before those of each text, [..., T, D]."""
    result: Tensor = _Insert.apply(rows, virtual, *layout.cells)  # type: ignore[no-untyped-call]
    return result


def read_rows(rows: Tensor, layout: Layout) -> Tensor:
    if layout.chosen is None:  # few rows, for which torch's own gradient is quick enough
        return rows.index_select(0, layout.read)
    result: Tensor = _TakeOut.apply(rows, layout.read)  # type: ignore[no-untyped-call]
    return result


def take_out(rows: Tensor, layout: Layout) -> Tensor:
    """Return the rows of the texts' tokens from `rows` [T, ...], without those of virtual tokens."""
    result: Tensor = _TakeOut.apply(rows, layout.cells[0])  # type: ignore[no-untyped-call]
    return result


class _Insert(torch.autograd.Function):
    """Inserts rows by copying, also in the backward pass: torch's gradient of `index_select` adds each row."""

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


class Pooled(NamedTuple):
    """A pooling of hidden states to the head's input; with `normalize`, the result is divided by its Euclidean norm."""

    pooling: Pooling
    normalize: bool = False

    def of(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Return the head's input, float32 [B, D], for the hidden states [T, D]."""
        if self.pooling == "last":
            features = hidden.index_select(0, layout.bounds[1:].long() - 1).float()
        else:
            features = pool(hidden, layout, self.pooling).float()
        return nn.functional.normalize(features, dim=-1) if self.normalize else features


def pool(hidden: Tensor, layout: Layout, pooling: Pooling) -> Tensor:
    """Pool the hidden states [T, D] of each text to [B, D], without those of virtual tokens.

    With the pooling "last", the result is the hidden states of the cells that the layout reads, [M, D].
    """
    if pooling == "last":
        return read_rows(hidden, layout)
    if pooling == "first":
        return hidden.index_select(0, layout.bounds[:-1].long() + layout.before)
    places = torch.arange(len(hidden), device=hidden.device)
    bounds = layout.bounds.long()
    sequence = torch.searchsorted(bounds[1:], places, right=True)
    own = places - bounds.index_select(0, sequence) >= layout.before
    total = hidden.new_zeros(len(bounds) - 1, hidden.shape[1], dtype=torch.float32)
    total = total.index_add(0, sequence, hidden.float() * own[:, None])
    return total / (bounds.diff() - layout.before)[:, None]
