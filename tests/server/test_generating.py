"""Generations beside texts of one forward pass: nobody waits for more than a step of what another client generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from afina.engine.encoding import EncodedText
from afina.engine.generations import GeneratedText, Generation
from afina.errors import AfinaError, Busy, InvalidData
from afina.models.decoding import Decoding
from afina.server.line.computing import Batcher
from afina.server.line.queue import LEAST, FairQueue
from afina.server.line.work import BACKGROUND, GeneratedAnswer, Work
from afina.server.metrics import ComputedBatch, ComputedStep, Metrics
from clock import Clock
from raises import raises

STEP, TEXT = 0.1, 0.03
"""Seconds of a step of generations, and of a batch of texts."""


def text_of(generation: Generation) -> GeneratedText:
    count = generation.decoding.max_new_tokens or 0
    said = f"{generation.encoded.text}!"
    return GeneratedText(said, np.arange(count), False, None, "sha256:0", "acme/told@1", False, 3)


@dataclass
class Steps:
    """Generations of fixed speed, `room` of which run at a time."""

    clock: Clock
    room: int = 4
    running: dict[Generation, int] = field(default_factory=dict)
    held: list[Generation] = field(default_factory=list)
    tokens_of: dict[Generation, int] = field(default_factory=dict)
    entered: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    breaks: Callable[[Generation], bool] = lambda generation: False
    bytes: int = 0
    rooms: list[int | None] = field(default_factory=list)

    @property
    def active(self) -> int:
        return len(self.held) + len(self.running)

    @property
    def waiting(self) -> int:
        return len(self.held)

    def add(self, generation: Generation) -> None:
        if generation.encoded.text == "huge":
            raise InvalidData("fits nowhere", code="request.malformed")
        self.held.append(generation)

    def waits(self, generation: Generation) -> bool:
        return generation in self.held

    def step(self, most: int | None = None) -> list[tuple[Generation, GeneratedText | AfinaError]]:
        self.rooms.append(most)
        while self.held and len(self.running) < self.room:
            self.running[entered := self.held.pop(0)] = 0
            self.entered.append(entered.encoded.text)
        if any(map(self.breaks, self.running)):
            raise ZeroDivisionError("the soup was bright.")
        self.clock.now += STEP
        self.tokens_of = dict.fromkeys(self.running, 1)
        self.running = {one: count + 1 for one, count in self.running.items()}
        ended = [one for one, count in self.running.items() if count == one.decoding.max_new_tokens]
        for one in ended:
            del self.running[one]
        return [(one, text_of(one)) for one in ended]

    def cancel(self, generation: Generation) -> None:
        self.dropped.append(generation.encoded.text)
        self.running.pop(generation, None)
        self.held = [one for one in self.held if one is not generation]


@dataclass
class Computes:
    """Texts at a fixed time a batch."""

    clock: Clock
    generations: Steps

    def opens(self, work: Work) -> bool:
        return True

    def compute(self, works: Sequence[Work]) -> Sequence[Any]:
        self.clock.now += TEXT
        return [self.clock.now] * len(works)


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def steps(clock: Clock) -> Steps:
    return Steps(clock)


@pytest.fixture
def told() -> list[ComputedBatch | ComputedStep]:
    return []


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def made(clock: Clock, steps: Steps, told: list[Any], failures: list[str]) -> Batcher:
    """Whose thread is not begun: a test makes its turns."""
    line = FairQueue(100, 40, 0.5, 10_000)
    note = lambda what, error: failures.append(f"{what}: {type(error).__name__}")  # noqa: E731
    return Batcher(line, Computes(clock, steps), watch=told.append, failed=note, clock=clock)


def generated(client: str, text: str, tokens: int, **more: Any) -> GeneratedAnswer:
    encoded = EncodedText(np.arange(5), False, text)
    generation = Generation(more.pop("lease", None), encoded, Decoding(max_new_tokens=tokens))
    return GeneratedAnswer(client=client, tokens=5, generation=generation, **{"timeout": 1000.0, **more})


def ask(made: Batcher, *given: Any, **more: Any) -> Future[Any]:
    (future,) = made.submit([generated(*given, **more)])
    return future


def test_a_generation_of_500_tokens_delays_a_text_of_another_client_by_at_most_a_step(
    made: Batcher, clock: Clock
) -> None:
    """However many steps it has had, and wherever in a step the text arrives; and the text's own client likewise."""
    long = ask(made, "writes", "novel", 500)
    made.step()
    waits = []
    for turn in range(100):
        began = clock.now
        (future,) = made.submit([Work(client=("reads", "writes")[turn % 2], tokens=10)])
        made.step()
        waits.append(future.result(0) - began)  # it arrives right after a step, and another follows only after it
        made.step()
    assert max(waits) == pytest.approx(TEXT)
    while not long.done():
        made.step()
    assert clock.now == pytest.approx(500 * STEP + 100 * TEXT)
    assert long.result(0).text == "novel!"


