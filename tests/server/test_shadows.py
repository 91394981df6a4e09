"""A version that rides along: compared with the one that answers, after it, and never in its way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from afina.errors import Busy, NotFound
from afina.server.core import Core
from afina.server.requests import Text
from afina.server.versions.shadows import LATE, UNSERVABLE, WAITING
from afina.store.versions import Reference
from crowd import adapter
from servers import PRICE, Held, Served, accepting, probed, within

PRODUCTION = "acme/reviews@production"
TEXTS = [f"the {noun} was {word}." for noun in ("soup", "road", "sky", "film") for word in ("bright", "late", "bad")]


def ask(served: Served, texts: list[str], model: str = PRODUCTION) -> Any:
    """Scores by text, in the adapter's order, and the version that answered."""
    response = served.post("/classify", {"model": model, "input": texts})
    assert response.status_code == 200, response.text
    return [one["probs"] for one in response.json()["data"]], response.headers["afina-receipt"]


def told(served: Served, name: str = "acme/reviews") -> Any:
    """Once nothing is left to compare."""
    shadows = served.core.shadows
    assert within(10, lambda: shadows._places._value == WAITING and not any(one.pending for one in shadows.names.known))
    response = served.get(f"/shadows/{name}", "acme-publish")
    assert response.status_code == 200, response.text
    return response.json()


def in_state(served: Served, state: str) -> bool:
    return within(10, lambda: told(served)["state"] == state)


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """Whose second version rides along with the first."""
    made = serve()
    made.store.shadow("acme/reviews@2")
    assert in_state(made, "riding")
    return made


def test_what_is_answered_is_as_without_it_and_what_differs_is_counted(served: Served) -> None:
    (before, receipt), first, second = (
        ask(served, TEXTS, "acme/reviews@1"),
        served.alone("acme/reviews@1", *TEXTS),
        served.alone("acme/reviews@2", *TEXTS),
    )
    assert told(served)["texts"] == 0, "a version that is asked for by its number has none riding along"
    found, again = ask(served, TEXTS)
    assert again == receipt
    assert torch.tensor(found) == pytest.approx(torch.tensor(before), abs=1e-5)
    said = told(served)
    flips = sum(one["label"] != other["label"] for one, other in zip(first, second, strict=True))
    assert 0 < flips < len(TEXTS), "a case in which some flip"
    assert (said["current"], said["shadow"], said["texts"], said["flips"]) == (1, 2, len(TEXTS), flips)
    assert said["flip_rate"] == flips / len(TEXTS)
    assert said["flip_interval"][0] < said["flip_rate"] < said["flip_interval"][1]
    drifts = [
        other["probabilities"][one["label"]] - one["probabilities"][one["label"]]
        for one, other in zip(first, second, strict=True)
    ]
    assert said["drift"] == pytest.approx(sum(drifts) / len(drifts), abs=1e-5)
    assert said["drift_interval"][0] < said["drift"] < said["drift_interval"][1]
    assert (said["faults"], said["left_out"], said["problem"]) == (0, 0, None)
    assert served.figure('afina_shadow_texts_total{outcome="flipped"}') == flips
    assert served.figure('afina_shadow_texts_total{outcome="same"}') == len(TEXTS) - flips
    assert served.figure("afina_shadows_riding") == 1


def test_it_is_computed_after_the_answer_in_a_batch_of_its_own_and_counts_for_no_client(served: Served) -> None:
    batches = []
    compute = served.core.engine.compute
    served.core.engine.compute = lambda rows: batches.append([str(one.lease.version) for one in rows]) or compute(rows)
    tokens, texts = served.figure("afina_tokens_total"), served.figure("afina_texts_total")
    key = served.key()
    with accepting(served.core, key, PRODUCTION, [Text(TEXTS[0])]) as asked:
        served.core.submit(asked)[0].result(10)
    assert told(served)["texts"] == 1
    assert batches == [["acme/reviews@1"], ["acme/reviews@2"]]
    assert served.figure("afina_tokens_total") - tokens == 2 * sum(asked.tokens)
    assert served.figure("afina_texts_total") - texts == 1


def test_a_bare_name_has_it_riding_along_where_it_means_what_production_is(served: Served) -> None:
    ask(served, TEXTS[:2], "acme/reviews")
    assert told(served)["texts"] == 2, "version 2 is newer here, and production points to 1"
    served.store.alias("acme/reviews@2")
    served.store.shadow("acme/reviews@1")
    assert within(10, lambda: (told(served)["current"], told(served)["state"]) == (2, "riding"))
    ask(served, TEXTS[:2], "acme/reviews")
    assert told(served)["texts"] == 2


def test_it_stops_within_a_second_when_the_alias_goes(served: Served) -> None:
    ask(served, TEXTS[:3])
    served.store.unalias("acme/reviews", "shadow")
    assert within(10, lambda: told(served)["state"] == "none")
    said = told(served)
    assert (said["shadow"], said["texts"]) == (None, 0)
    ask(served, TEXTS[:3])
    assert told(served)["texts"] == 0
    assert served.figure("afina_shadows_riding") == 0


