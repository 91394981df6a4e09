"""A server has the backbone in the precisions of its store's adapters, and its log and figures say what each takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina import Adapter, AdapterStore, Backbone, Predictor
from afina.engine.engine import Engine
from afina.models.weights import copies
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.receipts import Receipt
from afina.server.settings import Settings
from crowd import adapter
from servers import Served, logged, within

TEXT = "the soup was bright."


def on_int8(made: Adapter) -> Adapter:
    return Adapter(made.manifest.model_copy(update={"precision": "int8"}).sealed(), made.tensors, made.where)


@contextmanager
def served_by(backbone: Backbone, root: Path, *, limit: int | None = None, **adapters: Adapter) -> Iterator[Served]:
    """A server as `afina serve` has it, on a store with one adapter for each task of a client."""
    store = AdapterStore(root / "store", who="ada")
    store.make_ready()
    for task, made in adapters.items():
        made.save(root / task)
        store.publish(root / task, f"acme/{task}", message="why")
    secrets = {who: store.create_key("acme", [who]).secret for who in ("predict", "admin")}
    with Engine(backbone, store, limit=limit) as engine:
        core = Core(engine, store, Settings(delay=0.001, every=0.02))
        core.open_backbone()
        with TestClient(make_app(core), raise_server_exceptions=False) as web:
            yield Served(web, core, store, adapters, backbone, secrets)


def answered(served: Served, task: str) -> tuple[dict[str, float], Receipt]:
    response = served.post("/predict", {"inputs": TEXT, "model": f"acme/{task}"}, "predict")
    assert response.status_code == 200, response.text
    return {one["label"]: one["score"] for one in response.json()}, Receipt.parse(response.headers["afina-receipt"])


def sizes(served: Served) -> dict[str, float]:
    """The figures of the backbone, by precision."""
    begin = 'afina_backbone_bytes{precision="'
    lines = [line for line in served.get("/metrics", "admin").text.splitlines() if line.startswith(begin)]
    return {line.removeprefix(begin).partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def opened(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [line for line in logged(caplog) if line["message"] == "backbone opened"]


def test_a_store_of_int8_adapters_is_served_on_one_int8_model(
    gpt2: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    both = {task: on_int8(adapter(gpt2, "lora", seed=seed)) for seed, task in enumerate(("reviews", "urgent"))}
    with served_by(gpt2, tmp_path, **both) as served:
        assert [line["precision"] for line in opened(caplog)] == ["int8"]
        for task, made in both.items():
            scores, receipt = answered(served, task)
            (expected,) = Predictor.of(made, gpt2)([TEXT])
            assert scores == pytest.approx(expected["probabilities"], abs=1e-5)
            assert receipt.precision == "int8"
            assert receipt.base == gpt2.digest
        assert sizes(served) == {"int8": opened(caplog)[0]["bytes"]}
        assert all(one.shares_model for one in served.core.engine.residents)


def test_the_log_says_where_the_quantised_copy_of_a_backbone_is(
    gpt2: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(copies, "LEAST", 0)
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    made = on_int8(adapter(gpt2, "lora"))
    for place in ("one", "other"):
        with served_by(Backbone.load(gpt2.address), tmp_path / place, reviews=made):
            pass
    first, second = opened(caplog)
    (copy,) = (tmp_path / "cache" / "quantised").glob("*.safetensors")
    assert first["copy"].endswith(str(copy))
    assert "copy" not in second


def test_adapters_in_two_precisions_have_a_model_each(
    gpt2: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    both = {"reviews": adapter(gpt2, "lora", seed=1), "urgent": on_int8(adapter(gpt2, "lora", seed=2))}
    with served_by(gpt2, tmp_path, **both) as served:
        assert [line["precision"] for line in opened(caplog)] == ["float", "int8"]
        for task, made in both.items():
            (expected,) = Predictor.of(made, gpt2)([TEXT])
            assert answered(served, task)[0] == pytest.approx(expected["probabilities"], abs=1e-5)
        assert sizes(served) == {line["precision"]: line["bytes"] for line in opened(caplog)}
        assert sizes(served)["int8"] < sizes(served)["float"]


def test_an_empty_store_opens_nothing_and_the_first_adapter_decides(
    gpt2: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with served_by(gpt2, tmp_path) as served:
        assert sizes(served) == {}
        assert any("the store has no adapter of the backbone yet" in line["message"] for line in logged(caplog))
        assert served.get("/health/ready", "predict").status_code == 200
        on_int8(adapter(gpt2, "lora")).save(tmp_path / "late")
        served.store.publish(tmp_path / "late", "acme/late", message="why")
        assert answered(served, "late")[1].precision == "int8"
        assert list(sizes(served)) == ["int8"]
        assert within(10, lambda: len(opened(caplog)) == 1)


def test_a_precision_without_room_is_a_warning_and_the_others_are_served(
    gpt2: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    both = {"reviews": adapter(gpt2, "lora", seed=1), "urgent": on_int8(adapter(gpt2, "lora", seed=2))}
    with served_by(gpt2, tmp_path, limit=50_000, **both) as served:
        (warned,) = [line for line in logged(caplog) if line["message"] == "backbone not opened"]
        assert warned["level"] == "warning"
        assert "int8 too takes" in warned["problem"]
        answered(served, "reviews")
        refused = served.post("/predict", {"inputs": TEXT, "model": "acme/urgent"}, "predict")
        assert refused.status_code == 503
        assert list(sizes(served)) == ["float"]


def test_a_replica_on_ray_opens_the_precisions_of_its_store(
    gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = pytest.importorskip("afina.server.ray_serve.application")
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    monkeypatch.setattr(application.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(application.logs_and_traces, "begin_logging", lambda form: None)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "")
    store = AdapterStore(tmp_path / "store", who="ada")
    on_int8(adapter(gpt2, "lora")).save(tmp_path / "made")
    store.publish(tmp_path / "made", "acme/reviews", message="why")
    replica = application.Replica({"backbone": gpt2.address, "store": str(tmp_path / "store")})
    assert list(replica.core.engine.hosts.sizes) == ["int8"]
    replica.core.engine.close()
