"""Calls of clients: from an HTTP request to the core, in a thread pool that clients share fairly.

Store lookups and adapter loading run in the pool, so that one client cannot block the others.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPMethod
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Depends, Response
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.types import Receive, Scope

from afina import meter
from afina.errors import AfinaError
from afina.predicting.reading import Truncation
from afina.server.core import LOADING, Core
from afina.server.http.bodies import Body, parse_body
from afina.server.http.refusals import GONE, Refusal
from afina.server.receipts import RECEIPT
from afina.server.requests import AcceptedRequest, Check, GenerationOptions, ServedAnswer, Text, TextRequest, no_check
from afina.server.routes import OPENAI, route_of
from afina.store.api_keys import Key

THREADS, OF_A_CLIENT = 64, 12
"""Number of threads, and how many of them one client may use at a time."""

AT_ONCE = 1 << 14
"""Bodies of up to this many bytes are parsed on the event loop: starting a thread would take longer."""

SPARE = 1.0
"""Seconds added to a request's timeout, for texts that are being computed when it ends."""

TURN = 0.5
"""Seconds between looks whether the client has left, or the server is shutting down."""

LEFT = "afina.left"
"""Key in a request's scope: the connection was closed. Needed while an answer is sent and nothing is read."""

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")
Given = TypeVar("Given", bound=Body)


class RequestPool:
    """The threads for the requests of an event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="afina-desk")
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(OF_A_CLIENT))

    async def accept(
        self,
        accept: Callable[[Sequence[TextRequest], Check], Sequence[AcceptedRequest]],
        asked: Sequence[TextRequest],
        check: Check = no_check,
    ) -> Sequence[AcceptedRequest]:
        """Call `Core.accept` or `Core.begin` in the pool. If the caller is cancelled, the results are closed.

        Raises TimeoutError if `accept` takes too long, and its errors.
        """
        accepting: asyncio.Future[Sequence[AcceptedRequest]] | None = None
        try:
            async with asyncio.timeout(len(asked) * (LOADING + self._core.settings.timeout)):
                accepting = await self._begin(asked[0].key, lambda: accept(asked, check))
                return await asyncio.shield(accepting)
        except (asyncio.CancelledError, TimeoutError):
            if accepting is not None:
                accepting.add_done_callback(_closed)
            raise

    async def look(
        self, key: Key, what: Callable[Arguments, Found], *given: Arguments.args, **named: Arguments.kwargs
    ) -> Found:
        """Call a function that reads the store, in the pool. Raises TimeoutError if the store does not respond."""
        async with asyncio.timeout(self._core.settings.timeout):
            looking = await self._begin(key, lambda: what(*given, **named))
            return await asyncio.shield(looking)

    async def parse(self, key: Key, content: bytes, kind: type[Given]) -> Given:
        """Parse a body, in the pool if the body is large. Raises Refusal for an invalid body."""
        if len(content) <= AT_ONCE:
            return parse_body(content, kind)
        return await self.look(key, parse_body, content, kind)

    async def _begin(self, key: Key, what: Callable[[], Found]) -> asyncio.Future[Found]:
        """Begin a call in the pool. The client's thread is free once the call has ended, even if nobody waits."""
        place = self._places[key.client]
        await place.acquire()
        try:
            begun = asyncio.get_running_loop().run_in_executor(self._pool, what)
        except RuntimeError:  # closed
            place.release()
            raise
        begun.add_done_callback(lambda _: place.release())
        begun.add_done_callback(_forgotten)
        return begun

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _closed(accepting: asyncio.Future[Sequence[AcceptedRequest]]) -> None:
    if not accepting.cancelled() and accepting.exception() is None:
        for one in accepting.result():
            one.close()


