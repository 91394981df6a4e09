"""A server in this process, on a tiny model, with two clients and adapters of every kind that answer at random."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Send

from afina import Adapter, AdapterStore, Backbone, Predictor
from afina.data.prompts import chat_template
from afina.engine.engine import Engine
from afina.predicting.golden_test import rows
from afina.predicting.reading import SENTENCES
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.logs_and_traces import JsonLines
from afina.server.requests import AcceptedRequest, Text, TextRequest
from afina.server.running import Server, server
from afina.server.settings import Settings
from afina.server.sockets import bind
from afina.server.versions.served_versions import ServedVersions
from afina.store.api_keys import SCOPES, Key
from command import PROGRAM

TAGS = {"labels": ("loud", "late", "rude"), "objective": {"kind": "labels"}}
TOLD: dict[str, Any] = {
    "labels": ("told",),
    "objective": {"kind": "text", "answer_tokens": 8},
    "template": "{text}\nTold:",
}
PLACES = {"labels": ("LOC", "PER"), "objective": {"kind": "entities"}}
PRICE = {"labels": ("price",), "objective": {"kind": "number", "mean": 10.0, "scale": 2.0}}


def talk(backbone: Backbone) -> dict[str, Any]:
    """As TOLD, of a chat."""
    objective = {**TOLD["objective"], "chat": True}
    return {**TOLD, "objective": objective, "template": chat_template(backbone.tokenizer, pairs=False).source}


def probed(made: Adapter, backbone: Backbone, off: float = 0.0) -> Adapter:
    """With the golden probe that it computes, or one that is so far off."""
    outputs = rows(Predictor.of(made, backbone).outputs(SENTENCES))
    recorded = tuple(tuple(float(value) + off for value in row) for row in outputs)
    return replace(made, manifest=made.manifest.model_copy(update={"probe": recorded}).sealed())


@cache
def predictor(made: Adapter, backbone: Backbone) -> Predictor:
    return Predictor.of(made, backbone)


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
        return predictor(self.adapters[name], self.backbone)(texts)

    def auth(self, who: str = "acme") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[who]}"}

    def post(self, path: str, body: Any = None, who: str = "acme", **more: Any) -> Any:
        headers = self.auth(who) | more.pop("headers", {})
        return self.web.post(path, json=body, headers=headers, **more)

    def get(self, path: str, who: str = "acme") -> Any:
        return self.web.get(path, headers=self.auth(who))

    async def send(self, path: str, receive: Receive, send: Send) -> None:
        """A POST whose body arrives, and whose answer leaves, as a test likes."""
        headers = [(name.lower().encode(), value.encode()) for name, value in self.auth().items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "state": {}}
        scope |= {"raw_path": path.encode(), "root_path": "", "scheme": "http", "http_version": "1.1"}
        scope |= {"server": ("test", 80), "client": ("test", 1), "asgi": {"version": "3.0"}}
        await self.web.app(scope, receive, send)

    def key(self, who: str = "acme") -> Key:
        found = self.core.tenants.key_of(self.secrets[who])
        assert found is not None
        return found

    def figure(self, name: str) -> float:
        """A figure of the metrics; 0 if there is none yet."""
        lines = self.get("/metrics", "acme-admin").text.splitlines()
        return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(f"{name} ")), 0.0)

    @property
    def leases(self) -> int:
        return sum(place.leases for place in self.core.engine._residents._places.values())

    def publish(self, made: Adapter, name: str = "acme/reviews") -> str:
        """Its version."""
        root = self.store.address.directory
        assert root is not None
        path = root.with_name(f"{name.replace('/', '-')}-{made.digest[-8:]}")
        made.save(path)
        return str(self.store.publish(path, name, message="why").version)


_BEGUN: list[tuple[dict[str, Adapter], Path, dict[str, str]]] = []
"""By what was published, where a store of it is, which is copied and otherwise left alone, and secrets of its keys."""


def _begin(crowd: dict[str, Adapter], directory: Path) -> dict[str, str]:
    store = AdapterStore(directory, who="ada")
    for name, one in crowd.items():
        path = directory.with_name(f"{directory.name}-{name.replace('/', '-')}")
        one.save(path)
        store.publish(path, name.partition("@")[0], message="why")
    store.alias("acme/reviews@1")
    secrets = {
        who: store.create_key(who.partition("-")[0], [who.partition("-")[2] or "predict"]).secret
        for who in ("acme", "bolt", "acme-admin", "acme-publish", "acme-metrics")
    }
    revoked = store.create_key("acme", SCOPES)
    store.revoke_key(revoked.key.id)
    return secrets | {"revoked": revoked.secret}


_FIRST: dict[tuple[int, str], Engine] = {}
"""The first engine of each backbone and dtype, whose open models the later ones use: opening takes most of a start."""


def share_models(engine: Engine) -> None:
    """Let an engine that has computed nothing yet use the models that the first engine of its backbone opened."""
    first = _FIRST.setdefault((id(engine.backbone), engine.computes), engine)
    engine._loader._empty_models = first._loader._empty_models
    engine.hosts._models, engine.hosts._sizes = first.hosts._models, first.hosts._sizes


@contextmanager
def prepared(
    gpt2: Backbone, crowd: dict[str, Adapter], root: Path, *, dtype: str = "float32", **settings: Any
) -> Iterator[tuple[Core, dict[str, str]]]:
    """A core that is not begun, on a store of its own, and secrets of its keys by whose they are."""
    begun = next((one for one in _BEGUN if one[0] is crowd), None)
    if begun is None:
        begun = crowd, root.parent / f"begun-{len(_BEGUN)}", _begin(crowd, root.parent / f"begun-{len(_BEGUN)}")
        _BEGUN.append(begun)
    _, directory, secrets = begun
    shutil.copytree(directory, root / "store")
    store = AdapterStore(root / "store", who="ada")
    with Engine(gpt2, store, dtype=dtype) as engine:
        share_models(engine)
        yield (
            Core(engine, store, Settings(**({"delay": 0.001, "every": 0.05, "refusals_a_second": 10_000} | settings))),
            dict(secrets),
        )


@contextmanager
def serving(gpt2: Backbone, crowd: dict[str, Adapter], root: Path, **settings: Any) -> Iterator[Served]:
    """Without a network."""
    with (
        prepared(gpt2, crowd, root, **settings) as (core, secrets),
        TestClient(make_app(core), raise_server_exceptions=False) as web,
    ):
        yield Served(web, core, core.store, crowd, gpt2, secrets)


def accepted(core: Core, key: Key, model: str, texts: Sequence[Text], *options: Any, **more: Any) -> AcceptedRequest:
    """One request, as the core accepts it."""
    (found,) = core.accept([TextRequest(key, model, texts, *options, **more)])
    return found


@contextmanager
def accepting(*given: Any, **more: Any) -> Iterator[AcceptedRequest]:
    """Likewise, until the end of the block."""
    found = accepted(*given, **more)
    try:
        yield found
    finally:
        found.close()


def give_up(futures: Iterable[Future[Any]]) -> None:
    """Nobody waits for the answers any more."""
    for future in futures:
        future.cancel()


def followed(current: ServedVersions) -> bool:
    """Follow the store until nothing is being loaded; whether the store has changed."""
    news = current.refresh()
    wait([*current._loading.values()])
    return current.refresh() or news


class Held:
    """An engine's computation that waits for a word."""

    def __init__(self, core: Core) -> None:
        self.go, self.began, self.asked = threading.Event(), threading.Event(), list[int]()
        compute = core.batching.computer.compute

        def held(works: Any) -> Any:
            self.began.set()
            self.go.wait(20)
            self.asked.append(len(works))
            return compute(works)

        core.batching.computer.compute = held


