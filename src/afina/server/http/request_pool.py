"""From a request to the core and back, for as long as its client waits, in a pool of threads that clients share fairly.

What is looked up, read and loaded for a request is done in the pool, so that no client keeps others from it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request

from afina.errors import AfinaError
from afina.server.core import LOADING, Core
from afina.server.http.errors import GONE, Refusal
from afina.server.http.schemas import Body, parse_body
from afina.server.requests import AcceptedRequest, ServedAnswer, Text
from afina.store.keys import Key

THREADS, OF_A_CLIENT = 64, 12
"""How many are served at a time, and how many of one client."""

AT_ONCE = 1 << 14
"""Bytes of a body that are read on the event loop: a thread would take longer to begin."""

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")
Filled = TypeVar("Filled", bound=Body)


class RequestPool:
    """On one event loop."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="afina-desk")
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(OF_A_CLIENT))

    async def ask(self, key: Key, model: str, texts: Sequence[Text]) -> AcceptedRequest:
        """`Core.ask`, beside others. Where nobody waits for it any more, what it found is given back."""
        async with self._places[key.client]:
            asking = asyncio.get_running_loop().run_in_executor(self._pool, self._core.ask, key, model, texts)
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                asking.add_done_callback(_give_back)
                raise

    async def parse(self, key: Key, content: bytes, kind: type[Filled]) -> Filled:
        """A body as a model's fields: beside the event loop where that takes more than a turn of it. Raises Refusal."""
        if len(content) <= AT_ONCE:
            return parse_body(content, kind)
        return await self.look(key, parse_body, content, kind)

    async def look(
        self, key: Key, what: Callable[Arguments, Found], *given: Arguments.args, **named: Arguments.kwargs
    ) -> Found:
        """Something else that takes the store, likewise."""
        async with self._places[key.client]:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: what(*given, **named))

    def close(self) -> None:
        """Serve nobody more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _give_back(asking: asyncio.Future[AcceptedRequest]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        asking.result().release()


Made = TypeVar("Made")
Given = TypeVar("Given", bound=Body)

SPARE = 1.0
"""Seconds beyond the time of what waits, for what is being computed when that is over."""


def core_of(request: Request) -> Core:
    """The core that a request is for."""
    found: Core = request.app.state.core
    return found


def pool_of(request: Request) -> RequestPool:
    """Where it waits for what takes the store."""
    found: RequestPool = request.app.state.pool
    return found


def key_of(request: Request) -> Key:
    """Whose key it came with; the gate has seen to it that there is one."""
    found: Key = request.scope["afina.key"]
    return found


async def body_of(request: Request, kind: type[Given]) -> Given:
    """A request's body as a model's fields. Raises Refusal."""
    return await pool_of(request).parse(key_of(request), await request.body(), kind)


def model_in_query(request: Request) -> str | None:
    """What `?model=` says. Raises Refusal where it is there twice."""
    found = request.query_params.getlist("model")
    if len(found) > 1:
        raise Refusal(422, "invalid", "`model` stands twice in the query. Leave one out.")
    return found[0] if found else None


async def answers(request: Request, model: str, texts: Sequence[Text]) -> Sequence[ServedAnswer]:
    """What a model says of texts. Raises Refusal where the client goes, what `Core.ask` and `Core.submit` do."""
    (found,) = await together(request, [(model, texts)])
    return found


async def together(request: Request, wanted: Sequence[tuple[str, Sequence[Text]]]) -> Sequence[Sequence[ServedAnswer]]:
    """What several models say, each of its texts; in the same batch, as far as there is room."""
    core, key = core_of(request), key_of(request)
    asked: list[AcceptedRequest] = []
    try:
        for model, texts in wanted:
            asked.append(await pool_of(request).ask(key, model, texts))
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
    """As `together`, where what keeps one model from answering keeps no other."""
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
            return Refusal.of(error)

    waiting = asyncio.gather(*(one(model, texts) for model, texts in wanted))
    return await _awaited(request, waiting, LOADING + core.settings.timeout + SPARE)


async def _awaited(request: Request, waiting: asyncio.Future[Made], timeout: float) -> Made:
    """What comes of it; nothing of it is computed any more where the client goes."""
    gone = asyncio.ensure_future(_gone(request))
    both: list[asyncio.Future[Any]] = [waiting, gone]
    try:
        await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if gone.done():
            raise Refusal(GONE, "gone", "the client has gone.")
        raise TimeoutError
    finally:
        gone.cancel()
        if not waiting.done():
            waiting.add_done_callback(_forgotten)
            waiting.cancel()


def _forgotten(waiting: asyncio.Future[Any]) -> None:
    """Look at what became of it, or asyncio tells of an error that nobody looked at."""
    with suppress(asyncio.CancelledError):
        waiting.exception()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
