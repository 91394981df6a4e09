"""A server under way: limits, updates, cancellation, the end, figures, logs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from afina.engine.engine import Engine
from afina.errors import NotFound
from afina.server.http import calls
from afina.server.http.calls import RequestPool
from afina.server.metrics import CLIENTS, OTHERS, UNUSED, Metrics, VersionUsage
from afina.server.requests import Text, TextRequest
from clock import Clock
from crowd import adapter
from servers import Held, accepted, logged, probed, serving, within

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews@production"}


def version(served: Any, model: str = "acme/reviews@production") -> str:
    response = served.post("/predict", {**BODY, "model": model})
    assert response.status_code == 200, response.text
    return str(json.loads(response.headers["afina-receipt"])["version"])


def test_a_version_whose_golden_probe_fails_is_not_switched_to(serve: Any, gpt2: Any) -> None:
    served = serve()
    assert version(served) == "acme/reviews@1"
    bad = served.publish(probed(adapter(gpt2, "lora", {"r": 3}, seed=9), gpt2, off=0.5))
    served.store.alias(bad)
    name = 'afina_probes_total{outcome="failed"}'
    assert within(10, lambda: served.figure(name) >= 1)
    assert served.figure("afina_references_behind") == 1
    assert version(served) == "acme/reviews@1"
    # Asked for by its number, where nothing was served before, it is refused.
    refused = served.post("/predict", {**BODY, "model": bad})
    assert refused.status_code == 503
    assert "its golden test fails" in refused.json()["error"]
    good = served.publish(probed(adapter(gpt2, "lora", {"r": 3}, seed=10), gpt2))
    served.store.alias(good)
    assert within(10, lambda: version(served) == good)
    assert served.figure("afina_references_behind") == 0


def test_an_adapter_without_a_probe_is_served_and_counted(serve: Any, gpt2: Any) -> None:
    served = serve()
    bare = served.publish(adapter(gpt2, "lora", {"r": 3}, seed=11), "acme/bare")
    assert version(served, "acme/bare") == bare
    assert served.figure('afina_probes_total{outcome="none"}') == 1


def test_what_is_too_much_is_429_with_a_time_to_come_again(serve: Any) -> None:
    served = serve(queue_tokens=60, batch_tokens=8, shared_tokens=8)
    version(served)
    held = Held(served.core)
    with ThreadPoolExecutor(40) as pool:
        asking = [pool.submit(served.post, "/predict", BODY) for _ in range(40)]
        assert within(10, lambda: sum(one.done() for one in asking) >= 20)
        mine = served.post("/v2/models/bolt/mail/ready", who="bolt")
        assert mine.status_code == 405
        held.go.set()
        responses = [one.result() for one in asking]
    codes = [one.status_code for one in responses]
    assert set(codes) == {200, 429}
    refused = next(one for one in responses if one.status_code == 429)
    assert refused.json()["error_type"] == "Overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert codes.count(200) >= 5


def test_a_key_has_so_many_tokens_a_minute(serve: Any) -> None:
    served = serve(tokens_per_minute=30)
    codes = [served.post("/predict", BODY) for _ in range(8)]
    assert codes[0].status_code == 200
    assert codes[-1].status_code == 429
    assert 1 <= int(codes[-1].headers["retry-after"]) <= 60
    assert "30 tokens a minute" in codes[-1].json()["error"]
    assert served.post("/predict", {**BODY, "model": "bolt/mail"}, "bolt").status_code == 200
    own = served.store.create_key("acme", ["predict"], rate=100_000)
    headers = {"Authorization": f"Bearer {own.secret}"}
    assert within(10, lambda: served.web.get("/v1/models", headers=headers).status_code == 200)
    assert {served.web.post("/predict", json=BODY, headers=headers).status_code for _ in range(8)} == {200}


def test_what_takes_too_long_is_504_and_is_not_computed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SPARE", 0.2)
    served = serve(timeout=0.3, batch_tokens=1, shared_tokens=1)
    version(served)
    held = Held(served.core)
    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(served.post, "/predict", BODY) for _ in range(3)]
        codes = [one.result().status_code for one in asking]
    assert codes == [504] * 3
    held.go.set()
    assert within(10, lambda: served.core.batching.waiting == (0, 0))
    assert version(served) == "acme/reviews@1"
    assert held.asked == [1, 1]


def test_at_the_end_all_that_was_accepted_is_answered(gpt2: Any, crowd: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(10) as pool:
        with serving(gpt2, crowd, tmp_path, batch_tokens=8, shared_tokens=8) as served:
            version(served, "acme/tags")
            held = Held(served.core)
            asked = accepted(served.core, served.key(), "acme/tags", [Text("a")])
            futures = [future for _ in range(10) for future in served.core.submit(asked)]
            assert held.began.wait(10)
            threading.Timer(0.2, held.go.set).start()
        assert all(future.result(0).version == "acme/tags@1" for future in futures)
        pool.shutdown()
    assert not served.core.ready


def test_figures_name_no_model_no_path_and_no_client_without_a_key(serve: Any) -> None:
    served = serve()
    version(served)
    served.get("/quixotic", "acme-admin")
    served.post("/v2/models/quixotic/mail/infer", {"inputs": []})
    served.web.get("/v1/models", headers={"Authorization": "Bearer quixotic"})
    text = served.get("/metrics", "acme-admin").text
    about_versions = ("afina_answer_", "afina_drift_")  # of versions with an alias, which operators publish
    others = [line for line in text.splitlines() if not line.startswith(about_versions)]
    for word in ("bolt", "quixotic", "reviews", "soup"):
        assert not any(word in line for line in others), word
    for word in ("bolt", "quixotic", "soup"):
        assert word not in text, word
    named = {line.partition("{")[0] for line in others if "acme" in line}
    assert {name.rpartition("_")[0] for name in named} <= {
        f"afina_client_{what}" for what in ("requests", "texts", "tokens")
    }
    for name in (
        'afina_requests_total{route="/predict",status="200"}',
        'afina_request_seconds_count{route="/predict"}',
        "afina_tokens_total",
        "afina_texts_total",
        "afina_batch_fill_count",
        "afina_batch_seconds_count",
        "afina_adapter_loads",
        "afina_adapters",
        "afina_ready",
        'afina_probes_total{outcome="passed"}',
    ):
        assert served.figure(name) >= 1, name
    for name in ("afina_queue_tokens", "afina_queue_texts", "afina_adapter_evictions", "afina_references_behind"):
        assert served.figure(name) == 0, name


def test_figures_say_what_each_client_used(serve: Any) -> None:
    served = serve()
    size = [len(served.backbone.tokenizer(text)["input_ids"]) for text in ("soup", "the soup was bright", "a b")]
    tokens = [size[0] + size[1], size[2]]
    served.post("/predict", {"model": "acme/reviews", "inputs": [["soup"], ["the soup was bright"]]})
    served.post("/predict", {"model": "acme/nothing", "inputs": "soup"})
    served.post("/predict", {"model": "bolt/mail", "inputs": "a b"}, "bolt")
    found = {
        (what, client): served.figure(f'afina_client_{what}_total{{client="{client}"}}')
        for client in ("acme", "bolt")
        for what in ("requests", "texts", "tokens")
    }
    assert found == {
        **{("requests", "acme"): 2, ("texts", "acme"): 2, ("tokens", "acme"): tokens[0]},
        **{("requests", "bolt"): 1, ("texts", "bolt"): 1, ("tokens", "bolt"): tokens[1]},
    }


def test_clients_beyond_the_first_are_counted_together() -> None:
    figures = Metrics()
    for index in range(CLIENTS + 5):
        figures.usage.requested(f"client-{index}")
        figures.usage.generated({f"client-{index}": 3})
    lines = [
        line for line in figures.text().decode().splitlines() if line.startswith("afina_client_generated_tokens_total")
    ]
    assert len(lines) == CLIENTS + 1
    assert f'afina_client_generated_tokens_total{{client="{OTHERS}"}} 15.0' in lines


def test_a_version_beyond_the_most_replaces_the_version_that_is_unused_for_longest() -> None:
    clock, registry = Clock(), CollectorRegistry()
    usage, done = VersionUsage(registry, clock), Future[None]()
    done.set_result(None)
    for index in range(CLIENTS):
        usage.answered(f"acme/reviews@{index}", clock.now, done)
    usage.answered("acme/reviews@0", clock.now, done)
    usage.answered("acme/reviews@new", clock.now, done)  # all are in use
    clock.now += UNUSED
    usage.answered("acme/reviews@new", clock.now, done)
    text = generate_latest(registry).decode()
    count = 'afina_version_answers_total{outcome="answered",version="%s"}'
    shown = [count % f"acme/reviews@{name}" in text for name in (0, 1, 2, "new")]
    assert shown == [True, False, True, True]
    assert 'acme/reviews@1"' not in text
    assert f"{count % OTHERS} 1.0" in text


def test_logs_are_lines_of_json_without_a_text(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "afina.server")
    served.post("/predict", {**BODY, "inputs": "windmills are giants"})
    served.post("/predict", {"inputs": 7, "secret": "windmills"})
    of_server = [one for one in logged(caplog) if one["logger"] == "afina.server"]
    lines = [one for one in of_server if one["message"] != "backbone opened"]
    assert [(one["route"], one["status"], one["client"]) for one in lines] == [
        ("/predict", 200, "acme"),
        ("/predict", 422, "acme"),
    ]
    assert [(one["level"], one["message"]) for one in lines] == [("info", "request")] * 2
    said = json.dumps(logged(caplog))
    assert "windmills" not in said
    assert served.secrets["acme"] not in said


def test_what_nobody_foresaw_is_500_and_its_message_is_in_no_log(
    served: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("the soup was bright.")

    monkeypatch.setattr(served.core, "submit", broken)
    response = served.post("/predict", BODY)
    assert (response.status_code, response.json()["error_type"]) == (500, "Backend")
    assert "soup" not in json.dumps(logged(caplog)) + response.text
    (failure,) = [one for one in logged(caplog) if one["level"] == "error"]
    assert (failure["message"], failure["unforeseen"]) == ("request failed", "ZeroDivisionError")
    assert re.fullmatch(r"test_serving\.py:\d+", failure["at"])


@pytest.mark.parametrize("what", ["compute", "watch"])
def test_a_batch_that_fails_is_500_and_counted_and_the_next_is_answered(
    serve: Any, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    served = serve()
    version(served)
    batching = served.core.batching
    compute, watch = batching.computer.compute, batching._watch

    def broken(*_: Any) -> Any:
        raise SystemExit("the soup was bright.")

    if what == "compute":
        batching.computer.compute = lambda works: compute(works)[1:]
    else:
        batching._watch = broken
    response = served.post("/predict", BODY)
    content = json.dumps({"model": BODY["model"], "text": "a"})
    lines = served.web.post("/bulk", content=f"{content}\n", headers=served.auth())
    (line,) = map(json.loads, lines.text.splitlines())
    if what == "compute":
        assert (response.status_code, response.json()["error"]) == (500, "the answer could not be computed.")
        assert line == {"error": "the answer could not be computed.", "kind": "failed"}
    else:
        assert (response.status_code, line["label"] in ("bad", "good")) == (200, True)
    batching.computer.compute, batching._watch = compute, watch
    assert version(served) == "acme/reviews@1"
    assert served.figure(f'afina_failures_total{{what="{what}"}}') == 2
    assert "soup" not in json.dumps(logged(caplog))
    assert what in {one.get("what") for one in logged(caplog)}
    assert served.web.get("/health/ready").status_code == 200


def test_who_follows_the_store_goes_on_whatever_it_meets_there(serve: Any) -> None:
    served = serve()
    news = served.store.news

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    served.store.news = broken
    assert within(10, lambda: served.web.get("/health/ready").status_code == 503)
    assert served.figure('afina_failures_total{what="store"}') >= 1
    served.store.news = news
    assert within(10, lambda: served.web.get("/health/ready").status_code == 200)


def test_it_is_not_ready_while_the_store_does_not_answer_and_serves_what_it_knows(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "afina.server")
    served = serve()
    version(served)
    assert served.web.get("/health/ready").status_code == 200
    path = Path(served.store.address.url)
    content = path.read_bytes()
    path.write_bytes(b"no database" * 1000)
    assert within(10, lambda: served.web.get("/health/ready").status_code == 503)
    assert version(served) == "acme/reviews@1"
    path.write_bytes(content)
    assert within(10, lambda: served.web.get("/health/ready").status_code == 200)
    said = [(one["level"], one["message"]) for one in logged(caplog) if one["message"].startswith("the store")]
    assert said == [("warning", "the store does not answer"), ("info", "the store answers again")]


def test_engine_counts_what_it_loads_and_gives_up(gpt2: Any, crowd: Any) -> None:
    with Engine(gpt2, limit=1) as engine:
        engine.load(*[replace(one) for one in crowd.values()])
        assert (engine.counts.loads, engine.counts.evictions) == (len(crowd), len(crowd))


def test_who_goes_while_its_adapter_is_loaded_leaves_no_lease(serve: Any) -> None:
    served = serve()
    version(served)
    key = served.key()
    leases, go, taken = served.core.engine.lease, threading.Event(), threading.Event()

    def held(address: Any, **more: Any) -> Any:
        go.wait(20)
        made = leases(address, **more)
        taken.set()
        return made

    async def ask() -> None:
        pool = RequestPool(served.core)
        asking = asyncio.create_task(
            pool.accept(served.core.begin, [TextRequest(key, "acme/reviews@production", [Text("a")])])
        )
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        go.set()
        assert await asyncio.to_thread(taken.wait, 10)
        while served.leases:
            await asyncio.sleep(0.01)
        pool.close()

    served.core.engine.lease = held
    asyncio.run(asyncio.wait_for(ask(), 10))
    assert served.leases == 0


def test_while_the_store_does_not_answer_nothing_is_said_not_to_be_there(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    version(served)

    def silent(*_: Any) -> Any:
        raise NotFound("store postgresql://db/x: the database does not answer as expected.")

    monkeypatch.setattr(served.store, "known", silent)
    assert version(served) == "acme/reviews@1"
    refused = served.post("/predict", {**BODY, "model": "acme/tags"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "postgresql" not in refused.text
