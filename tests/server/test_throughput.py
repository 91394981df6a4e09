"""What a server did for a client in the last whole seconds."""

from __future__ import annotations

import pytest

from afina.server.metrics import WINDOW, ComputedBatch, Rates, Throughput
from clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def throughput(clock: Clock) -> Throughput:
    return Throughput(clock)


def batch(*clients: tuple[str, int]) -> ComputedBatch:
    tokens = sum(count for _, count in clients)
    return ComputedBatch(tokens, len(clients), budget=100, seconds=0.1, clients=clients)


def test_rates_are_of_the_last_whole_seconds(throughput: Throughput, clock: Clock) -> None:
    for step in range(WINDOW + 2):
        clock.now = 100.5 + step
        throughput.requested("acme")
        throughput.computed(batch(("acme", 10 * step), ("acme", 10), ("bolt", 7)))
    # of the seconds 100 to 106, those from 101 to 105: 106 goes on, 100 is over
    assert throughput.rates("acme") == pytest.approx(Rates(1.0, 40.0, 2.0))


def test_what_goes_on_now_does_not_count_yet_and_what_is_over_no_more(throughput: Throughput, clock: Clock) -> None:
    throughput.requested("acme")
    assert throughput.rates("acme") == Rates(0.0, 0.0, 0.0)
    clock.now = 101.0
    assert throughput.rates("acme") == Rates(1 / WINDOW, 0.0, 0.0)
    clock.now = 100.0 + WINDOW
    assert throughput.rates("acme").requests == 1 / WINDOW
    clock.now = 101.0 + WINDOW
    assert throughput.rates("acme").requests == 0.0


def test_a_client_sees_nothing_of_what_another_does(throughput: Throughput, clock: Clock) -> None:
    throughput.requested("bolt")
    throughput.computed(batch(("bolt", 10), ("acme", 3)))
    clock.now = 101.0
    assert throughput.rates("acme") == Rates(0.0, 3 / WINDOW, 1 / WINDOW)
    assert throughput.rates("nobody") == Rates(0.0, 0.0, 0.0)


def test_it_remembers_no_more_than_it_looks_at(throughput: Throughput, clock: Clock) -> None:
    for step in range(1000):
        clock.now = 100.0 + step
        throughput.requested("acme")
    assert len(throughput._seconds) <= WINDOW + 2
