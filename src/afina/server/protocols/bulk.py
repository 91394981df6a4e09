"""The response to `POST /bulk`, which answers JSON lines in their order while they arrive, in bounded memory."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from pydantic import Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from afina import meter
from afina.errors import Busy, Overloaded
from afina.server import routes
from afina.server.http.bodies import Body, Readable
from afina.server.http.calls import TURN, ClientCall, ClientWatch, client_left, refusal_of
from afina.server.http.refusals import Refusal
from afina.server.requests import AcceptedRequest, ServedAnswer, Text, TextRequest

PATIENCE = 0.05
"""Seconds until the text of a line is offered again to a full queue."""

LINGER = 1.0
"""The most seconds for which further input is ignored after an error; closing at once would reset the connection."""


def _ending() -> Refusal:
    return Refusal(503, "unavailable", "the server is shutting down. Send the lines from this one on again.")


class Line(Body):
    """A line of a `/bulk` request. A line without the field `model` is for the model in the query parameter `model`."""

    text: Readable = Field(description="the text, or the first text of a pair")
    pair: Readable | None = Field(None, description="the second text of a pair")
    model: str | None = Field(None, description="client/task, client/task@alias or client/task@version")


def answered(answer: ServedAnswer) -> dict[str, Any]:
    """Return an answer as a JSON object with the fields of `afina predict`'s output, and with the receipt."""
    return {**answer.prediction.answer, "truncated": answer.prediction.truncated, "receipt": answer.receipt.as_json()}


class Bulk(Response):
    """An ASGI response that answers the lines of a `/bulk` request while they arrive.

    At most `Settings.window` lines wait for their answers at a time. `model`: for lines without the field `model`.
    """

    def __init__(self, call: ClientCall, model: str | None) -> None:
        super().__init__()
        self._call, self._core, self._key, self._model = call, call.core, call.key, model
        self._read = False
        self._order = asyncio.Lock()  # keeps the order of lines that wait for the key's rate limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the lines of the request. The server stops reading at a line that is too long or arrives too late."""
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pending: deque[tuple[asyncio.Task[dict[str, Any]], int]] = deque()
        watch = ClientWatch(scope)

        async def first() -> None:
            task, _ = pending[0]
            await watch.wait(task)
            pending.popleft()
            line = json.dumps(task.result(), ensure_ascii=False)
            await send({"type": "http.response.body", "body": f"{line}\n".encode(), "more_body": True})

        def full() -> bool:
            """Return whether the waiting lines have reached the largest number of lines or of bytes."""
            settings = self._core.settings
            return len(pending) >= settings.window or sum(size for _, size in pending) >= settings.body_bytes

        try:
            async for line in self._lines(receive):
                while pending and (full() or pending[0][0].done()):
                    await first()
                size = 0 if isinstance(line, Refusal) else len(line)
                pending.append((asyncio.create_task(self._answered(line)), size))
                if self._read:
                    watch.watch(receive)
            if self._read:
                watch.watch(receive)
            while pending:
                await first()
            if not self._read:
                await self._drop(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Refusal as left:  # the answers have no reader: lines that wait are not computed
            self._core.metrics.refused.labels(left.kind).inc()
        finally:
            watch.close()
            for task, _ in pending:
                task.cancel()
            await asyncio.gather(*(task for task, _ in pending), return_exceptions=True)

    async def _lines(self, receive: Receive) -> AsyncIterator[bytes | Refusal]:
        settings, rest, more = self._core.settings, b"", True
        left = settings.body_seconds  # time to wait for a line, without the time in which the server does not read
        while more:
            if (stopped := self._stopped()) is not None:
                yield stopped
                return
            began = meter.now()
            try:
                message = await asyncio.wait_for(receive(), min(left, TURN))
            except TimeoutError:
                left -= meter.now() - began
                if left > 0:
                    continue
                yield Refusal(408, "slow", "no complete line arrived in time.")
                return
            left = settings.body_seconds if b"\n" in message.get("body", b"") else left - (meter.now() - began)
            if message["type"] == "http.disconnect":
                raise client_left()
            more = message.get("more_body", False)
            self._read = not more
            *lines, rest = (rest + message.get("body", b"")).split(b"\n")
            for line in [*lines, *([] if more else [rest])]:
                if len(line) > settings.body_bytes:
                    break
                if (stopped := self._stopped()) is not None:
                    yield stopped
                    return
                if line.strip():
                    yield line
            if len(rest) > settings.body_bytes or any(len(line) > settings.body_bytes for line in lines):
                yield Refusal(413, "too_large", f"a line may have at most {settings.body_bytes} bytes.")
                return

    def _stopped(self) -> Refusal | None:
        """Return why no more lines are read: the server is shutting down, or the key is not valid any more."""
        if self._core.batching.ending:
            return _ending()
        try:
            if self._core.tenants.holds(self._key):
                return None
        except Busy as error:
            return Refusal(503, "unavailable", str(error))
        return Refusal(401, "unauthorized", "the key is no longer valid. Send the lines from this one on with another.")

    async def _drop(self, receive: Receive) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body", False):
                    pass

    async def _answered(self, line: bytes | Refusal) -> dict[str, Any]:
        """Return the answer to a line, or the error that the line caused, as a JSON object."""
        try:
            if isinstance(line, Refusal):
                raise line
            body = await self._call.pool.parse(self._key, line, Line)
            model = body.model or self._model
            if model is None:
                raise Refusal.at("model", "missing. Give it in the line or in the query.")
            accepted = await self._accepted(self._call.asks(model, [Text(body.text, body.pair)]))
            try:
                return answered(self._call.answer_of(accepted, 0, await self._outcome(accepted)))
            finally:
                accepted.close()
        except Exception as error:  # noqa: BLE001 - any error becomes the answer to its line; other lines go on
            return refusal_of(self._core, "bulk", error).body(routes.AFINA)

    async def _accepted(self, asked: TextRequest) -> AcceptedRequest:
        """Accept the request of a line, once the key's rate limit has enough tokens left.

        Lines that wait for the rate limit are accepted in their order. They are refused if the server shuts down.
        """
        if not self._order.locked():
            with suppress(Overloaded):
                return (await self._call.pool.accept(self._core.accept, [asked]))[0]
        async with self._order:
            while True:
                try:
                    return (await self._call.pool.accept(self._core.accept, [asked]))[0]
                except Overloaded as error:
                    if self._core.batching.ending:
                        raise _ending() from None
                    await asyncio.sleep(min(error.after, TURN))

    async def _outcome(self, accepted: AcceptedRequest) -> Any:
        """Return the prediction for one line, or its error. If the queue is full, the line is not refused but waits."""
        async with asyncio.timeout(self._core.settings.timeout):
            while True:
                try:
                    (future,) = self._core.submit(accepted)
                except Overloaded:
                    await asyncio.sleep(PATIENCE)
                else:
                    return await asyncio.wrap_future(future)
