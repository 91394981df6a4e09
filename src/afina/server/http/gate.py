"""The ASGI middleware that every request passes: it checks key, scope, rate and body size, and logs the request.

`server/routes.py` has the scope that each path needs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afina import meter
from afina.errors import Busy
from afina.server import logs_and_traces
from afina.server.connections import ADMIT
from afina.server.core import Core
from afina.server.http import encodings
from afina.server.http.calls import UNANSWERED
from afina.server.http.refusals import GONE, Refusal, error_response
from afina.server.logs_and_traces import RareLine, TracedRequest
from afina.server.routes import ALWAYS, ANY_SCOPE, DESCRIPTION, REQUEST_ID, Route, id_of, route_of
from afina.store.api_keys import ADMIN, METRICS, Key


class TokenBucket:
    """A rate limit: `rate` tokens a second are added up to `burst`; a caller waits at most `longest` seconds."""

    def __init__(self, rate: float, burst: float, longest: float, clock: Callable[[], float] = meter.now) -> None:
        self._rate, self._burst, self._longest, self._clock = rate, burst, longest, clock
        self._left, self._at = burst, clock()

    def wait(self, amount: float) -> float:
        """Take `amount` tokens from the bucket. Return the seconds that the caller must wait for the tokens."""
        now = self._clock()
        left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._left, self._at = max(left, -self._longest * self._rate), now
        return max(0.0, -self._left / self._rate)

    @property
    def rested(self) -> bool:
        return self._left + (self._clock() - self._at) * self._rate >= self._burst


class TokenBuckets:
    """A token bucket for each name, such as a client's. Full buckets are deleted. For one event loop only."""

    def __init__(self, rate: float, burst: float, longest: float) -> None:
        self._made = rate, burst, longest
        self._buckets: dict[str, TokenBucket] = {}

    async def take(self, name: str, amount: float) -> float:
        """Wait until `amount` tokens can be taken from the bucket of `name`. Return the seconds that were waited."""
        if name not in self._buckets:
            self._buckets = {one: bucket for one, bucket in self._buckets.items() if not bucket.rested}
            self._buckets[name] = TokenBucket(*self._made)
        if seconds := self._buckets[name].wait(amount):
            await asyncio.sleep(seconds)
        return seconds


REFUSED = 50
"""The number of requests without a valid key that are answered without delay, per second.

The responses to further requests without a valid key are delayed by at most one second.
"""

SLOWED = 500
"""The largest number of requests without a valid key whose responses are delayed at the same time.

A connection whose response is delayed can be closed during the delay.
"""

_ALWAYS = [(name.lower().encode(), value.encode()) for name, value in ALWAYS.items()]

UNAUTHORIZED = 401  # the HTTP status of the response to a request without a valid key


