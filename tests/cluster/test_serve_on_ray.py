"""`afina serve --ray` on a cluster of three nodes, on one store in PostgreSQL: as one server, also while replicas end.

The tests share one deployment with two replicas, which the commands of the page "Serve on a Ray cluster" start. The
last tests replace it and end it.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx2
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from afina import AdapterStore, Backbone
from afina.engine.engine import Engine
from afina.server.core import Core
from afina.server.settings import Settings
from command import Command
from crowd import adapter
from fakes import Backbones
from raylets import Raylets
from servers import PRICE, TAGS, TOLD, running, within
from services import Postgres
from test_typed_pages import DOCS, Typist, lines, two_results

pytestmark = pytest.mark.slow

MANY = 10
"""Adapters `acme/task-N`, which only the test of routing asks for."""

TEXT = "the soup was bright."


@dataclass
class OnRay:
    """A deployment on Ray: its processes are those of the cluster's nodes, its commands are processes here.

    `typed`: the page's commands but the one that serves, which is `command`, in this `environment`.
    """

    url: str
    cluster: Raylets
    store: AdapterStore
    secrets: dict[str, str]
    typed: list[str]
    command: list[str]
    environment: dict[str, str]
    processes: list[subprocess.Popen[Any]]

    def client(self, who: str = "acme") -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.secrets[who]}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)

    def begin(self, replicas: int, *more: str) -> None:
        """Type the command again, with so many replicas and more options, and wait until it serves."""
        pipes, words = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}, [*self.command, *more]
        words[words.index("--replicas") + 1] = str(replicas)
        process = subprocess.Popen(words, env=self.environment, text=True, **pipes)
        self.processes.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        if not re.fullmatch(rf"serving \S+ on {self.url}\n", said):
            _, error = process.communicate(timeout=30)
            raise AssertionError(said + error)

    @property
    def replicas(self) -> list[psutil.Process]:
        return [one for node in self.cluster.nodes for one in node.children("ServeReplica")]

    def metric(self, name: str) -> dict[str, float]:
        """A metric without labels of its own, by replica."""
        with self.client("admin") as web:
            found = web.get("/metrics")
        assert found.status_code == 200, found.text
        families = {one.name: one for one in text_string_to_metric_families(found.text)}
        return {one.labels["replica"]: one.value for one in families[name].samples}

    @property
    def up(self) -> set[str]:
        return {name for name, value in self.metric("afina_replica_up").items() if value}


@pytest.fixture(scope="module")
def on_ray(
    _running: Raylets,
    backbones: Backbones,
    gpt2: Backbone,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OnRay]:
    place = tmp_path_factory.mktemp("served-on-ray")
    store = AdapterStore(url := postgres.database())
    store.init(str(place / "blobs"))
    made = {
        "acme/reviews": adapter(gpt2, "lora", {"r": 4}, seed=1),  # the page publishes the second version
        "acme/tags": adapter(gpt2, "bitfit", seed=3, **TAGS),
        "acme/price": adapter(gpt2, "ia3", seed=4, **PRICE),
        "acme/told": adapter(gpt2, "lora", {"r": 2}, seed=5, **TOLD),
    }
    made |= {f"acme/task-{number}": adapter(gpt2, "lora", {"r": 2}, seed=10 + number) for number in range(MANY)}
    for name, one in made.items():
        one.save(path := place / name.replace("/", "-"))
        store.publish(path, name, message="why")
        store.alias(f"{name}@1")
    secrets = {"acme": store.create_key("acme", ["predict"]).secret}
    secrets |= {scope: store.create_key("acme", [scope]).secret for scope in ("admin", "publish")}
    _running.keep(3)
    environment = _running.driver | {"RAY_ADDRESS": _running.address}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        silent: Any = SimpleNamespace(readouterr=lambda: ("", ""))  # `capfd` is for one test
        typist = Typist(Command(patch, silent), gpt2, str(backbones.path("bert")), adapters=url)
        two_results(gpt2)
        try:
            for line in lines(DOCS / "how-to" / "serve-on-ray.md"):
                typist.type(line)
        except BaseException:
            typist.leave()
            raise
    server: Any = typist.server
    address = f"http://127.0.0.1:{typist.port}"
    found = OnRay(address, _running, store, secrets, typist.done, server.args, environment, [server])
    try:
        yield found
    finally:
        for process in found.processes:
            process.terminate()
        for process in found.processes:
            with process:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def test_the_commands_of_the_page_work_in_their_order(on_ray: OnRay) -> None:
    assert on_ray.typed == ["store", "keys"]


REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/predict", {"model": "acme/reviews@production", "inputs": TEXT}),
    ("POST", "/classify", {"model": "acme/tags", "input": [TEXT, "it broke."]}),
    (
        "POST",
        "/v2/models/acme/reviews/versions/2/infer",
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]},
    ),
    ("GET", "/v2/models/acme/reviews/ready", None),
    ("GET", "/v1/models", None),
    ("POST", "/v1/responses", {"model": "acme/told", "input": TEXT, "max_output_tokens": 16}),
    ("GET", "/v1/models/acme/none", None),
    ("POST", "/tasks", {"text": TEXT, "models": ["acme/reviews", "acme/tags", "acme/price"]}),
    ("POST", "/bulk?model=acme/reviews", f'{{"text": "{TEXT}"}}\n{{"text": "b", "model": "acme/none"}}\n'),
    ("POST", "/v1/completions", {"model": "acme/told", "prompt": TEXT, "temperature": 1.0, "seed": 7, "n": 2}),
    ("POST", "/v1/completions", {"model": "acme/told", "prompt": TEXT, "stream": True}),
    ("GET", "/shadows/acme/reviews", None),
    ("GET", "/openapi.json", None),
    ("GET", "/health/live", None),
    ("GET", "/health/ready", None),
    # Refused requests, in the format of each protocol.
    ("POST", "/predict", {"model": "acme/none", "inputs": TEXT}),
    ("POST", "/v1/completions", {"model": "acme/none", "prompt": TEXT}),
    ("POST", "/predict", "{"),
    ("POST", "/predict", {"model": "acme/reviews", "inputs": "x" * 200_000}),
    ("POST", "/predict", "x" * (1 << 21)),
    ("POST", "/v1/responses", {"model": "acme/none", "input": TEXT}),
    ("POST", "/keys", {"client": "acme", "scopes": ["predict"]}),
    ("GET", "/nowhere", None),
    ("DELETE", "/predict", None),
    ("GET", "/metrics", None),
]

VARIES = {"id", "created", "created_at", "completed_at"}
"""Fields of an answer that no two answers share."""


def said(response: httpx2.Response) -> Any:
    """An answer without what varies, and without the last digits of numbers."""

    def plain(found: Any) -> Any:
        if isinstance(found, dict):
            return {name: plain(value) for name, value in found.items() if name not in VARIES}
        if isinstance(found, list):
            return [plain(one) for one in found]
        return float(f"{found:.4g}") if isinstance(found, float) else found

    if response.headers.get("Content-Type", "").startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert events.pop() == "[DONE]"
        choices = [choice for event in events for choice in json.loads(event)["choices"]]
        return "".join(one["text"] for one in choices), choices[-1]["finish_reason"]
    try:
        return [plain(json.loads(line)) for line in response.text.splitlines()]
    except ValueError:
        return response.text


def test_answers_are_those_of_one_server_in_every_protocol(on_ray: OnRay, gpt2: Backbone) -> None:
    with Engine(gpt2, on_ray.store) as engine:
        core = Core(engine, on_ray.store, Settings())
        with running(core) as (url, _), on_ray.client() as ray_web, on_ray.client() as web:
            web.base_url = url
            for method, path, content in REQUESTS:
                body: Any = {"content": content} if isinstance(content, str) else {"json": content}
                ours, theirs = (one.request(method, path, **body) for one in (ray_web, web))
                about = (method, path, str(content)[:60])
                assert ours.status_code == theirs.status_code, (about, ours.text, theirs.text)
                assert said(ours) == said(theirs), about
                kept = {name: value for name, value in theirs.headers.items() if name.startswith("afina-")}
                assert {name: ours.headers.get(name) for name in kept} == kept, about
                assert ours.headers.get("content-type") == theirs.headers.get("content-type"), about
            nobody = httpx2.post(f"{on_ray.url}/predict", json={"model": "acme/reviews", "inputs": TEXT}, timeout=30)
            assert (nobody.status_code, nobody.headers["Afina-Error"]) == (401, "unauthorized")


def test_an_adapter_is_loaded_by_one_replica(on_ray: OnRay) -> None:
    assert len(on_ray.up) == 2
    before = on_ray.metric("afina_adapter_loads")
    placed: defaultdict[str, set[str]] = defaultdict(set)
    with on_ray.client() as web:
        for turn in range(4):
            for number in range(MANY):
                model = f"acme/task-{(number * (turn + 1) + turn) % MANY}"
                found = web.post("/predict", json={"model": model, "inputs": f"{TEXT} {turn}"})
                assert found.status_code == 200, found.text
                placed[model].add(found.headers["Afina-Replica"])
    assert {len(of) for of in placed.values()} == {1}
    after = on_ray.metric("afina_adapter_loads")
    assert sum(after.values()) - sum(before.values()) == len(placed)
    assert len(set.union(*placed.values())) == 2


@dataclass
class Load:
    """Requests of several clients that repeat them on 503, as the documentation says. `failed`: what else came."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    repeats: int = 0


