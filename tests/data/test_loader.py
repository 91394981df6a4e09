"""Batches: every example once an epoch, in an order that only the seed and the epoch decide."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest

from afina.data.batch import Loader, MicroBatchLimits, Packed, by_length, unpack
from afina.data.tokenize import Encoded
from fakes import parts_of

LENGTHS = (3, 1, 7, 2, 2, 9, 4, 1, 5, 6, 30)


def invented(lengths: tuple[int, ...] = LENGTHS) -> Encoded:
    """Sequence i is `lengths[i]` times the token i."""
    tokens = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    return Encoded(tokens, np.cumsum([0, *lengths]), truncated=0)


def loader(batch_size: int = 4, seed: int = 0) -> Loader:
    return Loader(invented(), np.arange(len(LENGTHS)) % 3, batch_size, seed)


def examples(packed: Packed) -> list[int]:
    return [int(sequence[0]) for sequence in unpack(packed)]


def test_an_epoch_holds_every_example_once_and_its_last_batch_what_is_left() -> None:
    batches = [examples(packed) for packed in loader().batches(0, 3)]
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert sorted(chain(*batches)) == list(range(len(LENGTHS)))
    assert loader().steps_per_epoch == 3


@pytest.mark.parametrize(("size", "steps"), [(1, 11), (11, 1), (12, 1), (5, 3)])
def test_steps_per_epoch_count_a_smaller_last_batch(size: int, steps: int) -> None:
    assert loader(size).steps_per_epoch == steps


def test_sequences_keep_their_tokens_and_their_labels() -> None:
    for packed in loader().batches(0, 6):
        for sequence, label in zip(unpack(packed), packed.targets.tolist(), strict=True):
            index = int(sequence[0])
            assert sequence.tolist() == [index] * LENGTHS[index]
            assert label == index % 3


def test_every_epoch_and_every_seed_has_another_order() -> None:
    orders = [
        tuple(chain(*map(examples, loader(seed=seed).batches(start, start + 3))))
        for seed in (0, 1)
        for start in (0, 3, 6)
    ]
    assert len(set(orders)) == len(orders)


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    orders = [list(chain(*map(examples, loader(size).batches(0, loader(size).steps_per_epoch)))) for size in (1, 4)]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("start", [0, 1, 3, 5, 8])
def test_batches_from_the_middle_are_those_of_an_uninterrupted_run(start: int) -> None:
    whole = [examples(packed) for packed in loader().batches(0, 10)]
    assert [examples(packed) for packed in loader().batches(start, 10)] == whole[start:]
    assert [loader().indices(step).tolist() for step in range(10)] == whole


def test_the_largest_batch_is_the_one_with_the_most_tokens() -> None:
    for stop in (1, 2, 3, 7):
        sizes = [len(packed.tokens) for packed in loader().batches(0, stop)]
        assert len(loader().largest(stop).tokens) == max(sizes)


@pytest.mark.parametrize(
    "limits",
    [
        MicroBatchLimits(tokens=10),
        MicroBatchLimits(examples=3),
        MicroBatchLimits(examples=3, tokens=12),
        MicroBatchLimits(),
    ],
)
def test_the_largest_of_all_that_is_computed_at_once(limits: MicroBatchLimits) -> None:
    for stop in (1, 3, 7):
        parts = [part for packed in loader(6).batches(0, stop) for part in parts_of(limits, packed)]
        most = max(parts, key=lambda part: len(part.tokens))
        assert examples(loader(6).largest(stop, limits)) == examples(most)


def test_a_batch_within_the_limits_is_computed_as_it_is() -> None:
    for packed in loader().batches(0, 3):
        for limits in (
            MicroBatchLimits(),
            MicroBatchLimits(tokens=len(packed.tokens)),
            MicroBatchLimits(examples=len(packed)),
        ):
            assert parts_of(limits, packed) == [packed]


@pytest.mark.parametrize("tokens", [1, 8, 20, 40])
def test_parts_hold_every_sequence_once_with_its_label_within_the_budget(tokens: int) -> None:
    for packed in loader(len(LENGTHS)).batches(0, 2):
        parts = parts_of(MicroBatchLimits(tokens=tokens), packed)
        order = list(chain(*map(examples, parts)))
        assert sorted(order) == list(range(len(LENGTHS)))
        assert [LENGTHS[index] for index in order] == sorted(LENGTHS)
        for part in parts:
            assert len(part.tokens) <= tokens or len(part) == 1
            assert part.targets.tolist() == [index % 3 for index in examples(part)]
        for part, after in pairwise(parts):  # as few parts as that order allows
            assert len(part.tokens) + LENGTHS[examples(after)[0]] > tokens


def test_parts_by_examples_are_the_batches_of_that_size() -> None:
    whole = [examples(packed) for packed in loader(3).batches(0, 4)]
    for packed in loader(6).batches(0, 2):
        parts = [examples(part) for part in parts_of(MicroBatchLimits(examples=3), packed)]
        assert parts == [whole.pop(0) for _ in parts]
    assert not whole


def test_only_the_parts_with_too_many_tokens_are_cut_further() -> None:
    cut = MicroBatchLimits(examples=3, tokens=10).cut(np.array([5, 1, 4, 9, 2, 7, 3]))
    assert [part.tolist() for part in cut] == [[0, 1, 2], [4, 5], [3], [6]]


@pytest.mark.parametrize("budget", [1, 8, 20, 1000])
def test_batches_by_length_hold_every_sequence_once_shortest_first_within_the_budget(budget: int) -> None:
    found = list(by_length(invented(), budget))
    order = np.concatenate([indices for indices, _ in found])
    assert sorted(order) == list(range(len(LENGTHS)))
    assert [LENGTHS[index] for index in order] == sorted(LENGTHS)
    for indices, packed in found:
        assert examples(packed) == indices.tolist()
        assert len(packed.tokens) <= budget or len(packed) == 1
    assert any(len(packed) > 1 for _, packed in found) == (budget > 1)


def test_batches_by_length_are_as_full_as_the_budget_allows() -> None:
    found = [len(packed.tokens) for _, packed in by_length(invented((2, 2, 2, 2, 2)), budget=4)]
    assert found == [4, 4, 2]


def test_nothing_gives_no_batch_by_length() -> None:
    assert list(by_length(invented(()))) == []


@pytest.mark.parametrize(
    "limits", [MicroBatchLimits(examples=2), MicroBatchLimits(tokens=8), MicroBatchLimits()], ids=str
)
def test_targets_of_each_token_come_through_batches_and_their_parts(limits: MicroBatchLimits) -> None:
    encoded = invented()
    targets = Encoded(encoded.tokens + 100, encoded.offsets, truncated=0)
    made = Loader(encoded, targets, batch_size=4, seed=0)
    seen = []
    for packed in made.batches(0, made.steps_per_epoch):
        for part in parts_of(limits, packed):
            assert part.per_token
            assert part.targets.tolist() == (part.tokens + 100).tolist()
            seen += examples(part)
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_the_windows_of_a_text_are_in_one_batch_and_a_batch_has_so_many_texts() -> None:
    owners = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 5])
    targets = Encoded(invented().tokens, invented().offsets, truncated=0)
    windows = Loader(invented(), targets, batch_size=2, seed=0, owners=owners)
    assert (windows.text_count, windows.steps_per_epoch) == (6, 3)
    for epoch in range(2):
        steps = [*windows.chosen(3 * epoch, 3 * epoch + 3)]
        assert sorted(np.concatenate(steps).tolist()) == [*range(len(LENGTHS))]
        for step, chosen in enumerate(steps):
            texts = [*dict.fromkeys(owners[chosen].tolist())]
            assert len(texts) == 2
            assert chosen.tolist() == [window for text in texts for window in np.flatnonzero(owners == text)]
            assert windows.indices(3 * epoch + step).tolist() == chosen.tolist()
