"""Where each token of a packed row sits in a grid of lines, and which of a line's cells may see each other.

Several short sequences share a line, each seeing only itself, so that the grid has few empty cells: a batch of 16
SST-2 sentences takes about 7 lines of its longest text's length instead of 16. Knows no model.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


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