@contextmanager
def load(on_ray: OnRay, clients: int = 2) -> Iterator[Load]:
    """Send requests until the block ends: classifications, generations and streams, with pauses of 0.05 seconds."""
    found, over = Load(), threading.Event()

    def ask(web: httpx2.Client, path: str, body: dict[str, Any]) -> bool:
        """Whether the answer is whole."""
        response = web.post(path, json=body)
        if response.status_code == 503 and "Retry-After" in response.headers:
            return False
        if response.status_code != 200:
            raise AssertionError(f"{response.status_code} {response.text}")
        if body.get("stream") and '"code": "unavailable"' in response.text:
            return False
        assert not body.get("stream") or response.text.endswith("data: [DONE]\n\n")
        found.answered[response.headers["Afina-Replica"]] += 1
        return True

    def go_on(client: int) -> None:
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/predict", {"model": f"acme/task-{client % MANY}", "inputs": TEXT}),
            ("/v1/completions", {"model": "acme/told", "prompt": TEXT, "stream": client % 2 == 0}),
        ]
        with on_ray.client() as web:
            number = 0
            while not over.is_set():
                path, body = bodies[number % len(bodies)]
                number += 1
                time.sleep(0.05)
                try:
                    while not ask(web, path, body):
                        found.repeats += 1
                        time.sleep(1.0)
                except (httpx2.HTTPError, AssertionError) as error:
                    found.failed.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=go_on, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join(90)


