"""The LoRA weights of adapters that decode together, stacked by layer, so that a step multiplies them in few products.

`share_products` in `lora.py` joins the weights of a row anew each time, which is cheap beside a row of whole texts. A
decoding row has one token of each sequence, and its adapters stay the same for many steps. The stacks are therefore
kept, and built again only when an adapter enters or when most stacked adapters have left.

A row's own ranks are chosen by overwriting the products with other ranks by 0, so that an adapter whose products are
infinite or NaN spoils no other row. An adapter with weights that are not finite is not stacked. Knows layers' changes,
not models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from afina.models.kernels.layer_changes import BatchedAdapter, BiasChange, LayerChange, PlacedChange
from afina.models.kernels.lora import LoraChange

MOST_RANKS = 256
"""Most ranks of a stack: a row is multiplied by all ranks of its stack, also by those of other adapters."""


@dataclass(frozen=True, eq=False)
class StackedLoraChange(LayerChange):
    """Adds each row's own LoRA: down [R, K], up [R, M] times the scaling, hidden [N, R] True at others' ranks."""

    down: Tensor
    up: Tensor
    hidden: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """Add to outputs [N, M] in place, from inputs [N, K]."""
        assert inputs is not None
        outputs.addmm_((inputs @ self.down.t()).masked_fill_(self.hidden, 0), self.up)


class _Stack(NamedTuple):
    """A layer's stacked weights, as in `StackedLoraChange`, and each adapter's ranks by the adapter's id."""

    down: Tensor
    up: Tensor
    ranks: Mapping[int, slice]


class LoraStacks:
    """Places the changes of a decoding row, with the stacks of its adapters. Not thread-safe."""

    def __init__(self) -> None:
        self._adapters: dict[int, BatchedAdapter] = {}
        self._stacks: dict[str, list[_Stack]] = {}

    @property
    def bytes(self) -> int:
        """Size of all stacks; at most twice the size of the adapters that were last placed."""
        return sum(
            one.numel() * one.element_size() for many in self._stacks.values() for each in many for one in each[:2]
        )

    def clear(self) -> None:
        """Forget all adapters."""
        self._adapters, self._stacks = {}, {}

    def arranged(self, adapters: Iterable[BatchedAdapter]) -> dict[int, int]:
        """Return the place of each adapter in a row, by its id; builds the stacks if needed."""
        given = {id(one): one for one in adapters}
        if not given.keys() <= self._adapters.keys() or 2 * len(given) < len(self._adapters):
            self._adapters = given
            self._stacks = _stacks([*given.values()])
        return {key: place for place, key in enumerate(self._adapters)}

    def changes(self, placed: Sequence[tuple[BatchedAdapter, slice]]) -> dict[str, list[PlacedChange]]:
        """Return the changes by path of a layer, for adapters in the order of `arranged` with their rows."""
        found: dict[str, list[PlacedChange]] = {}
        hidden: dict[tuple[tuple[int, int, int], ...], Tensor] = {}
        stacked: dict[str, set[int]] = {}
        for path, stacks in self._stacks.items():
            for stack in stacks:
                mine = [(adapter, rows) for adapter, rows in placed if id(adapter) in stack.ranks]
                if len(mine) > 1:
                    found.setdefault(path, []).append(_placed(stack, mine, hidden))
                    stacked.setdefault(path, set()).update(id(adapter) for adapter, _ in mine)
        for adapter, rows in placed:
            for path, changes in adapter.changes.items():
                own = [one for one in changes if id(adapter) not in stacked.get(path, ()) or type(one) is BiasChange]
                found.setdefault(path, []).extend(PlacedChange(one, rows, rows) for one in own)
        return found


def _placed(
    stack: _Stack,
    mine: Sequence[tuple[BatchedAdapter, slice]],
    hidden: dict[tuple[tuple[int, int, int], ...], Tensor],
) -> PlacedChange:
    """Return a stack's change for its adapters' rows; `hidden` keeps masks that several layers share."""
    begin, end = mine[0][1].start, mine[-1][1].stop
    cells = [(rows.start - begin, rows.stop - begin, stack.ranks[id(adapter)].start) for adapter, rows in mine]
    sizes = [stack.ranks[id(adapter)].stop for adapter, _ in mine]
    key = (*((first, last, rank) for first, last, rank in cells), (end - begin, len(stack.down), sum(sizes)))
    if key not in hidden:
        mask = torch.ones(end - begin, len(stack.down), dtype=torch.bool)
        for (first, last, rank), stop in zip(cells, sizes, strict=True):
            mask[first:last, rank:stop] = False
        hidden[key] = mask.to(stack.down.device)
    rows = slice(begin, end)
    return PlacedChange(StackedLoraChange(stack.down, stack.up, hidden[key]), rows, rows)


def _stacks(adapters: Sequence[BatchedAdapter]) -> dict[str, list[_Stack]]:
    """Return the stacks of each layer at which several adapters have one LoRA and at most changed biases beside it."""
    own: dict[str, list[tuple[int, LoraChange]]] = {}
    for adapter in adapters:
        for path, changes in adapter.changes.items():
            loras = [one for one in changes if type(one) is LoraChange]  # subclasses compute more than LoRA
            if len(loras) == 1 and all(type(one) in (LoraChange, BiasChange) for one in changes) and _finite(loras[0]):
                own.setdefault(path, []).append((id(adapter), loras[0]))
    found: dict[str, list[_Stack]] = {}
    for path, many in own.items():
        part: list[tuple[int, LoraChange]] = []
        for one in many:
            if part and sum(change.rank for _, change in part) + one[1].rank > MOST_RANKS:
                found.setdefault(path, []).append(_stack(part))
                part = []
            part.append(one)
        found.setdefault(path, []).append(_stack(part))
    return {path: [one for one in made if len(one.ranks) > 1] for path, made in found.items()}


def _stack(part: Sequence[tuple[int, LoraChange]]) -> _Stack:
    ranks, start = {}, 0
    for key, change in part:
        ranks[key] = slice(start, start + change.rank)
        start += change.rank
    down = torch.cat([change.down for _, change in part])
    return _Stack(down, torch.cat([change.up * change.scaling for _, change in part]), ranks)


def _finite(change: LoraChange) -> bool:
    """Whether no weight is infinite or NaN, also after scaling."""
    return bool(torch.isfinite(change.down).all() and torch.isfinite(change.up * change.scaling).all())
