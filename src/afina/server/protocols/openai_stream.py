"""Code that waits for the tokens of generated answers, and sends them as server-sent events.

The computing thread only appends new tokens to a queue, and the event loop decodes the tokens to text. A client that
reads slowly gets fewer and longer pieces of text, so that nothing but the tokens of its answers waits in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from afina import meter
from afina.engine.generations import GeneratedText
from afina.errors import AfinaError, InvalidData
from afina.generating.answer_stream import AnswerStream
from afina.generating.answers import text_of
from afina.generating.generation import NewTokens
from afina.generating.schema_checks import violation
from afina.server.http.calls import SPARE, ClientCall, refusal_of
from afina.server.http.refusals import GONE, Refusal
from afina.server.protocols.openai_answers import OpenAIFormat, WrittenAnswer
from afina.server.requests import AcceptedRequest


class NewTokenQueue:
    """New tokens of a request's answers, from the computing thread to the event loop in which it is created."""

    def __init__(self) -> None:
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        self._new: deque[tuple[int, NewTokens]] = deque()
        self._woken = False

    def put(self, number: int, new: NewTokens) -> None:
        """Append new tokens of the answer `number`. The computing thread calls this method."""
        self._new.append((number, new))
        self.wake()

    def wake(self) -> None:
        """Let the method `wait` return. Can be called in any thread."""
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()
        self._woken = False

    def take(self) -> Iterator[tuple[int, NewTokens]]:
        while self._new:
            yield self._new.popleft()


