"""Requests to OpenAI's `/v1/responses`, which are converted to requests to `/v1/chat/completions`.

The server stores no response, so each request must contain the whole conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from afina.errors import InvalidData
from afina.server.http.bodies import Array, OnlyFalse, Strict
from afina.server.http.refusals import Refusal
from afina.server.protocols.openai_bodies import (
    ALTERNATIVES,
    CHAT_LIMIT,
    EFFORT,
    MESSAGES,
    ChatRequest,
    Effort,
    Nothing,
    Sampled,
)
from afina.server.protocols.tools import CHOICES, PARALLEL, Function, NamedFunction, OfFunction

ITEMS = MESSAGES - 1
"""The largest number of items in the field `input`. The field `instructions` counts as one more message of the chat."""

LOGPROBS = "message.output_text.logprobs"
"""The element of the request field `include` that asks for log-probabilities."""

EXAMPLE = {"model": "acme/replies@production", "input": "Where is my parcel?", "max_output_tokens": 40}


class InputText(Strict):
    """A text part of a message, or of the result of a function call."""

    type: Literal["input_text"] = Field(description="only text is supported")
    text: str = Field(description="the text")
    prompt_cache_breakpoint: dict[str, Any] | None = Field(None, description="accepted and not used")


class OutputText(Strict):
    """A text part of an earlier answer, in the form in which this server returned it."""

    type: Literal["output_text"] = Field(description="only text is supported")
    text: str = Field(description="the text")
    annotations: Nothing | None = Field(None, description="not supported: only []")
    logprobs: list[Any] | None = Field(None, description="accepted and not used")


Parts = Annotated[Array[InputText], Field(min_length=1, max_length=MESSAGES)]


class MessageItem(Strict):
    """A message of the conversation, which may also be an earlier answer of this server."""

    type: Literal["message"] | None = Field(None, description="type of the item. Default: message")
    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="who says it. The chat template reads developer as system"
    )
    content: str | Annotated[Array[InputText | OutputText], Field(min_length=1, max_length=MESSAGES)] = Field(
        description="the text, or parts of it, which are joined"
    )
    id: str | None = Field(None, description="accepted and not used")
    status: str | None = Field(None, description="accepted and not used")
    phase: str | None = Field(None, description="accepted and not used")


class FunctionCall(Strict):
    """A function call in an earlier answer."""

    type: Literal["function_call"] = Field(description="type of the item")
    call_id: str = Field(description="id of the call", max_length=256)
    name: str = Field(description="name of the function")
    arguments: str = Field(description="the arguments as JSON, as the model wrote them")
    id: str | None = Field(None, description="accepted and not used")
    status: str | None = Field(None, description="accepted and not used")


class FunctionResult(Strict):
    """The result of a function call in an earlier answer."""

    type: Literal["function_call_output"] = Field(description="type of the item")
    call_id: str = Field(description="id of the call", max_length=256)
    output: str | Parts = Field(description="what the function returned")
    id: str | None = Field(None, description="accepted and not used")
    status: str | None = Field(None, description="accepted and not used")


class ReasoningItem(Strict):
    """The reasoning of an earlier answer of another model, which is not part of the prompt."""

    type: Literal["reasoning"] = Field(description="type of the item")
    id: str | None = Field(None, description="accepted and not used")
    status: str | None = Field(None, description="accepted and not used")
    summary: list[Any] | None = Field(None, description="accepted and not used")
    content: list[Any] | None = Field(None, description="accepted and not used")
    encrypted_content: str | None = Field(None, description="accepted and not used")


def _kind(item: Any) -> str | None:
    """Return the type of an item (a dictionary or a pydantic model), or None if the value is not an item."""
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", "")
    return "message" if kind is None else kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionResult, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="expected an item of type message, function_call, function_call_output or reasoning. No "
        "response is stored, so send items themselves and not their ids, and leave out items of other types",
    ),
]


class TextFormat(Strict):
    """The format of an answer."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="text: any text; json_object: a JSON object; json_schema: JSON that follows `schema`"
    )
    name: str | None = Field(None, description="name of the schema; not used", max_length=64)
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="the JSON schema, with type json_schema")
    description: str | None = Field(None, description="not used", max_length=4096)
    strict: bool | None = Field(None, description="not used: an answer always follows the schema")


class TextOptions(Strict):
    """The options of an answer that is a text and not a function call."""

    format: TextFormat | None = Field(None, description="the format of the answer")
    verbosity: Literal["medium"] | None = Field(None, description="not supported: only medium")


class Reasoning(Strict):
    """The options of reasoning, which the models of this server do not have."""

    effort: Effort | None = Field(None, description=EFFORT)
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="accepted and not used: there is no reasoning"
    )


class ResponseStreamOptions(Strict):
    """The options of a streamed response."""

    include_obfuscation: OnlyFalse | None = Field(None, description="not supported: only false")


class ResponseTool(Function, OfFunction):
    """A function that the answer may call."""


class ResponseNamedTool(NamedFunction, OfFunction):
    """The function that the answer must call."""