def test_it_stops_when_the_version_is_promoted(served: Served) -> None:
    ask(served, TEXTS[:3])
    served.store.alias("acme/reviews@2")
    assert within(10, lambda: told(served)["current"] == 2)
    tokens = served.figure("afina_tokens_total")
    _, receipt = ask(served, TEXTS[:3])
    assert '"acme/reviews@2"' in receipt
    said = told(served)
    assert (said["state"], said["texts"], said["shadow"]) == ("promoted", 0, 2)
    again = served.figure("afina_tokens_total")
    ask(served, TEXTS[:3], "acme/reviews@2")
    assert served.figure("afina_tokens_total") - again == again - tokens, "no more is computed than of it alone"


def test_what_waits_for_a_shadow_that_goes_meanwhile_is_not_computed(served: Served) -> None:
    status = served.core.shadows.names.known[0]
    held = Held(served.core)
    with accepting(served.core, served.key(), PRODUCTION, [Text("a")]) as asked:
        (future,) = served.core.submit(asked)
        served.store.unalias("acme/reviews", "shadow")
        assert within(10, lambda: status.state == "none")
        held.go.set()
        assert future.result(10).version == "acme/reviews@1"
    assert told(served)["texts"] == 0
    assert (status.counts_by_version, held.asked) == ({}, [1])


@pytest.mark.slow
def test_one_whose_probe_fails_does_not_ride_and_is_told_of(served: Served, gpt2: Any) -> None:
    bad = served.publish(probed(adapter(gpt2, "lora", {"r": 3}, seed=51), gpt2, off=0.5))
    before, _ = ask(served, TEXTS)
    served.store.shadow(bad)
    assert in_state(served, "failed")
    assert told(served)["problem"] == UNSERVABLE
    found, receipt = ask(served, TEXTS)
    assert torch.tensor(found) == pytest.approx(torch.tensor(before), abs=1e-5)
    assert '"acme/reviews@1"' in receipt
    assert told(served)["texts"] == 0, "and the one that rode before does so no more"
    assert served.figure("afina_shadows_failed") == 1
    good = served.publish(probed(adapter(gpt2, "lora", {"r": 3}, seed=52), gpt2))
    served.store.shadow(good)
    assert in_state(served, "riding")


@pytest.mark.slow
def test_one_that_is_not_loaded_in_time_is_tried_again_and_keeps_nobody_waiting(serve: Callable[..., Served]) -> None:
    served, go, tried = serve(), threading.Event(), list[str]()
    run = served.core.current._tests.run

    def late(version: Any) -> None:
        if str(version) == "acme/reviews@2":
            tried.append(str(version))
            if not go.is_set():
                raise Busy("not loaded in 20 s")
        run(version)

    served.core.current._tests.run = late
    served.store.shadow("acme/reviews@2")
    ask(served, TEXTS[:1])
    assert within(10, lambda: len(tried) >= 2)
    assert told(served)["problem"] == LATE
    ask(served, TEXTS[:1])
    go.set()
    assert in_state(served, "riding")


def test_texts_that_it_cannot_answer_are_faults_of_its_own(served: Served, gpt2: Any) -> None:
    other = served.publish(probed(adapter(gpt2, "ia3", seed=53, **PRICE), gpt2))
    served.store.shadow(other)
    assert within(10, lambda: (told(served)["shadow"], told(served)["state"]) == (3, "riding"))
    ask(served, TEXTS[:4])
    said = told(served)
    assert (said["texts"], said["faults"]) == (0, 4)
    assert served.figure('afina_shadow_texts_total{outcome="fault"}') == 4


def test_one_that_gives_what_is_no_number_spoils_nothing(served: Served, gpt2: Any) -> None:
    made = adapter(gpt2, "lora", {"r": 2}, seed=54)
    before, _ = ask(served, TEXTS)
    other = served.publish(made)
    served.store.shadow(other)
    assert within(10, lambda: (told(served)["shadow"], told(served)["state"]) == (3, "riding"))
    (resident,) = [one for one in served.core.engine.residents if one.digest == made.digest]
    resident.head.keywords["weight"].fill_(float("inf"))
    found, _ = ask(served, TEXTS)
    assert torch.tensor(found) == pytest.approx(torch.tensor(before), abs=1e-5)
    assert told(served)["faults"] == len(TEXTS)


class Broken:
    """An engine that fails altogether where a certain version is asked."""

    def __init__(self, served: Served, version: str) -> None:
        self.version, self.compute = version, served.core.engine.compute
        served.core.engine.compute = self

    def __call__(self, rows: Any) -> Any:
        if any(one.lease.version == self.version for one in rows):
            raise ZeroDivisionError("the soup was bright.")
        return self.compute(rows)


