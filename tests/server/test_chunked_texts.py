"""One client's long text is computed in chunks or windows: nobody waits for the whole, and its answer is the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batching import NoGenerations

from afina import Backbone
from afina.errors import InvalidData
from afina.server.line.computing import Batcher
from afina.server.line.queue import LEAST, FairQueue
from afina.server.line.work import Work
from afina.server.requests import Text
from clock import Clock
from crowd import adapter
from fakes import TEXTS, Backbones
from raises import raises
from rounding import Exact
from servers import Served, accepted, accepting, probed, serving, within

LONG = " ".join(TEXTS)[:100]
SHARED = 20


class Chunks:
    """A computer that notes which tokens of which client each batch has."""

    def __init__(self) -> None:
        self.generations = NoGenerations()
        self.batches: list[dict[str, int]] = []
        self.room = True

    def opens(self, work: Work) -> bool:
        return self.room

    def compute(self, works: Sequence[Work]) -> Sequence[Any]:
        self.batches.append({one.traced: one.due for one in works})
        return [None if one.left else one.traced for one in works]


@pytest.fixture
def chunks() -> Chunks:
    return Chunks()


def batcher(chunks: Chunks, clock: Clock | None = None) -> Batcher:
    """Whose thread is not begun: a test makes its steps."""
    return Batcher(FairQueue(100, 40, 0.0, 10_000), chunks, clock=clock or Clock(0.0))


@pytest.fixture
def made(chunks: Chunks) -> Batcher:
    return batcher(chunks)


def text(client: str, tokens: int, reach: float | None = math.inf) -> Work:
    return Work(client=client, tokens=tokens, reach=reach, traced=client)


@pytest.mark.parametrize(("seconds", "batches"), [(4.0, 1), (2.5, 7), (1.9, 10)])
def test_a_text_that_cannot_end_in_time_is_refused_once_its_pace_is_known(
    chunks: Chunks, seconds: float, batches: int
) -> None:
    clock = Clock(0.0)
    made, compute = batcher(chunks, clock), chunks.compute

    def takes(works: Sequence[Work]) -> Sequence[Any]:
        clock.now += seconds
        return compute(works)

    chunks.compute = takes  # type: ignore[method-assign]
    work = replace(text("long", 1000), timeout=20.0)
    (long,) = made.submit([work])
    while made.step():
        pass
    assert len(chunks.batches) == batches
    if batches == 10:
        assert long.result(0) == "long"
    else:
        assert long.result(0).code == "request.text-tokens"
        assert long.result(0).fields["most"] == int(20.0 / seconds * 100)


def test_chunks_of_a_long_text_take_turns_with_others(made: Batcher, chunks: Chunks) -> None:
    (long,) = made.submit([text("long", 250)])
    made.step()
    assert chunks.batches == [{"long": 100}], "nobody else is there"
    polite = [made.submit([text("polite", 30)])[0] for _ in range(2)]
    assert made.waiting == (210, 3)
    for _ in range(2):
        made.step()
    assert all(one.result(0) == "polite" for one in polite)
    while made.step():
        pass
    assert chunks.batches[1:3] == [{"polite": 30}] * 2
    assert chunks.batches[3:] == [{"long": 30}] * 5, "with a quarter less than a batch"
    assert (long.result(0), made.waiting) == ("long", (0, 0))


def test_a_chunk_fills_what_others_leave_of_a_batch_unless_that_is_little(made: Batcher, chunks: Chunks) -> None:
    made.submit([text("long", 200)])
    made.submit([text("other", 30 - LEAST)])
    made.step()
    made.step()
    made.submit([text("other", 31 - LEAST)])
    made.step()
    assert chunks.batches == [{"long": 30}, {"other": 30 - LEAST, "long": LEAST}, {"other": 31 - LEAST}]


def test_later_chunks_are_smaller_as_they_attend_to_more_tokens(made: Batcher, chunks: Chunks) -> None:
    made.submit([text("long", 400, reach=100.0)])
    while made.step():
        pass
    sizes = [one["long"] for one in chunks.batches]
    assert (sizes[:3], sum(sizes)) == ([100, 50, 40], 400)
    for place, size in enumerate(sizes[:-1]):
        assert size * (1 + sum(sizes[:place]) / 100) == pytest.approx(100, rel=0.06)


def test_a_text_that_is_hardly_too_long_or_cannot_be_divided_is_computed_whole(made: Batcher, chunks: Chunks) -> None:
    made.submit([text("a", 39 + LEAST)])
    made.submit([text("b", 4000, reach=None)])
    while made.step():
        pass
    assert chunks.batches == [{"a": 39 + LEAST}, {"b": 4000}]


def test_a_text_that_nobody_waits_for_gets_no_further_chunk(made: Batcher, chunks: Chunks) -> None:
    (long,) = made.submit([text("long", 250)])
    made.step()
    assert long.cancel()
    assert (made.waiting, made.step(), len(chunks.batches)) == ((0, 0), False, 1)


def test_a_text_whose_computing_has_begun_is_not_late(chunks: Chunks) -> None:
    made = batcher(chunks, clock := Clock(0.0))
    begun, waits = made.submit([text("long", 150)])[0], made.submit([text("long", 150)])[0]
    made.step()
    clock.now = 60.0
    made.step()
    made.step()
    assert begun.result(0) == "long"
    with pytest.raises(TimeoutError):
        waits.result(0)
    assert (chunks.batches, made.waiting) == ([{"long": 100}, {"long": 50}], (0, 0))


def test_a_text_without_memory_waits_and_texts_of_others_do_not(made: Batcher, chunks: Chunks) -> None:
    chunks.room = False
    (long,) = made.submit([text("long", 250)])
    (other,) = made.submit([text("other", 10)])
    made.step()
    assert (other.result(0), long.done(), made.waiting) == ("other", False, (250, 1))
    chunks.room = True
    while made.step():
        pass
    assert long.result(0) == "long"


def test_an_error_ends_a_text_before_its_last_chunk(made: Batcher, chunks: Chunks) -> None:
    def fails(works: Sequence[Work]) -> Sequence[Any]:
        raise ZeroDivisionError

    (long,) = made.submit([text("long", 250)])
    made.step()
    chunks.compute = fails  # type: ignore[method-assign]
    made.step()
    with pytest.raises(ZeroDivisionError):
        long.result(0)
    assert made.waiting == (0, 0)


def windowed(client: str, *windows: int) -> Work:
    return Work(client=client, tokens=sum(windows), windows=windows, traced=client)


def test_other_clients_are_answered_between_windows_of_a_long_text(made: Batcher, chunks: Chunks) -> None:
    (long,) = made.submit([windowed("long", *[25] * 8)])
    made.step()
    assert chunks.batches == [{"long": 100}], "nobody else is there"
    (other,) = made.submit([text("other", 30)])
    made.step()
    assert (other.result(0), long.done()) == ("other", False)
    while made.step():
        pass
    assert chunks.batches[1:] == [{"other": 30}, *[{"long": 25}] * 4]
    assert (long.result(0), made.waiting) == ("long", (0, 0))


@pytest.mark.parametrize(
    ("windows", "batches"), [([40, 40, 20], [100]), ([300, 300, 10], [300, 300, 10])], ids=["fits", "longer"]
)
def test_a_batch_has_all_windows_that_fit_or_one_that_is_longer(
    made: Batcher, chunks: Chunks, windows: list[int], batches: list[int]
) -> None:
    (found,) = made.submit([windowed("a", *windows)])
    while made.step():
        pass
    assert (chunks.batches, found.result(0)) == ([{"a": size} for size in batches], "a")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=9), min_size=1, max_size=6))
def test_no_batch_ends_inside_a_window(texts: list[list[int]]) -> None:
    made = batcher(chunks := Chunks())
    futures = [made.submit([windowed(f"c{place}", *windows)])[0] for place, windows in enumerate(texts)]
    while made.step():
        pass
    for place, windows in enumerate(texts):
        taken = [*accumulate(batch.get(f"c{place}", 0) for batch in chunks.batches)]
        assert {*taken} <= {0, *accumulate(windows)}
        assert taken[-1] == sum(windows)
    assert all(future.done() for future in futures)


@pytest.fixture
def served(serve: Callable[..., Served]) -> Iterator[Served]:
    """Whose batches have few tokens; all memory is given back in the end."""
    made = serve(batch_tokens=SHARED, shared_tokens=SHARED)
    yield made
    assert within(10, lambda: made.core.engine._residents.reserved == 0)


@pytest.mark.parametrize("model", ["acme/reviews@1", "acme/tags@1", "acme/price@1"])
def test_answers_and_receipts_are_those_of_whole_texts(served: Served, model: str) -> None:
    batches: list[tuple[int, int]] = []
    plain = served.core.engine.compute_chunks

    def noted(chunks: Any) -> Any:
        batches.append((len(chunks), sum(count for _, count in chunks)))
        return plain(chunks)

    served.core.engine.compute_chunks = noted  # type: ignore[method-assign]
    exact = Exact.of(served.adapters[model], served.backbone, [LONG, TEXTS[0]])
    key = served.key()
    with accepting(served.core, key, model, [Text(LONG), Text(TEXTS[0])]) as asked:
        outcomes = [future.result(20) for future in served.core.submit(asked)]
    assert all(exact.explains(one.outputs, text) for text, one in enumerate(outcomes))
    assert len(batches) > 2, "computed in chunks"
    assert max(tokens for _, tokens in batches) < SHARED + LEAST
    long, short = (served.post("/predict", {"model": model, "inputs": text}) for text in (LONG, "short"))
    assert (long.status_code, short.status_code) == (200, 200)
    assert long.headers["afina-receipt"] == short.headers["afina-receipt"]


def test_a_client_that_leaves_frees_the_memory_of_its_text(served: Served) -> None:
    key = served.key()
    assert served.post("/predict", {"model": "acme/reviews@1", "inputs": "short"}).status_code == 200
    compute = served.core.engine.compute_chunks
    futures: list[Any] = []

    def cancelled(chunks: Any) -> Any:
        assert served.core.engine._residents.reserved
        futures[0].cancel()
        return compute(chunks)

    served.core.engine.compute_chunks = cancelled  # type: ignore[method-assign]
    with accepting(served.core, key, "acme/reviews@1", [Text(LONG)]) as asked:
        with served.core.batching._changed:
            futures += served.core.submit(asked)
        assert within(10, lambda: served.core.engine._residents.reserved == 0 and futures[0].cancelled())
    assert served.core.batching.waiting == (0, 0)


def test_a_long_text_is_compared_with_its_shadow(served: Served) -> None:
    served.store.shadow("acme/reviews@2")

    def told() -> Any:
        return served.get("/shadows/acme/reviews", "acme-publish").json()

    assert within(10, lambda: told()["state"] == "riding")
    response = served.post("/predict", {"model": "acme/reviews@production", "inputs": LONG})
    assert response.status_code == 200, response.text
    assert within(10, lambda: told()["texts"] == 1)
    assert (told()["faults"], told()["state"]) == (0, "riding")


def test_a_text_that_is_computed_whole_has_a_limit_of_tokens(backbones: Backbones, tmp_path: Path) -> None:
    encoder = Backbone.load(str(backbones.path("bert")))
    crowd = {"acme/reviews@1": probed(adapter(encoder, "lora"), encoder)}
    with serving(encoder, crowd, tmp_path, whole_tokens=12) as served:
        assert served.post("/predict", {"model": "acme/reviews", "inputs": "the soup"}).status_code == 200
        response = served.post("/predict", {"model": "acme/reviews", "inputs": [["the soup"], [LONG]]})
        assert response.status_code == 413, response.text
        key = served.key()
        with raises(InvalidData, code="request.text-tokens", where="The text", most=12) as raised:
            accepted(served.core, key, "acme/reviews", [Text(LONG)])
        assert raised.value.fields["found"] > 12
        assert str(raised.value.fields["found"]) in str(raised.value)


def test_a_key_has_a_limit_of_tokens_a_text_and_another_key_is_answered(served: Served) -> None:
    made = served.store.create_key("acme", ["predict"], text_tokens=12)
    served.core.tenants.refresh()
    body = {"model": "acme/reviews@1", "inputs": [["short"], [LONG]]}
    response = served.post("/predict", body, headers={"Authorization": f"Bearer {made.secret}"})
    assert response.status_code == 413, response.text
    assert "key" in response.text
    assert "12 tokens" in response.text
    assert served.post("/predict", body).status_code == 200


def test_a_keys_limit_is_the_most_tokens_that_a_text_may_have(served: Served) -> None:
    key = served.key()
    with accepting(served.core, key, "acme/reviews@1", [Text(LONG)]) as asked:
        (found,) = asked.tokens
    with accepting(served.core, replace(key, text_tokens=found), "acme/reviews@1", [Text(LONG)] * 2) as asked:
        assert [*asked.tokens] == [found, found]
    with raises(InvalidData, code="request.text-tokens", where="Text 2 of 2", found=found, most=found - 1):
        accepted(served.core, replace(key, text_tokens=found - 1), "acme/reviews@1", [Text("short"), Text(LONG)])
