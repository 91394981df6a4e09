"""Pairs of texts: as many and as balanced as the package setfit draws them, none twice before all, in whole batches."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from afina.data.batch import Loader, MicroBatchLimits, unpack
from afina.data.pair_sampling import PairSampling, SamplingStrategy
from afina.data.pairs import PairLoader, cut_pairs, draw_pairs
from afina.data.tokenize import Encoded

LABELS = np.array([0, 1, 0, 2, 1, 0, 0, 1, 0])
"""5, 3 and 1 texts of three labels: 10 + 3 positive pairs, and 15 + 5 + 3 negative pairs."""

POSITIVE, NEGATIVE = 13, 23


def drawn(sampling: PairSampling, labels: np.ndarray = LABELS, seed: int = 0) -> tuple[Counter[frozenset[int]], int]:
    """How often each pair was drawn, and the number of positive pairs."""
    found = draw_pairs(labels, sampling, seed)
    positive = sum(labels[one] == labels[other] for one, other in found.texts)
    assert (found.counts.positive, found.counts.negative) == (positive, len(found) - positive)
    return Counter(frozenset(pair) for pair in found.texts.tolist()), int(positive)


@pytest.mark.parametrize(
    ("strategy", "positive", "negative"),
    [("oversampling", NEGATIVE, NEGATIVE), ("undersampling", POSITIVE, POSITIVE), ("unique", POSITIVE, NEGATIVE)],
)
def test_a_strategy_gives_numbers_of_pairs_and_repeats_none_before_all(
    strategy: SamplingStrategy, positive: int, negative: int
) -> None:
    found, of_label = drawn(PairSampling(strategy))
    assert (of_label, found.total()) == (positive, positive + negative)
    everything = {frozenset(pair) for pair in combinations(range(len(LABELS)), 2)}
    assert found.keys() <= everything
    if strategy != "undersampling":
        assert found.keys() == everything
    times = {True: [0], False: [0]}
    for pair, count in found.items():
        one, other = pair
        times[bool(LABELS[one] == LABELS[other])].append(count)
    assert max(times[False]) == 1
    assert max(times[True]) == -(-positive // POSITIVE)


def test_iterations_give_as_many_pairs_of_both_kinds_for_each_text_and_a_limit_keeps_their_share() -> None:
    found, positive = drawn(PairSampling(iterations=4))
    assert (found.total(), positive) == (2 * 4 * len(LABELS), 4 * len(LABELS))
    found, positive = drawn(PairSampling(most=20))
    assert (found.total(), positive, max(found.values())) == (20, 10, 1)
    found, positive = drawn(PairSampling("unique", most=18))
    assert (found.total(), positive) == (18, round(18 * POSITIVE / (POSITIVE + NEGATIVE)))


def test_pairs_of_many_texts_are_drawn_without_listing_all() -> None:
    labels = np.arange(200_000) % 5
    found, positive = drawn(PairSampling(), labels)
    assert (found.total(), positive, max(found.values())) == (16_000, 8_000, 1)
    counts = draw_pairs(labels, PairSampling(), 0).counts
    assert counts.all_positive == 5 * 40_000 * 39_999 // 2
    assert counts.all_negative == 10 * 40_000**2
    assert counts.wanted == 2 * counts.all_negative
    assert "drawn at random from 32,000,000,000 pairs (`max_pairs`)" in counts.note


def test_the_seed_and_nothing_else_decides_the_pairs() -> None:
    one, same, other = (draw_pairs(LABELS, PairSampling(), seed).texts for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_label_with_one_text_has_negative_pairs_only_and_this_is_said() -> None:
    counts = draw_pairs(LABELS, PairSampling(), 0).counts
    assert (counts.single, counts.alone) == (1, False)
    assert counts.note.endswith("1 label has a single text, which is in no pair with equal labels")
    found = draw_pairs(np.arange(3), PairSampling(), 0)
    assert (found.counts.single, found.counts.alone) == (3, True)
    assert found.counts.note.endswith("every label has a single text, which is a pair with itself")
    assert sorted(map(tuple, np.sort(found.texts, axis=1).tolist())) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


LENGTHS = (3, 1, 7, 2, 2, 9, 4, 1, 5)


def loader(batch_size: int = 4) -> PairLoader:
    """Sequence i is `LENGTHS[i]` times the token i."""
    tokens = np.repeat(np.arange(len(LENGTHS)), LENGTHS).astype(np.int32)
    texts = Loader(Encoded(tokens, np.cumsum([0, *LENGTHS]), truncated=0), LABELS, batch_size, 0)
    return PairLoader.of(texts, PairSampling())


def test_an_epoch_of_batches_has_every_drawn_pair_once_with_its_target() -> None:
    made = loader()
    assert made.steps_per_epoch == 12
    pairs = []
    for step, packed in enumerate(made.batches(0, 12)):
        texts = [int(sequence[0]) for sequence in unpack(packed)]
        assert texts == made.indices(step).tolist()
        for place in range(0, len(texts), 2):
            one, other = texts[place : place + 2]
            assert packed.targets[place : place + 2].tolist() == [float(LABELS[one] == LABELS[other])] * 2
            pairs.append((one, other))
    assert sorted(pairs) == sorted(map(tuple, made.pairs.texts.tolist()))
    assert made.tokens(12) == sum(LENGTHS[one] + LENGTHS[other] for one, other in pairs)


def test_a_micro_batch_has_whole_pairs_within_its_limits() -> None:
    lengths = np.array([3, 1, 7, 2, 2, 9, 4, 1])
    assert [part.tolist() for part in cut_pairs(lengths, MicroBatchLimits())] == [list(range(8))]
    assert [part.tolist() for part in cut_pairs(lengths, MicroBatchLimits(examples=3))] == [[*range(6)], [6, 7]]
    parts = [part.tolist() for part in cut_pairs(lengths, MicroBatchLimits(tokens=10))]
    assert parts == [[0, 1, 6, 7], [2, 3], [4, 5]]
    limits = MicroBatchLimits(tokens=12)
    assert len(loader().largest(12, limits).tokens) == max(
        int(np.array(LENGTHS)[chosen[part]].sum())
        for chosen in loader().chosen(0, 12)
        for part in loader().cut(chosen, limits)
    )
