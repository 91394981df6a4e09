"""Classes that write answers in the formats of OpenAI's protocol, as a whole response or as server-sent events."""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from afina.engine.generations import GeneratedText
from afina.generating.answer_stream import AnswerStream, TokenTexts
from afina.generating.generation import NewTokens
from afina.generating.searches import TokenLogprobs
from afina.models.decoding import Decoding
from afina.server.http.refusals import Refusal
from afina.server.json_shapes import COUNT, NOTHING, NUMBER, TEXT, Shape, about, array, by_name, either, one_of, record
from afina.server.protocols import openai_bodies
from afina.server.protocols.openai_bodies import ChatRequest, CompletionRequest
from afina.server.protocols.tool_calls import Call, CallReader, CallStream, Said
from afina.server.requests import AcceptedRequest
from afina.server.routes import OPENAI

LEAST = -9999.0
"""The log-probability that OpenAI reports for an almost impossible token. JSON has no infinity."""

_NOTHING_OR_TEXT = either(TEXT, NOTHING)
_USAGE = record(
    prompt_tokens=about(COUNT, "tokens of all prompts, with their templates"),
    completion_tokens=about(COUNT, "tokens of all answers, end tokens included"),
    total_tokens=about(COUNT, "sum of both"),
    prompt_tokens_details=about(
        record(cached_tokens=about(COUNT, "always 0: prompts are not cached")), "parts of the number"
    ),
)
_BY = "stop: by an end token or a stop string; length: by the limit of tokens"
_FINISH = about(one_of("stop", "length"), _BY)
_CHAT_FINISH = about(one_of("stop", "length", "tool_calls"), f"{_BY}; tool_calls: a call that has ended")
_LOGPROBS = record(
    tokens=about(array(TEXT), "the tokens of the answer, the end token included; with `echo`, first the prompt's"),
    token_logprobs=about(
        array(either(NUMBER, NOTHING)),
        "the log-probability of each token, before temperature and top-p; null for the first token of a prompt",
    ),
    top_logprobs=about(
        array(either(by_name(NUMBER), NOTHING)),
        "for each token, log-probabilities of the most probable tokens and of the token",
    ),
    text_offset=about(array(COUNT), "characters of the text before each token"),
)
_TOKEN = {
    "token": about(TEXT, "the token's text"),
    "bytes": about(array(COUNT), "the token's bytes"),
    "logprob": about(NUMBER, "its log-probability, before temperature and top-p"),
}
TOKEN_LOGPROB = record(**_TOKEN, top_logprobs=about(array(record(**_TOKEN)), "the most probable tokens there"))
_CONTENT = record(
    content=about(array(TOKEN_LOGPROB), "one element for each token, the end token included"),
    refusal=about(NOTHING, "always null"),
)
_CALLED = record(
    name=about(TEXT, "name of the function"),
    arguments=about(TEXT, "its arguments as JSON, or a piece of them"),
    optional=("name",),
)
_CALL = {
    "index": about(COUNT, "number of the call, from 0"),
    "id": about(TEXT, "id of the call"),
    "type": about(one_of("function"), "always function"),
    "function": about(_CALLED, "the function"),
}
_CALLS = array(record(**{name: _CALL[name] for name in ("id", "type", "function")}))
_MESSAGE = record(
    role=about(one_of("assistant"), "always assistant"),
    content=about(_NOTHING_OR_TEXT, "the answer; if it has calls, the text before them or null"),
    refusal=about(NOTHING, "always null"),
    tool_calls=about(_CALLS, "the calls of functions"),
    optional=("tool_calls",),
)
_INDEX = about(COUNT, "number of the answer; the answers to the first prompt come first")
_FINISHED = about(either(_FINISH, NOTHING), "in the last piece of an answer: stop or length, as in a whole response")
_CHAT_FINISHED = about(either(_CHAT_FINISH, NOTHING), "in the last piece of an answer, as in a whole response")
_REPORTED = about(either(_LOGPROBS, NOTHING), "log-probabilities; null: not requested")
_CHAT_REPORTED = about(either(_CONTENT, NOTHING), "log-probabilities; null: not requested")
_DELTA = record(
    role=about(one_of("assistant"), "in the first piece of an answer"),
    content=about(_NOTHING_OR_TEXT, "the piece; null before the pieces of a call"),
    tool_calls=about(
        array(
            record(
                **_CALL,
                optional=("id", "type"),
            )
        ),
        "a piece of a call; id, type and name in the first",
    ),
    optional=("role", "content", "tool_calls"),
)


