"""Code that lets an HTTP request call the server's core in a thread pool, which all clients share."""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http import HTTPMethod
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Depends, Response
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.types import Receive, Scope

from afina import meter
from afina.engine.mixed_batches import Prediction
from afina.errors import AfinaError
from afina.predicting.reading import Truncation
from afina.server.administration import Administration
from afina.server.connections import LEFT
from afina.server.core import LOADING, Core
from afina.server.http.bodies import Body, parse_body
from afina.server.http.refusals import GONE, Refusal
from afina.server.metrics import FailedPart
from afina.server.receipts import RECEIPT
from afina.server.requests import AcceptedRequest, Check, GenerationOptions, ServedAnswer, Text, TextRequest, no_check
from afina.server.routes import OPENAI, route_of
from afina.store.api_keys import Key

THREADS, OF_A_CLIENT = 64, 12
"""The number of threads in a `RequestPool`, and the largest number of them that one client may use at a time."""

AT_ONCE = 1 << 14
"""The largest size in bytes of a body that is parsed on the event loop. For such a body, a thread would take longer."""

SPARE = 1.0
"""Seconds that are added to a request's timeout, so that texts which are being computed at its end are answered."""

TURN = 0.5  # seconds between checks whether the client has closed its connection, or the server is shutting down

UNANSWERED = "afina.unanswered"
"""The key, in a request's ASGI scope, of the number of texts that adapters did not answer since they were not sure."""

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")
Given = TypeVar("Given", bound=Body)


class RequestPool:
    """A thread pool in which the requests of one event loop call the core and read the store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="afina-desk")
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(OF_A_CLIENT))

    async def accept(
        self,
        accept: Callable[[Sequence[TextRequest], Check], Sequence[AcceptedRequest]],
        requests: Sequence[TextRequest],
        check: Check = no_check,
    ) -> Sequence[AcceptedRequest]:
        """Call `Core.accept` or `Core.begin` in the pool; a cancelled or late call closes its accepted requests."""
        accepting: asyncio.Future[Sequence[AcceptedRequest]] | None = None
        try:
            async with asyncio.timeout(len(requests) * (LOADING + self._core.settings.timeout)):
                accepting = await self._begin(requests[0].key, lambda: accept(requests, check))
                return await asyncio.shield(accepting)
        except (asyncio.CancelledError, TimeoutError):
            if accepting is not None:
                accepting.add_done_callback(_closed)
            raise

    async def look(
        self, key: Key, what: Callable[Arguments, Found], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Found:
        """Call a function that reads the store, in the thread pool. Raises TimeoutError if it takes too long."""
        async with asyncio.timeout(self._core.settings.timeout):
            looking = await self._begin(key, lambda: what(*arguments, **named))
            return await asyncio.shield(looking)

    async def parse(self, key: Key, content: bytes, kind: type[Given]) -> Given:
        """Parse a request's body, in the thread pool if the body is large. Raises Refusal for an invalid body."""
        if len(content) <= AT_ONCE:
            return parse_body(content, kind)
        return await self.look(key, parse_body, content, kind)

    async def _begin(self, key: Key, what: Callable[[], Found]) -> asyncio.Future[Found]:
        """Start a function in the pool once the client uses fewer than `OF_A_CLIENT` of its threads."""
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
        for request in accepting.result():
            request.close()