def _forgotten(waiting: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future, because asyncio reports exceptions that were never retrieved."""
    with suppress(asyncio.CancelledError):
        waiting.exception()


class ClientWatch:
    """Watches whether the client of a request has closed its connection. `close` ends the watching.

    Args:
        receive: ASGI's `receive` of the request, after its body was read. None: the body is still being read; until
            `watch` is called, only a closed connection is noticed.
    """

    def __init__(self, scope: Scope, receive: Receive | None = None) -> None:
        self._scope = scope
        self._leaving: asyncio.Task[None] | None = None
        if receive is not None:
            self.watch(receive)

    def watch(self, receive: Receive) -> None:
        if self._leaving is None:
            self._leaving = asyncio.create_task(_until_left(receive))

    async def wait(self, waiting: asyncio.Future[Any], until: float | None = None) -> None:
        """Wait for a future's result.

        Args:
            until: time on the clock `meter.now` at which to stop waiting. None: no limit.

        Raises:
            Refusal: the client has closed the connection.
            TimeoutError: the time `until` is past.
        """
        both = [waiting, *([] if self._leaving is None else [self._leaving])]
        while not waiting.done():
            left = TURN if until is None else min(TURN, max(0.0, until - meter.now()))
            await asyncio.wait(both, timeout=left, return_when=FIRST_COMPLETED)
            if self._scope.get(LEFT) or (not waiting.done() and self._leaving is not None and self._leaving.done()):
                raise client_left()
            if not waiting.done() and until is not None and meter.now() >= until:
                raise TimeoutError

    def close(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()


def client_left() -> Refusal:
    """Return the refusal for a client that has closed the connection."""
    return Refusal(GONE, "gone", "the client closed the connection.")


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal_of(core: Core, what: str, error: Exception) -> Refusal:
    """Return the refusal for an error. An unexpected error (status 500) is counted and logged."""
    refusal = Refusal.of(error)
    if refusal.status == 500:
        core.failed(what, error)
    return refusal


class ClientCall:
    """A client's request, for the function that answers its route.

    Attributes:
        id: id of the request, in the response's headers too.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.core: Core = request.app.state.core
        self.pool: RequestPool = request.app.state.pool
        self.id: str = request.scope["afina.request"]

    @property
    def key(self) -> Key:
        """The client's API key. The middleware has checked that there is one, unless the route needs none."""
        found: Key = self.request.scope["afina.key"]
        return found

    async def body(self, kind: type[Given]) -> Given:
        """Return the request's body, parsed. Raises Refusal for an invalid body."""
        return await self.pool.parse(self.key, await self.request.body(), kind)

    @property
    def model_in_query(self) -> str | None:
        """The query's parameter `model`. Raises Refusal if the query has two."""
        found = self.request.query_params.getlist("model")
        if len(found) > 1:
            raise Refusal(422, "invalid", "`model` occurs twice in the query. Leave one out.")
        return found[0] if found else None

    async def look(self, what: Callable[Arguments, Found], *given: Arguments.args, **named: Arguments.kwargs) -> Found:
        """Call a function that reads the store, in the pool. Raises TimeoutError if the store does not respond."""
        return await self.pool.look(self.key, what, *given, **named)

    def asks(
        self,
        model: str,
        texts: Sequence[Text],
        generation: GenerationOptions | None = None,
        truncation: Truncation | None = None,
        user: str | None = None,
    ) -> TextRequest:
        """Return the client's request to a model. `user`: the end user; one version answers all their requests."""
        traced = self.request.scope.get("afina.traced")
        return TextRequest(self.key, model, texts, generation, truncation, user or self.id, traced)

    async def begin(self, asked: Sequence[TextRequest], check: Check = no_check) -> Sequence[AcceptedRequest]:
        """Accept requests, and put their texts into the queue. The caller must `close` the results."""
        return await self.pool.accept(self.core.begin, asked, check)

    def watch(self) -> ClientWatch:
        return ClientWatch(self.request.scope, self.request.receive)

    async def answers(
        self,
        model: str,
        texts: Sequence[Text],
        *,
        truncation: Truncation | None = None,
        check: Check = no_check,
    ) -> Sequence[ServedAnswer]:
        """Return the answers of one model to the texts.

        Raises Refusal if the client disconnects, and the errors of `check` and `Core.begin`.
        """
        (found,) = await self.together([self.asks(model, texts, truncation=truncation)], check)
        return found

    def answered(self, content: Any, found: Sequence[ServedAnswer]) -> Response:
        """Return answers as a JSON response, with the receipt in a header."""
        return JSONResponse(content, headers={RECEIPT: str(found[0].receipt)})

    async def together(self, asked: Sequence[TextRequest], check: Check = no_check) -> Sequence[Sequence[ServedAnswer]]:
        """Return the answers of several models, each to its texts, computed in one batch if there is room."""
        accepted = await self.begin(asked, check)
        try:
            flat = asyncio.gather(*(asyncio.wrap_future(future) for one in accepted for future in one.futures))
            computed: list[Any] = await self._awaited(flat, self.core.settings.timeout + SPARE)
            outcomes = iter(computed)
            return [[one.answer(index, next(outcomes)) for index in range(len(one.texts))] for one in accepted]
        finally:
            for one in accepted:
                one.close()

    async def each(self, asked: Sequence[TextRequest]) -> Sequence[Sequence[ServedAnswer] | Refusal]:
        """Return the answers of several models. A model that fails gives a Refusal in its place; the others answer."""

        async def one(request: TextRequest) -> Sequence[ServedAnswer] | Refusal:
            try:
                (accepted,) = await self.begin([request])
                try:
                    outcomes = await asyncio.gather(*map(asyncio.wrap_future, accepted.futures))
                    return [accepted.answer(index, outcome) for index, outcome in enumerate(outcomes)]
                finally:
                    accepted.close()
            except (AfinaError, TimeoutError) as error:
                return refusal_of(self.core, "page", error)

        return await self._awaited(asyncio.gather(*map(one, asked)), LOADING + self.core.settings.timeout + SPARE)

    async def _awaited(self, waiting: asyncio.Future[Found], seconds: float) -> Found:
        """Wait for the futures' results. If the client disconnects, the rest is not computed."""
        watch = self.watch()
        try:
            await watch.wait(waiting, meter.now() + seconds)
            return waiting.result()
        finally:
            watch.close()
            if not waiting.done():
                waiting.add_done_callback(_forgotten)
                waiting.cancel()


async def _call_of(request: Request) -> ClientCall:
    """Return the call of a request. Raises Refusal for a query parameter that the route does not describe."""
    if request.method not in (HTTPMethod.GET, HTTPMethod.HEAD) and request.query_params:
        route = request.scope["route"]
        if route_of(request.scope["path"]).protocol is not OPENAI:
            described = (route.openapi_extra or {}).get("parameters", ())
            _check_query(request, {one["name"] for one in described if one["in"] == "query"})
    return ClientCall(request)


def _check_query(request: Request, known: Set[str]) -> None:
    for name in request.query_params:
        if name not in known:
            shown = name[:40].encode("ascii", "backslashreplace").decode()
            message = f"`{shown}`: this route has no such parameter in the query. Leave it out, or give it in the body."
            raise Refusal(422, "unsupported", message)


Called = Annotated[ClientCall, Depends(_call_of)]
"""The argument of a function that answers a route."""
