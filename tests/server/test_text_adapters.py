"""Adapters that answer with texts, beside others on one server: what they generate, and what asks for another kind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from afina import Adapter, Backbone
from afina.engine.generations import GeneratedText
from afina.errors import Busy, CorruptAdapter, InvalidData, Overloaded
from afina.generating.generation import NewTokens
from afina.predicting import golden_test
from afina.predicting.predictor import ModelPredictor
from afina.server.core import Core
from afina.server.requests import GenerationOptions, Text
from crowd import adapter
from raises import raises
from servers import TOLD, Held, Served, accepted, accepting, give_up, logged, predictor, within

CODE = "data.kind-mismatch"
WARM = Text("warm soup")


@cache
def told_by(gpt2: Backbone, seed: int, off: float = 0.0, **more: Any) -> Adapter:
    """An adapter that tells, with the golden probe that it computes, or one that is so far off."""
    made = adapter(gpt2, "lora", {"r": 2}, seed=seed, **TOLD | more)
    alone = predictor(made, gpt2)
    assert isinstance(alone, ModelPredictor)
    found = golden_test.outputs(alone.classifier, gpt2, alone.max_length, alone.template)
    outputs = tuple(tuple(value + off for value in row) for row in found)
    return replace(made, manifest=made.manifest.model_copy(update={"probe": outputs}).sealed())


@pytest.fixture(scope="module")
def crowd(gpt2: Backbone, crowd: dict[str, Adapter]) -> dict[str, Adapter]:
    return {**crowd, "acme/told@1": told_by(gpt2, 6)}


@pytest.fixture
def told(serve: Callable[..., Served]) -> Served:
    """A server with `acme/told@1`, in production."""
    served = serve()
    served.store.alias("acme/told@1")
    return served


def asked(served: Served, model: str = "acme/told", **options: Any) -> list[GeneratedText]:
    with accepting(served.core, served.key(), model, [WARM], GenerationOptions(**options)) as one:
        return [future.result(30) for future in served.core.submit(one)]


def long(served: Served, model: str = "acme/told@production", **more: Any) -> Any:
    """A request whose answer takes 200 steps."""
    decoding = {"max_new_tokens": 200, "no_repeat_ngram": 1}
    return accepted(served.core, served.key(), model, [WARM], GenerationOptions(decoding=decoding, **more))


def generated_alone(backbone: Backbone, made: Adapter, **decoding: Any) -> str:
    (found,) = predictor(made, backbone).generating(**decoding)([WARM.text])
    return str(found["answer"])


def test_an_adapter_of_labels_is_not_asked_for_a_text(told: Served) -> None:
    with raises(InvalidData, code=CODE):
        asked(told, "acme/reviews@1")
    with raises(InvalidData, code=CODE):
        accepted(told.core, told.key(), "acme/told", [WARM])
    assert told.leases == 0


def test_it_generates_as_it_does_alone_with_what_the_request_asks_for(told: Served, gpt2: Backbone) -> None:
    made = told_by(gpt2, 6)
    (found,) = asked(told)
    assert (found.text, found.version) == (generated_alone(gpt2, made), "acme/told@1")
    assert len(found.tokens) <= 8, "as trained"
    (greedy,) = asked(told, decoding={"max_new_tokens": 20, "seed": None})
    assert greedy.text == generated_alone(gpt2, made, max_new_tokens=20)
    drawn = {"temperature": 1.5, "seed": 3, "max_new_tokens": 12}
    choices = asked(told, decoding=drawn, n=3)
    assert len({one.text for one in choices}) > 1
    assert choices[0].text == generated_alone(gpt2, made, **drawn)
    assert [one.text for one in asked(told, decoding=drawn, n=3)] == [one.text for one in choices]


def test_each_new_token_is_heard_once_and_by_the_number_of_its_answer(told: Served) -> None:
    heard: dict[int, list[int]] = {}

    def hear(number: int, new: NewTokens) -> None:
        heard.setdefault(number, []).extend(new.tokens)

    options = GenerationOptions(decoding={"temperature": 1.0, "max_new_tokens": 9}, n=2, heard=hear)
    with accepting(told.core, told.key(), "acme/told", [WARM, Text("cold play")], options) as one:
        found = [future.result(30) for future in told.core.submit(one)]
        assert one.receipt.generation is not None
        assert (one.receipt.generation.n, one.receipt.generation.max_new_tokens) == (2, 9)
    assert heard == {number: outcome.tokens.tolist() for number, outcome in enumerate(found)}


@pytest.mark.parametrize(
    "options",
    [{"decoding": {"max_new_tokens": 33}}, {"n": 3}, {"logprobs": 6}, {"decoding": {"temperature": -1.0}}],
)
def test_what_exceeds_a_limit_is_refused_before_it_waits(serve: Callable[..., Served], options: dict[str, Any]) -> None:
    served = serve(max_new_tokens=32, choices=2, logprobs=5)
    with pytest.raises(InvalidData):
        asked(served, **options)


def test_a_version_whose_golden_test_fails_is_not_served(told: Served, gpt2: Backbone) -> None:
    asked(told, "acme/told@production")
    bad = told.publish(told_by(gpt2, 8, off=0.5), "acme/told")
    with raises(CorruptAdapter, code="adapter.probe-differs"):
        asked(told, bad)
    told.store.alias(bad)
    assert within(20.0, lambda: told.core.current.behind == 1)
    (found,) = asked(told, "acme/told@production")
    assert found.version == "acme/told@1"


@pytest.mark.slow
def test_a_golden_test_that_fails_as_nobody_foresaw_is_counted_logged_and_tried_again(
    told: Served, gpt2: Backbone, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = told.publish(told_by(gpt2, 7), "acme/told")
    with monkeypatch.context() as patched:
        patched.setattr(told.core.engine, "probe", lambda lease: 1 / 0)
        with raises(Busy, code="server.probe-not-computed"):
            asked(told, second)
    assert told.figure('afina_probes_total{outcome="not replayed"}') >= 1
    (line,) = [one for one in logged(caplog) if one.get("what") == "golden test"]
    assert line["unforeseen"] == "ZeroDivisionError"
    assert told.figure('afina_failures_total{what="golden test"}') == 1
    assert within(10, lambda: answers(told, second))


def answers(served: Served, model: str) -> bool:
    try:
        return asked(served, model)[0].version == model
    except Busy:
        return False


class Steps:
    """Notes the steps of a server's generations, and lets a test hold them."""

    def __init__(self, core: Core) -> None:
        self.count, self.hold = 0, threading.Event()
        self.hold.set()
        generations = core.batching.computer.generations
        step = generations.step

        def counted(most: int | None = None) -> Any:
            self.hold.wait(20)
            self.count += 1
            return step(most)

        generations.step = counted  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_running_generation_ends_on_the_version_that_it_began_with(told: Served, gpt2: Backbone) -> None:
    steps = Steps(told.core)
    second = told_by(gpt2, 7)
    told.publish(second, "acme/told")
    one = long(told)
    (future,) = told.core.submit(one)
    assert within(20, lambda: steps.count > 2)
    steps.hold.clear()
    told.store.alias("acme/told@2")
    threading.Timer(0.3, steps.hold.set).start()  # the golden test of version 2 is computed between steps
    assert within(20, lambda: str(told.core.version(told.key(), "acme/told@production")) == "acme/told@2")
    assert not future.done(), "otherwise nothing was measured"
    told.core.engine.evict(told.store.show("acme/told@1").digest and "store:acme/told@1")
    found = future.result(60)
    assert found.version == "acme/told@1"
    assert found.text == generated_alone(gpt2, told_by(gpt2, 6), max_new_tokens=200, no_repeat_ngram=1)
    one.close()
    (after,) = asked(told, "acme/told@production")
    assert (after.version, after.text) == ("acme/told@2", generated_alone(gpt2, second))


