"""ASGI middleware in Ray Serve's HTTP proxies, which sends a request to another replica if its replica dies or hangs.

Ray Serve itself repeats a request only until a replica has accepted the request. This middleware reads the body of a
request (except of `/bulk`) before it forwards the request, so that it can repeat the request, and can find the
request's model for the router. A request is repeated only if no byte of its response was sent to the client, and if the
request changes nothing.

Each HTTP proxy calls the function `middlewares`, because the environment variable in `CALLBACK` names the function.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPMethod

from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afina import meter
from afina.server import routes
from afina.server.ray_serve import affinity, answers
from afina.server.ray_serve.affinity import Attempt, RequestLimits

CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "afina.server.ray_serve.proxy.middlewares"}
"""The environment variable of Ray Serve's proxies that names the function which returns their middleware."""

HEAD_BYTES = 16 << 10  # of header names and values, as in the server without Ray
BUFFERED = 256 << 20  # bytes of request bodies that a proxy keeps in memory at a time
PLACING = 30.0  # seconds until a replica that responds must have accepted a request
LOOKS = 0.5  # seconds between two checks whether the replica of a request still responds
TRIES, PAUSE = 4, 0.1  # the second attempt waits for `PAUSE` seconds, and each further one for `PAUSE` seconds more
ASKING, ASKING_READY = 5.0, 0.9  # seconds for the responses of all replicas: metrics and counts, and readiness
AHEAD = 4  # times `Settings.window` unanswered lines; above 1, so that the replica never waits for lines
SERVE = frozenset({"/-/healthz", "/-/routes"})  # the only paths that bypass the middleware: Ray Serve answers them
REQUEST = "afina.request"  # the key, in an ASGI scope, of the request id for the client, the log and traces
READS = (HTTPMethod.GET, HTTPMethod.HEAD)
LIVE = (routes.LIVE, routes.KSERVE_LIVE)
READY = (routes.READY, routes.KSERVE_READY, routes.VLLM_HEALTH)

COUNTED = {routes.SHADOW: answers.summed_shadows, routes.DRIFT: answers.summed_answers}

CONTROLS = frozenset(
    {
        b"x-request-id",
        answers.CLIENT_ID,
        b"x-session-id",
        b"serve-session-id",
        b"serve-multiplexed-model-id",
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
    }
)
"""The request headers with which any client could control Ray Serve, which the proxy removes."""

LATE = "no server was free in time. Try again."
CHANGED = (
    "the server that got the change ended or does not respond. Look whether the change was made before you send it "
    "again."
)

_log = logging.getLogger("ray.serve")


@dataclass(eq=False)
class Collected:
    """A replica's response that the proxy keeps in memory and does not forward."""

    status: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytearray = field(default_factory=bytearray)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
        else:
            self.body += message.get("body", b"")


class ClientEnd:
    """A watch on whether the client has closed its connection, for a request whose body was read."""

    def __init__(self, receive: Receive) -> None:
        self._gone = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    @property
    def gone(self) -> bool:
        return self._gone.is_set()

    def receiving(self, body: bytes) -> Receive:
        """Return an ASGI `receive` function for one attempt to send the request."""
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await self._gone.wait()
            return {"type": "http.disconnect"}

        return receive

    def close(self) -> None:
        self._watching.cancel()


class LineWindow:
    """The ASGI functions `receive` and `send` of a `/bulk` request, with a limit on the lines that are not answered.

    The response has one line for each non-empty line of the request's body.
    """

    def __init__(self, receive: Receive, send: Send, limits: RequestLimits) -> None:
        self._receive, self._send = receive, send
        self._lines_ahead, self._bytes = AHEAD * limits.window, limits.body_bytes
        self._lines: deque[int] = deque()
        self._rest = b""
        self._room = asyncio.Event()
        self.gone = False

    @property
    def _full(self) -> bool:
        return len(self._lines) >= self._lines_ahead or (bool(self._lines) and sum(self._lines) >= self._bytes)

    async def receive(self) -> Message:
        """Return the next ASGI message of the request, once fewer lines than the limit are unanswered."""
        while self._full:
            self._room.clear()
            await self._room.wait()
        message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        *lines, self._rest = (self._rest + message.get("body", b"")).split(b"\n")
        if not message.get("more_body", False):
            lines.append(self._rest)
            self._rest = b""
        self._lines.extend(len(line) for line in lines if line.strip())
        if len(self._rest) > self._bytes:  # the replica refuses such a line and reads no further
            self._rest = b"-"
        return message

    async def send(self, message: Message) -> None:
        for _ in range(message.get("body", b"").count(b"\n")):
            if self._lines:
                self._lines.popleft()
        self._room.set()
        await self._send(message)