def _answer(kind: str, choice: dict[str, Shape], usage: Shape = _USAGE, *optional: str) -> Shape:
    return record(
        id=about(TEXT, "id of the request"),
        object=about(one_of(kind), "type of the response in this protocol"),
        created=about(COUNT, "seconds since 1970"),
        model=about(TEXT, "model as in the request"),
        system_fingerprint=about(TEXT, "digest of the adapter that answered"),
        choices=about(array(record(**choice)), "the answers, or pieces of them"),
        usage=about(usage, "numbers of tokens"),
        optional=optional,
    )


_WRITTEN = {"index": _INDEX, "text": about(TEXT, "the answer"), "logprobs": _REPORTED}
_SAID = {"index": _INDEX, "message": about(_MESSAGE, "the answer as a message"), "logprobs": _CHAT_REPORTED}
_SAYS = {"index": _INDEX, "delta": about(_DELTA, "a piece of the message"), "logprobs": _CHAT_REPORTED}
_LATER = either(_USAGE, NOTHING)
COMPLETION_ANSWER = _answer("text_completion", {**_WRITTEN, "finish_reason": _FINISH})
COMPLETION_EVENT = _answer("text_completion", {**_WRITTEN, "finish_reason": _FINISHED}, _LATER, "usage")
CHAT_ANSWER = _answer("chat.completion", {**_SAID, "finish_reason": _CHAT_FINISH})
CHAT_EVENT = _answer("chat.completion.chunk", {**_SAYS, "finish_reason": _CHAT_FINISHED}, _LATER, "usage")


class ReportedToken(NamedTuple):
    """A token with its log-probability (None for the first token of a prompt), and the characters before it."""

    token: int
    logprobs: TokenLogprobs | None
    offset: int


@dataclass(eq=False)
class WrittenAnswer:
    """One generated answer, whose tokens are decoded to text while they arrive.

    Attributes:
        reported: the tokens with log-probabilities that have arrived but have not been written to the response yet.
        seen: the number of tokens that have arrived.
    """

    index: int
    stream: AnswerStream
    reported: list[ReportedToken] = field(default_factory=list)
    seen: int = 0

    def add(self, new: NewTokens) -> str:
        pieces = []
        for place, token in enumerate(new.tokens):
            if new.logprobs is not None:
                self.reported.append(ReportedToken(token, new.logprobs[place], self.stream.length))
            pieces.append(self.stream.add([token]))
        self.seen += len(new.tokens)
        return "".join(pieces)

    def end(self, outcome: GeneratedText) -> str:
        """Return the rest of the answer's text, including the tokens of `outcome` that did not arrive before.

        Raises InvalidData if the decoded tokens do not give the text of `outcome`.
        """
        logprobs = None if outcome.logprobs is None else outcome.logprobs[self.seen :]
        text = self.add(NewTokens(outcome.tokens[self.seen :].tolist(), logprobs))
        return text + self.stream.end(outcome.text)

    def take_reported(self) -> list[ReportedToken]:
        """Return the tokens with log-probabilities that have arrived since the last call."""
        taken, self.reported = self.reported, []
        return taken


@dataclass(frozen=True, eq=False)
class AnswerHead:
    """The fields that each response and each event begins with, such as `id` and `model`."""

    request: str
    created: int
    model: str
    fingerprint: str


