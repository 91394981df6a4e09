"""Calls from HTTP requests to the core, in a pool of threads that clients share fairly.

Store lookups and adapter loading happen in the pool, so that one client cannot block the others. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPMethod
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request

from afina.errors import AfinaError
from afina.predicting.reading import Truncation
from afina.server.core import LOADING, Core
from afina.server.http.errors import GONE, Refusal
from afina.server.http.schemas import Body, parse_body
from afina.server.requests import AcceptedRequest, GenerationOptions, ServedAnswer, Text
from afina.server.versions.canaries import STICKY
from afina.store.keys import Key

THREADS, OF_A_CLIENT = 64, 12
"""Number of threads, and how many of them one client may use at a time."""

AT_ONCE = 1 << 14
"""Bodies of up to this many bytes are parsed on the event loop: starting a thread would take longer."""

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")
Filled = TypeVar("Filled", bound=Body)


class RequestPool:
    """Threads for requests of one event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="afina-desk")
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(OF_A_CLIENT))

    async def ask(
        self,
        key: Key,
        model: str,
        texts: Sequence[Text],
        generation: GenerationOptions | None = None,
        truncation: Truncation | None = None,
    ) -> AcceptedRequest:
        """Call `Core.ask` in the pool. If the caller is cancelled, the result is released. Raises TimeoutError too."""
        sticky = STICKY.get()
        asking: asyncio.Future[AcceptedRequest] | None = None
        try:
            async with asyncio.timeout(LOADING + self._core.settings.timeout):
                asking = await self._begin(
                    key, lambda: self._core.ask(key, model, texts, generation, truncation, sticky)
                )
                return await asyncio.shield(asking)
        except (asyncio.CancelledError, TimeoutError):
            if asking is not None:
                asking.add_done_callback(_give_back)
            raise

    async def parse(self, key: Key, content: bytes, kind: type[Filled]) -> Filled:
        """Parse a body, in the pool if the body is large. Raises Refusal."""
        if len(content) <= AT_ONCE:
            return parse_body(content, kind)
        return await self.look(key, parse_body, content, kind)

    async def look(
        self, key: Key, what: Callable[Arguments, Found], *given: Arguments.args, **named: Arguments.kwargs
    ) -> Found:
        """Call another function that reads the store, in the pool. Raises TimeoutError if the store hangs."""
        async with asyncio.timeout(self._core.settings.timeout):
            looking = await self._begin(key, lambda: what(*given, **named))
            return await asyncio.shield(looking)

    async def _begin(self, key: Key, what: Callable[[], Found]) -> asyncio.Future[Found]:
        """Begin a call in the pool. The client's place is free once the call has ended, even if nobody waits for it."""
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
        """Stop the pool. Calls that have not begun are cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _give_back(asking: asyncio.Future[AcceptedRequest]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        asking.result().release()


Made = TypeVar("Made")
Given = TypeVar("Given", bound=Body)

SPARE = 1.0
"""Seconds added to a request's timeout, for texts that are being computed when it ends."""


def refusal_of(core: Core, what: str, error: Exception) -> Refusal:
    """Return the refusal for an error. An error that nobody foresaw (status 500) is counted and logged."""
    refusal = Refusal.of(error)
    if refusal.status == 500:
        core.failed(what, error)
    return refusal


def core_of(request: Request) -> Core:
    """Return the core of the server."""
    found: Core = request.app.state.core
    return found


def pool_of(request: Request) -> RequestPool:
    """Return the pool of the server."""
    found: RequestPool = request.app.state.pool
    return found


def key_of(request: Request) -> Key:
    """Return the key of the request. The gate has made sure that there is one."""
    found: Key = request.scope["afina.key"]
    return found


async def body_of(request: Request, kind: type[Given]) -> Given:
    """Return the request's body, parsed. Raises Refusal."""
    return await pool_of(request).parse(key_of(request), await request.body(), kind)


def model_in_query(request: Request) -> str | None:
    """Return the query's `model`. Raises Refusal if the query has two."""
    found = request.query_params.getlist("model")
    if len(found) > 1:
        raise Refusal(422, "invalid", "`model` occurs twice in the query. Leave one out.")
    return found[0] if found else None