@pytest.fixture
def shadowed(told: Served, gpt2: Backbone) -> Served:
    """A server on which `acme/told@2`, with another template, is the shadow of `acme/told@1`."""
    told.publish(told_by(gpt2, 9, template="Say: {text}\nTold:"), "acme/told")
    told.store.shadow("acme/told@2")
    assert within(20, lambda: state(told)["state"] == "riding")
    return told


def state(served: Served) -> Any:
    return served.get("/shadows/acme/told", "acme-publish").json()


def test_a_shadow_generates_too_and_what_differs_is_counted(shadowed: Served, gpt2: Backbone) -> None:
    alone = [generated_alone(gpt2, one) for one in (told_by(gpt2, 6), told_by(gpt2, 9, template="Say: {text}\nTold:"))]
    (found,) = asked(shadowed, "acme/told@production")
    assert (found.text, found.version) == (alone[0], "acme/told@1")
    assert within(20, lambda: state(shadowed)["texts"] == 1)
    said = state(shadowed)
    assert (said["flips"], said["faults"], said["left_out"]) == (int(alone[0] != alone[1]), 0, 0)
    assert within(10, lambda: shadowed.leases == 0)


LONG_ANSWER = {"max_new_tokens": 60, "no_repeat_ngram": 1}


def counted(served: Served) -> int:
    """Tokens that count for the rate of acme's key now."""
    found = served.key()
    return served.core.tenants._window(found.client, found.id).total