@dataclass
class Listening:
    """A server on a port."""

    port: int
    core: Core
    secrets: dict[str, str]
    server: Server

    def connect(self) -> socket.socket:
        """A connection that waits for nothing longer than ten seconds."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def head(self, length: int | None = None, path: str = "/predict") -> bytes:
        """A POST's, with a valid key; without a length, in chunks."""
        said = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = (f"POST {path} HTTP/1.1", "Host: test", f"Authorization: Bearer {self.secrets['acme']}", said, "", "")
        return "\r\n".join(lines).encode()


@contextmanager
def listening(gpt2: Backbone, crowd: dict[str, Adapter], root: Path, **settings: Any) -> Iterator[Listening]:
    """As `afina serve` has it, in a thread of this process."""
    with prepared(gpt2, crowd, root, **settings) as (core, secrets), running(core) as (url, made):
        yield Listening(int(url.rpartition(":")[2]), core, secrets, made)


@contextmanager
def beside(served: Served) -> Iterator[str]:
    """Another server on the same store, on a port of this machine; its URL."""
    with Engine(served.backbone, served.store) as engine:
        core = Core(engine, served.store, Settings(delay=0.001, every=0.05))
        with running(core) as (url, _):
            yield f"{url}/"


@contextmanager
def running(core: Core) -> Iterator[tuple[str, Server]]:
    """As `afina serve` has it, in a thread of this process; its URL."""
    urls: Queue[str] = Queue()
    made = server(core, bind("127.0.0.1", 0), urls.put)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield urls.get(timeout=20), made
    finally:
        made.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def started(backbone: Backbone, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`afina serve` as a process, on the store of the environment, and its URL."""
    command = [*PROGRAM, "serve", "--backbone", backbone.address, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            shown = re.escape(AdapterStore().address.shown)
            found = re.fullmatch(rf"serving {shown} on (http://127.0.0.1:\d+)\n", said)
            assert found, said
            yield process, found[1]
        finally:
            process.kill()


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the log, as the server writes them."""
    return [json.loads(JsonLines().format(one)) for one in caplog.records]


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so in that time."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        if is_so():
            return True
        time.sleep(0.01)
    return False