async def check_query(request: Request) -> None:
    """Raise Refusal for a parameter in the query that a route with a body does not describe."""
    if request.method in (HTTPMethod.GET, HTTPMethod.HEAD):
        return
    described = (request.scope["route"].openapi_extra or {}).get("parameters", ())
    known = {one["name"] for one in described if one["in"] == "query"}
    for name in request.query_params:
        if name not in known:
            shown = name[:40].encode("ascii", "backslashreplace").decode()
            message = f"`{shown}`: this route has no such parameter in the query. Leave it out, or give it in the body."
            raise Refusal(422, "unsupported", message)


Check = Callable[[AcceptedRequest], object]
"""Raises an error for options that do not suit the model or its texts. Called before anything is computed."""


def _no_check(asked: AcceptedRequest) -> None:
    """Accept every request."""


async def answers(
    request: Request,
    model: str,
    texts: Sequence[Text],
    *,
    truncation: Truncation | None = None,
    check: Check = _no_check,
) -> Sequence[ServedAnswer]:
    """Return the answers of one model.

    Raises Refusal if the client disconnects, and the errors of `check`, `Core.ask` and `Core.submit`.
    """
    (found,) = await together(request, [(model, texts)], truncation, check)
    return found


async def together(
    request: Request,
    wanted: Sequence[tuple[str, Sequence[Text]]],
    truncation: Truncation | None = None,
    check: Check = _no_check,
) -> Sequence[Sequence[ServedAnswer]]:
    """Return the answers of several models, each to its texts. They are computed in one batch if there is room."""
    core, key = core_of(request), key_of(request)
    asked: list[AcceptedRequest] = []
    try:
        for model, texts in wanted:
            asked.append(await pool_of(request).ask(key, model, texts, truncation=truncation))
            check(asked[-1])
        futures = [core.submit(one) for one in asked]
        flat = [asyncio.wrap_future(future) for some in futures for future in some]
        computed: list[Any] = await _awaited(request, asyncio.gather(*flat), core.settings.timeout + SPARE)
        outcomes = iter(computed)
        return [[one.answer(index, next(outcomes)) for index in range(len(one.texts))] for one in asked]
    finally:
        for one in asked:
            one.release()


async def each(
    request: Request, wanted: Sequence[tuple[str, Sequence[Text]]]
) -> Sequence[Sequence[ServedAnswer] | Refusal]:
    """Return the answers of several models. A model that fails gives a Refusal in its place, and the others answer."""
    core, key = core_of(request), key_of(request)

    async def one(model: str, texts: Sequence[Text]) -> Sequence[ServedAnswer] | Refusal:
        try:
            asked = await pool_of(request).ask(key, model, texts)
            try:
                outcomes = await asyncio.gather(*map(asyncio.wrap_future, core.submit(asked)))
                return [asked.answer(index, outcome) for index, outcome in enumerate(outcomes)]
            finally:
                asked.release()
        except (AfinaError, TimeoutError) as error:
            return refusal_of(core, "page", error)

    waiting = asyncio.gather(*(one(model, texts) for model, texts in wanted))
    return await _awaited(request, waiting, LOADING + core.settings.timeout + SPARE)


async def _awaited(request: Request, waiting: asyncio.Future[Made], timeout: float) -> Made:
    """Wait for the outcome. If the client disconnects, the rest is not computed."""
    gone = asyncio.ensure_future(_gone(request))
    both: list[asyncio.Future[Any]] = [waiting, gone]
    try:
        await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if gone.done():
            raise Refusal(GONE, "gone", "the client closed the connection.")
        raise TimeoutError
    finally:
        gone.cancel()
        if not waiting.done():
            waiting.add_done_callback(_forgotten)
            waiting.cancel()


def _forgotten(waiting: asyncio.Future[Any]) -> None:
    """Retrieve the exception, because asyncio reports exceptions that were never retrieved."""
    with suppress(asyncio.CancelledError):
        waiting.exception()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