class RepeatingProxy:
    """The ASGI middleware that repeats requests. `app`: Ray Serve's HTTP proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] != "http" or scope["path"] in SERVE:
            await self._app(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, reads = routes.route_of(scope["path"]), scope["method"] in READS
        scope = {**scope, REQUEST: routes.id_of(scope["headers"])}
        send = _identified(send, scope[REQUEST])
        if (wrong := _wrong_head(scope)) is not None:
            await wrong(scope, receive, send)
            return
        if route.streams and not reads:
            await self._stream(scope, receive, send)
            return
        if route in LIVE and reads:
            await JSONResponse({"live": True}, headers=routes.ALWAYS)(scope, receive, send)
            return
        body = bytearray()
        try:
            refusal = await self._read(scope, receive, body)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            client = ClientEnd(receive)
            try:
                if reads and route in (*READY, routes.EXPOSITION, *COUNTED):
                    await self._of_all(scope, client, send)
                else:
                    await self._repeated(scope, client, bytes(body), send)
            finally:
                client.close()
        finally:
            self._buffered -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> Response | None:
        """Read a request's body into `body`. Return an error response if the body is too large or too slow, else None.

        A body whose Content-Length is too large is not read, because a replica refuses it after checking the key.
        """
        length = answers.header(scope["headers"], b"content-length") or b"0"
        limits = affinity.PROXY.limits
        if not length.isdigit() or int(length[:20]) > limits.body_bytes:
            return None
        more = True
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.body_seconds):
                while more:
                    message = await receive()
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    body += piece
                    self._buffered += len(piece)
                    if len(body) > limits.body_bytes:
                        text = f"a request may have at most {limits.body_bytes} bytes."
                        return answers.refusal(scope["path"], 413, "too_large", text)
                    if self._buffered > BUFFERED:
                        return answers.unavailable(scope["path"], LATE)
        return answers.refusal(scope["path"], 408, "slow", "the request did not arrive in time.") if more else None

    async def _repeated(self, scope: Scope, client: ClientEnd, body: bytes, send: Send) -> None:
        """Send a request to one replica after the other until a replica answers."""
        path, key, request = scope["path"], _key(scope, body), secrets.token_hex(8)
        repeats = scope["method"] in READS or routes.route_of(path).repeats
        until = meter.now() + PLACING
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE * number)
            attempt = Attempt(key, repeats)
            await self._try(_scope(scope, request), client.receiving(body), send, attempt, until)
            if attempt.complete or client.gone:
                return
            if attempt.started:
                await _end(path, attempt, send)
                return
            if not repeats and attempt.sent is not None:
                await answers.refusal(path, 502, "failed", CHANGED)(scope, client.receiving(b""), send)
                return
            if attempt.sent is None or meter.now() >= until:
                await answers.unavailable(path, LATE)(scope, client.receiving(b""), send)
                return
            _log.info(f"Request {scope[REQUEST]}: replica {attempt.sent} did not answer. Trying another replica.")
        await answers.unavailable(path, answers.BROKEN)(scope, client.receiving(b""), send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a `/bulk` request, whose body is read while the request is being answered."""
        attempt = Attempt(_key(scope), repeats=False)
        window, until = LineWindow(receive, send, affinity.PROXY.limits), meter.now() + PLACING
        await self._try(_scope(scope, secrets.token_hex(8)), window.receive, window.send, attempt, until)
        if attempt.started and not attempt.complete:
            await _end(scope["path"], attempt, send)
        elif not attempt.started and not window.gone:
            await answers.unavailable(scope["path"], LATE)(scope, receive, send)

    async def _try(self, scope: Scope, receive: Receive, send: Send, attempt: Attempt, until: float) -> None:
        """Send a request to Ray Serve's proxy once, and forward the response if a replica (not Ray Serve) has made it.

        Returns without a response if no replica that responds has accepted the request at the time `until`, or if the
        request should be sent to another replica. A request with a target always ends at `until`.
        """
        request = answers.header(scope["headers"], answers.ID) or b""

        async def passing(message: Message) -> None:
            if message["type"] == "http.response.start":
                if answers.header(message["headers"], answers.REPLICA) is None:
                    return
                attempt.started = True
                attempt.media_type = answers.header(message["headers"], b"content-type") or b""
            if attempt.started:
                attempt.complete = answers.is_last(message)
                attempt.events += message.get("body", b"").count(b"\n\n")
                await send(message)

        affinity.PROXY.requests[request.decode()] = attempt
        going = asyncio.create_task(self._handed_on(scope, receive, passing))
        try:
            while not going.done():
                left = until - meter.now()
                await asyncio.wait({going}, timeout=min(LOOKS, left) if left > 0 else LOOKS)
                late = meter.now() >= until and not affinity.PROXY.is_computing(attempt)
                if attempt.started and attempt.target is None:
                    await asyncio.wait({going})
                elif late or attempt.lost or affinity.PROXY.has_another(attempt):
                    break
        finally:
            affinity.PROXY.requests.pop(request.decode(), None)
            going.cancel()
            await asyncio.wait({going})

    async def _handed_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - Serve's proxy may fail in any way; another replica may answer
            _log.warning(f"Request failed in the proxy: {type(error).__name__}")

    async def _of_all(self, scope: Scope, client: ClientEnd, send: Send) -> None:
        """Send a request to every replica that responds, and combine the responses.

        For readiness, one ready replica is enough. Metrics and counts are those of all replicas together.
        """
        path, names = scope["path"], affinity.PROXY.replicas
        route = routes.route_of(path)
        until = meter.now() + (ASKING_READY if route in READY else ASKING)
        asking = {
            name: asyncio.create_task(self._of_one(scope, client, name, until)) for name in affinity.PROXY.responding
        }
        pending, enough = set(asking.values()), False
        try:
            while pending and not enough and (left := until - meter.now()) > 0:
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                enough = route in READY and any(task.result().status == 200 for task in done)
        finally:
            for task in asking.values():
                task.cancel()
        by_name = {name: task.result() for name, task in asking.items() if task.done() and task.result().status}
        good = {name: response for name, response in by_name.items() if response.status == 200}
        receive = client.receiving(b"")
        if not by_name:
            await answers.unavailable(path, LATE)(scope, receive, send)
        elif good and route is routes.EXPOSITION:
            await _metrics(good, names)(scope, receive, send)
        elif good and route in COUNTED:
            await _counts(path, good, names)(scope, receive, send)
        else:
            first = next(iter((good or by_name).values()))
            await send({"type": "http.response.start", "status": first.status, "headers": first.headers})
            await send({"type": "http.response.body", "body": bytes(first.body)})

    async def _of_one(self, scope: Scope, client: ClientEnd, name: str, until: float) -> Collected:
        """Send a request to one replica, and return its response, with status 0 if it does not answer in time."""
        attempt, collected = Attempt(target=name), Collected()
        get = _scope({**scope, "method": "GET"}, secrets.token_hex(8))
        await self._try(get, client.receiving(b""), collected, attempt, until)
        return collected if attempt.complete else Collected()


