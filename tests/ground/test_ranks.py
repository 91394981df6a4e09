"""The share of each process of a run, and what the only process of a run does without communication."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from afina.errors import InvalidStudy, RunFailed
from afina.ranks import ALONE, Ranks, owners
from raises import raises
from together import together


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_item_has_one_rank_and_the_ranks_have_similar_numbers_of_tokens(count: int) -> None:
    random = np.random.default_rng(0)
    for items in (0, 1, 2, 16, 64):
        sizes = random.integers(1, 60, items)
        shares = [Ranks(rank, count).share(sizes) for rank in range(count)]
        assert np.array_equal(np.concatenate(shares), np.arange(items))
        tokens = [int(sizes[share].sum()) for share in shares]
        assert max(tokens) - min(tokens) <= sizes.max(initial=0) * 2


def test_a_batch_of_fewer_items_than_ranks_leaves_ranks_without_items() -> None:
    assert owners(np.array([5]), 3).tolist() == [1]
    assert owners(np.array([5, 5]), 3).tolist() == [0, 2]


def test_the_only_rank_changes_nothing() -> None:
    tensor = torch.ones(3)
    ALONE.sum_([tensor])
    assert tensor.tolist() == [1, 1, 1]
    assert ALONE.gather("a") == ["a"]
    assert ALONE.from_first("a") == "a"
    ALONE.check_equal({"a": tensor})
    ALONE.close()
    assert ALONE.is_first
    assert not ALONE.shards


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with raises(InvalidStudy, code="ranks.too-few-gpus", number=3, gpus=2):
        Ranks.joined(2, 4, "env://", local=2)


class Own(Ranks):
    """A rank whose `gather` returns its own value, so that a test can join the values of all ranks."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_ranks_compute_each_item_once_and_in_order(count: int) -> None:
    sizes, entered = np.array([3, 1, 4, 1]), list[int]()

    @contextmanager
    def apart() -> Iterator[None]:
        entered.append(count)
        yield

    made = [
        Own(rank, count).of_shares(sizes, lambda start, stop: [*range(start, stop)], apart) for rank in range(count)
    ]
    assert [item for each in made for part in each for item in part] == [0, 1, 2, 3]
    assert len(entered) == (count if count > 1 else 0), "also a rank without items, as the others wait for it"
    assert Own(0, count).of_shares(np.zeros(0, np.int64), lambda start, stop: (start, stop)) == [(0, 0)]


def test_a_note_of_another_rank_is_missing_without_ranks() -> None:
    ALONE.leave_note("error", "a")
    assert ALONE.note("error", 0) is None


def wait_for_each_other(ranks: Ranks) -> tuple[list[int], str | None, str]:
    """Rank 0 is late with a value, and then rank 1 with a sum."""
    if ranks.is_first:
        ranks.leave_note("from", "rank 0")
        time.sleep(LATE)
    gathered = ranks.gather(ranks.rank)
    note = ranks.note("from", 0)
    if not ranks.is_first:
        time.sleep(LATE)
    try:
        ranks.sum_([torch.ones(1)])
    except RunFailed as error:
        return gathered, note, error.code
    return gathered, note, ""


LATE = 4.0


@pytest.mark.slow  # two processes that import torch
def test_a_rank_waits_long_for_a_value_and_briefly_for_a_sum() -> None:
    for gathered, note, code in together(2, wait_for_each_other, timeout=2.0):
        assert gathered == [0, 1]
        assert note == "rank 0"
        assert code == "ranks.lost"