def _forgotten(waiting: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future, because asyncio logs exceptions that were never retrieved."""
    with suppress(asyncio.CancelledError):
        waiting.exception()


class ClientWatch:
    """A watch on a request's connection, which raises an error once the client has closed the connection.

    `receive` is the ASGI function of a request whose body was read. Without it, the watch uses the flag `LEFT`.
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
        """Wait for a future. Raises Refusal if the client has left.

        TimeoutError at the time `until` (`meter.now`).
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
    return Refusal(GONE, "gone", "the client closed the connection.")


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal_of(core: Core, what: FailedPart, error: Exception) -> Refusal:
    """Return the refusal for an exception. An unexpected one (status 500) is counted and logged with `what` failed."""
    refusal = Refusal.of(error)
    if refusal.status == 500:
        core.failed(what, error)
    return refusal


class ClientCall:
    """A client's request, with the methods that a route's function needs to answer it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.core: Core = request.app.state.core
        self.pool: RequestPool = request.app.state.pool
        self.id: str = request.scope["afina.request"]

    @property
    def key(self) -> Key:
        """The client's API key, which the middleware has checked. Do not use on a route that needs no key."""
        key: Key = self.request.scope["afina.key"]
        return key

    async def body(self, kind: type[Given]) -> Given:
        return await self.pool.parse(self.key, await self.request.body(), kind)

    def in_query(self, name: str) -> str | None:
        """Return the value of a query parameter, or None. Raises Refusal if the query has the parameter twice."""
        values = self.request.query_params.getlist(name)
        if len(values) > 1:
            raise Refusal.at(name, "occurs twice in the query. Leave one out.")
        return values[0] if values else None

    @property
    def administration(self) -> Administration:
        return Administration(self.core)

    async def look(
        self, what: Callable[Arguments, Found], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Found:
        return await self.pool.look(self.key, what, *arguments, **named)

    def asks(
        self,
        model: str,
        texts: Sequence[Text],
        generation: GenerationOptions | None = None,
        truncation: Truncation | None = None,
        user: str | None = None,
    ) -> TextRequest:
        """Return the client's texts and options as a request.

        One version answers all requests of the end user `user`.
        """
        traced = self.request.scope.get("afina.traced")
        return TextRequest(self.key, model, texts, generation, truncation, user or self.id, traced)

    async def begin(self, requests: Sequence[TextRequest], check: Check = no_check) -> Sequence[AcceptedRequest]:
        """Accept requests, and put their texts into the queue. The caller must `close` each accepted request."""
        return await self.pool.accept(self.core.begin, requests, check)

    def watch(self) -> ClientWatch:
        return ClientWatch(self.request.scope, self.request.receive)

    async def answers(
        self,
        model: str,
        texts: Sequence[Text],
        *,
        truncation: Truncation | None = None,
        each_token: bool = False,
        check: Check = no_check,
    ) -> Sequence[ServedAnswer]:
        """Return the answers of one model to the texts; with `each_token`, the outputs of all tokens."""
        request = replace(self.asks(model, texts, truncation=truncation), each_token=each_token)
        (answers,) = await self.together([request], check)
        return answers

    def answer_of(self, accepted: AcceptedRequest, index: int, outcome: Prediction | AfinaError) -> ServedAnswer:
        """Return the answer to text `index`, and count it for the log if not answered. Raises an `outcome` error."""
        answer = accepted.answer(index, outcome)
        if not answer.prediction.is_answered:
            self.request.scope[UNANSWERED] = self.request.scope.get(UNANSWERED, 0) + 1
        return answer

    def answered(self, content: Any, answers: Sequence[ServedAnswer]) -> Response:
        """Return a JSON response with `content`, and with the receipt of the first answer in a header."""
        return JSONResponse(content, headers={RECEIPT: str(answers[0].receipt)})

    async def together(
        self, requests: Sequence[TextRequest], check: Check = no_check
    ) -> Sequence[Sequence[ServedAnswer]]:
        """Return the answers of several models, each to its own texts, queued together.

        Any error fails the whole call.
        """
        accepted = await self.begin(requests, check)
        try:
            flat = asyncio.gather(*(asyncio.wrap_future(future) for request in accepted for future in request.futures))
            computed: list[Any] = await self._awaited(flat, self.core.settings.timeout + SPARE)
            outcomes = iter(computed)
            return [
                [self.answer_of(request, index, next(outcomes)) for index in range(len(request.texts))]
                for request in accepted
            ]
        finally:
            for request in accepted:
                request.close()

    async def _awaited(self, waiting: asyncio.Future[Found], seconds: float) -> Found:
        """Return the results of a future, or raise TimeoutError; Refusal, after cancelling it, if the client leaves."""
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
    """Return the `ClientCall` of an HTTP request.

    Raises Refusal for an unknown query parameter (not for OpenAI's routes, nor if a GET route has no parameters).
    """
    if request.query_params and route_of(request.scope["path"]).protocol is not OPENAI:
        route = request.scope["route"]
        described = (route.openapi_extra or {}).get("parameters", ())
        known = {one["name"] for one in described if one["in"] == "query"}
        known |= {one.alias for one in route.dependant.query_params}
        if known or request.method not in (HTTPMethod.GET, HTTPMethod.HEAD):
            _check_query(request, known)
    return ClientCall(request)


def _check_query(request: Request, known: Set[str]) -> None:
    for name in request.query_params:
        if name not in known:
            shown = name[:40].encode("ascii", "backslashreplace").decode()
            problem = "this route has no such parameter in the query. Leave it out, or give it in the body."
            raise Refusal.at(shown, problem, "unsupported")


Called = Annotated[ClientCall, Depends(_call_of)]
"""The type of the argument of a function that answers a route; FastAPI fills in the `ClientCall`."""