def test_prompts_have_the_tokens_that_texts_leave_of_a_turn(made: Batcher, steps: Steps) -> None:
    ask(made, "writes", "novel", 9)
    made.step()
    for tokens in (10, 39):
        made.submit([Work(client="reads", tokens=tokens)])
        made.step()
    assert steps.rooms == [100, 40 - 10 - 40 // 4, LEAST], "alone; beside a text; and never none"


def test_a_text_that_arrives_in_the_midst_of_a_step_is_computed_right_after_it(
    made: Batcher, clock: Clock, steps: Steps
) -> None:
    ask(made, "writes", "novel", 500)
    arrived = list[Future[Any]]()
    step = steps.step

    def meanwhile(most: int | None = None) -> Any:
        if len(arrived) < 5:
            arrived.extend(made.submit([Work(client="reads", tokens=10)]))
        return step(most)

    steps.step = meanwhile  # type: ignore[method-assign]
    for _ in range(6):
        made.step()
    for index, future in enumerate(arrived):
        assert future.result(0) == pytest.approx((index + 1) * (STEP + TEXT))


def test_generations_enter_by_turns_of_their_clients(made: Batcher, steps: Steps) -> None:
    steps.room = 1
    many = [ask(made, "floods", f"a{index}", 2) for index in range(20)]
    made.step()
    few = ask(made, "polite", "b", 2)
    for _ in range(8):
        made.step()
    assert few.done()
    assert sum(one.done() for one in many) <= 3
    assert steps.entered.index("b") <= 3


def test_tokens_are_charged_and_told_of(made: Batcher, told: list[Any]) -> None:
    ask(made, "acme", "one", 3)
    ask(made, "bolt", "two", 1)
    while made.step():
        pass
    stepped = [one for one in told if isinstance(one, ComputedStep)]
    assert [(one.tokens, one.clients) for one in stepped] == [(2, {"acme": 1, "bolt": 1}), *[(1, {"acme": 1})] * 2]
    assert [len(one.firsts) for one in stepped] == [2, 0, 0]
    assert stepped[0].firsts == pytest.approx([STEP, STEP])
    metrics = Metrics()
    for one in stepped:
        metrics.stepped(one)
    said = metrics.text().decode()
    for line in (
        "afina_generated_tokens_total 4.0",
        'afina_client_generated_tokens_total{client="acme"} 3.0',
        'afina_client_generated_tokens_total{client="bolt"} 1.0',
        "afina_first_token_seconds_count 2.0",
        "afina_step_seconds_count 3.0",
    ):
        assert f"\n{line}\n" in said


def test_who_goes_ends_its_generation_whether_it_runs_or_waits(made: Batcher, steps: Steps) -> None:
    steps.room = 1
    runs, held, waits = (ask(made, "acme", name, 50) for name in ("runs", "held", "waits"))
    other = ask(made, "bolt", "other", 3)
    made.step()
    assert made.generating[0] == 1
    for one in (runs, held, waits):
        assert one.cancel()
    for _ in range(4):
        made.step()
    assert other.result(0).text == "other!"
    assert "runs" in steps.dropped
    assert not {"held", "waits"} & {*steps.entered}
    assert (made.generating, made.waiting, steps.running, steps.held) == ((0, 0), (0, 0), {}, [])
    with pytest.raises(CancelledError):
        runs.result(0)


def test_a_generation_that_takes_too_long_ends_whether_it_runs_or_waits(made: Batcher, steps: Steps) -> None:
    steps.room = 1
    first, second, third = (ask(made, "acme", name, 50, timeout=1.0) for name in "abc")
    for _ in range(12):
        made.step()
    for one in (first, second, third):
        assert isinstance(one.exception(0), TimeoutError)
    assert (made.generating, steps.running) == ((0, 0), {})


def test_one_that_fits_nowhere_is_refused_alone(made: Batcher) -> None:
    huge, other = ask(made, "acme", "huge", 5), ask(made, "acme", "small", 1)
    made.step()
    assert isinstance(huge.result(0), InvalidData)
    assert other.result(0).text == "small!"


def test_at_the_end_what_waits_is_refused_and_what_runs_goes_on_until_that_is_ended_too(
    made: Batcher, steps: Steps
) -> None:
    steps.room = 2
    runs, ends, waits = (ask(made, client, "text", tokens) for client, tokens in (("a", 50), ("b", 5), ("c", 50)))
    made.step()
    made.give_up(running=False)
    with raises(Busy, code="server.ending"):
        waits.result(0)
    for _ in range(5):
        made.step()
    assert ends.result(0).text == "text!"
    assert not runs.done()
    made.give_up(running=True)
    made.step()
    with raises(Busy, code="server.ending"):
        runs.result(0)
    assert not made.step()


def test_closing_finishes_what_runs_and_what_waits(clock: Clock, steps: Steps) -> None:
    made = Batcher(FairQueue(100, 40, 0.5, 10_000), Computes(clock, steps), clock=clock)
    made.start()
    futures = [ask(made, "acme", str(index), 20) for index in range(10)]
    made.close()
    assert [one.result(0).text for one in futures] == [f"{index}!" for index in range(10)]


BEHIND = f"{BACKGROUND}acme/told@2"


def both(made: Batcher, *tokens: int, says: str = "one") -> list[Future[Any]]:
    """A client's generation, and one in the background that has begun."""
    first, second = generated("acme", "one", tokens[0]), generated(BEHIND, says, tokens[1])
    made.submit([second])
    made.step()
    made.submit([first])
    return [first.future, second.future]


def test_what_is_in_the_background_begins_once_no_client_waits(made: Batcher, steps: Steps) -> None:
    steps.room = 1
    behind, first, second = (generated(name, name, 2) for name in (BEHIND, "acme", "bolt"))
    for one in (behind, first, second):
        made.submit([one])
    ended = []
    for one in (behind, first, second):
        one.future.add_done_callback(lambda done, one=one: ended.append(one.client))
    while made.step():
        pass
    assert ended == ["acme", "bolt", BEHIND]


def test_a_step_that_breaks_with_a_work_in_the_background_ends_that_work_and_goes_on(
    made: Batcher, steps: Steps, failures: list[str]
) -> None:
    ours, theirs = both(made, 3, 9, says="breaks")
    steps.breaks = lambda generation: generation.encoded.text == "breaks"
    while made.step():
        pass
    assert ours.result(0).text == "one!"
    assert isinstance(theirs.exception(0), ZeroDivisionError)
    assert failures == ["step: ZeroDivisionError"]


def test_of_a_step_that_fails_with_a_work_in_the_background_the_others_begin_again(made: Batcher, steps: Steps) -> None:
    """Unless a token was heard: a client may have received the first ones, so it gets the error."""
    step, fail = steps.step, [False]

    def fails(most: int) -> Any:
        ended = step()
        if not fail[0] or not any(one.encoded.text == "breaks" for one in steps.running):
            return ended
        running, steps.running = [*steps.running], {}
        return [(one, Busy("failed", code="generation.failed")) for one in running]

    steps.step = fails  # type: ignore[method-assign]
    ours, theirs = both(made, 3, 9, says="breaks")
    streamed = generated("bolt", "streamed", 3)
    streamed.generation = replace(streamed.generation, heard=lambda new: None)
    made.submit([streamed])
    fail[0] = True
    while made.step():
        pass
    assert ours.result(0).text == "one!"
    assert isinstance(streamed.future.result(0), Busy)
    assert isinstance(theirs.result(0), Busy)


def test_a_step_that_breaks_without_one_fails_what_runs_and_nothing_later(
    made: Batcher, steps: Steps, failures: list[str]
) -> None:
    steps.breaks = lambda generation: generation.encoded.text == "breaks"
    bad, beside = ask(made, "acme", "breaks", 3), ask(made, "bolt", "beside", 3)
    made.step()
    for one in (bad, beside):
        with pytest.raises(ZeroDivisionError):
            one.result(0)
    after = ask(made, "bolt", "after", 3)
    while made.step():
        pass
    assert after.result(0).text == "after!"
    assert failures == ["step: ZeroDivisionError"]
