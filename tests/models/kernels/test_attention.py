"""Grid attention against plain attention, one sequence at a time: values and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from afina.models.added_modules import PREFIX, Prefix
from afina.models.kernels import attention
from afina.models.kernels.attention import packed_attention
from afina.models.kernels.layout import Grid, Layout

LENGTHS = ([5], [1, 1, 1], [7, 2, 3, 1, 6, 2], [2, 9], [4, 4, 4, 4])
LONGER = ([40, 3, 1, 17], [13])


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], window: int | None, *, causal: bool = True
) -> Tensor:
    """[1, H, T, D] -> [1, T, H, D], written out."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    pieces, start = [], 0
    for length in lengths:
        q, k, v = (states[0, :, start : start + length] for states in (query, key, value))
        scores = q @ k.transpose(1, 2) * query.shape[-1] ** -0.5
        for i, j in itertools.product(range(length), repeat=2):
            if (causal and j > i) or (window and abs(i - j) >= window):
                scores[:, i, j] = float("-inf")
        pieces.append((scores.softmax(-1) @ v).transpose(0, 1))
        start += length
    return torch.cat(pieces)[None]


def states(lengths: list[int], heads: int, groups: int) -> list[Tensor]:
    torch.manual_seed(7)
    total = sum(lengths)
    # As models give them: a transposed view of [1, T, H, D].
    return [torch.randn(1, total, n, 8).transpose(1, 2).requires_grad_() for n in (heads, groups, groups)]


@pytest.mark.parametrize("short", [True, False], ids=["own backward", "torch's kernel"])
@pytest.mark.parametrize(("window", "causal"), [(None, True), (3, True), (None, False), (3, False), (1, False)])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_attention_on_the_grid_is_plain_attention(
    lengths: list[int],
    heads: int,
    groups: int,
    window: int | None,
    causal: bool,
    short: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "SHORT", 256 if short else 0)
    upstream = torch.randn(1, sum(lengths), heads, 8, generator=torch.Generator().manual_seed(8))

    def gradients(attend: Callable[..., Tensor]) -> list[Tensor | None]:
        inputs = states(lengths, heads, groups)
        result = attend(*inputs)
        result.backward(upstream)
        return [result, *(each.grad for each in inputs)]

    options: dict[str, Any] = {"layout": Layout(bounds(lengths)), "sliding_window": window, "causal": causal}
    found = gradients(lambda q, k, v: packed_attention(nn.Identity(), q, k, v, None, **options)[0])
    expected = gradients(lambda q, k, v: one_by_one(q, k, v, lengths, window, causal=causal))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("short", [True, False], ids=["own backward", "torch's kernel"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_prefix_is_seen_by_every_token_and_gets_the_gradient_of_all(
    lengths: list[int], groups: int, window: int | None, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against one sequence at a time, with keys and values of its own put before."""
    monkeypatch.setattr(attention, "SHORT", 256 if short else 0)
    upstream = torch.randn(1, sum(lengths), 4, 8, generator=torch.Generator().manual_seed(8))

    def gradients(attend: Callable[..., Tensor]) -> list[Tensor | None]:
        inputs = states(lengths, 4, groups)
        prefix = Prefix(torch.randn(5, groups, 8), torch.randn(5, groups, 8))
        result = attend(*inputs, prefix)
        result.backward(upstream)
        return [result, *(each.grad for each in (*inputs, prefix.key, prefix.value))]

    def packed(query: Tensor, key: Tensor, value: Tensor, prefix: Prefix) -> Tensor:
        module, layout = nn.Identity(), Layout(bounds(lengths), prefix=5)
        module.add_module(PREFIX, prefix)
        return packed_attention(module, query, key, value, None, layout=layout, sliding_window=window)[0]

    def written_out(query: Tensor, key: Tensor, value: Tensor, prefix: Prefix) -> Tensor:
        pieces, start = [], 0
        for length in lengths:
            q, k, v = (states[0, :, start : start + length] for states in (query, key, value))
            own = [torch.cat(pair, 1) for pair in zip(prefix.columns(), (k, v), strict=True)]
            k, v = (each.repeat_interleave(4 // groups, 0) for each in own)
            apart = torch.arange(length)[:, None] - torch.arange(length)
            hidden = (apart < 0) | (apart >= (window or length))
            hidden = torch.cat([torch.zeros(length, 5, dtype=torch.bool), hidden], 1)
            scores = (q @ k.transpose(1, 2) * 8**-0.5).masked_fill(hidden, float("-inf"))
            pieces.append((scores.softmax(-1) @ v).transpose(0, 1))
            start += length
        return torch.cat(pieces)[None]

    for one, other in zip(gradients(written_out), gradients(packed), strict=True):
        assert one is not None
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_dropout_in_attention_multiplies_weights_and_their_gradients_by_one_mask() -> None:
    """By finite differences of a function that draws the same mask every time."""
    layout = Layout(bounds([4, 2]))
    inputs = [each.detach().double().requires_grad_() for each in states([4, 2], 2, 2)]

    def attend(*each: Tensor) -> Tensor:
        torch.manual_seed(3)
        return packed_attention(nn.Identity(), *each, None, layout=layout, dropout=0.4)[0].sum(-1)

    torch.manual_seed(3)
    dropped = attend(*inputs)
    assert not torch.allclose(dropped, packed_attention(nn.Identity(), *inputs, None, layout=layout)[0].sum(-1))
    # Scores are normalised in float32, so steps are large and the bound is loose.
    assert torch.autograd.gradcheck(attend, inputs, eps=1e-2, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_every_token_has_one_cell_and_sees_its_own_sequence_up_to_itself(lengths: list[int], shared: bool) -> None:
    ends = bounds(lengths)
    grid = Grid.of(ends.tolist(), "cpu", shared=shared)
    total = sum(lengths)
    assert grid.length == max(lengths)
    assert grid.lines <= len(lengths)
    assert torch.equal(grid.tokens[grid.cells], torch.arange(total))
    assert len(grid.cells.unique()) == total
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = grid.visible(None)
    for token in range(total):
        line, column = divmod(int(grid.cells[token]), grid.length)
        seen = {
            int(grid.tokens[line * grid.length + other]) for other in visible[line, column].nonzero()[:, 0].tolist()
        }
        assert seen == {other for other in range(token + 1) if sequence[other] == sequence[token]}
    assert visible.any(-1).all()  # a line of no visible key would give nan


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("lengths", LONGER, ids=str)
def test_a_window_in_both_directions_is_computed_by_blocks(
    lengths: list[int], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", 0)
    layout, blocks = Layout(bounds(lengths)), Layout.in_blocks
    asked: list[int] = []
    monkeypatch.setattr(Layout, "in_blocks", lambda self, size: asked.append(size) or blocks(self, size))
    found, expected = states(lengths, 4, 2), states(lengths, 4, 2)
    result, _ = packed_attention(nn.Identity(), *found, None, layout=layout, sliding_window=window, causal=False)
    plain = one_by_one(*expected, lengths, window, causal=False)
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(8))
    result.backward(upstream)
    plain.backward(upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)
    assert asked == [window]


def test_short_sequences_share_lines() -> None:
    assert Grid.of([0, 6, 8, 10, 12], "cpu", shared=True).lines == 2
    assert Grid.of([0, 6, 8, 10, 12], "cpu", shared=False).lines == 4