def _framed(scope: Scope) -> None:
    """Raise Refusal for a body of ambiguous length: Content-Length with Transfer-Encoding (RFC 9112, section 6.1)."""
    names = [name for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and (b"content-length" in names or scope["http_version"] == "1.0"):
        message = "Send either Content-Length or Transfer-Encoding, not both. Transfer-Encoding needs HTTP/1.1."
        raise Refusal(400, "invalid", message, {"Connection": "close"})


@dataclass(eq=False)
class _Seen:
    status: int = 0
    key: Key | None = None
    traced: TracedRequest | None = None


class Gate:
    """The ASGI middleware that checks every request before the application gets the request."""

    def __init__(self, app: ASGIApp, core: Core) -> None:
        self._app, self._core = app, core
        self._asking: Counter[str] = Counter()
        settings = core.settings
        self._buckets = TokenBuckets(settings.bytes_a_second, 2 * settings.bytes_a_second, settings.body_seconds)
        self._refusals = TokenBuckets(settings.refusals_a_second, 4 * settings.refusals_a_second, 2.0)
        self._strangers, self._slowed = TokenBucket(REFUSED, REFUSED, 1.0), 0
        self._strangers_lines: dict[tuple[str, int], RareLine] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, seen, route = meter.now(), _Seen(), route_of(scope["path"])
        request = scope.setdefault("afina.request", id_of(scope["headers"]))  # a proxy may have given it
        if self._core.traces is not None:
            seen.traced = scope["afina.traced"] = self._core.traces.begin(request)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and scope["method"] == "HEAD":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                if seen.key is not None and message["status"] >= 400:
                    await self._refusals.take(seen.key.client, 1)
                seen.status = message["status"]
                message["headers"] = [*message.get("headers", []), (REQUEST_ID, request.encode()), *_ALWAYS]
            await send(message)

        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            _framed(scope)
            scope["afina.key"] = inner["afina.key"] = seen.key = self._admitted(scope, route)
            if route.method is None:  # here, because the application's patterns of paths match a last line break too
                raise Refusal.of_path(scope["path"])
            bounded = self._streamed if route.streams else self._bounded
            whole = bounded(scope, receive)
            with self._counted(seen.key):
                await self._app(inner, whole, sending)
        except Refusal as refusal:
            self._core.metrics.refused.labels(refusal.kind).inc()
            if refusal.status == UNAUTHORIZED:
                await self._slow()
            await error_response(route, refusal)(scope, receive, sending)
        except ClientDisconnect:
            seen.status = seen.status or GONE
            self._core.metrics.refused.labels("gone").inc()
        except Exception as error:  # noqa: BLE001 - the message may hold a text, so only type and place are logged
            unforeseen, at = logs_and_traces.error_place(error)
            logs_and_traces.note("request failed", logging.ERROR, request=request, unforeseen=unforeseen, at=at)
            if not seen.status:
                await error_response(route, Refusal.of(error))(scope, receive, sending)
        finally:
            self._note(inner, scope["method"], route, seen, meter.now() - started)

    def _admitted(self, scope: Scope, route: Route) -> Key | None:
        """Return the API key of a request; None: the path needs no key.

        Raises Refusal also if clients have no connection left.
        """
        admit, key = scope.get(ADMIT, lambda known: True), None
        try:
            key = self._key(scope, route)
        finally:
            has_place = admit(known=key is not None)
        if not has_place:
            again = {"Retry-After": "1", "Connection": "close"}
            raise Refusal(503, "unavailable", "the server has no connection left. Try again.", again)
        return key

    def _key(self, scope: Scope, route: Route) -> Key | None:
        wanted, public = route.scope, self._core.settings.public_description
        if wanted is None or (public and scope["path"] in DESCRIPTION.paths):
            return None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, secret = (given[0] if len(given) == 1 else b"").decode("latin-1").partition(" ")
        try:
            key = self._core.tenants.key_of(secret.strip())
        except Busy as error:
            raise Refusal(503, "unavailable", str(error), {"Retry-After": "1"}) from None
        if key is None or kind.lower() != "bearer":
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Refusal(UNAUTHORIZED, "unauthorized", "a valid key is needed: Authorization: Bearer KEY.", challenge)
        if wanted not in (ANY_SCOPE, *key.scopes) and not (wanted == METRICS and ADMIN in key.scopes):
            raise Refusal(403, "forbidden", f"This key lacks the scope `{wanted}`.")
        return key

    @contextmanager
    def _counted(self, key: Key | None) -> Iterator[None]:
        """Count a client's open request in the `with` block. Raises Refusal beyond `Settings.at_once` of them."""
        if key is None:
            yield
            return
        if self._asking[key.client] >= self._core.settings.at_once:
            raise Refusal(
                429, "overloaded", "too many requests are open already. Try again later.", {"Retry-After": "1"}
            )
        self._asking[key.client] += 1
        try:
            yield
        finally:
            self._asking[key.client] -= 1
            if not self._asking[key.client]:
                del self._asking[key.client]

    async def _slow(self) -> None:
        """Delay the response without a valid key after `REFUSED` in a second, to leave the processor to others."""
        seconds = self._strangers.wait(1)
        if seconds and self._slowed < SLOWED:
            self._slowed += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                self._slowed -= 1

    async def _taken(self, scope: Scope, message: Message) -> float:
        """Wait until the client's limit of bytes per second allows the body of a message. Return the seconds waited."""
        key, size = scope["afina.key"], len(message.get("body", b""))
        return 0.0 if key is None else await self._buckets.take(key.client, size)

    def _streamed(self, scope: Scope, receive: Receive) -> Receive:
        if encodings.coding_of(scope["headers"]) is not None:
            raise Refusal(415, "unsupported", "lines cannot be compressed. Send them without Content-Encoding.")

        async def receiving() -> Message:
            message = await receive()
            await self._taken(scope, message)
            return message

        return receiving

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Return an ASGI `receive` that expands a compressed body and limits its size and duration. Raises Refusal."""
        settings, state = self._core.settings, {"bytes": 0, "over": False, "until": 0.0}
        length = dict(scope["headers"]).get(b"content-length", b"0")
        large = Refusal(413, "too_large", f"a request may have at most {settings.body_bytes} bytes.")
        if not length.isdigit() or int(length[:20]) > settings.body_bytes:
            raise large
        state["until"] = meter.now() + settings.body_seconds
        coded = any(name == b"content-encoding" for name, _ in scope["headers"])
        coding = encodings.coding_of(scope["headers"]) if coded else None
        expansion = None if coding is None else encodings.Expansion(coding, settings.body_bytes)

        async def receiving() -> Message:
            if state["over"]:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, state["until"] - meter.now()))
            except TimeoutError:
                raise Refusal(408, "slow", "the request did not arrive in time.") from None
            state["bytes"] += len(message.get("body", b""))
            state["over"] = not message.get("more_body", False)
            if state["bytes"] > settings.body_bytes:
                raise large
            if expansion is not None and message["type"] == "http.request":
                body = expansion.piece(message.get("body", b""), last=bool(state["over"]))
                message = {**message, "body": body}
            state["until"] += await self._taken(scope, message)
            return message

        return receiving

    def _note(self, scope: Scope, method: str, route: Route, seen: _Seen, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "none")  # the template: label values are bounded
        self._core.metrics.requests.labels(path, str(seen.status)).inc()
        self._core.metrics.latency.labels(path).observe(seconds)
        if seen.key is not None and route.counts:
            self._core.metrics.usage.requested(seen.key.client)
        if self._core.traces is not None and seen.traced is not None:
            self._core.traces.end(seen.traced, method, path, seen.status)
        if (key := seen.key) is None:  # no line for each of them, since strangers can send any number
            self._note_stranger(scope, path, seen.status)
            return
        logs_and_traces.note(
            "request",
            request=scope["afina.request"],
            method=method[:16],
            route=path,
            status=seen.status,
            seconds=round(seconds, 6),
            client=key.client,
            key=key.id,
            **({"unanswered": scope[UNANSWERED]} if UNANSWERED in scope else {}),
        )

    def _note_stranger(self, scope: Scope, path: str, status: int) -> None:
        peer, _ = scope.get("client") or (None, None)
        if (line := self._strangers_lines.get((path, status))) is None:
            refused = "requests without a valid key were refused"
            said = refused if status == UNAUTHORIZED else "requests that need no key"
            line = self._strangers_lines[path, status] = RareLine(said, route=path, status=status)
        line.note(request=scope["afina.request"], peer=peer)