@pytest.fixture
def limited(serve: Callable[..., Served]) -> Callable[[int], Served]:
    """Begin a server with a rate."""
    return lambda rate: serve(tokens_per_minute=rate)


@pytest.mark.slow
def test_requests_at_once_generate_no_more_than_the_rate_of_their_key(limited: Callable[[int], Served]) -> None:
    served = limited(600)
    options = GenerationOptions(decoding={**LONG_ANSWER, "temperature": 1.0}, n=8)
    gate = threading.Barrier(12)

    def ask(_: int) -> int:
        gate.wait(20)
        try:
            with accepting(served.core, served.key(), "acme/told", [WARM], options) as one:
                return sum(len(future.result(30).tokens) for future in served.core.submit(one))
        except Overloaded:
            return 0

    with ThreadPoolExecutor(12) as pool:
        found = [*pool.map(ask, range(12))]
    assert 0 < sum(found) <= 600, found


def test_an_answer_that_may_exceed_the_rate_is_refused_and_a_default_is_shortened(
    limited: Callable[[int], Served],
) -> None:
    served = limited(24)
    with raises(InvalidData, code="request.beyond-rate") as found:
        accepted(served.core, served.key(), "acme/told", [WARM], GenerationOptions(decoding=LONG_ANSWER))
    assert found.value.fields["tokens_a_minute"] == 24
    with accepting(
        served.core, served.key(), "acme/told", [WARM], GenerationOptions(n=2, decoding={"temperature": 1.0})
    ) as one:
        assert one.receipt.generation is not None
        assert one.receipt.generation.max_new_tokens == (24 - sum(one.tokens)) // 2 < 8, "8 as trained"
        assert one.needed <= 24
        answers = [future.result(30) for future in served.core.submit(one)]
    assert max(len(each.tokens) for each in answers) <= one.longest


def test_the_default_of_a_chat_is_the_context_that_is_left(told: Served, gpt2: Backbone) -> None:
    with accepting(told.core, told.key(), "acme/told", [WARM], GenerationOptions(prompt_as="chat")) as one:
        assert one.longest == gpt2.longest - one.tokens[0]
        (answer,) = (future.result(30) for future in told.core.submit(one))
    assert one.receipt.generation is not None
    assert one.receipt.generation.max_new_tokens == one.longest
    assert 8 < len(answer.tokens) <= one.longest, "8 as trained"


