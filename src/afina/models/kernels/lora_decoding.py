"""LoRA weights of several adapters in generation, stacked by layer, so that each step takes few products.

For each row, `share_products` in `lora.py` joins the adapters' weights anew, which takes little time compared with a
row of whole texts. During generation, a row has one token of each running text, and its adapters stay the same for many
steps. Stacked weights are kept from step to step: an adapter's weights are copied into a stack when its first text
starts, and stay until its last text ends.

Adapters of one rank are multiplied by a batched product, with one matrix for each adapter (`GroupedLoraChange`). On a
CPU in bfloat16, one product of all rows with all ranks is faster (`StackedLoraChange`). In the product with all ranks,
the results for ranks of other adapters are overwritten by 0, so that infinity or NaN of one adapter reaches no other
row. An adapter with infinite or NaN weights is not stacked. The module knows changes of layers, not models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from afina.models.kernels.layer_changes import BatchedAdapter, BiasChange, LayerChange, PlacedChange
from afina.models.kernels.lora import LoraChange

MOST_RANKS = 128
"""Maximum number of ranks in a stack of which each row is multiplied by all, also those of other adapters."""

Loras = Mapping[str, LoraChange]

Placed = Sequence[tuple[BatchedAdapter, slice]]

_Shapes = frozenset[tuple[str, torch.Size, torch.Size]]

_Places = Sequence[tuple[slice, slice]]
"""For each adapter of a row in a stack, its ranks in the stack and its rows."""

_Change = Callable[[Tensor, Tensor], LayerChange]
"""Returns the change of a layer, given its stacked weights: down [R, K] and up [R, M]."""


@dataclass(frozen=True, eq=False)
class StackedLoraChange(LayerChange):
    """Adds each row's own LoRA by one product with all: down [R, K], up [R, M]; `hidden` [N, R] at others' ranks."""

    down: Tensor
    up: Tensor
    hidden: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        outputs.addmm_((inputs @ self.down.t()).masked_fill_(self.hidden, 0), self.up)


@dataclass(frozen=True, eq=False)
class GroupedLoraChange(LayerChange):
    """Adds to each row the LoRA of the row's own adapter, by a batched product with one matrix for each adapter.

    Attributes:
        down: The matrices A of S adapters, [S, r, K].
        up: The transposed matrices B, multiplied by the scaling, [S, r, M].
        rows: The row in each cell of each adapter, int64 [S * cells]; unused cells have row 0. None: in order.
        cells: The cell of each row, int64 [N]. None: in order.
    """

    down: Tensor
    up: Tensor
    rows: Tensor | None = None
    cells: Tensor | None = None

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        held = inputs if self.rows is None else inputs[self.rows]
        low = torch.bmm(held.view(len(self.down), -1, held.shape[1]), self.down.transpose(1, 2))
        if self.cells is None:
            outputs.view(len(self.up), -1, outputs.shape[1]).baddbmm_(low, self.up)
        else:
            outputs.add_(torch.bmm(low, self.up).flatten(0, 1)[self.cells])


class LoraStack:
    """The stacked LoRA weights of adapters that change the same layers, with the same ranks at every layer.

    Args:
        rank: The rank of all adapters, whose products are grouped by adapter. None: any ranks, and each row is
            multiplied by all of them.
    """

    def __init__(self, rank: int | None = None) -> None:
        self.ranks: dict[int, slice] = {}
        self.capacity = 0
        self._rank = rank
        self._down: dict[str, Tensor] = {}
        self._up: dict[str, Tensor] = {}

    @property
    def used(self) -> int:
        return sum(ranks.stop - ranks.start for ranks in self.ranks.values())

    @property
    def bytes(self) -> int:
        return sum(one.numel() * one.element_size() for part in (self._down, self._up) for one in part.values())

    @property
    def order(self) -> list[int]:
        return sorted(self.ranks, key=lambda key: self.ranks[key].start)

    def enter(self, key: int, loras: Loras) -> None:
        rank = _rank(loras)
        start = self._free(rank)
        if start is None:
            start = self.used
            self._resize(max(2 * start, start + rank), loras)
        self.ranks[key] = slice(start, start + rank)
        for path, change in loras.items():
            self._down[path][start : start + rank] = change.down
            self._up[path][start : start + rank] = change.up * change.scaling

    def leave(self, key: int) -> None:
        """Free an adapter's ranks; the weights in them are finite, and results for free ranks are hidden."""
        del self.ranks[key]
        if self.capacity > 2 * self.used:
            self._resize(self.used)

    def _free(self, rank: int) -> int | None:
        """Return the first of `rank` adjacent free ranks; None: the stack has fewer adjacent free ranks."""
        start = 0
        for ranks in sorted(self.ranks.values(), key=lambda one: one.start):
            if ranks.start - start >= rank:
                return start
            start = ranks.stop
        return start if self.capacity - start >= rank else None

    def _resize(self, capacity: int, like: Loras | None = None) -> None:
        """Move all adapters to the first ranks of new tensors; `like` gives the shapes for an empty stack."""
        before = [(key, self.ranks[key]) for key in self.order]
        start = 0
        for key, ranks in before:
            self.ranks[key] = slice(start, start + ranks.stop - ranks.start)
            start = self.ranks[key].stop
        for part, kind in ((self._down, "down"), (self._up, "up")):
            for path, had in {**{path: getattr(one, kind) for path, one in (like or {}).items()}, **part}.items():
                part[path] = had.new_zeros(capacity, had.shape[1])
                for key, ranks in before:
                    part[path][self.ranks[key]] = had[ranks]
        self.capacity = capacity

    def placed(self, row: Placed) -> dict[str, PlacedChange]:
        """Return the LoRA change of each layer for the adapters of a row in the stack; empty for fewer than two."""
        mine = [(self.ranks[id(adapter)], rows) for adapter, rows in row if id(adapter) in self.ranks]
        if len(mine) < 2:
            return {}
        rows = slice(mine[0][1].start, mine[-1][1].stop)
        make = self._stacked(mine, rows) if self._rank is None else self._grouped(mine, rows, self._rank)
        return {path: PlacedChange(make(down, self._up[path]), rows, rows) for path, down in self._down.items()}

    def _stacked(self, mine: _Places, rows: slice) -> _Change:
        hidden = torch.ones(rows.stop - rows.start, self.capacity, dtype=torch.bool)
        for ranks, own in mine:
            hidden[own.start - rows.start : own.stop - rows.start, ranks] = False
        hidden = hidden.to(self._device)
        return lambda down, up: StackedLoraChange(down, up, hidden)

    def _grouped(self, mine: _Places, rows: slice, rank: int) -> _Change:
        slots = max(ranks.stop for ranks, _ in mine) // rank
        each = max(own.stop - own.start for _, own in mine)
        at = np.zeros((slots, each), np.int64)
        cells = np.zeros(rows.stop - rows.start, np.int64)
        for ranks, own in mine:
            slot, count, start = ranks.start // rank, own.stop - own.start, own.start - rows.start
            at[slot, :count] = np.arange(start, start + count)
            cells[start : start + count] = slot * each + np.arange(count)
        places = [torch.from_numpy(one.reshape(-1)).to(self._device) for one in (at, cells)]
        if np.array_equal(at.reshape(-1), np.arange(len(cells))):
            places = []

        def make(down: Tensor, up: Tensor) -> GroupedLoraChange:
            parts = (one.view(-1, rank, one.shape[1])[:slots] for one in (down, up))
            return GroupedLoraChange(*parts, *places)

        return make

    @property
    def _device(self) -> torch.device:
        return next(iter(self._down.values())).device


