"""Keys and aliases take effect within a second, whatever is being loaded and however the store answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina.engine.adapters import AdapterLoader
from afina.errors import Busy, NotFound
from afina.server.http.calls import OF_A_CLIENT, RequestPool
from afina.server.settings import Settings
from afina.server.tenants import Tenants
from afina.server.versions.store_watcher import SILENT, StoreWatcher
from afina.store.adapter_store import AdapterStore
from clock import Clock
from raises import raises
from servers import Served, within


def unreachable(*_: Any) -> Any:
    raise NotFound("the database does not respond", code="store.unreachable")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs until it is set."""
    made = threading.Event()
    yield made
    made.set()


def test_keys_are_followed_while_a_version_of_another_client_is_loaded(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    served, load, began = serve(), AdapterLoader.load, threading.Event()
    question = {"inputs": "a", "model": "acme/reviews@production"}
    assert served.post("/predict", question).status_code == 200

    def hangs(self: AdapterLoader, adapter: Any) -> Any:
        began.set()
        gate.wait(20)
        return load(self, adapter)

    monkeypatch.setattr(AdapterLoader, "load", hangs)
    served.store.alias("acme/reviews@2")
    assert began.wait(5)
    made = served.store.create_key("bolt", ["predict"])
    headers = {"Authorization": f"Bearer {made.secret}"}
    assert within(10, lambda: served.web.get("/v1/models", headers=headers).status_code == 200)
    served.store.revoke_key(made.key.id)
    assert within(10, lambda: served.web.get("/v1/models", headers=headers).status_code == 401)
    assert served.post("/predict", question).headers["afina-receipt"].find("acme/reviews@1") > 0
    assert served.web.get("/health/ready").status_code == 200
    gate.set()
    assert within(10, lambda: "acme/reviews@2" in served.post("/predict", question).headers["afina-receipt"])


def test_a_read_that_hangs_delays_no_other_and_means_that_the_store_does_not_answer(gate: threading.Event) -> None:
    clock, reads = Clock(), list[int]()
    watcher = StoreWatcher((lambda: reads.append(1), lambda: gate.wait(20) and None), 0.001, lambda error: None, clock)
    watcher.start()
    try:
        assert within(10, lambda: len(reads) > 3)
        assert watcher.answers
        clock.now += SILENT + 1
        assert within(10, lambda: not watcher.answers)
        seen = len(reads)
        assert within(10, lambda: len(reads) > seen + 3)
        gate.set()
        assert within(10, lambda: watcher.answers)
    finally:
        watcher.close()


def test_a_read_that_takes_longer_than_the_interval_begins_again_soon_after_its_end() -> None:
    began: list[float] = []

    def read() -> None:
        began.append(time.monotonic())
        time.sleep(0.11)

    watcher = StoreWatcher((read,), 0.1, lambda error: None)
    watcher.start()
    try:
        assert within(10, lambda: len(began) > 5)
    finally:
        watcher.close()
    assert min(np.diff(began)) < 0.18  # the second interval would end at 0.2


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    made = AdapterStore(tmp_path / "store", who="ada")
    made.make_ready()
    return made


def test_known_keys_hold_for_the_stated_seconds_while_the_store_fails(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, made = Clock(), store.create_key("acme", ["predict"])
    tenants = Tenants(store, Settings(key_seconds=60), clock=clock)
    monkeypatch.setattr(store, "news", unreachable)
    clock.now += 60
    with pytest.raises(NotFound):
        tenants.refresh()
    key = tenants.key_of(made.secret)
    assert key is not None
    assert tenants.holds(key)
    clock.now += 0.1
    for ask in (lambda: tenants.key_of(made.secret), lambda: tenants.key_of("x"), lambda: tenants.holds(key)):
        with raises(Busy, code="server.store-silent"):
            ask()
    monkeypatch.undo()
    store.revoke_key(made.key.id)
    tenants.refresh()
    assert tenants.key_of(made.secret) is None
    assert not tenants.holds(key)


def test_keys_are_read_again_only_where_the_store_has_changed(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants, read, keys = Tenants(store, Settings()), list[int](), store.keys
    monkeypatch.setattr(store, "keys", lambda: read.append(1) or keys())
    tenants.refresh()
    assert read == []
    made = store.create_key("acme", ["predict"])
    tenants.refresh()
    tenants.refresh()
    assert read == [1]
    assert tenants.key_of(made.secret) is not None


def test_requests_are_503_once_known_keys_hold_no_longer(serve: Callable[..., Served]) -> None:
    served = serve(key_seconds=0.3)
    question = {"inputs": "a", "model": "acme/reviews@1"}
    assert served.post("/predict", question).status_code == 200
    served.store.news = unreachable  # type: ignore[method-assign]
    assert within(10, lambda: served.post("/predict", question).status_code == 503)
    refused = served.post("/predict", question)
    assert refused.headers["afina-error"] == "unavailable"
    assert "key" in refused.json()["error"]
    assert served.web.get("/health/ready").status_code == 503
    assert served.web.get("/health/live").status_code == 200
    del served.store.news  # type: ignore[attr-defined]
    assert within(10, lambda: served.post("/predict", question).status_code == 200)


def test_a_stream_of_lines_ends_once_its_key_is_revoked(serve: Callable[..., Served]) -> None:
    served = serve()
    made = served.store.create_key("acme", ["predict"])
    assert within(10, lambda: served.core.tenants.key_of(made.secret) is not None)
    line = b'{"text": "a", "model": "acme/reviews@1"}\n'

    def lines() -> Iterator[bytes]:
        yield line
        served.store.revoke_key(made.key.id)
        assert within(10, lambda: served.core.tenants.key_of(made.secret) is None)
        yield line

    headers = {"Authorization": f"Bearer {made.secret}"}
    answered = served.web.post("/bulk", content=lines(), headers=headers).text.splitlines()
    assert '"kind": "unauthorized"' in answered[-1]


def test_a_list_of_models_is_503_while_the_store_does_not_answer(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(every=60.0)  # the server has not noticed yet
    assert served.get("/v1/models").status_code == 200
    monkeypatch.setattr(served.store, "list", unreachable)
    assert served.get("/v1/models").status_code == 503


def test_a_client_without_adapters_has_an_empty_list(serve: Callable[..., Served]) -> None:
    served = serve()
    made = served.store.create_key("corp", ["predict"])
    headers = {"Authorization": f"Bearer {made.secret}"}
    assert within(10, lambda: served.web.get("/v1/models", headers=headers).status_code == 200)
    assert served.web.get("/v1/models", headers=headers).json()["data"] == []


def test_nothing_waits_for_a_store_that_is_known_to_hang(serve: Callable[..., Served], gate: threading.Event) -> None:
    served = serve()
    assert served.post("/predict", {"inputs": "a", "model": "acme/reviews@1"}).status_code == 200
    for name in ("known", "list"):
        setattr(served.store, name, lambda *_: gate.wait(20))
    served.core._watcher.close()
    served.core._watcher.answers = False
    assert served.post("/predict", {"inputs": "a", "model": "acme/reviews@1"}).status_code == 200
    assert served.post("/predict", {"inputs": "a", "model": "acme/reviews@2"}).status_code == 503
    assert served.get("/v1/models").status_code == 503


def test_a_call_that_hangs_keeps_its_place_and_times_out(served: Served, gate: threading.Event) -> None:
    key = served.key()
    other = served.key("bolt")

    class Quick:
        settings = Settings(timeout=0.05)

    async def asked() -> None:
        pool = RequestPool(Quick())  # type: ignore[arg-type]
        try:
            hung = [pool.look(key, gate.wait, 20) for _ in range(OF_A_CLIENT)]
            assert [type(one) for one in await asyncio.gather(*hung, return_exceptions=True)] == [TimeoutError] * len(
                hung
            )
            begun = threading.Event()
            with pytest.raises(TimeoutError):
                await pool.look(key, begun.set)  # all places of the client are taken
            assert not begun.is_set()
            assert await pool.look(other, lambda: 1) == 1
            gate.set()
            await asyncio.sleep(0.05)
            assert await pool.look(key, lambda: 1) == 1
        finally:
            pool.close()

    asyncio.run(asked())
