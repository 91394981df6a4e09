"""The cache of keys and values: sequences enter, grow, move and leave, and attention reads what each has written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from afina.models.kernels.key_values import SMALLEST, CachedSequence, KeyValueCache, capacity_for

GROUPS, HEADS, WIDTH = 2, 6, 4
MOVES = st.sampled_from(["enter", "leave", "fork", "step", "step", "step"])


class Plain:
    """Keys and values of each sequence in a list of its own, and attention written out."""

    def __init__(self) -> None:
        self.keys: dict[CachedSequence, Tensor] = {}
        self.values: dict[CachedSequence, Tensor] = {}

    def attend(self, sequence: CachedSequence, query: Tensor, window: int | None) -> Tensor:
        """[H, D] for [H, D]."""
        keys, values = (part[sequence].repeat_interleave(HEADS // GROUPS, 0) for part in (self.keys, self.values))
        scores = (keys @ query[:, :, None])[..., 0] / 2
        count = scores.shape[1]
        hidden = [window is not None and sequence.prefix <= at <= count - 1 - window for at in range(count)]
        weights = torch.softmax(scores.masked_fill(torch.tensor(hidden), -torch.inf), -1)
        return (weights[:, None] @ values)[:, 0]


@settings(max_examples=40, deadline=None)
@given(
    plan=st.lists(st.tuples(MOVES, st.integers(0, 99)), max_size=60),
    window=st.sampled_from([None, 3, 70]),
    shuffled=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_sequence_attends_to_what_it_has_written(
    plan: list[tuple[str, int]], window: int | None, shuffled: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, other = nn.Identity(), nn.Identity()
    cache, plain = KeyValueCache([other, layer], GROUPS, WIDTH, torch.float32, torch.device("cpu")), Plain()

    def drawn(count: int, heads: int = GROUPS) -> Tensor:
        return torch.randn(heads, count, WIDTH)

    for move, number in plan:
        running = list(plain.keys)
        if move == "enter":
            counts, prefixes = [1 + number % 7 * 11, 1 + number % 5 * 20], [number % 3, number % 2 * 5]
            entered = [
                cache.enter(count + prefix, number % 40, prefix) for count, prefix in zip(counts, prefixes, strict=True)
            ]
            key, value, first = drawn(sum(counts)), drawn(sum(counts)), 0
            row = cache.prefill_row(entered)
            row.write(layer, key, value)
            for sequence, count, prefix in zip(entered, counts, prefixes, strict=True):
                cells, columns = slice(first, first + count), (drawn(prefix), drawn(prefix))
                row.write_prefix(layer, columns if prefix else None, cells)
                plain.keys[sequence] = torch.cat([columns[0], key[:, cells]], 1)
                plain.values[sequence] = torch.cat([columns[1], value[:, cells]], 1)
                first += count
        elif not running:
            continue
        elif move == "leave":
            gone = running[number % len(running)]
            cache.leave(gone)
            del plain.keys[gone], plain.values[gone]
        elif move == "fork":
            parent = running[number % len(running)]
            copy = cache.fork(parent)
            plain.keys[copy], plain.values[copy] = plain.keys[parent], plain.values[parent]
        else:
            cache.make_room()
            order = running if shuffled else cache.sequences
            assert set(order) == set(running)
            key, value, query = drawn(len(order)), drawn(len(order)), drawn(len(order), HEADS)
            row = cache.decoding_row(order)
            row.write(layer, key, value)
            found = row.attend(layer, query, 0.5, window)
            for place, sequence in enumerate(order):
                plain.keys[sequence] = torch.cat([plain.keys[sequence], key[:, place : place + 1]], 1)
                plain.values[sequence] = torch.cat([plain.values[sequence], value[:, place : place + 1]], 1)
                expected = plain.attend(sequence, query[:, place], window)
                torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-5)
                assert sequence.length == plain.keys[sequence].shape[1] <= sequence.pool.columns
    for sequence in list(plain.keys):
        cache.leave(sequence)
    assert cache.bytes == 0


def test_beams_continue_their_parents_behind_the_columns_that_all_share() -> None:
    layer = nn.Identity()
    cache = KeyValueCache([layer], GROUPS, WIDTH, torch.float32, torch.device("cpu"))
    beams = [cache.enter(2)]
    cache.prefill_row(beams).write(layer, torch.randn(GROUPS, 2, WIDTH), torch.randn(GROUPS, 2, WIDTH))
    beams += [cache.fork(beams[0]) for _ in range(3)]
    for _ in range(3):
        cache.decoding_row(beams).write(layer, torch.randn(GROUPS, 4, WIDTH), torch.randn(GROUPS, 4, WIDTH))
    pool = beams[0].pool
    before = pool.keys[0].clone(), pool.values[0].clone()
    cache.reorder(beams, [1, 1, 0, 2], 2)
    for slot, parent in enumerate([1, 1, 0, 2]):
        assert torch.equal(pool.keys[0, slot], before[0][parent])
        assert torch.equal(pool.values[0, slot], before[1][parent])


@pytest.mark.parametrize("columns", [1, 64, 65, 96, 97, 128, 129, 1000, 5000])
def test_a_pool_has_room_for_at_most_half_as_much_again(columns: int) -> None:
    capacity = capacity_for(columns)
    assert columns <= capacity <= max(SMALLEST, columns * 1.5)


def test_memory_is_that_of_the_running_sequences_to_a_factor() -> None:
    cache = KeyValueCache([nn.Identity()], GROUPS, WIDTH, torch.float32, torch.device("cpu"))
    random = np.random.default_rng(0)
    running = [cache.enter(int(random.integers(1, 400))) for _ in range(200)]
    while running:
        used = sum(max(one.length, SMALLEST) for one in running) * GROUPS * WIDTH * 2 * 4
        assert used <= cache.bytes <= 6.5 * used + 40 * 600 * GROUPS * WIDTH * 2 * 4
        for _ in range(20):
            cache.leave(running.pop(int(random.integers(len(running)))))
    assert cache.bytes == 0
