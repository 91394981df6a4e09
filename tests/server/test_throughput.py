"""What a server did in the last whole seconds."""

from __future__ import annotations

import pytest

from afina.server.batching import Computed
from afina.server.throughput import WINDOW, Rates, Throughput


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throughput(clock: Clock) -> Throughput:
    return Throughput(clock)


def test_rates_are_of_the_last_whole_seconds(throughput: Throughput, clock: Clock) -> None:
    for step in range(WINDOW + 2):
        clock.now = 100.5 + step
        throughput.requested()
        throughput.computed(Computed(tokens=10 * (step + 1), texts=2, budget=100, seconds=0.1))
    # of the seconds 100 to 106, those from 101 to 105: 106 goes on, 100 is over
    assert throughput.rates() == pytest.approx(Rates(1.0, 40.0, 2.0, 0.4))


def test_what_goes_on_now_does_not_count_yet_and_what_is_over_no_more(throughput: Throughput, clock: Clock) -> None:
    throughput.requested()
    assert throughput.rates() == Rates(0.0, 0.0, 0.0, None)
    clock.now = 101.0
    assert throughput.rates() == Rates(1 / WINDOW, 0.0, 0.0, None)
    clock.now = 100.0 + WINDOW
    assert throughput.rates().requests == 1 / WINDOW
    clock.now = 101.0 + WINDOW
    assert throughput.rates().requests == 0.0


def test_fill_is_the_mean_of_batches_and_at_most_all(throughput: Throughput, clock: Clock) -> None:
    throughput.computed(Computed(tokens=300, texts=1, budget=100, seconds=0.1))
    throughput.computed(Computed(tokens=50, texts=1, budget=100, seconds=0.1))
    clock.now = 101.0
    assert throughput.rates().fill == pytest.approx(0.75)


def test_it_remembers_no_more_than_it_looks_at(throughput: Throughput, clock: Clock) -> None:
    for step in range(1000):
        clock.now = 100.0 + step
        throughput.requested()
    assert len(throughput._seconds) <= WINDOW + 2