def _metrics(good: Mapping[str, Collected], names: Sequence[str]) -> Response:
    texts = {name: response.body.decode() for name, response in good.items()}
    media_type = answers.header(next(iter(good.values())).headers, b"content-type") or b"text/plain"
    silent = [name for name in names if name not in good]
    return Response(answers.merged_metrics(texts, silent), headers={"Content-Type": media_type.decode()})


def _counts(path: str, good: Mapping[str, Collected], names: Sequence[str]) -> Response:
    """Return a response with the counts of all replicas together; 503 if a replica is missing or has other versions."""
    if missing := [name for name in names if name not in good]:
        return answers.unavailable(path, f"replica {', '.join(missing)} did not answer. Try again.")
    add = COUNTED[routes.route_of(path)]
    counts = add([json.loads(response.body) for response in good.values()])
    if counts is None:
        return answers.unavailable(path, "the replicas compare different versions at the moment. Try again.")
    return JSONResponse(counts, headers=routes.ALWAYS)


def _wrong_head(scope: Scope) -> Response | None:
    """Return an error response if a request's headers are too large or its path is invalid, else None."""
    path = scope["path"]
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
        return answers.refusal(path, 431, "too_large", f"the headers may have at most {HEAD_BYTES} bytes.")
    if not path.startswith("/"):
        return answers.refusal(path, 400, "invalid", "the path must begin with a slash.")
    return None


def _key(scope: Scope, body: bytes = b"") -> str | None:
    """Return the affinity key of the model that a request names."""
    model = affinity.model_of(scope["path"], scope["query_string"], body)
    return None if model is None else affinity.affinity_key(model)


def _scope(scope: Scope, request: str) -> Scope:
    """Return a copy of a request's ASGI scope for one attempt, without the headers that control Ray Serve.

    `request`: the id for Ray Serve, since two clients may give their requests the same id.
    """
    headers = [(name, value) for name, value in scope["headers"] if name.lower().replace(b"_", b"-") not in CONTROLS]
    ids = [(answers.ID, request.encode()), (answers.CLIENT_ID, scope[REQUEST].encode())]
    return {**scope, "headers": [*headers, *ids], "state": {}}


def _identified(send: Send, request: str) -> Send:
    """Return an ASGI `send` function that gives responses the client's request id, and no id of Ray Serve."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [(name, value) for name, value in message["headers"] if name.lower() != answers.ID]
            message = {**message, "headers": [*others, (answers.ID, request.encode())]}
        await send(message)

    return sending


async def _end(path: str, attempt: Attempt, send: Send) -> None:
    """End a response whose replica died with an error, or, if its format allows none, close the connection."""
    if (last := answers.broken_end(path, attempt.media_type, attempt.events)) is not None:
        await send({"type": "http.response.body", "body": last})


def middlewares() -> list[Middleware]:
    return [Middleware(RepeatingProxy)]
