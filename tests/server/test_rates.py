"""What a key may send in a minute, and when it may send more; by a clock that a test sets."""

from __future__ import annotations

import math
import random

import pytest

from afina.errors import InvalidData, Overloaded
from afina.server.settings import Settings
from afina.server.tenants import MINUTE, MinuteWindow, Tenants
from afina.store.api_keys import Key
from clock import Clock
from raises import raises


class Keyless:
    """A store without keys."""

    def news(self, since: int, names: object) -> tuple[int, tuple[()]]:
        return since, ()


def key(rate: int | None, name: str = "one") -> Key:
    return Key(id=name, client="acme", scopes=("predict",), rate=rate, hash="", created=0.0)


def tenants(clock: Clock, rate: int | None = None) -> Tenants:
    settings = Settings(tokens_per_minute=rate, writes_per_minute=2, key_seconds=1e9)
    return Tenants(Keyless(), settings, clock=clock)  # type: ignore[arg-type]


def test_a_window_waits_exactly_until_an_amount_fits() -> None:
    clock, drawn = Clock(), random.Random(3)
    window, log = MinuteWindow(clock), list[tuple[float, int]]()
    for _ in range(300):
        amount = drawn.randint(1, 40)
        wait = window.wait(200 - amount)
        before = sum(one for at, one in log if clock.now + wait - 1e-6 < at + MINUTE)
        after = sum(one for at, one in log if clock.now + wait < at + MINUTE)
        assert after + amount <= 200
        assert wait == 0 or before + amount > 200, "it fits earlier"
        clock.now += wait
        log.append((clock.now, amount))
        window.count(amount)
        clock.now += drawn.random()


def test_what_is_given_back_counts_no_more_and_only_once() -> None:
    clock = Clock()
    made = tenants(clock)
    first = made.reserve(key(100), 90)
    with raises(Overloaded, code="server.rate-exceeded"):
        made.reserve(key(100), 11)
    first.give_back(50)
    second = made.reserve(key(100), 60)
    first.give_back()
    first.give_back()
    assert made.most(key(100)) == 100
    assert made._window("acme", "one").total == 60
    clock.now += MINUTE
    second.give_back(30)  # it counts no more
    assert made._window("acme", "one").total == 0


def test_keys_of_a_client_have_a_rate_each_and_a_key_without_rate_has_none() -> None:
    made = tenants(Clock())
    made.reserve(key(100), 100)
    made.reserve(key(100, "two"), 100)
    made.reserve(key(None, "three"), 1 << 40).give_back()
    assert made.most(key(None, "three")) is None


@pytest.mark.parametrize("rate", [30, 600, 6000])
def test_two_retries_after_the_told_seconds_are_enough(rate: int) -> None:
    """Also where the tokens of a request are not counted yet when it is refused."""
    clock, drawn = Clock(), random.Random(rate)
    made, waits = tenants(clock), list[float]()
    for _ in range(200):
        tokens = drawn.randint(1, rate // 2)
        for _ in range(3):
            try:
                made.most(key(rate), 3 * tokens)
                made.reserve(key(rate), tokens)
                break
            except Overloaded as error:
                waits.append(error.after)
                clock.now += math.ceil(error.after)
        else:
            pytest.fail("refused three times")
        clock.now += drawn.random()
    assert 0 < min(waits) <= max(waits) <= MINUTE


def test_texts_that_were_not_counted_wait_for_their_upper_bound() -> None:
    clock = Clock()
    made = tenants(clock)
    made.reserve(key(1000), 500)
    clock.now += 10
    made.reserve(key(1000), 400)
    with raises(Overloaded, code="server.rate-exceeded") as found:
        made.reserve(key(1000), 200, uncounted=300)
    assert found.value.after == 50
    with raises(Overloaded, code="server.rate-exceeded") as found:
        made.reserve(key(1000), 200, uncounted=5000)
    assert found.value.after == MINUTE


def test_a_request_beyond_the_rate_is_told_both_figures() -> None:
    with raises(InvalidData, code="request.beyond-rate") as found:
        tenants(Clock()).reserve(key(100), 484)
    assert found.value.fields == {"tokens": 484, "tokens_a_minute": 100}


def test_changes_of_the_store_tell_when_the_next_is_possible() -> None:
    clock = Clock()
    made = tenants(clock)
    made.write(key(None))
    clock.now += 20
    made.write(key(None))
    with raises(Overloaded, code="server.rate-exceeded") as found:
        made.write(key(None))
    assert found.value.after == 40
    clock.now += 40
    made.write(key(None))