def test_a_killed_replica_is_replaced_and_no_request_is_lost(on_ray: OnRay) -> None:
    with load(on_ray, 4) as found:  # so that one waits for an answer of the killed replica
        before = on_ray.up
        assert len(before) == 2
        assert within(30, lambda: len(found.answered) == 2)
        on_ray.replicas[0].kill()
        assert within(60, lambda: len(on_ray.up - before) == 1 and len(on_ray.up) == 2)
        done = found.answered.total()
        assert within(30, lambda: found.answered.total() >= done + 20)
    assert found.failed == []


def test_a_stopped_replica_delays_requests_by_seconds_and_readiness_not_at_all_and_is_replaced(on_ray: OnRay) -> None:
    """SIGSTOP: the process hangs, and its connections stay open."""
    before = on_ray.up
    assert len(before) == 2
    predictions, readiness = list[float](), list[float]()

    def timed(web: httpx2.Client, took: list[float], method: str, path: str, **body: Any) -> None:
        began = time.monotonic()
        found = web.request(method, path, **body)
        took.append(time.monotonic() - began)
        assert found.status_code == 200, found.text

    with load(on_ray) as found, on_ray.client() as web:
        spent = {one: one.cpu_times().user for one in on_ray.replicas}
        assert within(30, lambda: found.answered.total() > 20)
        stopped = max(spent, key=lambda one: one.cpu_times().user - spent[one])  # the one that answers most
        stopped.suspend()
        try:
            for number in range(30):
                model = f"acme/task-{number % MANY}"
                timed(web, predictions, "POST", "/predict", json={"model": model, "inputs": TEXT})
                timed(web, readiness, "GET", "/health/ready")
                time.sleep(0.1)
            assert within(90, lambda: len(on_ray.up - before) == 1 and len(on_ray.up) == 2)
            assert within(120, lambda: not stopped.is_running())
        finally:
            with suppress(psutil.NoSuchProcess):
                stopped.kill()
    assert found.failed == []
    assert max(predictions) < 10
    assert max(readiness) < 1.5


def test_a_new_deployment_replaces_the_replicas_and_no_request_is_lost(on_ray: OnRay) -> None:
    (process,), before = on_ray.processes, on_ray.up
    with load(on_ray) as found:
        on_ray.begin(1, "--timeout", "31")  # one new replica shows as much as two
        assert process.wait(30) == 0
        assert within(30, lambda: len(on_ray.up) == 1 and not on_ray.up & before)
        last = sum(found.answered.values())
        assert within(30, lambda: sum(found.answered.values()) > last + 5)
    assert found.failed == []
    assert set(found.answered) & before
    assert set(found.answered) - before


def test_a_server_that_ends_finishes_the_streams_that_have_begun(on_ray: OnRay) -> None:
    process, begun = on_ray.processes[-1], threading.Semaphore(0)
    body = {"model": "acme/told", "prompt": TEXT, "max_tokens": 200, "n": 8, "temperature": 1.0, "stream": True}

    def stream(seed: int) -> tuple[float, str]:
        """When it ended, and its last line."""
        with on_ray.client() as web, web.stream("POST", "/v1/completions", json=body | {"seed": seed}) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            kept = [next(lines)]
            begun.release()
            kept += [line for line in lines if line]
            assert not any('"error"' in line for line in kept), kept[-2:]
            return time.monotonic(), kept[-1]

    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, seed) for seed in range(8)]
        for _ in streams:
            assert begun.acquire(timeout=60)
        process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        ends = [one.result() for one in streams]
    assert {last for _, last in ends} == {"data: [DONE]"}
    assert max(at for at, _ in ends) > signalled
    assert process.wait(40) == 0
    assert within(10, lambda: on_ray.replicas == [])
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{on_ray.url}/health/live", timeout=5)
