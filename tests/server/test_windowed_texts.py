"""A text in several windows shares batches with other clients, and no window of it is divided."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batching import NoGenerations

from afina.server.line.computing import Batcher
from afina.server.line.queue import FairQueue
from afina.server.line.work import Work
from clock import Clock


class Windows:
    """A computer that notes how many tokens of which client each batch has."""

    def __init__(self) -> None:
        self.generations = NoGenerations()
        self.batches: list[dict[str, int]] = []

    def opens(self, work: Work) -> bool:
        return True

    def compute(self, works: Sequence[Work]) -> Sequence[Any]:
        self.batches.append({one.traced: one.due for one in works})
        return [None if one.left else one.traced for one in works]


def made(computer: Windows, most: int = 100, shared: int = 40) -> Batcher:
    """Whose thread is not begun: a test makes its steps."""
    return Batcher(FairQueue(most, shared, 0.0, 10_000), computer, clock=Clock(0.0))


def text(client: str, *windows: int) -> Work:
    return Work(client=client, tokens=sum(windows), windows=windows, traced=client)


def test_a_text_that_fits_into_a_batch_is_computed_at_once() -> None:
    computer = Windows()
    batching = made(computer)
    (found,) = batching.submit([text("a", 40, 40, 20)])
    batching.step()
    assert (computer.batches, found.result(0), batching.waiting) == ([{"a": 100}], "a", (0, 0))


def test_other_clients_are_answered_between_windows_of_a_long_text() -> None:
    computer = Windows()
    batching = made(computer)
    (long,) = batching.submit([text("long", *[25] * 8)])
    batching.step()
    assert computer.batches == [{"long": 100}], "nobody else is there"
    (other,) = batching.submit([Work(client="other", tokens=30, traced="other")])
    batching.step()
    assert (other.result(0), long.done()) == ("other", False)
    while batching.step():
        pass
    assert computer.batches[1:] == [{"other": 30}, *[{"long": 25}] * 4]
    assert (long.result(0), batching.waiting) == ("long", (0, 0))


def test_a_window_longer_than_a_batch_is_computed_alone() -> None:
    computer = Windows()
    batching = made(computer)
    batching.submit([text("a", 300, 300, 10)])
    while batching.step():
        pass
    assert computer.batches == [{"a": 300}, {"a": 300}, {"a": 10}]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=9), min_size=1, max_size=6))
def test_no_batch_ends_inside_a_window(texts: list[list[int]]) -> None:
    computer = Windows()
    batching = made(computer)
    futures = [batching.submit([text(f"c{place}", *windows)])[0] for place, windows in enumerate(texts)]
    while batching.step():
        pass
    for place, windows in enumerate(texts):
        taken = [*accumulate(batch.get(f"c{place}", 0) for batch in computer.batches)]
        assert {*taken} <= {0, *accumulate(windows)}
        assert taken[-1] == sum(windows)
    assert all(future.done() for future in futures)


@pytest.mark.parametrize("waits", [True, False])
def test_a_long_text_that_nobody_waits_for_gets_no_further_window(waits: bool) -> None:
    computer = Windows()
    batching = made(computer)
    (long,) = batching.submit([text("long", *[60] * 3)])
    batching.step()
    if not waits:
        long.cancel()
    while batching.step():
        pass
    assert len(computer.batches) == (3 if waits else 1)
