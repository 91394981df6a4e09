"""One thread computes what many ask for, finishes what it took, and goes on whatever a batch does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import pytest

from afina.errors import Busy
from afina.server.line.computing import Batcher
from afina.server.line.queue import FairQueue
from afina.server.line.work import Work
from afina.server.metrics import ComputedBatch
from clock import Clock
from raises import raises


@dataclass(eq=False, kw_only=True)
class Number(Work):
    """A number to compute with."""

    number: Any


class NoGenerations:
    """Of a computer that generates nothing."""

    active = waiting = bytes = 0
    tokens_of: dict[Any, int] = {}  # noqa: RUF012


class Computes:
    """A computer of numbers, by a function."""

    def __init__(self, function: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self.function, self.generations = function, NoGenerations()

    def opens(self, work: Work) -> bool:
        return True

    def compute(self, works: Sequence[Work]) -> Sequence[Any]:
        return self.function([one.number for one in works if isinstance(one, Number)])


def submit(
    made: Batcher, client: str, numbers: Sequence[Any], tokens: Sequence[int], timeout: float
) -> Sequence[Future[Any]]:
    pairs = zip(numbers, tokens, strict=True)
    return made.submit([Number(client=client, tokens=count, timeout=timeout, number=one) for one, count in pairs])


class Fake:
    """Doubles numbers; notes each batch, and takes a second of the test's clock a batch."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.batches = clock, list[list[Any]]()

    def __call__(self, works: Sequence[Any]) -> Sequence[Any]:
        self.batches.append([*works])
        self.clock.now += 1.0
        if "broken" in works:
            raise ZeroDivisionError("broken")
        return [2 * work for work in works]


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def fake(clock: Clock) -> Fake:
    return Fake(clock)


@pytest.fixture
def told() -> list[ComputedBatch]:
    return []


@pytest.fixture
def made(clock: Clock, fake: Fake, told: list[ComputedBatch]) -> Batcher:
    """Whose thread is not begun: a test makes its steps."""
    return Batcher(FairQueue(100, 40, 0.5, 200), Computes(fake), watch=told.append, clock=clock)


def test_what_comes_within_the_delay_is_computed_together(made: Batcher, fake: Fake, clock: Clock) -> None:
    with made.expecting():
        (first,) = submit(made, "a", [1], [10], 30)
        assert not made.step()
        clock.now = 0.4
        (second,) = submit(made, "b", [2], [10], 30)
        assert not made.step()
        clock.now = 0.5
        assert made.step()
    assert (first.result(0), second.result(0), fake.batches) == (2, 4, [[1, 2]])


def test_a_text_waits_for_nobody_where_no_other_is_on_its_way(made: Batcher, fake: Fake) -> None:
    with made.expecting():
        submit(made, "a", [1], [10], 30)
        assert not made.step()
    assert made.step()
    assert fake.batches == [[1]]


def test_a_batch_is_told_of(made: Batcher, told: list[ComputedBatch]) -> None:
    submit(made, "a", [1, 2], [60, 40], 30)
    made.step()
    assert told == [ComputedBatch(100, 2, 100, 1.0)]
    assert made.waiting == (0, 0)


def test_what_is_given_up_before_its_turn_is_not_computed(made: Batcher, fake: Fake, clock: Clock) -> None:
    first, second = submit(made, "a", [1, 2], [10, 10], 30)
    assert first.cancel()
    assert made.waiting == (10, 1)
    clock.now = 1.0
    made.step()
    assert (second.result(0), fake.batches) == (4, [[2]])
    with pytest.raises(CancelledError):
        first.result(0)


def test_what_is_being_computed_cannot_be_given_up(clock: Clock) -> None:
    given_up = []
    compute = Computes(lambda works: given_up.append(future.cancel()) or works)
    made = Batcher(FairQueue(100, 40, 0.0, 200), compute, clock=clock)
    (future,) = submit(made, "a", [1], [10], 30)
    made.step()
    assert (given_up, future.result(0)) == ([False], 1)


def test_what_waited_longer_than_its_time_is_not_computed(made: Batcher, fake: Fake, clock: Clock) -> None:
    (late,) = submit(made, "a", [1], [10], 2)
    (other,) = submit(made, "a", [2], [10], 30)
    clock.now = 3.0
    made.step()
    assert (other.result(0), fake.batches) == (4, [[2]])
    with pytest.raises(TimeoutError):
        late.result(0)


def test_what_a_batch_raises_is_the_outcome_of_all_in_it_and_of_no_other(made: Batcher, clock: Clock) -> None:
    both = submit(made, "a", ["broken", 1], [10, 10], 30)
    clock.now = 1.0
    made.step()
    for future in both:
        with pytest.raises(ZeroDivisionError):
            future.result(0)
    (after,) = submit(made, "a", [3], [10], 30)
    clock.now = 5.0
    made.step()
    assert after.result(0) == 6