def test_the_default_of_a_chat_is_what_the_key_may_still_spend(limited: Callable[[int], Served]) -> None:
    served = limited(100)
    spent = served.core.tenants.reserve(served.key(), 70)
    options = GenerationOptions(prompt_as="chat", n=2, decoding={"temperature": 1.0})
    with accepting(served.core, served.key(), "acme/told", [WARM], options) as one:
        assert one.receipt.generation is not None
        assert one.receipt.generation.max_new_tokens == one.longest == (30 - sum(one.tokens)) // 2
        assert one.request.generation is not None
        assert one.request.generation.longest == one.longest, "the shadow version has the same limit"
        assert counted(served) == 70 + one.needed
    spent.give_back()
    options = GenerationOptions(prompt_as="chat", decoding={"min_new_tokens": 99})
    with raises(InvalidData, code="request.beyond-rate"):
        accepted(served.core, served.key(), "acme/told", [WARM], options)


def test_the_default_of_a_chat_fits_the_memory(told: Served, monkeypatch: pytest.MonkeyPatch, gpt2: Backbone) -> None:
    with told.core.engine.lease("store:acme/told@1") as lease:
        resident = lease.resident()
    room = resident.opened.most_bytes(96) + 3 * resident.size
    monkeypatch.setattr(type(told.core.engine._residents), "room", lambda residents, digest: room)
    with accepting(told.core, told.key(), "acme/told", [WARM], GenerationOptions(prompt_as="chat")) as one:
        assert one.longest == 96 - one.tokens[0] < gpt2.longest - one.tokens[0]
        (answer,) = (future.result(30) for future in told.core.submit(one))
    assert isinstance(answer, GeneratedText)


def test_what_was_not_generated_is_given_back(limited: Callable[[int], Served]) -> None:
    served = limited(10_000)
    with accepting(served.core, served.key(), "acme/told", [WARM], GenerationOptions(decoding=LONG_ANSWER, n=1)) as one:
        assert counted(served) == one.needed == sum(one.tokens) + 60
        (future,) = served.core.submit(one)
        made = len(future.result(30).tokens)
        assert within(10, lambda: counted(served) == sum(one.tokens) + made)


def test_a_request_that_is_never_submitted_is_given_back_whole(limited: Callable[[int], Served]) -> None:
    served = limited(10_000)
    accepted(served.core, served.key(), "acme/reviews", [Text("a")]).close()
    assert counted(served) == 0
    accepted(served.core, served.key(), "acme/told", [WARM], GenerationOptions()).close()
    assert counted(served) == 0


def test_cancelled_answers_give_back_what_was_not_computed(limited: Callable[[int], Served]) -> None:
    served = limited(10_000)
    heard = threading.Event()
    options = GenerationOptions(
        decoding={"max_new_tokens": 200, "no_repeat_ngram": 1}, heard=lambda number, new: heard.set()
    )
    with accepting(served.core, served.key(), "acme/told", [WARM], options) as one:
        futures = served.core.submit(one)
        assert heard.wait(20)
        give_up(futures)
    assert sum(one.tokens) < counted(served) < sum(one.tokens) + 200


def test_texts_that_are_not_computed_are_given_back(limited: Callable[[int], Served]) -> None:
    served = limited(10_000)
    first = accepted(served.core, served.key(), "acme/reviews", [Text("a")])
    held = Held(served.core)  # after the golden test
    served.core.submit(first)
    assert held.began.wait(20)
    with accepting(served.core, served.key(), "acme/reviews", [Text("the soup was bright.")]) as one:
        futures = served.core.submit(one)
        assert counted(served) == sum(first.tokens) + sum(one.tokens)
        give_up(futures)
        assert counted(served) == sum(first.tokens)
    held.go.set()
    first.close()


def test_a_batch_that_fails_is_given_back(limited: Callable[[int], Served], monkeypatch: Any) -> None:
    served = limited(10_000)

    def fails(works: Any) -> Any:
        raise ValueError("no")

    with accepting(served.core, served.key(), "acme/reviews", [Text("a")]) as one:
        monkeypatch.setattr(served.core.batching.computer, "compute", fails)
        (future,) = served.core.submit(one)
        with pytest.raises(ValueError, match="no"):
            future.result(20)
    assert within(10, lambda: counted(served) == 0)
