"""Packed: sequences end to end, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from afina.data.batch import IGNORED, pack, unpack


def test_sequences_lie_end_to_end_with_positions_that_restart() -> None:
    packed = pack([np.array([5, 6, 7]), np.array([8]), np.array([9, 5])], [1, 0, 2])
    assert packed.tokens.tolist() == [5, 6, 7, 8, 9, 5]
    assert packed.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.bounds.tolist() == [0, 3, 4, 6]
    assert packed.targets.tolist() == [1, 0, 2]
    assert len(packed) == 3


def test_tensors_have_the_types_that_the_contract_names() -> None:
    packed = pack([np.array([5, 6], dtype=np.int32)], np.array([1], dtype=np.int8))
    types = (packed.tokens.dtype, packed.positions.dtype, packed.bounds.dtype, packed.targets.dtype)
    assert types == (torch.int64, torch.int64, torch.int32, torch.int64)


def test_unknown_labels_are_minus_one() -> None:
    assert pack([np.array([1]), np.array([2])]).targets.tolist() == [-1, -1]


@pytest.mark.parametrize("seed", range(5))
def test_unpacking_gives_the_sequences_again(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sequences = [generator.integers(0, 1000, generator.integers(1, 40)) for _ in range(generator.integers(1, 20))]
    found = unpack(pack(sequences))
    assert [tensor.tolist() for tensor in found] == [sequence.tolist() for sequence in sequences]


@pytest.mark.parametrize("sequences", [[], [np.array([], dtype=np.int64)], [np.array([1]), np.array([], np.int64)]])
def test_nothing_to_pack_is_an_error(sequences: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least one sequence, each with at least one token"):
        pack(sequences)


def test_a_batch_moves_to_a_device_whole() -> None:
    moved = pack([np.array([1, 2])], [0]).to("meta")
    devices = {t.device.type for t in (moved.tokens, moved.positions, moved.bounds, moved.targets)}
    assert devices == {"meta"}


def test_targets_of_each_token_go_with_their_sequences_and_some_are_not_to_be_learnt() -> None:
    sequences = [np.array([5, 6, 7]), np.array([8]), np.array([9, 5])]
    targets = [np.array([IGNORED, 7, 0]), np.array([IGNORED]), np.array([5, IGNORED])]
    packed = pack(sequences, targets, per_token=True)
    assert packed.targets.tolist() == [IGNORED, 7, 0, IGNORED, 5, IGNORED]
    assert packed.targets.dtype == torch.int64
    assert (len(packed), packed.learnt) == (3, 3)
    taken = packed.to("cpu").take([2, 0])
    assert [each.tolist() for each in taken.by_sequence(taken.targets)] == [targets[2].tolist(), targets[0].tolist()]
    assert [each.tolist() for each in unpack(taken)] == [[9, 5], [5, 6, 7]]
    assert (taken.per_token, len(taken), taken.learnt) == (True, 2, 3)


def test_targets_of_each_sequence_go_with_theirs() -> None:
    packed = pack([np.array([5]), np.array([8, 1]), np.array([9])], np.array([[1, 0], [0, 0], [0, 1]]))
    assert packed.take([2, 1]).targets.tolist() == [[0, 1], [0, 0]]
    assert (packed.learnt, packed.take([1]).learnt) == (3, 1)


@pytest.mark.parametrize("targets", [None, [np.array([1])], [np.array([1]), np.array([1, 2])]])
def test_a_token_without_a_target_is_an_error(targets: list[np.ndarray] | None) -> None:
    with pytest.raises(ValueError, match="a target for each token"):
        pack([np.array([1, 2]), np.array([3, 4])], targets, per_token=True)