@pytest.fixture
def failures() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def thread(clock: Clock, failures: list[tuple[str, str]]) -> Iterator[Callable[..., Batcher]]:
    """Begin a thread on what a test gives; it has to go on until the test ends."""
    begun: list[Batcher] = []

    def begin(compute: Any, line: FairQueue | None = None, **more: Any) -> Batcher:
        def failed(what: str, error: BaseException) -> None:
            failures.append((what, type(error).__name__))

        made = Batcher(line or FairQueue(100, 100, 0.0, 1000), Computes(compute), failed=failed, **more)
        made.start()
        begun.append(made)
        return made

    yield begin
    for one in begun:
        assert one.alive
        one.close()


def asked(made: Batcher, work: Any) -> Any:
    (future,) = submit(made, "a", [work], [1], 30)
    return future.result(10)


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt])
def test_who_is_told_of_batches_may_raise_what_it_likes(
    thread: Callable[..., Batcher], failures: list[tuple[str, str]], raised: type[BaseException]
) -> None:
    def watch(computed: ComputedBatch) -> None:
        raise raised("the soup was bright.")

    made = thread(lambda works: works, watch=watch)
    assert [asked(made, number) for number in range(3)] == [0, 1, 2]
    assert failures == [("watch", raised.__name__)] * 3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_outcomes_of_which_nobody_knows_whose_they_are_are_given_to_nobody(
    thread: Callable[..., Batcher], failures: list[tuple[str, str]], count: int
) -> None:
    given = [[7] * count]
    made = thread(lambda works: given.pop() if given else works)
    both = submit(made, "a", [1, 2], [1, 1], 30)
    for future in both:
        with pytest.raises(RuntimeError, match=f"^{count} outcomes of 2 works$"):
            future.result(10)
    assert asked(made, 5) == 5
    assert failures == [("compute", "RuntimeError")]


@pytest.mark.parametrize("raised", [MemoryError, SystemExit, KeyboardInterrupt, StopIteration, CancelledError])
def test_what_would_end_a_thread_or_a_task_reaches_who_asked_as_an_error_of_its_own(
    thread: Callable[..., Batcher], failures: list[tuple[str, str]], raised: type[BaseException]
) -> None:
    def compute(works: Sequence[Any]) -> Sequence[Any]:
        if works == ["end"]:
            raise raised()
        return works

    made = thread(compute)

    async def awaited() -> Any:
        (future,) = submit(made, "a", ["end"], [1], 30)
        return await asyncio.wait_for(asyncio.wrap_future(future), 10)

    with pytest.raises(MemoryError if raised is MemoryError else RuntimeError):
        asyncio.run(awaited())
    assert asked(made, 5) == 5
    assert failures == [("compute", raised.__name__)]


def test_a_line_that_fails_is_begun_anew_and_who_waited_in_it_is_told(
    thread: Callable[..., Batcher], failures: list[tuple[str, str]]
) -> None:
    class Broken(FairQueue):
        broken = True

        def take(self, now: float, opens: Any = None) -> list[Work]:
            if self.broken and self.texts == 2:
                self.broken = False
                raise IndexError
            return super().take(now)

    made = thread(lambda works: works, Broken(100, 100, 0.0, 1000))
    for future in submit(made, "a", [1, 2], [1, 1], 30):
        with pytest.raises(IndexError):
            future.result(10)
    assert made.waiting == (0, 0)
    assert asked(made, 5) == 5
    assert failures == [("line", "IndexError")]


def test_who_is_told_of_failures_may_fail_too(clock: Clock) -> None:
    def failed(what: str, error: BaseException) -> None:
        raise error

    made = Batcher(FairQueue(100, 40, 0.0, 200), Computes(lambda works: []), failed=failed, clock=clock)
    (future,) = submit(made, "a", [1], [10], 30)
    assert made.step()
    assert isinstance(future.exception(0), RuntimeError)


@pytest.fixture
def begun() -> Iterator[tuple[Batcher, threading.Event, list[str]]]:
    """On a thread of its own, which computes nothing until the event is set; with the names of those that did."""
    go, threads = threading.Event(), list[str]()

    def compute(works: Sequence[Any]) -> Sequence[Any]:
        go.wait(10)
        threads.append(threading.current_thread().name)
        return works

    made = Batcher(FairQueue(2, 2, 0.0, 10_000), Computes(compute))
    made.start()
    yield made, go, threads
    go.set()
    made.close()


def test_closing_computes_all_that_was_taken_and_takes_nothing_more(
    begun: tuple[Batcher, threading.Event, list[str]],
) -> None:
    made, go, threads = begun
    futures = [future for client in "abc" for future in submit(made, client, [*range(20)], [1] * 20, 30)]
    closing = threading.Thread(target=made.close)
    closing.start()
    while made.alive:
        pass
    with raises(Busy, code="server.ending"):
        submit(made, "a", [1], [1], 30)
    go.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == [*range(20)] * 3
    assert set(threads) == {"afina-inference"}


def test_many_threads_get_each_its_own(begun: tuple[Batcher, threading.Event, list[str]]) -> None:
    made, go, _ = begun
    go.set()
    found: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        found[number] = [
            future.result(10)
            for start in range(0, 50, 5)
            for future in submit(made, str(number), [1000 * number + start + step for step in range(5)], [1] * 5, 30)
        ]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {number: [1000 * number + step for step in range(50)] for number in range(6)}
