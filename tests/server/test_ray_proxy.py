"""The middleware of Serve's proxies, in front of replicas that answer, die, or do not accept a request."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afina import meter
from afina.server.ray_serve import affinity, answers, proxy
from afina.server.ray_serve.affinity import RequestLimits
from afina.server.ray_serve.proxy import AHEAD, LineWindow
from afina.server.routes import ROUTES, Route

LIMITS = RequestLimits(body_bytes=1 << 20, body_seconds=10.0, window=64)
"""Those that the replicas report."""

PREDICT = b'{"model": "acme/reviews", "inputs": "It broke."}'


@dataclass
class Handed:
    """What a replica got."""

    scope: Scope
    body: bytes
    replica: str

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.scope["headers"])


Behaviour = Callable[[str, Scope, Receive, Send], Awaitable[None]]


async def accepts(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
    """An answer with the name of the replica."""
    named = (answers.REPLICA, replica.encode())
    headers = [(b"content-type", b"application/json"), named, (b"x-request-id", b"1"), (b"X-Request-ID", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"[1,", "more_body": True})
    await send({"type": "http.response.body", "body": b"2]"})


async def dies(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve sends nothing if a replica dies before its answer begins."""


async def hangs(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
    """A replica that does not respond any more."""
    affinity.PROXY.late |= {replica}
    await asyncio.Event().wait()


def dies_after(content_type: bytes, content: bytes) -> Behaviour:
    async def begins(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type), (answers.REPLICA, replica.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})

    return begins


