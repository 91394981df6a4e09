"""Desk: where requests wait for what is looked up, read and loaded for them, so that no client keeps others from it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from afina.server.core import Core
from afina.server.http.bodies import Body, parsed
from afina.server.requests import AcceptedRequest, Text
from afina.store.keys import Key

THREADS, OF_A_CLIENT = 64, 12
"""How many are served at a time, and how many of one client."""

AT_ONCE = 1 << 14
"""Bytes of a body that are read on the event loop: a thread would take longer to begin."""

Given = ParamSpec("Given")
Found = TypeVar("Found")
Filled = TypeVar("Filled", bound=Body)


class Desk:
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
            return parsed(content, kind)
        return await self.look(key, parsed, content, kind)

    async def look(self, key: Key, what: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found:
        """Something else that takes the store, likewise."""
        async with self._places[key.client]:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: what(*given, **named))

    def close(self) -> None:
        """Serve nobody more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _give_back(asking: asyncio.Future[AcceptedRequest]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        asking.result().release()
