"""Asking: from a request to the core and back, for as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request

from afina.errors import AfinaError
from afina.server.core import LOADING, Core
from afina.server.http.bodies import Body
from afina.server.http.desk import Desk
from afina.server.http.refusal import GONE, Refusal
from afina.server.requests import AcceptedRequest, ServedAnswer, Text
from afina.store.keys import Key

Made = TypeVar("Made")
Given = TypeVar("Given", bound=Body)

SPARE = 1.0
"""Seconds beyond the time of what waits, for what is being computed when that is over."""


def core_of(request: Request) -> Core:
    """The core that a request is for."""
    found: Core = request.app.state.core
    return found


def desk_of(request: Request) -> Desk:
    """Where it waits for what takes the store."""
    found: Desk = request.app.state.desk
    return found


def key_of(request: Request) -> Key:
    """Whose key it came with; the gate has seen to it that there is one."""
    found: Key = request.scope["afina.key"]
    return found


async def given(request: Request, kind: type[Given]) -> Given:
    """A request's body as a model's fields. Raises Refusal."""
    return await desk_of(request).parse(key_of(request), await request.body(), kind)


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
            asked.append(await desk_of(request).ask(key, model, texts))
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
            asked = await desk_of(request).ask(key, model, texts)
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
