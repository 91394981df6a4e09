"""Dropout masks that are drawn for each text: their statistics, and what they depend on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from afina.errors import InvalidStudy
from afina.models.kernels.dropout_masks import TextMasks, repeatable, scaled_mask, weights_mask
from afina.models.kernels.layout import Layout
from raises import raises

CPU = torch.device("cpu")
LENGTHS = (7, 1, 12, 3, 1, 9)
HEADS = 6
WIDTH = 10
"""Neither is a multiple of four, the number of elements that one random word serves."""


def layout_of(lengths: tuple[int, ...], prefix: int = 0) -> Layout:
    return Layout(torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32), prefix=prefix)


def masks_of(numbers: list[int], seed: int = 5, prefix: int = 0) -> tuple[TextMasks, Layout]:
    layout = layout_of(tuple(LENGTHS[number] for number in numbers), prefix)
    return TextMasks(seed, torch.tensor(numbers), layout), layout


def drawn(numbers: list[int], seed: int = 5, prefix: int = 2) -> dict[int, list[torch.Tensor]]:
    """The masks of each text in a row of these texts: of its tokens, of its attention weights, and of its head's row.

    The attention weights are [heads, length, prefix + length].
    """
    masks, layout = masks_of(numbers, seed, prefix)
    grid = layout.shared
    with masks.drawn():
        tokens = scaled_mask((1, len(layout.sequences), WIDTH), 0.4, torch.float32, CPU)[0]
        shape = HEADS * grid.lines, grid.length, prefix + grid.length
        weights = weights_mask(shape, layout, 0.4, torch.float32, CPU).view(HEADS, grid.lines, *shape[1:])
        heads = scaled_mask((len(numbers), WIDTH), 0.4, torch.float32, CPU)
    found = {}
    for place, number in enumerate(numbers):
        cells = (layout.sequences == place).nonzero()[:, 0]
        lines, columns = grid.cells[cells] // grid.length, grid.cells[cells] % grid.length
        kept = torch.cat([torch.arange(prefix), prefix + columns])
        found[number] = [tokens[cells], weights[:, lines[0], columns][:, :, kept], heads[place]]
    return found


def test_the_masks_of_a_text_are_the_same_beside_any_other_texts() -> None:
    whole = drawn([*range(len(LENGTHS))])
    for numbers in ([2], [1, 4], [3, 0], [5, 2, 1]):  # the second has as many tokens as texts
        for number, masks in drawn(numbers).items():
            assert all(map(torch.equal, masks, whole[number])), (numbers, number)


def test_the_masks_of_other_texts_draws_seeds_and_heads_differ() -> None:
    whole = drawn([*range(len(LENGTHS))])
    assert not torch.equal(whole[1][0], whole[4][0])
    assert not torch.equal(whole[2][0], drawn([2], seed=6)[2][0])
    weights = whole[2][1]
    assert len(weights.flatten(1).unique(dim=0)) == HEADS
    assert len(weights.transpose(0, 2).flatten(1).unique(dim=0)) == weights.shape[2]
    masks, layout = masks_of([2, 5])
    with masks.drawn():
        draws = [scaled_mask((len(layout.sequences), WIDTH), 0.5, torch.float32, CPU) for _ in range(20)]
    assert len(torch.stack(draws).flatten(1).unique(dim=0)) == 20


def test_the_rows_of_read_tokens_have_masks_of_their_own_places() -> None:
    def of(numbers: list[int]) -> dict[tuple[int, int], torch.Tensor]:
        lengths = tuple(LENGTHS[number] for number in numbers)
        places = [(number, place) for number, length in zip(numbers, lengths, strict=True) for place in range(length)]
        read = [index for index, (_, place) in enumerate(places) if place % 3 == 0]
        layout = layout_of(lengths).reading(torch.tensor(read))
        with TextMasks(5, torch.tensor(numbers), layout).drawn():
            mask = scaled_mask((1, len(read), WIDTH), 0.4, torch.float32, CPU)[0]
        return {places[index]: row for index, row in zip(read, mask, strict=True)}

    whole = of([*range(len(LENGTHS))])
    for numbers in ([0, 3], [1, 4], [2]):
        assert all(torch.equal(row, whole[place]) for place, row in of(numbers).items())


@pytest.mark.parametrize(("rate", "furthest"), [(0.05, 13), (0.5, 6.5)])
def test_elements_are_dropped_at_the_rate_and_independently_of_each_other(rate: float, furthest: float) -> None:
    """Along each axis, and in every pair of rows and of columns.

    Of 800,000 pairs, the most alike drop together six standard deviations more often than the mean. At a low rate, the
    number of elements that a pair drops together is skewed: 13 standard deviations are seven elements of 96.
    """
    texts, length, width = 8, 40, 96
    masks = TextMasks(9, torch.arange(texts), layout_of((length,) * texts))
    with masks.drawn():
        given = [scaled_mask((texts * length, width), rate, torch.float32, CPU) for _ in range(4)]
        grid = layout_of((length,) * texts)
        weights = weights_mask((8 * texts, length, length), grid, rate, torch.float32, CPU)
    assert torch.stack(given).unique().tolist() == pytest.approx([0, 1 / (1 - rate)], abs=1e-4)
    dropped = (torch.stack(given) == 0).double().view(4, texts, length, width)
    attended = (weights == 0).double().view(8, texts, length, length)
    for each in (dropped, attended):
        spread = (rate * (1 - rate) / each.numel()) ** 0.5
        assert abs(each.mean().item() - rate) < 5 * spread + 2**-16
        for axis, lag in itertools.product(range(4), (1, 2, 3, 4)):
            if lag < each.shape[axis]:
                one, other = (each.narrow(axis, start, each.shape[axis] - lag) for start in (lag, 0))
                correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
                assert abs(correlation.item()) < 5 / one.numel() ** 0.5, (axis, lag)
    for rows in (dropped.view(-1, width), dropped.permute(3, 0, 1, 2).flatten(1)):
        count = rows.shape[1]  # each pair of rows, and of columns, drops together as often as chance has it
        together = (rows - rate) @ (rows - rate).t() / (rate * (1 - rate) * count**0.5)
        apart = together[~torch.eye(len(rows), dtype=torch.bool)]
        assert apart.abs().max() < furthest
        assert apart.std().item() == pytest.approx(1, abs=0.05)


def test_a_repeated_call_draws_the_same_masks_after_the_block() -> None:
    masks, layout = masks_of([0, 2])

    def draw() -> torch.Tensor:
        return scaled_mask((len(layout.sequences), WIDTH), 0.5, torch.float32, CPU)

    with masks.drawn():
        calls = [repeatable(draw) for _ in range(1)]
        first = [calls[0]()]
        calls.append(repeatable(draw))
        first.append(calls[1]())
    assert not torch.equal(*first)
    assert all(torch.equal(call(), mask) for call, mask in zip(reversed(calls), reversed(first), strict=True))
    assert repeatable(draw) is draw


def test_what_is_not_drawn_for_each_text_is_an_error() -> None:
    masks, _ = masks_of([0, 2])
    with raises(InvalidStudy, code="ranks.draws-not-by-text"), masks.drawn():
        scaled_mask((5, WIDTH), 0.5, torch.float32, CPU)
    own = torch.Generator()
    for generator in (torch.default_generator, own):
        with raises(InvalidStudy, code="ranks.draws-not-by-text"), masks.drawn([torch.default_generator, own]):
            torch.rand(1, generator=generator)
    torch.manual_seed(3)
    expected = scaled_mask((5, WIDTH), 0.5, torch.float32, CPU)
    torch.manual_seed(3)
    assert torch.equal(scaled_mask((5, WIDTH), 0.5, torch.float32, CPU), expected)  # outside, torch's generator


@pytest.mark.gpu
def test_a_gpu_draws_the_masks_of_a_cpu(gpu: torch.device) -> None:
    found = []
    for device in (CPU, gpu):
        layout = Layout(layout_of(LENGTHS).bounds.to(device), prefix=2)
        grid = layout.shared
        with TextMasks(5, torch.arange(len(LENGTHS), device=device), layout).drawn():
            rows = scaled_mask((len(layout.sequences), WIDTH), 0.4, torch.float32, device)
            shape = HEADS * grid.lines, grid.length, 2 + grid.length
            found.append((rows.cpu(), weights_mask(shape, layout, 0.4, torch.float32, device).cpu()))
    assert all(map(torch.equal, *found))
