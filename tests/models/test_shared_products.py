"""Neighbours' low ranks in one product are what each adds by itself, in its own rows alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from afina.models.kernels import lora
from afina.models.kernels.layer_changes import BiasChange, LayerChange, PlacedChange
from afina.models.kernels.lora import LoraChange, Masks, SharedLoraChange, share_products

WIDE, OUT = 5, 7


def seated(changes: Sequence[Sequence[LayerChange]], rows: Sequence[int]) -> list[PlacedChange]:
    """The changes of adapters that have so many rows each, and a sequence for every two."""
    found, begin, first = [], 0, 0
    for own, count in zip(changes, rows, strict=True):
        tokens, sequences = slice(begin, begin + count), slice(first, first + count // 2)
        found += [PlacedChange(change, tokens, sequences) for change in own]
        begin, first = tokens.stop, sequences.stop
    return found


def low(rank: int, scaling: float = 2.0) -> LoraChange:
    return LoraChange(torch.randn(rank, WIDE), torch.randn(rank, OUT), scaling)


def computed(riding: Sequence[PlacedChange], inputs: torch.Tensor, *, by_sequence: bool = False) -> torch.Tensor:
    outputs = torch.zeros(len(inputs), OUT)
    for change, tokens, sequences in riding:
        where = sequences if by_sequence else tokens
        change.leaving(inputs[where], outputs[where])
    return outputs


@pytest.mark.parametrize("call", [0, 800, 1500, 10**9])
def test_joined_they_add_what_each_does(call: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lora.CALL_COST, torch.float32, call)
    torch.manual_seed(0)
    bias = BiasChange(torch.randn(OUT))
    own: list[list[LayerChange]] = [[low(2)], [low(3, 0.5)], [bias], [low(1), bias], [low(4)], [low(2, 1.0)], [low(2)]]
    apart = seated(own, [4, 2, 6, 2, 2, 8, 4])
    masks: Masks = {}
    together = share_products(apart, masks)
    inputs = torch.randn(28, WIDE)
    assert torch.allclose(computed(together, inputs), computed(apart, inputs), atol=1e-5)
    fewer = computed(together, inputs[:14], by_sequence=True)
    assert torch.allclose(fewer, computed(apart, inputs[:14], by_sequence=True), atol=1e-5)
    shared = [one for one in together if isinstance(one.change, SharedLoraChange)]
    assert len(together) == {0: 8, 800: 7, 1500: 6, 10**9: 5}[call]
    assert bool(shared) == (call > 0)
    assert bool(masks) == (call > 0)


def test_the_rows_of_one_that_stands_between_are_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that do nothing at this layer have no change there, and rows all the same."""
    monkeypatch.setitem(lora.CALL_COST, torch.float32, 10**9)
    first, _, last = seated([[low(2)], [low(2)], [low(2)]], [2, 2, 2])
    assert share_products([first, last], {}) == [first, last]


def test_masks_are_made_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lora.CALL_COST, torch.float32, 10**9)
    masks: Masks = {}
    for _ in range(3):
        share_products(seated([[low(2)], [low(3)]], [4, 2]), masks)
    assert sorted(mask.shape for mask in masks.values()) == [(3, 5), (6, 5)]