def test_a_fault_that_nobody_foresaw_stops_it_and_harms_nobody(served: Served) -> None:
    before, _ = ask(served, TEXTS, "acme/reviews@1")
    Broken(served, "acme/reviews@2")
    found, receipt = ask(served, TEXTS)
    assert torch.tensor(found) == pytest.approx(torch.tensor(before), abs=1e-5)
    assert '"acme/reviews@1"' in receipt
    said = told(served)
    assert (said["state"], said["faults"] > 0, said["texts"]) == ("failed", True, 0)
    assert said["problem"] == "the version failed with an unexpected ZeroDivisionError."
    ask(served, TEXTS)
    assert told(served)["faults"] == said["faults"], "it is not asked again"


def test_a_fault_of_the_version_that_answers_is_not_taken_for_the_shadows(served: Served) -> None:
    Broken(served, "acme/reviews@1")
    assert served.post("/classify", {"model": PRODUCTION, "input": TEXTS}).status_code == 500
    assert told(served)["state"] == "riding"


def test_of_two_the_one_that_fails_stops_alone(served: Served, gpt2: Any) -> None:
    served.publish(probed(adapter(gpt2, "bitfit", seed=55, labels=("loud", "late")), gpt2), "acme/tags")
    served.store.alias("acme/tags@1")
    served.store.shadow("acme/tags@2")
    assert within(10, lambda: told(served, "acme/tags")["state"] == "riding")
    Broken(served, "acme/reviews@2")
    served.post("/tasks", {"text": TEXTS[0], "models": [PRODUCTION, "acme/tags@production"]})
    assert [told(served, name)["state"] for name in ("acme/reviews", "acme/tags")] == ["failed", "riding"]
    assert told(served, "acme/tags")["texts"] + told(served, "acme/tags")["faults"] == 1


def test_where_there_is_no_room_for_it_the_text_is_answered_without_it(served: Served) -> None:
    served.core.batching._line.bound = 0
    _, receipt = ask(served, TEXTS[:1])
    assert '"acme/reviews@1"' in receipt
    assert (told(served)["left_out"], told(served)["texts"]) == (1, 0)


def test_one_that_is_not_in_memory_is_not_waited_for(served: Served) -> None:
    shadow = served.store.show("acme/reviews@2")
    loading, go = served.core.engine._loader.load, threading.Event()
    served.core.engine._loader.load = lambda made: (go.wait(20), loading(made))[1]
    (resident,) = [one for one in served.core.engine.residents if one.digest == shadow.digest]
    served.core.engine.evict(resident)
    ask(served, TEXTS[:2])
    assert told(served)["left_out"] == 2
    go.set()
    assert within(10, lambda: ask(served, TEXTS[:1]) and told(served)["texts"] >= 1)


def test_nothing_of_it_is_held_once_all_is_answered(served: Served) -> None:
    ask(served, TEXTS)
    served.post("/tasks", {"text": TEXTS[0], "models": [PRODUCTION, "acme/tags"]})
    served.post("/bulk?model=acme/reviews@production", {"text": TEXTS[0]})
    assert told(served)["texts"] == len(TEXTS) + 2
    assert within(10, lambda: served.leases == 0)


def test_a_server_that_was_not_asked_yet_looks_before_it_tells(serve: Callable[..., Served]) -> None:
    served = serve()
    served.store.shadow("acme/reviews@2")
    assert told(served)["shadow"] == 2


def test_only_a_publisher_of_the_client_is_told(served: Served) -> None:
    assert served.get("/shadows/acme/reviews").status_code == 403
    missing = served.get("/shadows/acme/nothing", "acme-publish")
    assert missing.status_code == 404
    for name in ("bolt/mail", "bolt/nothing", "acme/reviews@1", "acme/tags"):
        refused = served.get(f"/shadows/{name}", "acme-publish")
        assert (refused.status_code, refused.content) == (404, missing.content), name


def test_figures_of_it_name_no_client_and_no_text(served: Served) -> None:
    ask(served, TEXTS)
    text = served.get("/metrics", "acme-admin").text
    lines = [line for line in text.splitlines() if "shadow" in line]
    assert lines
    assert not [line for line in lines if "acme" in line]
    assert "soup" not in text


def test_a_store_that_does_not_answer_is_asked_again(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    core: Core = served.core
    ask(served, TEXTS[:1])
    assert told(served)["state"] == "none"
    known, silent = served.store.known, threading.Event()

    def look(reference: Any) -> Any:
        if reference.alias == "shadow" and not silent.is_set():
            silent.set()
            raise Busy("the database is locked")
        return known(reference)

    monkeypatch.setattr(core.shadows._store, "known", look)
    served.store.shadow("acme/reviews@2")
    assert in_state(served, "riding")
    assert silent.is_set()


def test_nothing_is_told_of_what_the_store_was_never_asked(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    ask(served, TEXTS[:1], "acme/reviews@1")
    served.core.current.find(Reference.parse(PRODUCTION))

    def silent(_: Any) -> Any:
        raise NotFound("store postgresql://db/x: the database does not answer as expected.")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(served.core.shadows._store, "known", silent)
        refused = served.get("/shadows/acme/reviews", "acme-publish")
        assert (refused.status_code, "postgresql" in refused.text) == (503, False)
    assert told(served)["state"] == "none"