class OpenAIFormat(ABC):
    """The format in which a route of OpenAI's returns generated answers. `reports`: with log-probabilities.

    `takes_time`: the end of an answer must not be written in the event loop.
    """

    prefix: ClassVar[str]
    whole: ClassVar[str]
    """The value of the field `object` in a whole response."""
    part: ClassVar[str]
    """The value of the field `object` in an event."""

    done: ClassVar[bytes] = b"data: [DONE]\n\n"
    """The bytes that end a stream of server-sent events."""

    takes_time = False

    def __init__(self, head: AnswerHead, texts: TokenTexts, accepted: AcceptedRequest) -> None:
        assert accepted.request.generation is not None
        self.head, self.texts = head, texts
        self.reports = accepted.request.generation.logprobs is not None

    def response(self, outcomes: Sequence[GeneratedText], decoding: Decoding, usage: dict[str, Any]) -> Any:
        """Return a whole response with all answers. Raises InvalidData if tokens and text of an answer differ."""
        choices = []
        for index, outcome in enumerate(outcomes):
            answer = WrittenAnswer(index, AnswerStream(self.texts, decoding))
            if self.reports:
                answer.end(outcome)
            finish = "stop" if outcome.ended else "length"
            before, reported = self._before(index, outcome)
            reported += [one._replace(offset=one.offset + len(before)) for one in answer.take_reported()]
            choices.append(self._choice(index, before + outcome.text, self._logprobs(reported), finish))
        return {**self._head(self.whole), "choices": choices, "usage": usage}

    def events(self, answer: WrittenAnswer, text: str, finish: str | None, *, first: bool) -> Iterator[dict[str, Any]]:
        """Yield the server-sent events for a piece of an answer, or none if later pieces decide what the piece is.

        `first`: the answer has had no event. `finish`: why the answer has ended, "stop" or "length"; None: it has not.
        """
        if (piece := self._piece(answer, text, finish, first)) is not None:
            yield {**self._head(self.part), "choices": [piece]}

    def last_events(self, usage: dict[str, Any], *, wanted: bool) -> Sequence[dict[str, Any]]:
        """Return the events after the last piece of the answers, with the numbers of tokens if they are `wanted`."""
        return [{**self._head(self.part), "choices": [], "usage": usage}] if wanted else []

    def failure(self, refusal: Refusal) -> dict[str, Any]:
        """Return the event for an error that occurs after the response has begun."""
        return refusal.body(OPENAI)

    def encoded(self, event: dict[str, Any]) -> bytes:
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()

    def _before(self, index: int, outcome: GeneratedText) -> tuple[str, list[ReportedToken]]:
        """Return the text that is returned before an answer, and the tokens of this text with log-probabilities."""
        return "", []

    def _head(self, kind: str) -> dict[str, Any]:
        head = self.head
        named = {"id": f"{self.prefix}-{head.request}", "object": kind, "created": head.created, "model": head.model}
        return {**named, "system_fingerprint": head.fingerprint}

    def _logprobs(self, reported: Sequence[ReportedToken]) -> dict[str, Any] | None:
        return self._reported(reported) if self.reports else None

    @abstractmethod
    def _reported(self, reported: Sequence[ReportedToken]) -> dict[str, Any]:
        """Return the log-probabilities of tokens in the JSON format of the response."""

    @abstractmethod
    def _choice(self, index: int, text: str, logprobs: dict[str, Any] | None, finish: str) -> dict[str, Any]:
        pass

    @abstractmethod
    def _piece(self, answer: WrittenAnswer, text: str, finish: str | None, first: bool) -> dict[str, Any] | None:
        """Return the choice of an event for a piece of an answer. None: later pieces decide what the piece is."""


