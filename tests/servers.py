"""A server in this process, on a tiny model, with two clients and adapters of every kind that answer at random."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from afina import Adapter, AdapterStore, Backbone, Predictor
from afina.inference.probes import PROBE
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.settings import Settings
from afina.serving.engine import Engine
from afina.store.keys import SCOPES

TAGS = {"labels": ("loud", "late", "rude"), "objective": {"kind": "labels"}}
PRICE = {"labels": ("price",), "objective": {"kind": "number", "mean": 10.0, "scale": 2.0}}


def probed(made: Adapter, backbone: Backbone, off: float = 0.0) -> Adapter:
    """With the golden probe that it computes, or one that is so far off."""
    outputs = Predictor.of(made, backbone).outputs(PROBE)
    recorded = tuple(tuple(float(value) + off for value in row) for row in outputs)
    return replace(made, manifest=made.manifest.model_copy(update={"probe": recorded}))


@dataclass
class Served:
    """What a test has of a server."""

    web: TestClient
    core: Core
    store: AdapterStore
    adapters: dict[str, Adapter]
    backbone: Backbone
    secrets: dict[str, str]

    def alone(self, name: str, *texts: str) -> list[dict[str, Any]]:
        """What an adapter answers by itself."""
        return Predictor.of(self.adapters[name], self.backbone)(texts)

    def auth(self, who: str = "acme") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[who]}"}

    def post(self, path: str, body: Any = None, who: str = "acme", **more: Any) -> Any:
        headers = self.auth(who) | more.pop("headers", {})
        return self.web.post(path, json=body, headers=headers, **more)

    def get(self, path: str, who: str = "acme") -> Any:
        return self.web.get(path, headers=self.auth(who))


@contextmanager
def serving(gpt2: Backbone, crowd: dict[str, Adapter], root: Path, **settings: Any) -> Iterator[Served]:
    store = AdapterStore(root / "store", who="ada")
    for name, one in crowd.items():
        path = root / name.replace("/", "-")
        one.save(path)
        store.publish(path, name.partition("@")[0], message="why")
    store.alias("acme/reviews@1")
    secrets = {
        who: store.create_key(who.partition("-")[0], [who.partition("-")[2] or "predict"]).secret
        for who in ("acme", "bolt", "acme-admin", "acme-publish")
    }
    revoked = store.create_key("acme", SCOPES)
    store.revoke_key(revoked.key.id)
    secrets["revoked"] = revoked.secret
    with Engine(gpt2, store) as engine:
        core = Core(engine, store, Settings(**({"delay": 0.001, "every": 0.05} | settings)))
        with TestClient(make_app(core), raise_server_exceptions=False) as web:
            yield Served(web, core, store, crowd, gpt2, secrets)


@contextmanager
def listening(served: Served) -> Iterator[str]:
    """Another server on the same store, on a port of this machine; its URL."""
    with Engine(served.backbone, served.store) as engine:
        core = Core(engine, served.store, Settings(delay=0.001, every=0.05))
        config = uvicorn.Config(make_app(core), port=0, http="h11", ws="none", lifespan="on", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until = time.perf_counter() + 30
            while not server.started and thread.is_alive() and time.perf_counter() < until:
                time.sleep(0.01)
            assert server.started
            host, port = server.servers[0].sockets[0].getsockname()[:2]
            yield f"http://{host}:{port}/"
        finally:
            server.should_exit = True
            thread.join()