class ResponsesRequest(Sampled):
    """A request of OpenAI's responses API."""

    input: str | Annotated[Array[Item], Field(min_length=1, max_length=ITEMS)] = Field(
        description=f"a message of the user, or the items of the whole conversation, at most {ITEMS}"
    )
    instructions: str | None = Field(None, description="a message of the system before the input")
    max_output_tokens: int | None = Field(None, ge=1, description=f"most tokens of the answer. {CHAT_LIMIT}")
    text: TextOptions | None = Field(None, description="options of the text")
    tools: Array[ResponseTool] | None = Field(None, description="functions; see `tool_choice`")
    tool_choice: Literal["none", "auto", "required"] | ResponseNamedTool | None = Field(None, description=CHOICES)
    parallel_tool_calls: bool | None = Field(None, description=PARALLEL)
    max_tool_calls: int | None = Field(None, ge=1, description="accepted and not used: it limits OpenAI's own tools")
    include: Array[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        None, description=f"{LOGPROBS}: log-probabilities of the tokens; reasoning.encrypted_content: not used"
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=ALTERNATIVES,
        description=f"number of most probable tokens whose log-probabilities are returned too; needs {LOGPROBS}",
    )
    stream_options: ResponseStreamOptions | None = Field(None, description="options of a streamed response")
    truncation: Literal["disabled"] | None = Field(None, description="not supported: only disabled")
    background: OnlyFalse | None = Field(None, description="not supported: only false")
    previous_response_id: None = Field(None, description="not supported: no response is stored. Send all items")
    conversation: None = Field(None, description="not supported: no conversation is stored. Send all items")
    reasoning: Reasoning | None = Field(None, description="options of reasoning; there is none")

    @property
    def reports(self) -> bool:
        return LOGPROBS in (self.include or [])


def chat_of(body: ResponsesRequest) -> ChatRequest:
    """Return the equivalent chat completions request. Raises Refusal if fields of the request contradict each other."""
    if body.top_logprobs and not body.reports:
        raise Refusal.at("top_logprobs", f"needs `include` with {LOGPROBS}.")
    choice: Any = body.tool_choice
    if isinstance(choice, ResponseNamedTool):
        choice = {"type": "function", "function": {"name": choice.name}}
    functions = [one.model_dump(exclude={"type"}) for one in body.tools or []]
    return ChatRequest.model_validate(
        {
            "model": body.model,
            "messages": messages_of(body),
            "max_completion_tokens": body.max_output_tokens,
            **{name: getattr(body, name) for name in ("temperature", "top_p", "seed", "user", "stream")},
            "response_format": _format(body.text),
            "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
            "tools": [{"type": "function", "function": one} for one in functions],
            "tool_choice": choice,
            "parallel_tool_calls": body.parallel_tool_calls,
            "logprobs": body.reports,
            "top_logprobs": (body.top_logprobs or 0) if body.reports else None,
            "stream_options": None if body.stream_options is None else {},
        }
    )


def _format(text: TextOptions | None) -> dict[str, Any] | None:
    form = None if text is None else text.format
    if form is None:
        return None
    if (form.type == "json_schema") != (form.schema_ is not None):
        raise Refusal.at("text.format", "`schema` and type json_schema belong together.")
    if form.schema_ is None:
        return {"type": form.type}
    return {"type": form.type, "json_schema": {"name": form.name or "", "schema": form.schema_}}


def messages_of(body: ResponsesRequest) -> list[dict[str, Any]]:
    """Return the items of a conversation as messages of a chat.

    Consecutive function calls, and an assistant message before them, become one message of the assistant. Raises
    Refusal for the result of a function call without the function call itself.
    """
    made: list[dict[str, Any]] = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if isinstance(body.input, str):
        return [*made, {"role": "user", "content": body.input}]
    called = set[str]()
    if all(isinstance(one, ReasoningItem) for one in body.input):
        raise Refusal.at("input", "has only reasoning. Send a message too.")
    for number, item in enumerate(body.input):
        if isinstance(item, ReasoningItem):
            continue
        if isinstance(item, MessageItem):
            made.append({"role": item.role, "content": _text(item.content)})
        elif isinstance(item, FunctionCall):
            called.add(item.call_id)
            earlier = made.pop() if made and made[-1]["role"] == "assistant" else {"role": "assistant"}
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            made.append({**earlier, "tool_calls": [*earlier.get("tool_calls", ()), call]})
        elif item.call_id not in called:
            message = "no function_call before this item has this id. Send the call too: no response is stored."
            raise Refusal.at(f"input.{number}.call_id", message)
        else:
            made.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
    return made


def _text(content: str | Sequence[InputText | OutputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


_FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "include",
    "reasoning_effort": "reasoning.effort",
}
"""The fields of a `/v1/responses` request, by the names of the corresponding fields of a chat request."""


def refusal(body: ResponsesRequest, error: Refusal | InvalidData) -> Refusal:
    """Return the refusal of the chat request in the fields of the `/v1/responses` request from which it was made."""
    first = isinstance(error, InvalidData) and error.fields.get("number") == 1
    fields = {**_FIELDS, "messages": "instructions"} if first and body.instructions else _FIELDS
    return Refusal.of(error).renamed(lambda field: fields.get(field, field))