class LoraStacks:
    """Keeps the stacks of all adapters in generation, and places their changes of layers in rows. Not thread-safe."""

    def __init__(self) -> None:
        self._adapters: dict[int, BatchedAdapter] = {}
        self._stacks: dict[tuple[_Shapes, int | None], list[LoraStack]] = {}
        self._in: dict[int, LoraStack] = {}
        self._last: tuple[tuple[tuple[int, int, int], ...], dict[str, list[PlacedChange]]] = (), {}

    @property
    def bytes(self) -> int:
        """Size of all stacks in bytes; at most twice the size of the adapters that were last arranged."""
        return sum(stack.bytes for many in self._stacks.values() for stack in many)

    def clear(self) -> None:
        self.arranged(())

    def arranged(self, adapters: Iterable[BatchedAdapter]) -> dict[int, int]:
        """Return the position of each running adapter in a row, by its `id`; all other adapters leave the stacks."""
        given = {id(one): one for one in adapters}
        if given.keys() != self._adapters.keys():
            for key in self._adapters.keys() - given.keys():
                self._leave(key)
            for key, one in given.items():
                if key not in self._adapters:
                    self._enter(key, one)
            self._adapters, self._last = given, ((), {})
        order = [key for many in self._stacks.values() for stack in many for key in stack.order]
        order = [*(key for key in given if key not in self._in), *order]
        return {key: place for place, key in enumerate(order)}

    def _enter(self, key: int, adapter: BatchedAdapter) -> None:
        loras = _stackable(adapter)
        if not loras:
            return
        shapes = frozenset((path, one.down.shape[1:], one.up.shape[1:]) for path, one in loras.items())
        rank = _rank(loras)
        own = rank if _is_grouped(loras) else None
        stacks = self._stacks.setdefault((shapes, own), [])
        stack = next((one for one in stacks if own is not None or one.used + rank <= MOST_RANKS), None)
        if stack is None:
            stack = LoraStack(own)
            stacks.append(stack)
        stack.enter(key, loras)
        self._in[key] = stack

    def _leave(self, key: int) -> None:
        stack = self._in.pop(key, None)
        if stack is None:
            return
        stack.leave(key)
        if not stack.ranks:
            kept = {shapes: [one for one in many if one is not stack] for shapes, many in self._stacks.items()}
            self._stacks = {shapes: many for shapes, many in kept.items() if many}

    def changes(self, row: Placed) -> dict[str, list[PlacedChange]]:
        """Return the changes of each layer by path, for adapters with their rows in the order of `arranged`."""
        composition = tuple((id(adapter), rows.start, rows.stop) for adapter, rows in row)
        if composition != self._last[0]:
            self._last = composition, self._changes(row)
        return self._last[1]

    def _changes(self, row: Placed) -> dict[str, list[PlacedChange]]:
        found: dict[str, list[PlacedChange]] = {}
        stacked: set[tuple[int, str]] = set()
        for stack in (one for many in self._stacks.values() for one in many):
            for path, change in stack.placed(row).items():
                found.setdefault(path, []).append(change)
                stacked |= {(key, path) for key in stack.ranks}
        for adapter, rows in row:
            for path, changes in adapter.changes.items():
                own = [one for one in changes if (id(adapter), path) not in stacked or type(one) is BiasChange]
                found.setdefault(path, []).extend(PlacedChange(one, rows, rows) for one in own)
        return found


def _is_grouped(loras: Loras) -> bool:
    """Whether a batched product is faster: on a CPU, those of oneDNN in bfloat16 are not (docs/LOG.md)."""
    one = next(iter(loras.values())).down
    return one.device.type != "cpu" or one.dtype != torch.bfloat16


def _rank(loras: Loras) -> int:
    return max(change.rank for change in loras.values())


def _stackable(adapter: BatchedAdapter) -> Loras:
    """Return an adapter's LoRA changes of the layers that it changes by LoRA, and at most by a bias in addition.

    The result is empty if a weight is infinite or NaN, also after scaling, or if the ranks of the layers differ.
    """
    found: dict[str, LoraChange] = {}
    for path, changes in adapter.changes.items():
        loras = [one for one in changes if type(one) is LoraChange]  # subclasses compute more than LoRA
        if len(loras) == 1 and all(type(one) in (LoraChange, BiasChange) for one in changes):
            found[path] = loras[0]
    if len({change.rank for change in found.values()}) != 1:
        return {}
    finite = all(bool(one.down.isfinite().all() and (one.up * one.scaling).isfinite().all()) for one in found.values())
    return found if finite else {}
