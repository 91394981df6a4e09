"""OpenAI's `/v1/responses`: a request becomes a chat, whose answer is written in the format of this route.

The server stores no response, so each request must contain the whole conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from fastapi import Response

from afina.engine.generations import GeneratedText
from afina.errors import InvalidData
from afina.generating.answer_stream import AnswerStream, TokenTexts
from afina.models.decoding import Decoding
from afina.server import routes
from afina.server.http.calls import Called
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.json_shapes import (
    COUNT,
    NOTHING,
    NUMBER,
    TEXT,
    YES_OR_NO,
    Shape,
    about,
    array,
    by_name,
    either,
    one_of,
    record,
)
from afina.server.protocols import openai, responses_bodies
from afina.server.protocols.openai_answers import TOKEN_LOGPROB, AnswerHead, ChatFormat, WrittenAnswer
from afina.server.protocols.openai_bodies import ChatRequest
from afina.server.protocols.responses_bodies import ResponsesRequest
from afina.server.protocols.tool_calls import Call, CallReader
from afina.server.requests import AcceptedRequest, Text

_ANY: Shape = {}
_OR_NULL = {name: either(shape, NOTHING) for name, shape in (("text", TEXT), ("count", COUNT), ("number", NUMBER))}
_STATUS = about(one_of("in_progress", "completed", "incomplete"), "incomplete: ended by the limit of tokens")
_PART = record(
    type=about(one_of("output_text"), "type of the part"),
    text=about(TEXT, "the answer"),
    annotations=about(array(_ANY), "always empty"),
    logprobs=about(array(TOKEN_LOGPROB), "one element for each token, the end token included; empty: not asked"),
)
_MESSAGE = record(
    type=about(one_of("message"), "type of the item"),
    id=about(TEXT, "id of the item"),
    status=_STATUS,
    role=about(one_of("assistant"), "always assistant"),
    content=about(array(_PART), "one part; none before the answer has begun"),
)
_CALL = record(
    type=about(one_of("function_call"), "type of the item"),
    id=about(TEXT, "id of the item"),
    call_id=about(TEXT, "id of the call"),
    name=about(TEXT, "name of the function"),
    arguments=about(TEXT, "the arguments as JSON"),
    status=_STATUS,
)
_ITEM = either(_MESSAGE, _CALL)
_USAGE = record(
    input_tokens=about(COUNT, "tokens of the prompt, with its template"),
    input_tokens_details=about(
        record(
            cached_tokens=about(COUNT, "always 0: prompts are not cached"),
            cache_write_tokens=about(COUNT, "always 0: prompts are not cached"),
        ),
        "parts of the number",
    ),
    output_tokens=about(COUNT, "tokens of the answer, the end token included"),
    output_tokens_details=about(
        record(reasoning_tokens=about(COUNT, "always 0: there is no reasoning")), "parts of the number"
    ),
    total_tokens=about(COUNT, "sum of both"),
)
_ERROR = record(code=about(TEXT, "one word for programs"), message=about(TEXT, "what is wrong and what to do"))
_REASON = record(reason=about(one_of("max_output_tokens"), "the limit of tokens"))
ANSWER = record(
    id=about(TEXT, "id of the request"),
    object=about(one_of("response"), "type of the response in this protocol"),
    created_at=about(COUNT, "seconds since 1970"),
    status=about(one_of("in_progress", "completed", "incomplete", "failed"), "incomplete: ended by the limit"),
    background=about(one_of(False), "always false"),
    error=about(either(_ERROR, NOTHING), "with status failed: what is wrong"),
    incomplete_details=about(either(_REASON, NOTHING), "with status incomplete: why"),
    instructions=about(_OR_NULL["text"], "as in the request"),
    max_output_tokens=about(_OR_NULL["count"], "as in the request"),
    max_tool_calls=about(_OR_NULL["count"], "as in the request"),
    metadata=about(by_name(_ANY), "as in the request"),
    model=about(TEXT, "model as in the request"),
    output=about(array(_ITEM), "the answer: a message, or calls, or calls after a message"),
    parallel_tool_calls=about(YES_OR_NO, "as in the request"),
    previous_response_id=about(NOTHING, "always null"),
    reasoning=about(by_name(NOTHING), "there is no reasoning"),
    service_tier=about(one_of("default"), "always default"),
    store=about(one_of(False), "always false: no response is stored"),
    temperature=about(NUMBER, "as used for the answer"),
    text=about(by_name(_ANY), "as in the request"),
    tool_choice=about(either(TEXT, by_name(TEXT)), "as in the request"),
    tools=about(array(by_name(_ANY)), "as in the request"),
    top_logprobs=about(COUNT, "as in the request"),
    top_p=about(NUMBER, "as used for the answer"),
    truncation=about(one_of("disabled"), "always disabled"),
    usage=about(either(_USAGE, NOTHING), "numbers of tokens, at the end"),
    user=about(_OR_NULL["text"], "as in the request"),
)


def _event(names: Sequence[str], **fields: Shape) -> Shape:
    number = about(COUNT, "number of the event, from 0")
    return record(type=about(one_of(*names), "type of the event"), sequence_number=number, **fields)


_WHERE = {"item_id": about(TEXT, "id of the item"), "output_index": about(COUNT, "number of the item, from 0")}
_WITHIN = {**_WHERE, "content_index": about(COUNT, "always 0")}
_LOGPROBS = about(array(TOKEN_LOGPROB), "log-probabilities of the tokens; empty: not asked")
EVENT = either(
    _event(
        [f"response.{name}" for name in ("created", "in_progress", "completed", "incomplete", "failed")],
        response=about(ANSWER, "the response so far"),
    ),
    _event(
        ["response.output_item.added", "response.output_item.done"],
        output_index=_WHERE["output_index"],
        item=about(_ITEM, "the item so far"),
    ),
    _event(
        ["response.content_part.added", "response.content_part.done"], **_WITHIN, part=about(_PART, "the part so far")
    ),
    _event(["response.output_text.delta"], **_WITHIN, delta=about(TEXT, "a piece of the answer"), logprobs=_LOGPROBS),
    _event(["response.output_text.done"], **_WITHIN, text=about(TEXT, "the answer"), logprobs=_LOGPROBS),
    _event(["response.function_call_arguments.delta"], **_WHERE, delta=about(TEXT, "a piece of the arguments")),
    _event(
        ["response.function_call_arguments.done"],
        **_WHERE,
        name=about(TEXT, "name of the function"),
        arguments=about(TEXT, "the arguments"),
    ),
)


class ResponsesFormat(ChatFormat):
    """The responses of `/v1/responses`, or their events. `body`: the request, from which the response repeats fields.

    `chat` is the chat request that was made of it.
    """

    done = b""

    def __init__(
        self,
        body: ResponsesRequest,
        chat: ChatRequest,
        reader: CallReader | None,
        head: AnswerHead,
        texts: TokenTexts,
        accepted: AcceptedRequest,
    ) -> None:
        super().__init__(chat, reader, head, texts, accepted)
        assert accepted.decoding is not None
        self._body = body
        self._sampling = {"temperature": accepted.decoding.temperature, "top_p": accepted.decoding.top_p}
        self._number, self._finished = 0, "stop"
        self._message: Literal["none", "open", "complete"] = "none"
        self._text, self._tokens = "", list[Any]()
        self._calls: list[Call] = []

    def response(self, outcomes: Sequence[GeneratedText], decoding: Decoding, usage: dict[str, Any]) -> dict[str, Any]:
        (outcome,) = outcomes
        answer = WrittenAnswer(0, AnswerStream(self.texts, decoding))
        if self.reports:
            answer.end(outcome)
        said, self._finished = self._said(outcome.text), "stop" if outcome.ended else "length"
        self._message = "complete" if said.text or not said.calls else "none"
        self._text, self._calls = said.text, [*said.calls]
        self._tokens = self._content(answer)
        return self._whole(self._ended, usage)

    def events(self, answer: WrittenAnswer, text: str, finish: str | None, *, first: bool) -> Iterator[dict[str, Any]]:
        said = self._piece_says(0, text, finish)
        if said is None:
            return
        self._finished = finish or self._finished
        if first:
            yield self._event("created", response=self._whole("in_progress"))
            yield self._event("in_progress", response=self._whole("in_progress"))
        tokens = self._content(answer)
        self._tokens += tokens
        if said.text or not said.calls:
            yield from self._said_text(said.text, tokens)
        if self._message == "open" and (finish or said.calls):
            yield from self._completed_text()
        for number, call in enumerate(said.calls):
            yield from self._said_call(number, call)
            if finish:
                yield from self._completed_call(number)

    def _said_text(self, text: str, tokens: list[Any]) -> Iterator[dict[str, Any]]:
        if self._message == "none":
            self._message = "open"
            yield self._event("output_item.added", output_index=0, item=self._message_item("in_progress"))
            yield self._event("content_part.added", **self._within, part=self._part([]))
        self._text += text
        if text or tokens:
            yield self._event("output_text.delta", **self._within, delta=text, logprobs=tokens)

    def _completed_text(self) -> Iterator[dict[str, Any]]:
        self._message = "complete"
        yield self._event("output_text.done", **self._within, text=self._text, logprobs=self._tokens)
        yield self._event("content_part.done", **self._within, part=self._part(self._tokens))
        yield self._event("output_item.done", output_index=0, item=self._message_item(self._ended))

    def _said_call(self, number: int, call: Call) -> Iterator[dict[str, Any]]:
        if number == len(self._calls):
            self._calls.append(Call(call.name, ""))
            item = self._call_item(number, "in_progress")
            yield self._event("output_item.added", output_index=self._where(number)["output_index"], item=item)
        self._calls[number] = Call(call.name, self._calls[number].arguments + call.arguments)
        if call.arguments:
            yield self._event("function_call_arguments.delta", **self._where(number), delta=call.arguments)

    def _completed_call(self, number: int) -> Iterator[dict[str, Any]]:
        where, item = self._where(number), self._call_item(number, self._ended)
        yield self._event("function_call_arguments.done", **where, **self._calls[number]._asdict())
        yield self._event("output_item.done", output_index=where["output_index"], item=item)

    def last_events(self, usage: dict[str, Any], *, wanted: bool) -> Sequence[dict[str, Any]]:
        """Return the event that contains the whole response. The argument `wanted` has no effect in this format."""
        return [self._event(self._ended, response=self._whole(self._ended, usage))]

    def failure(self, refusal: Refusal) -> dict[str, Any]:
        limited = refusal.status == 429
        error = {"code": "rate_limit_exceeded" if limited else "server_error", "message": refusal.message}
        return self._event("failed", response={**self._whole("failed"), "error": error})

    def encoded(self, event: dict[str, Any]) -> bytes:
        return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()

    @property
    def _ended(self) -> str:
        return "completed" if self._finished == "stop" else "incomplete"

    @property
    def _message_id(self) -> str:
        return f"msg_{self.head.request}"

    @property
    def _within(self) -> dict[str, Any]:
        """Where the text is: the message comes before the calls."""
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    def _where(self, number: int) -> dict[str, Any]:
        """Where call `number` is."""
        before = self._message != "none"
        return {"item_id": self._call_item(number, "")["id"], "output_index": number + before}

    def _event(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        number, self._number = self._number, self._number + 1
        return {"type": f"response.{kind}", "sequence_number": number, **fields}

    def _content(self, answer: WrittenAnswer) -> list[Any]:
        found = self._logprobs(answer.take_reported())
        return [] if found is None else list(found["content"])

    def _part(self, tokens: list[Any]) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": tokens}

    def _message_item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part(self._tokens)]
        return {"type": "message", "id": self._message_id, "status": status, "role": "assistant", "content": content}

    def _call_item(self, number: int, status: str) -> dict[str, Any]:
        name = f"fc_{self.head.request}" + (f"_{number}" if number else "")
        call = {"call_id": self.call_id(0, number), **self._calls[number]._asdict()}
        return {"type": "function_call", "id": name, **call, "status": status}

    def _output(self, status: str) -> list[dict[str, Any]]:
        message = [] if self._message == "none" else [self._message_item(status)]
        return message + [self._call_item(number, status) for number in range(len(self._calls))]

    def _whole(self, status: str, usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON of the response with a status.

        `usage`: The numbers of input and output tokens. None while the answer is not complete.
        """
        body = self._body
        form = None if body.text is None else body.text.format
        return {
            "id": f"resp_{self.head.request}",
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self.head.model,
            "output": self._output(status) if usage is not None else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            **self._sampling,
            "text": {"format": {"type": "text"} if form is None else _json(form)},
            "tool_choice": _json(body.tool_choice) or "auto",
            "tools": [{"parameters": None, "strict": None, **_json(one)} for one in body.tools or []],
            "top_logprobs": body.top_logprobs or 0,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": body.user,
        }


def _json(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else value.model_dump(by_alias=True, exclude_none=True)


def _usage(usage: Mapping[str, int]) -> dict[str, Any]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


router = ProtocolRouter()


@router.answers(routes.RESPONSES, ANSWER, ResponsesRequest, responses_bodies.EXAMPLE, events=EVENT)
async def respond(call: Called) -> Response:
    """Generate the next message of a conversation (OpenAI's responses). No response is stored."""
    body = await call.body(ResponsesRequest)
    chat = responses_bodies.chat_of(body)
    try:
        said = await openai.rendered(call, chat)
        written = partial(ResponsesFormat, body, chat, said.reader)
        return await openai.answered(call, chat, [Text(said.text)], written, said.headers)
    except (Refusal, InvalidData) as error:
        raise responses_bodies.refusal(body, error) from None