async def fails(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the proxy lost its connection")


async def serve_itself(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
    """An answer of Ray Serve: plain text, and no replica in its headers."""
    await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Request dropped due to backpressure"})


@dataclass
class FakeServe:
    """Serve's proxy with a router: each request goes to the next behaviour, and the last one stays."""

    behaviours: Sequence[Behaviour]
    placed: bool = True
    handed: list[Handed] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routed = affinity.PROXY.requests[dict(scope["headers"])[answers.ID].decode()]
        behaviour = self.behaviours[min(len(self.handed), len(self.behaviours) - 1)]
        if not self.placed:
            self.handed.append(Handed(scope, b"", ""))
            await asyncio.Event().wait()
        replica = routed.sent = routed.placed = routed.target or f"replica-{len(self.handed)}"
        self.handed.append(Handed(scope, b"", replica))
        message = await receive()
        self.handed[-1].body = message.get("body", b"")
        await behaviour(replica, scope, receive, send)


@dataclass
class Answered:
    """What a client got. `complete`: whether the answer has an end."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    starts: int = 0
    ids: int = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.starts = message["status"], self.starts + 1
            self.headers = {name.lower(): value for name, value in message["headers"]}
            self.ids = sum(name.lower() == answers.ID for name, _ in message["headers"])
        else:
            self.body += message.get("body", b"")
            self.complete = answers.is_last(message)


def ask(
    serve: ASGIApp,
    path: str = "/predict",
    body: bytes = PREDICT,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = (),
    receive: Receive | None = None,
    query: bytes = b"",
) -> Answered:
    """Send one request through the middleware."""
    scope: Scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": [*headers]}
    found = Answered()

    async def whole() -> None:
        sent = False

        async def receiving() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await proxy.RepeatingProxy(serve)(scope, receive or receiving, found.send)

    asyncio.run(asyncio.wait_for(whole(), 20))
    assert affinity.PROXY.requests == {}
    assert found.starts <= 1
    return found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "PAUSE", 0.001)
    monkeypatch.setattr(proxy, "LOOKS", 0.01)
    monkeypatch.setattr(affinity, "PROXY", affinity.ProxyState(limits=LIMITS))


@pytest.mark.parametrize("before", [[dies], [dies, fails], [serve_itself], [dies, dies, dies]])
def test_a_request_whose_replica_dies_is_answered_by_another_one(before: list[Behaviour]) -> None:
    serve = FakeServe([*before, accepts])
    found = ask(serve)
    assert (found.status, found.body, found.complete) == (200, b"[1,2]", True)
    assert found.headers[answers.REPLICA].decode() == f"replica-{len(before)}"
    assert [one.body for one in serve.handed] == [PREDICT] * (len(before) + 1)
    assert found.ids == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"error": answers.BROKEN, "error_type": "Backend"}),
        ("/classify", {"error": {"message": answers.BROKEN, "type": "unavailable", "param": None, "code": 503}}),
        (
            "/v1/completions",
            {"error": {"message": answers.BROKEN, "type": "server_error", "param": None, "code": "unavailable"}},
        ),
        ("/models/acme/reviews", {"error": answers.BROKEN}),
        ("/v2/models/acme/reviews/infer", {"error": answers.BROKEN}),
        ("/tasks", {"error": answers.BROKEN, "kind": "unavailable"}),
    ],
)
def test_after_several_dead_replicas_the_answer_is_503_in_the_protocols_format(path: str, body: Any) -> None:
    serve = FakeServe([dies])
    found = ask(serve, path)
    assert (found.status, found.complete) == (503, True)
    assert json.loads(found.body) == body
    assert found.headers[b"retry-after"] == b"1"
    assert found.headers[b"afina-error"] == b"unavailable"
    assert len(serve.handed) == proxy.TRIES


@pytest.mark.parametrize("route", [one for one in ROUTES if one.method not in ("GET", None) and not one.streams])
def test_a_request_is_repeated_unless_its_route_says_that_it_changes_something(route: Route) -> None:
    path, serve = re.sub(r"\{.*?\}", "x", route.paths[0]), FakeServe([dies, accepts])
    found = ask(serve, path, PREDICT, str(route.method))
    assert (found.status, len(serve.handed)) == ((200, 2) if route.repeats else (502, 1))
    if not route.repeats:
        assert b"retry-after" not in found.headers
        assert "Look whether the change was made" in json.loads(found.body)["error"]


def test_a_stream_that_has_begun_ends_with_an_error_event_and_is_not_repeated() -> None:
    begun = b'data: {"choices": [{"text": "It"}]}\n\n'
    serve = FakeServe([dies_after(b"text/event-stream; charset=utf-8", begun), accepts])
    found = ask(serve, "/v1/completions", b'{"model": "acme/told", "prompt": "x", "stream": true}')
    assert (found.status, found.complete, len(serve.handed)) == (200, True, 1)
    assert found.body.startswith(begun)
    error, done = found.body.removeprefix(begun).decode().strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "unavailable"
    assert done == "data: [DONE]"


def test_a_response_that_has_begun_ends_with_an_error_event_that_has_the_next_number() -> None:
    begun = b"".join(b'event: x\ndata: {"sequence_number": %d}\n\n' % number for number in range(3))
    serve = FakeServe([dies_after(b"text/event-stream", begun), accepts])
    found = ask(serve, "/v1/responses", b'{"model": "acme/told", "input": "x", "stream": true}')
    name, data = found.body.removeprefix(begun).decode().strip().split("\n")
    error = json.loads(data.removeprefix("data: "))
    assert (name, error["type"], error["code"]) == ("event: error", "error", "unavailable")
    assert (error["sequence_number"], found.complete, len(serve.handed)) == (3, True, 1)


def test_another_answer_that_has_begun_is_left_without_an_end_so_that_the_client_does_not_take_it_for_whole() -> None:
    serve = FakeServe([dies_after(b"application/json", b"[1,"), accepts])
    found = ask(serve)
    assert (found.status, found.body, found.complete, len(serve.handed)) == (200, b"[1,", False, 1)


def test_if_no_replica_accepts_a_request_in_time_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "PLACING", 0.02)
    serve = FakeServe([accepts], placed=False)
    found = ask(serve)
    assert (found.status, found.headers[b"retry-after"], len(serve.handed)) == (503, b"1", 1)


def running(*names: str) -> None:
    """Let the proxy know these replicas."""
    affinity.PROXY.replicas = names


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/predict", PREDICT, "POST"),
        ("/v1/completions", b'{"model": "acme/told", "prompt": "x", "stream": true}', "POST"),
        ("/v1/models", b"", "GET"),
    ],
)
def test_a_request_whose_replica_hangs_before_its_answer_begins_is_answered_by_another_one(
    path: str, body: bytes, method: str
) -> None:
    running("replica-0", "replica-1")
    serve = FakeServe([hangs, accepts])
    found = ask(serve, path, body, method)
    assert (found.status, found.headers[answers.REPLICA], len(serve.handed)) == (200, b"replica-1", 2)


def test_a_request_stays_with_a_slow_replica_if_no_other_one_responds() -> None:
    """Else an overloaded cluster gets each request several times."""

    async def slow(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        affinity.PROXY.late = frozenset(affinity.PROXY.replicas)
        await asyncio.sleep(0.05)
        await accepts(replica, scope, receive, send)

    running("replica-0", "replica-1")
    serve = FakeServe([slow])
    assert (ask(serve).status, len(serve.handed)) == (200, 1)


def test_a_stream_that_has_begun_stays_with_a_replica_that_is_late() -> None:
    async def pauses(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        await dies_after(b"text/event-stream", b"data: 1\n\n")(replica, scope, receive, send)
        affinity.PROXY.late = frozenset({replica})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    running("replica-0", "replica-1")
    serve = FakeServe([pauses, accepts])
    found = ask(serve, "/v1/completions")
    assert (found.body, found.complete, len(serve.handed)) == (b"data: 1\n\ndata: [DONE]\n\n", True, 1)


def test_a_change_that_a_hung_replica_got_is_answered_by_502_and_one_that_none_got_by_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "PLACING", 0.05)
    running("replica-0", "replica-1")

    async def sent_only(scope: Scope, receive: Receive, send: Send) -> None:
        """The replica hangs before it accepts the request, which it may carry out later."""
        affinity.PROXY.requests[dict(scope["headers"])[answers.ID].decode()].sent = "replica-0"
        affinity.PROXY.late = frozenset({"replica-0"})
        await asyncio.Event().wait()

    for serve, status in (
        (FakeServe([hangs, accepts]), 502),
        (sent_only, 502),
        (FakeServe([hangs], placed=False), 503),
    ):
        found = ask(serve, "/aliases/acme/reviews/production", b'{"version": 3}', "PUT")
        assert found.status == status
        if isinstance(serve, FakeServe):
            assert len(serve.handed) == 1


def test_a_change_whose_replica_ends_before_it_accepts_is_not_sent_again_by_serve_itself() -> None:
    """Serve would choose again; the router refuses."""

    async def lost(scope: Scope, receive: Receive, send: Send) -> None:
        routed = affinity.PROXY.requests[dict(scope["headers"])[answers.ID].decode()]
        routed.sent, routed.lost = "replica-0", not routed.repeats
        if routed.lost:
            await asyncio.Event().wait()
        await accepts("replica-1", scope, receive, send)

    running("replica-0", "replica-1")
    assert ask(lost, "/aliases/acme/reviews/production", b'{"version": 3}', "PUT").status == 502
    assert ask(lost, "/predict").status == 200
    assert ask(lost, "/bulk", b'{"text": "a"}\n', query=b"model=acme/reviews").status == 503


def test_all_tries_together_wait_no_longer_for_a_replica_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "PLACING", 0.2)
    running("replica-0", "replica-1", "replica-2", "replica-3", "replica-4")

    async def late(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.09)
        await hangs(replica, scope, receive, send)

    began = meter.now()
    found = ask(FakeServe([late]))
    assert (found.status, found.headers[b"retry-after"]) == (503, b"1")
    assert meter.now() - began < 0.35


def test_the_router_is_told_the_model_but_not_by_its_name() -> None:
    seen: list[str | None] = []

    async def looks(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(affinity.PROXY.requests[dict(scope["headers"])[answers.ID].decode()].key)
        await accepts(replica, scope, receive, send)

    ask(FakeServe([looks]))
    ask(FakeServe([looks]), "/v1/models", b"", "GET")
    assert seen == [affinity.affinity_key("acme/reviews"), None]


def test_clients_cannot_control_serve_by_headers() -> None:
    mine = [(b"Serve_Multiplexed_Model_Id", b"x"), (b"x-session-id", b"x"), (b"X-Request-Timeout-Seconds", b"0.001")]
    mine += [(b"x-request-disconnect-disabled", b"?1"), (b"x-request-id", b"mine"), (b"authorization", b"Bearer x")]
    serve = FakeServe([accepts])
    ask(serve, headers=mine)
    (handed,) = serve.handed
    assert set(handed.headers) == {b"authorization", answers.ID, answers.CLIENT_ID}
    assert handed.headers[answers.ID] != b"mine"


def test_a_clients_request_id_reaches_the_replica_beside_that_of_serve_and_stands_in_answers_of_the_proxy() -> None:
    serve = FakeServe([dies, accepts])
    forged = [(answers.CLIENT_ID, b"forged"), (answers.ID, b"order-7")]
    ask(serve, headers=forged)
    assert [one.headers[answers.CLIENT_ID] for one in serve.handed] == [b"order-7"] * 2
    assert sum(name == answers.CLIENT_ID for name, _ in serve.handed[0].scope["headers"]) == 1
    found = ask(FakeServe([dies]), headers=forged)
    assert (found.status, found.headers[answers.ID], found.ids) == (503, b"order-7", 1)
    ask(serve, headers=[(answers.ID, b"a b")])
    assert re.fullmatch(rb"[0-9a-f]{16}", serve.handed[-1].headers[answers.CLIENT_ID])


def test_a_body_that_is_too_large_or_too_slow_reaches_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = FakeServe([accepts])
    found = ask(serve, body=b"x" * (LIMITS.body_bytes + 1))
    assert (found.status, found.headers[b"afina-error"]) == (413, b"too_large")
    affinity.PROXY.limits = LIMITS._replace(body_seconds=0.02)

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    found = ask(serve, receive=never)
    assert (found.status, found.headers[b"afina-error"]) == (408, b"slow")
    monkeypatch.setattr(proxy, "BUFFERED", 10)
    assert ask(serve).status == 503
    assert serve.handed == []


def test_binary_and_compressed_bodies_are_passed_on_byte_for_byte_also_to_another_replica() -> None:
    body = gzip.compress(b'{"inputs": []}' + bytes(range(256)))
    sent = [(b"content-encoding", b"gzip"), (b"inference-header-content-length", b"14"), (b"accept-encoding", b"gzip")]
    serve = FakeServe([dies, accepts])
    found = ask(serve, "/v2/models/acme/reviews/infer", body, headers=sent)
    assert (found.status, len(serve.handed)) == (200, 2)
    for handed in serve.handed:
        assert handed.body == body
        assert {*sent} <= {*handed.scope["headers"]}


LARGER = LIMITS._replace(body_bytes=LIMITS.body_bytes * 2)


@pytest.mark.parametrize(
    ("replicas", "limits"),
    [([LIMITS, LARGER], LARGER), ([], RequestLimits())],
    ids=["the highest during an update", "before a replica is known"],
)
def test_the_limit_of_a_body_is_that_of_the_replicas(replicas: list[RequestLimits], limits: RequestLimits) -> None:
    affinity.PROXY.limits = RequestLimits.highest(replicas)
    assert affinity.PROXY.limits == limits
    serve, body = FakeServe([accepts]), b"x" * (LIMITS.body_bytes + 1)
    assert ask(serve, body=body).status == 200
    assert [one.body for one in serve.handed] == [body]


@pytest.mark.parametrize("count", [1, 1000])
def test_large_headers_reach_no_replica(count: int) -> None:
    headers = [(f"x-{number}".encode(), b"a" * (proxy.HEAD_BYTES // count)) for number in range(count)]
    serve = FakeServe([accepts])
    for path in ("/predict", "/bulk"):
        found = ask(serve, path, headers=headers)
        assert (found.status, found.headers[b"afina-error"]) == (431, b"too_large")
    assert serve.handed == []


def test_a_path_that_no_replica_can_get_is_refused_at_once() -> None:
    serve = FakeServe([serve_itself])
    assert ask(serve, "*", b"", "OPTIONS").status == 400
    assert serve.handed == []


def test_only_two_paths_of_serve_bypass_the_middleware() -> None:
    """Else a client could control Serve by the headers of a request for any path that begins likewise."""
    mine = [(b"x-request-id", b"mine"), (b"x-request-timeout-seconds", b"0.001")]
    serve = FakeServe([accepts])
    ask(serve, "/-/predict", b"", "GET", headers=mine)
    assert set(serve.handed[0].headers) == {answers.ID, answers.CLIENT_ID}
    assert serve.handed[0].headers[answers.ID] != b"mine"
    bypassed = list[str]()

    async def serves(scope: Scope, receive: Receive, send: Send) -> None:
        bypassed.append(scope["path"])
        assert affinity.PROXY.requests == {}

    for path in ("/-/healthz", "/-/routes"):
        ask(serves, path, b"", "GET")
    assert bypassed == ["/-/healthz", "/-/routes"]


def test_bodies_that_are_still_arriving_count_as_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many slow bodies take no more memory than a few quick ones."""
    monkeypatch.setattr(proxy, "BUFFERED", 250)

    async def measured() -> list[int]:
        middleware, done, over = proxy.RepeatingProxy(FakeServe([accepts])), list[Answered](), asyncio.Event()

        async def one() -> None:
            pieces = iter([b"x" * 100, b""])

            async def receive() -> Message:
                piece = next(pieces, None)
                if not piece:
                    await (over if piece is not None else asyncio.Event()).wait()
                return {"type": "http.request", "body": piece or b"", "more_body": bool(piece)}

            scope: Scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
            done.append(found := Answered())
            await middleware(scope, receive, found.send)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(one())
            await asyncio.sleep(0.01)
            statuses = sorted(found.status for found in done)
            over.set()
        assert sorted(found.status for found in done) == [200, 200, 503]
        assert middleware._buffered == 0
        return statuses

    assert asyncio.run(measured()) == [0, 0, 503]


def test_a_body_that_is_too_large_by_its_header_is_refused_by_the_replica_which_knows_the_key() -> None:
    serve = FakeServe([accepts])
    ask(serve, headers=[(b"content-length", str(LIMITS.body_bytes + 1).encode())])
    assert [one.body for one in serve.handed] == [b""]


def test_a_request_of_a_client_that_has_gone_is_not_repeated() -> None:
    messages = iter([{"type": "http.request", "body": PREDICT, "more_body": False}, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(messages)

    async def waits(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    serve = FakeServe([waits, accepts])
    found = ask(serve, receive=receive)
    assert (found.starts, len(serve.handed)) == (0, 1)


@pytest.fixture
def two() -> None:
    affinity.PROXY.replicas = ("replica-a", "replica-b")


METRICS = """# HELP afina_adapter_loads Loads.
# TYPE afina_adapter_loads gauge
afina_adapter_loads 3.0
# HELP afina_requests_total Requests.
# TYPE afina_requests_total counter
afina_requests_total{route="/predict",status="200"} 2.0
"""


async def tells(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/plain; version=0.0.4"), (answers.REPLICA, replica.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": METRICS.encode()})


def samples(found: Answered, family: str) -> dict[str, float]:
    """The values of a metric by replica."""
    families = {one.name: one for one in text_string_to_metric_families(found.body.decode())}
    return {one.labels["replica"]: one.value for one in families[family].samples}


@pytest.mark.usefixtures("two")
def test_metrics_are_those_of_all_replicas_each_with_its_name() -> None:
    serve = FakeServe([tells])
    found = ask(serve, "/metrics", b"", "GET")
    assert sorted(one.replica for one in serve.handed) == ["replica-a", "replica-b"]
    assert samples(found, "afina_adapter_loads") == {"replica-a": 3.0, "replica-b": 3.0}
    assert samples(found, "afina_requests") == {"replica-a": 2.0, "replica-b": 2.0}
    assert samples(found, "afina_replica_up") == {"replica-a": 1.0, "replica-b": 1.0}


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("late", [False, True])
def test_a_replica_that_does_not_answer_is_down_in_the_metrics_and_is_not_asked_once_it_is_late(late: bool) -> None:
    async def one(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        await (dies if replica == "replica-a" else tells)(replica, scope, receive, send)

    affinity.PROXY.late = frozenset({"replica-a"} if late else ())
    serve = FakeServe([one])
    found = ask(serve, "/metrics", b"", "GET")
    assert samples(found, "afina_replica_up") == {"replica-a": 0.0, "replica-b": 1.0}
    assert samples(found, "afina_adapter_loads") == {"replica-b": 3.0}
    assert len(serve.handed) == 2 - late


def health(ready: bool) -> Behaviour:
    async def tells_ready(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (answers.REPLICA, replica.encode())]
        await send({"type": "http.response.start", "status": 200 if ready else 503, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"ready": ready}).encode()})

    return tells_ready


@pytest.mark.usefixtures("two")
def test_the_cluster_is_ready_if_one_replica_is_ready() -> None:
    for path in ("/health", "/health/ready", "/v2/health/ready"):
        assert ask(FakeServe([health(False), health(True)]), path, b"", "GET").status == 200
        assert ask(FakeServe([health(False)]), path, b"", "GET").status == 503
        assert ask(FakeServe([dies]), path, b"", "GET").status == 503


@pytest.mark.usefixtures("two")
def test_readiness_does_not_wait_for_a_replica_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "ASKING", 0.2)
    monkeypatch.setattr(proxy, "ASKING_READY", 0.5)

    async def one(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        await (hangs if replica == "replica-a" else health(True))(replica, scope, receive, send)

    def answered(serve: FakeServe) -> tuple[int, float]:
        began = meter.now()
        found = ask(serve, "/health/ready", b"", "GET")
        return found.status, meter.now() - began

    status, seconds = answered(FakeServe([one]))
    assert (status, seconds < 0.5) == (200, True)  # another replica is ready
    affinity.PROXY.late = frozenset()
    status, seconds = answered(FakeServe([hangs]))
    assert (status, 0.5 <= seconds < 5) == (503, True)
    assert affinity.PROXY.late == {"replica-a", "replica-b"}
    serve = FakeServe([accepts])
    assert ask(serve, "/health/ready", b"", "GET").status == 503
    assert ask(serve, "/metrics", b"", "GET").status == 503
    assert serve.handed == []  # late replicas are not asked


@pytest.mark.usefixtures("two")
def test_readiness_does_not_wait_for_a_replica_that_hangs_in_the_middle_of_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "ASKING_READY", 0.05)

    async def half(replica: str, scope: Scope, receive: Receive, send: Send) -> None:
        await dies_after(b"application/json", b"{")(replica, scope, receive, send)
        await asyncio.Event().wait()

    assert ask(FakeServe([half]), "/health/ready", b"", "GET").status == 503


def test_without_a_replica_the_proxy_lives_and_is_not_ready() -> None:
    serve = FakeServe([accepts])
    paths = ("/health/live", "/health", "/health/ready", "/metrics")
    assert [ask(serve, path, b"", "GET").status for path in paths] == [200, 503, 503, 503]
    assert serve.handed == []


def test_lines_that_a_dying_replica_leaves_unanswered_end_with_the_line_to_send_again() -> None:
    serve = FakeServe([dies_after(b"application/x-ndjson", b'{"label": "good"}\n'), accepts])
    found = ask(serve, "/bulk", b'{"text": "a"}\n{"text": "b"}\n', query=b"model=acme/reviews")
    first, last = found.body.decode().splitlines()
    assert json.loads(first) == {"label": "good"}
    assert json.loads(last)["kind"] == "unavailable"
    assert (found.complete, len(serve.handed)) == (True, 1)


def test_a_bounded_number_of_lines_is_ahead_of_their_answers() -> None:
    async def measured() -> tuple[int, int]:
        received = 0

        async def receive() -> Message:
            nonlocal received
            received += 1
            return {"type": "http.request", "body": b"{}\n" * 64, "more_body": True}

        async def send(message: Message) -> None:
            pass

        window = LineWindow(receive, send, LIMITS)

        async def reads() -> None:
            while True:
                await window.receive()

        reading = asyncio.create_task(reads())
        await asyncio.sleep(0.05)
        before = received
        await window.send({"type": "http.response.body", "body": b"{}\n" * 64, "more_body": True})
        await asyncio.sleep(0.05)
        reading.cancel()
        return before, received

    assert asyncio.run(measured()) == (AHEAD, AHEAD + 1)  # each message has as many lines as a replica's window