class CompletionFormat(OpenAIFormat):
    """The responses of `/v1/completions`."""

    prefix = "cmpl"
    whole = part = "text_completion"

    def __init__(self, body: CompletionRequest, head: AnswerHead, texts: TokenTexts, accepted: AcceptedRequest) -> None:
        super().__init__(head, texts, accepted)
        self._accepted, self._echoes = accepted, bool(body.echo)

    def _before(self, index: int, outcome: GeneratedText) -> tuple[str, list[ReportedToken]]:
        """Return the prompt that is repeated before an answer, and the prompt's tokens with log-probabilities.

        The whitespace that was removed from the start of the answer is appended to the prompt.
        """
        if not self._echoes:
            return "", []
        number = index // self._accepted.answers
        prompt, tokens = self._accepted.texts[number], self._accepted.encoded[number].tokens.tolist()
        hidden = self.texts.special if prompt.tokens is None else ()
        pieces, offsets, text = codecs.getincrementaldecoder("utf-8")("replace"), list[int](), ""
        for token in tokens:
            offsets.append(len(text))
            text += pieces.decode(b"" if token in hidden else self.texts.bytes_of(token))
        whole = prompt.text if prompt.tokens is None else text + pieces.decode(b"", final=True)
        reported: list[ReportedToken] = []
        if outcome.prompt_logprobs is not None:
            rows = zip(tokens, [None, *outcome.prompt_logprobs], offsets, strict=True)
            reported = [ReportedToken(token, logprobs, min(offset, len(whole))) for token, logprobs, offset in rows]
        answer = b"".join(self.texts.bytes_of(token) for token in outcome.tokens.tolist()).decode(errors="replace")
        return whole + answer[: len(answer) - len(answer.lstrip())], reported

    def _reported(self, reported: Sequence[ReportedToken]) -> dict[str, Any]:
        shown = self.texts.shown
        return {
            "tokens": [shown(one.token) for one in reported],
            "token_logprobs": [None if one.logprobs is None else max(one.logprobs.chosen, LEAST) for one in reported],
            "top_logprobs": [
                None
                if one.logprobs is None
                else {
                    shown(token): max(value, LEAST)
                    for token, value in [(one.token, one.logprobs.chosen), *reversed(one.logprobs.top)]
                }
                for one in reported
            ],
            "text_offset": [one.offset for one in reported],
        }

    def _choice(self, index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _piece(self, answer: WrittenAnswer, text: str, finish: str | None, first: bool) -> dict[str, Any]:
        return self._choice(answer.index, text, self._logprobs(answer.take_reported()), finish)


class ChatFormat(OpenAIFormat):
    """The responses of `/v1/chat/completions`.

    `function`: the name of the function that the request forces answers to call; None: none. `reader`: reads the calls
    in answers; None: answers call no function by their own choice.
    """

    prefix = "chatcmpl"
    whole = "chat.completion"
    part = "chat.completion.chunk"

    def __init__(
        self,
        body: ChatRequest,
        reader: CallReader | None,
        head: AnswerHead,
        texts: TokenTexts,
        accepted: AcceptedRequest,
    ) -> None:
        super().__init__(head, texts, accepted)
        function = openai_bodies.function_of(body)
        self.function = None if function is None else function.name
        self._reader, self._streams = reader, dict[int, CallStream]()
        self.takes_time = reader is not None

    def call_id(self, index: int, number: int) -> str:
        return f"call_{self.head.request}_{index}" + (f"_{number}" if number else "")

    def _said(self, text: str) -> Said:
        """Return what a complete answer, or a piece of a forced call, says."""
        if self.function is not None:
            return Said("", [Call(self.function, text)])
        return Said(text) if self._reader is None else self._reader.read(text)

    def _piece_says(self, index: int, text: str, finish: str | None) -> Said | None:
        """Return what a piece of answer `index` says. None: later pieces decide."""
        if self._reader is None:
            return self._said(text)
        stream = self._streams.setdefault(index, CallStream(self._reader))
        said = Said(stream.add(text)) if finish is None else stream.end(text)
        return said if said.text or finish else None

    def _reported(self, reported: Sequence[ReportedToken]) -> dict[str, Any]:
        content = []
        for one in reported:
            assert one.logprobs is not None
            top = [self._token(token, value) for token, value in one.logprobs.top]
            content.append({**self._token(one.token, one.logprobs.chosen), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        content = [*self.texts.bytes_of(token)]
        return {"token": self.texts.shown(token), "bytes": content, "logprob": max(logprob, LEAST)}

    def _choice(self, index: int, text: str, logprobs: dict[str, Any] | None, finish: str) -> dict[str, Any]:
        said = self._said(text)
        message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
        if said.calls:
            calls = [self._call(index, number, one) for number, one in enumerate(said.calls)]
            message |= {"content": said.text or None, "tool_calls": calls}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _finish(finish, said)}

    def _call(self, index: int, number: int, call: Call) -> dict[str, Any]:
        return {"id": self.call_id(index, number), "type": "function", "function": call._asdict()}

    def _piece(self, answer: WrittenAnswer, text: str, finish: str | None, first: bool) -> dict[str, Any] | None:
        said = self._piece_says(answer.index, text, finish)
        if said is None:
            return None
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if said.text or first or not said.calls:
            delta["content"] = said.text or (None if said.calls else "")
        if said.calls:
            calls = [self._call(answer.index, number, one) for number, one in enumerate(said.calls)]
            if self.function is not None and not first:
                calls = [{"function": {"arguments": text}}]
            delta["tool_calls"] = [{"index": number, **one} for number, one in enumerate(calls)]
        logprobs = self._logprobs(answer.take_reported())
        return {"index": answer.index, "delta": delta, "logprobs": logprobs, "finish_reason": _finish(finish, said)}


def _finish(finish: str | None, said: Said) -> str | None:
    return "tool_calls" if finish == "stop" and said.calls else finish
