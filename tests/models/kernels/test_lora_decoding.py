"""LoRA weights stacked for adapters that decode together: each row gets its own adapter's update."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.models.kernels.layer_changes import BatchedAdapter, BiasChange
from afina.models.kernels.lora import LoraChange
from afina.models.kernels.lora_decoding import GroupedLoraChange, LoraStacks, StackedLoraChange

SHAPES = {"q": (12, 20), "v": (12, 6), "o": (20, 12)}


def made(seed: int, *, paths: str = "qv", rank: int = 4, bias: bool = False) -> BatchedAdapter:
    torch.manual_seed(seed)
    changes = {}
    for path in paths:
        inner, outer = SHAPES[path]
        lora = LoraChange(torch.randn(rank, inner), torch.randn(rank, outer), 0.5 + seed % 3)
        changes[path] = (BiasChange(torch.randn(outer)), lora) if bias else (lora,)
    return BatchedAdapter(changes)


ADAPTERS = [
    *(made(seed, paths=("qv", "qvo", "o")[seed % 3], rank=(2, 4, 7)[seed % 3]) for seed in range(9)),
    *(made(seed, rank=4, bias=True) for seed in range(9, 12)),
    *(made(seed, rank=40) for seed in range(12, 14)),
    BatchedAdapter(),
]
IN = {dtype: [one.to(torch.device("cpu"), dtype) for one in ADAPTERS] for dtype in (torch.float32, torch.bfloat16)}
"""The adapters by dtype: `GroupedLoraChange` computes float32, and `StackedLoraChange` computes bfloat16."""

NEAR = {torch.float32: 1e-4, torch.bfloat16: 2**-5}


def computed(
    stacks: LoraStacks, row: list[BatchedAdapter], dtype: torch.dtype = torch.float32
) -> tuple[list[BatchedAdapter], dict[str, torch.Tensor]]:
    """Return the row in its order, and what each layer's changes add to 0; inputs are the same for equal sizes."""
    places = stacks.arranged(row)
    assert places.keys() == {id(one) for one in row}
    row = sorted(row, key=lambda one: places[id(one)])
    placed = []
    for one in {id(one): one for one in row}.values():
        mine = [place for place, each in enumerate(row) if each is one]
        placed.append((one, slice(mine[0], mine[-1] + 1)))
    changes, found = stacks.changes(placed), {}
    for path, (inner, outer) in SHAPES.items():
        outputs, inputs = torch.zeros(len(row), outer, dtype=dtype), given_inputs(len(row), inner).to(dtype)
        for change, _, rows in changes.get(path, ()):
            change.leaving(inputs[rows], outputs[rows])
        found[path] = outputs
    return row, found


def given_inputs(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(width))


def check(row: list[BatchedAdapter], found: dict[str, torch.Tensor]) -> None:
    for path, (inner, outer) in SHAPES.items():
        dtype = found[path].dtype
        inputs = given_inputs(len(row), inner).to(dtype)
        for place, one in enumerate(row):
            expected = torch.zeros(1, outer, dtype=dtype)
            for change in one.changes.get(path, ()):
                change.leaving(inputs[place : place + 1], expected)
            torch.testing.assert_close(
                found[path][place : place + 1], expected, rtol=NEAR[dtype], atol=NEAR[dtype] * 10
            )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(list(IN)))
def test_rows_of_any_adapters_in_any_succession(seed: int, dtype: torch.dtype) -> None:
    draw, stacks = random.Random(seed), LoraStacks()
    for _ in range(12):
        row = [draw.choice(IN[dtype]) for _ in range(draw.randrange(1, 40))]
        check(*computed(stacks, row, dtype))
        assert stacks.bytes <= 2 * sum(one.size for one in {id(one): one for one in row}.values())
    stacks.clear()
    assert stacks.bytes == 0


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float32, GroupedLoraChange), (torch.bfloat16, StackedLoraChange)], ids=str
)
def test_neighbours_share_a_product(dtype: torch.dtype, kind: type[object]) -> None:
    stacks, row = LoraStacks(), IN[dtype][9:12]
    stacks.arranged(row)
    changes = stacks.changes([(one, slice(place, place + 1)) for place, one in enumerate(row)])
    assert [type(change.change) for change in changes["q"]] == [kind, BiasChange, BiasChange, BiasChange]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_values_that_are_not_finite_stay_in_their_own_rows(value: float) -> None:
    bad = BatchedAdapter(
        {"q": (LoraChange(torch.full((4, 12), value), torch.full((4, 20), value), 2.0),), "v": made(1).changes["q"][:0]}
    )
    row = [ADAPTERS[9], bad, ADAPTERS[10], ADAPTERS[11]]
    placed, found = computed(LoraStacks(), row)
    for place, one in enumerate(placed):
        assert bool(found["q"][place].isfinite().all()) == (one is not bad)


@pytest.mark.parametrize("dtype", list(IN), ids=str)
def test_nan_in_the_inputs_of_a_text_stays_in_its_row(dtype: torch.dtype) -> None:
    first, second, _ = IN[dtype][9:12]
    stacks = LoraStacks()
    places = stacks.arranged([first, second])
    counts = {id(first): 1, id(second): 3}
    order = sorted((first, second), key=lambda one: places[id(one)])
    bounds = (0, counts[id(order[0])], 4)
    placed = [(one, slice(*two)) for one, two in zip(order, pairwise(bounds), strict=True)]
    inputs, outputs = torch.ones(4, 12, dtype=dtype), torch.zeros(4, 20, dtype=dtype)
    inputs[0] = torch.nan  # the row in unused cells of a `GroupedLoraChange`
    for change, _, rows in stacks.changes(placed)["q"]:
        change.leaving(inputs[rows], outputs[rows])
    assert [bool(row.isfinite().all()) for row in outputs] == [False, True, True, True]