class PendingAnswers:
    """The generated answers of an accepted request, some of which may not be complete. The caller must `close` them.

    Args:
        call: the client's call, whose body was already read.
        accepted: the accepted request, whose texts are in the queue. `close` also closes this request.
        new: the queue to which the computing thread appends new tokens.
    """

    def __init__(self, call: ClientCall, accepted: AcceptedRequest, new: NewTokenQueue) -> None:
        self.core, self.call, self.accepted, self.new = call.core, call, accepted, new
        self._until = meter.now() + call.core.settings.generation_timeout + SPARE
        self.futures = accepted.futures
        for future in self.futures:
            future.add_done_callback(lambda done: new.wake())
        self._watch = call.watch()
        self._finished = set[int]()

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.futures)

    async def next(self) -> None:
        """Wait for new tokens or the end of an answer.

        Raises Refusal if the client closes its connection, and TimeoutError after `Settings.generation_timeout`.
        """
        waking = asyncio.ensure_future(self.new.wait())
        try:
            await self._watch.wait(waking, self._until)
        finally:
            waking.cancel()

    async def finished(self) -> Sequence[int]:
        """Return the numbers of the complete answers, each of which is checked once.

        Raises the error of an answer whose generation failed, and Refusal for an answer that violates its schema.
        """
        done = [number for number, future in enumerate(self.futures) if future.done()]
        for number in done:
            if number not in self._finished:
                await self._check(self.outcome(number))
                self._finished.add(number)
        return done

    async def _check(self, answer: GeneratedText) -> None:
        """Raise Refusal if an answer violates its JSON Schema. Answers cut by a limit or stop string are not."""
        options, decoding = self.accepted.request.generation, self.accepted.decoding
        assert options is not None
        assert decoding is not None
        if options.schema is None or not answer.ended:
            return
        tokenizer = self.core.engine.backbone.tokenizer
        if decoding.stop and await self.call.look(text_of, tokenizer, answer.tokens) != answer.text:
            return
        try:
            problem = await self.call.look(violation, answer.text, options.schema)
        except InvalidData:
            self.core.metrics.schema_checks.labels("unchecked").inc()
            return
        self.core.metrics.schema_checks.labels("held" if problem is None else "violated").inc()
        if problem is not None:
            message = (
                f"the answer violates its JSON schema, and is therefore not sent: {problem}. Give a simpler schema."
            )
            raise Refusal(500, "schema_violated", message)

    def outcome(self, number: int) -> GeneratedText:
        """Return the complete answer `number`. Raises the error of the answer if the generation failed."""
        found: GeneratedText | AfinaError = self.futures[number].result()
        if isinstance(found, AfinaError):
            raise found
        return found

    def usage(self) -> dict[str, Any]:
        return self.usage_with(sum(len(self.outcome(number).tokens) for number in range(len(self.futures))))

    def usage_with(self, answers: int) -> dict[str, Any]:
        """Return the numbers of tokens in the format of OpenAI's `usage`. `answers`: the tokens of all answers."""
        prompts = sum(len(one.tokens) for one in self.accepted.encoded)
        return {
            "prompt_tokens": prompts,
            "completion_tokens": answers,
            "total_tokens": prompts + answers,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def close(self) -> None:
        """Cancel unfinished answers, and release the request's adapter."""
        self._watch.close()
        self.accepted.close()


class EventStream(Response):
    """An ASGI response that streams generated answers as server-sent events, and closes them.

    `usage`: whether a last event has the numbers of tokens. `usage_so_far`: whether each event has those so far.
    """

    def __init__(
        self,
        pending: PendingAnswers,
        written: OpenAIFormat,
        headers: dict[str, str],
        *,
        usage: bool,
        usage_so_far: bool = False,
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=headers)
        self._pending, self._format, self._usage, self._usage_so_far = pending, written, usage, usage_so_far
        decoding = pending.accepted.decoding
        assert decoding is not None
        numbers = range(len(pending.futures))
        self._answers = [WrittenAnswer(one, AnswerStream(written.texts, decoding)) for one in numbers]
        self._begun, self._ended = set[int](), set[int]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until every answer is complete, or the client has closed its connection."""
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            while True:
                if content := await self._content():
                    await send({"type": "http.response.body", "body": content, "more_body": True})
                if len(self._ended) == len(self._answers):
                    break
                await self._pending.next()
            last = self._format.last_events(self._pending.usage(), wanted=self._usage)
            content = b"".join(map(self._format.encoded, last)) + self._format.done
            await send({"type": "http.response.body", "body": content})
        except Exception as error:  # noqa: BLE001 - the response has begun, so that any error becomes an event
            await self._fail(error, send)
        finally:
            self._pending.close()

    async def _fail(self, error: Exception, send: Send) -> None:
        """Send an error as the last event, unless the client has closed its connection."""
        core = self._pending.core
        refusal = refusal_of(core, "stream", error)
        core.metrics.refused.labels(refusal.kind).inc()
        if refusal.status != GONE:
            content = self._format.encoded(self._format.failure(refusal)) + self._format.done
            await send({"type": "http.response.body", "body": content})

    async def _content(self) -> bytes:
        """Return encoded events with the text of new tokens. Raises as `PendingAnswers.finished`."""
        done = [number for number in await self._pending.finished() if number not in self._ended]
        if done and self._format.takes_time:
            return await self._pending.call.look(self._events, done)
        return self._events(done)

    def _events(self, done: Sequence[int]) -> bytes:
        """Return encoded events with the text of new tokens, and the ends of the answers that are `done`."""
        texts: dict[int, str] = {}
        for number, new in self._pending.new.take():
            texts[number] = texts.get(number, "") + self._answers[number].add(new)
        events = [
            self._piece(number, text, None)
            for number, text in texts.items()
            if number not in done and (text or self._answers[number].reported)
        ]
        for number in done:
            outcome = self._pending.outcome(number)
            self._ended.add(number)
            text = texts.get(number, "") + self._answers[number].end(outcome)
            events.append(self._piece(number, text, "stop" if outcome.ended else "length"))
        return b"".join(events)

    def _piece(self, number: int, text: str, finish: str | None) -> bytes:
        events = [*self._format.events(self._answers[number], text, finish, first=number not in self._begun)]
        self._begun |= {number} if events else set()
        for event in events:
            if self._usage_so_far:
                event["usage"] = self._pending.usage_with(sum(one.seen for one in self._answers))
            elif self._usage:
                event["usage"] = None
        return b"".join(map(self._format.encoded, events))
