"""What of many clients' texts is computed next, and together with what; by a clock that a test sets."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from afina.errors import Overloaded
from afina.server.line.queue import LONGEST, MEMORY, FairQueue
from afina.server.line.work import BACKGROUND, GeneratedAnswer, Work

SPEED = 1000.0


def items(client: str, *tokens: int, at: float = 0.0) -> list[Work]:
    return [
        Work(client=client, tokens=count, arrived=at, traced=f"{client}-{index}") for index, count in enumerate(tokens)
    ]


def prompts(client: str, *tokens: int, at: float = 0.0) -> list[Work]:
    return [
        GeneratedAnswer(client=client, tokens=count, arrived=at, traced=f"{client}-p{index}", generation=None)
        for index, count in enumerate(tokens)
    ]


def line(most: int = 100, shared: int = 40, delay: float = 0.01, bound: int = 1000) -> FairQueue:
    return FairQueue(most, shared, delay, bound)


def works(batch: Sequence[Work]) -> list[str]:
    return [item.traced for item in batch]


def test_the_first_waits_for_company_until_the_delay_is_over_or_the_batch_is_full() -> None:
    made = line()
    assert made.due(0.0) is None
    made.offer(items("a", 30), SPEED)
    assert made.due(0.004) == pytest.approx(0.006)
    assert made.due(0.02) == 0
    made.offer(items("a", 70, at=0.004), SPEED)
    assert made.due(0.004) == 0


def test_texts_to_generate_wait_apart_and_share_with_the_others() -> None:
    made = line(shared=40)
    made.offer(prompts("a", 10, 10), SPEED)
    assert made.due(0.0) == 0, "nothing joins the batch of a prompt"
    made.offer(items("a", 10), SPEED)
    made.offer(prompts("b", 10), SPEED)
    assert (made.tokens, made.texts, made.prompts) == (40, 4, 3)
    assert works(made.take(0.0)) == ["a-0"]
    assert works(made.take_prompts(0.0, 10)) == ["b-p0"], "a has had a text already"
    assert works(made.take_prompts(0.0)) == ["a-p0", "a-p1"]
    assert (made.tokens, made.texts, made.due(0.0)) == (0, 0, None)


def test_a_client_whose_text_is_still_read_gets_no_other_begun() -> None:
    made = line()
    made.offer(prompts("long", 10, 10), SPEED)
    made.offer(prompts("short", 10), SPEED)
    assert works(made.take_prompts(0.0, 100, {"long"})) == ["short-p0"]
    assert (made.take_prompts(0.0, 100, {"long"}), made.prompts) == ([], 2)
    assert works(made.take_prompts(0.0, 100)) == ["long-p0", "long-p1"]


def test_generated_tokens_count_for_a_clients_share() -> None:
    made = line(shared=10)
    made.offer(prompts("writes", 10), SPEED)
    made.offer(items("reads", 10, 10, 10, 10), SPEED)
    made.take_prompts(0.0)
    made.take(0.0)
    made.charge({"writes": 25}, 0.0)
    made.offer(items("writes", 10, 10), SPEED)
    taken = [works(made.take(0.0))[0].partition("-")[0] for _ in range(5)]
    assert taken == ["reads", "reads", "reads", "writes", "writes"]


def test_who_comes_while_another_generates_starts_level_with_it() -> None:
    made = line(shared=10)
    made.offer(prompts("writes", 10), SPEED)
    made.take_prompts(0.0)
    made.charge({"writes": 1000}, 0.0)
    made.offer(items("new", *[10] * 5), SPEED)
    made.offer(items("writes", 10, 10), SPEED)
    assert "writes" in [works(made.take(0.0))[0].partition("-")[0] for _ in range(2)]


def test_texts_to_generate_whose_time_is_over_are_given_back() -> None:
    made = line()
    made.offer(prompts("a", 10), SPEED)
    made.offer(prompts("a", 10, at=20.0), SPEED)
    assert (made.late(29.0), works(made.late(31.0)), made.prompts) == ([], ["a-p0"], 1)


def test_a_batch_has_no_more_than_it_has_room_for_and_at_least_one() -> None:
    made = line()
    made.offer(items("a", 60, 40, 1, 500), SPEED)
    assert [works(made.take(0.0)) for _ in range(3)] == [["a-0", "a-1"], ["a-2"], ["a-3"]]
    assert (made.take(0.0), made.tokens, made.texts) == ([], 0, 0)


def test_clients_take_turns_by_tokens() -> None:
    made = line(shared=40)
    made.offer(items("much", *[10] * 50), SPEED)
    made.offer(items("little", 10, 10), SPEED)
    assert sorted(works(made.take(0.0))) == ["little-0", "little-1", "much-0", "much-1"]


def test_who_was_away_is_owed_nothing() -> None:
    made = line(shared=20)
    made.offer(items("much", *[10] * 10), SPEED)
    made.offer(items("little", 10), SPEED)
    for _ in range(4):
        made.take(0.0)
    made.offer(items("little", *[10] * 4), SPEED)
    taken = works(made.take(0.0)) + works(made.take(0.0))
    assert [work.partition("-")[0] for work in taken].count("much") >= 1


def test_batches_are_smaller_while_several_ask() -> None:
    made = line(most=100, shared=40)
    made.offer(items("a", 1, at=0.0), SPEED)
    assert made.budget(0.0) == 100
    made.offer(items("b", 1, at=1.0), SPEED)
    assert made.budget(1.0) == 40
    assert made.budget(MEMORY + 0.5) == 100


def test_who_only_looks_after_things_makes_no_batch_smaller() -> None:
    made = line(most=100, shared=40)
    made.offer(items("a", 1), SPEED)
    made.offer(items("", 1), SPEED, asks=False)
    assert made.budget(0.0) == 100
    assert works(made.take(0.0)) == ["a-0", "-0"]


def test_a_client_may_have_so_much_waiting_and_the_others_still_have_room() -> None:
    made = line(bound=100)
    made.offer(items("flood", *[10] * 10), SPEED)
    with pytest.raises(Overloaded) as raised:
        made.offer(items("flood", 10), SPEED)
    assert raised.value.after == pytest.approx(10 / SPEED), "ten tokens have to leave"
    made.offer(items("other", 25, 25), SPEED)
    with pytest.raises(Overloaded):
        made.offer(items("other", 1), SPEED)
    assert made.tokens == 150


def test_of_items_that_are_refused_none_waits() -> None:
    made = line(bound=100)
    made.offer(items("a", 10), SPEED)
    with pytest.raises(Overloaded):
        made.offer(items("a", 10, 90), SPEED)
    assert made.texts == 1


def test_what_nobody_waits_for_is_not_taken() -> None:
    made = line()
    given = items("a", 10, 10, 10)
    made.offer(given, SPEED)
    made.forget([given[1], given[1]])
    assert (works(made.take(0.0)), made.tokens) == (["a-0", "a-2"], 0)
    made.forget(given)


def latencies(flood: bool, *, texts: int = 400, seed: int = 0) -> list[float]:
    """Of a client that asks for 32 tokens now and then, on a machine that takes 5 ms a batch and 0.2 ms a token."""
    draw, made = random.Random(seed), FairQueue(1024, 32, 0.004, 65_536)
    arrivals = [when := 0.0]
    arrivals += [when := when + draw.expovariate(3.0) for _ in range(texts - 1)]
    now, took = 0.0, list[float]()
    while len(took) < texts:
        if flood and made.texts < 200:
            made.offer(items("flood", *[32] * 100, at=now), SPEED)
        while arrivals and arrivals[0] <= now:
            made.offer(items("quiet", 32, at=arrivals.pop(0)), SPEED)
        due = made.due(now)
        if due != 0.0:
            ahead = [when for when in (arrivals[0] if arrivals else None,) if when is not None]
            now = min([*ahead, *([] if due is None else [now + due])])
            continue
        batch = made.take(now)
        now += 0.005 + 0.0002 * sum(item.tokens for item in batch)
        took += [now - item.arrived for item in batch if item.client == "quiet"]
    return took


def test_what_is_in_the_background_is_taken_while_no_client_waits_and_of_one_client_at_a_time() -> None:
    made, one, other = line(), f"{BACKGROUND}one", f"{BACKGROUND}other"
    for client in (one, other):
        made.offer(items(client, 15, 15, 15), SPEED)
    made.offer(items("a", 30), SPEED)
    assert (made.tokens, made.budget(0.0)) == (30, 100), "they count for no client"
    taken = []
    while batch := made.take(0.0):
        taken.append(works(batch))
    assert taken == [["a-0"], [f"{one}-0", f"{one}-1"], [f"{one}-2"], [f"{other}-0", f"{other}-1"], [f"{other}-2"]]
    assert made.due(0.0) is None


def test_what_is_in_the_background_has_room_of_its_own_and_is_forgotten_like_other_works() -> None:
    made, behind = line(bound=50), items(f"{BACKGROUND}one", 20, 20)
    made.offer(behind, SPEED)
    with pytest.raises(Overloaded):
        made.offer(items(f"{BACKGROUND}one", 20), SPEED)
    made.offer(items("a", 50), SPEED)
    made.forget(behind[:1])
    assert works(made.clear()) == ["a-0", f"{BACKGROUND}one-1"]


def test_a_flood_of_one_client_leaves_the_95th_percentile_of_another_within_twice_of_what_it_is_alone() -> None:
    """Where batches that several share are as large as what the quiet one asks for: it waits for one, and has one."""
    idle, flooded = (statistics.quantiles(latencies(flood), n=20)[-1] for flood in (False, True))
    assert flooded > idle
    assert flooded <= 2 * idle, (idle, flooded)


@pytest.mark.parametrize("order", [1, -1])
def test_a_flood_that_leaves_is_forgotten_as_fast_as_it_came(order: int) -> None:
    made, given = line(bound=10**9), items("a", *[1] * 30_000)
    made.offer(given, SPEED)
    began = time.perf_counter()
    made.forget(given[::order])
    assert time.perf_counter() - began < 2
    assert (made.tokens, made.texts) == (0, 0)


def told(made: FairQueue, given: list[Work]) -> float:
    """Offer works. Return the seconds that the refusal tells; 0: they were accepted."""
    try:
        made.offer(given, SPEED)
    except Overloaded as error:
        return max(1.0, math.ceil(error.after))
    return 0.0


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize(("kind", "seconds"), [(items, 0.5), (items, 0.01), (prompts, 7.0)])
def test_what_does_not_fit_fits_after_at_most_two_retries(
    kind: Callable[..., list[Work]], seconds: float, others: int
) -> None:
    """However fast works leave, beside clients whose shares stay full; the first guess may be wrong."""
    made, drawn = line(most=40, shared=40), random.Random(5)
    names = [f"other{one}" for one in range(others)]

    def turn(now: float) -> float:
        for client in names:
            with suppress(Overloaded):
                while True:
                    made.offer(kind(client, 10, at=now), SPEED)
        made.take(now)
        made.take_prompts(now)
        return now + seconds

    now = turn(0.0)
    for _ in range(40):
        with suppress(Overloaded):
            while True:
                made.offer(kind("a", 10, at=now), SPEED)
        tokens, waits = drawn.randint(10, 60), list[float]()
        while wait := told(made, kind("a", tokens, at=now)):
            waits.append(wait)
            until = now + wait
            while now < until:
                now = turn(now)
        assert len(waits) <= 2, waits
        assert max(waits) <= LONGEST
        now = turn(now)


def test_the_told_time_is_not_much_longer_than_needed() -> None:
    made = line(most=10, bound=100)
    made.offer(items("a", *[10] * 10), SPEED)
    for second in range(200):  # 10 tokens a second, and the queue stays full
        made.take(float(second))
        made.offer(items("a", 10, at=float(second)), SPEED)
    with pytest.raises(Overloaded) as caught:
        made.offer(items("a", 50, at=199.5), SPEED)
    assert 5 <= caught.value.after <= 6.5


def test_a_speed_is_not_measured_while_nothing_waits() -> None:
    made = line(most=10, bound=100)
    made.offer(items("a", *[10] * 4), SPEED)
    for second in range(4):
        made.take(float(second))
    made.offer(items("a", *[10] * 10, at=1000.0), SPEED)
    made.take(1000.0)
    made.offer(items("a", 10, at=1000.0), SPEED)
    with pytest.raises(Overloaded) as caught:
        made.offer(items("a", 10, at=1000.0), SPEED)
    assert caught.value.after < 3
