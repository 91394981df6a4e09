"""Function calls by the model's own choice, in the form that the chat template teaches.

An answer is a call if all of it, except text before the first call, has the form that the chat template teaches, and if
the arguments follow the JSON schemas of functions of the request. Every other answer is a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

from afina.data.prompts import ChatRefused, rendered, rendered_chat
from afina.data.tokenize import Tokenizer
from afina.errors import InvalidData, NotFound
from afina.generating import guides
from afina.generating.schema_checks import violation
from afina.server.http.refusals import Refusal
from afina.server.protocols import openai_bodies, tools
from afina.server.protocols.openai_bodies import AssistantMessage, ChatMessage, ChatRequest

UNUSED = "Afina-Tools-Unused"
"""The HTTP header that says why the functions of a request are not in the prompt: `template` or `grammar`."""


class Call(NamedTuple):
    """A function call: the function's name, and its arguments as JSON."""

    name: str
    arguments: str


class Said(NamedTuple):
    """What an answer, or a piece of it, says: a text, calls, or calls after a text."""

    text: str
    calls: Sequence[Call] = ()


@dataclass(frozen=True)
class CallForm:
    """A form of function calls: a JSON object with the function's name and arguments, between two marks.

    Attributes:
        arguments: the key of the arguments in the JSON object.
        begin: the mark before each call. Empty: an answer has a single call and no text before it.
        end: the mark after each call.
    """

    arguments: str
    begin: str = ""
    end: str = ""

    @cached_property
    def _head(self) -> re.Pattern[str]:
        kind = r'(?:"type"\s*:\s*"function"\s*,\s*)?'
        name = rf'{kind}"name"\s*:\s*"({tools.NAME})"\s*,\s*'
        return re.compile(rf'{re.escape(self.begin)}\s*\{{\s*{name}"{self.arguments}"\s*:\s*')

    @cached_property
    def _tail(self) -> re.Pattern[str]:
        return re.compile(rf"\s*\}}\s*{re.escape(self.end)}\s*")

    def place(self, text: str, *, begun: bool = False) -> int:
        """Return the index from which a text, or the text with more characters, may be calls.

        `begun`: whether the text continues another text, which was no call.
        """
        if not self.begin:
            bare = "".join(text.split())
            could = any(bare.startswith(one) or one.startswith(bare) for one in ('{"name":"', '{"type":"function",'))
            return 0 if could and not begun else len(text)
        found = text.find(self.begin)
        ends = (size for size in range(len(self.begin) - 1, 0, -1) if text.endswith(self.begin[:size]))
        place = found if found >= 0 else len(text) - next(ends, 0)
        return len(text[:place].rstrip())

    def read(self, text: str) -> Said | None:
        """Return the calls in an answer, or None if the answer is not in this form."""
        start = at = self.place(text)
        at += len(text[at:]) - len(text[at:].lstrip())
        calls = list[Call]()
        while at < len(text) and (self.begin or not calls):
            head = self._head.match(text, at)
            try:
                _, end = json.JSONDecoder().raw_decode(text, head.end() if head else len(text))
            except (ValueError, RecursionError):
                return None
            tail = self._tail.match(text, end)
            if head is None or tail is None:
                return None
            calls.append(Call(head[1], text[head.end() : end]))
            at = tail.end()
        return Said(text[:start], calls) if calls and at == len(text) else None


FORMS = CallForm("arguments", "<tool_call>", "</tool_call>"), CallForm("parameters")
"""The forms of calls that are read: that of Hermes and Qwen, and that of Llama 3."""


@dataclass(frozen=True, eq=False)
class CallReader:
    """Reads the calls in the answers to a request. `schemas`: the JSON schema of each function's arguments."""

    form: CallForm
    schemas: Mapping[str, Mapping[str, Any]]
    parallel: bool = True

    def read(self, text: str) -> Said:
        """Return what a complete answer says. Without `parallel`, only the first of several calls.

        Must not be called in an event loop.
        """
        said = self.form.read(text)
        if said is None or not all(self._holds(one) for one in said.calls):
            return Said(text)
        return said if self.parallel else Said(said.text, said.calls[:1])

    def _holds(self, call: Call) -> bool:
        """Return whether a function of the request is called, with arguments that hold to its schema."""
        try:
            return call.name in self.schemas and violation(call.arguments, self.schemas[call.name]) is None
        except InvalidData:  # nobody knows whether these arguments hold to the schema
            return False


@dataclass(eq=False)
class CallStream:
    """Reads the calls in a streamed answer. Text that may be a call is held back until the answer is complete."""

    reader: CallReader
    _held: str = ""
    _begun: bool = field(default=False)

    def add(self, text: str) -> Said:
        """Add a piece of the answer, and return the text that cannot be a call."""
        self._held += text
        place = self.reader.form.place(self._held, begun=self._begun)
        ready, self._held = self._held[:place], self._held[place:]
        self._begun = self._begun or bool(ready)
        return Said(ready)

    def end(self, text: str) -> Said:
        """Add the last piece of the answer, and return the rest of what it says. Not in an event loop."""
        ready = self.add(text).text
        said = self.reader.read(self._held) if self._held else Said("")
        return Said(ready + said.text, said.calls)


_PROBE = Call("probe_function", '{"probe_argument": "soup"}')


@lru_cache(maxsize=8)
def _form_of(tokenizer: Tokenizer, source: str) -> CallForm | None:
    called = _for_template(_PROBE, "probe00000")
    schema = {"type": "object", "properties": {"probe_argument": {"type": "string", "description": "a"}}}
    function = {"name": _PROBE.name, "description": "a", "parameters": schema}
    asked, answer = {"role": "user", "content": "soup"}, {"role": "assistant", "content": "", "tool_calls": [called]}
    given = [{"type": "function", "function": function}]
    try:
        prompt = rendered(tokenizer, [asked], prompt=True, tools=given)
        whole = rendered(tokenizer, [asked, answer], prompt=False, tools=given)
    except ChatRefused:
        return None
    if _PROBE.name not in prompt or not whole.startswith(prompt):
        return None
    text = whole[len(prompt) :]
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return next((form for form in FORMS if form.read(text.strip()) == Said("", [_PROBE])), None)


def form_of(tokenizer: Tokenizer) -> CallForm | None:
    """Return the form of calls that a chat template teaches; None: it has no functions, or calls of another form.

    The chat template renders a call of a function, so its author need not describe the form.
    """
    return _form_of(tokenizer, tokenizer.get_chat_template(tools=[{}]))


class ChatPrompt(NamedTuple):
    """The prompt of a chat, and what reads its answers.

    Attributes:
        reader: None: no answer calls a function by its own choice.
        unused: why the functions of the request are not in the prompt, for the header `UNUSED`.
    """

    text: str
    reader: CallReader | None = None
    unused: Literal["template", "grammar"] | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.unused is None else {UNUSED: self.unused}


def chat_prompt(tokenizer: Tokenizer, body: ChatRequest) -> ChatPrompt:
    """Return the prompt that the chat template makes of a request. Raises Refusal and InvalidData."""
    offered = tools.offered(body)
    form = form_of(tokenizer) if body.tools or any(getattr(one, "tool_calls", None) for one in body.messages) else None
    messages = [_message(one, form) for one in body.messages]
    if not offered:
        return ChatPrompt(rendered_chat(tokenizer, messages))
    if form is None or openai_bodies.is_restricted(body):
        return ChatPrompt(rendered_chat(tokenizer, messages), None, "template" if form is None else "grammar")
    schemas = {one.name: tools.schema_of(one) for one in offered}
    try:
        guides.require()
        for one in schemas.values():
            violation("{}", one)  # refused before the answer begins, if it cannot be checked at all
    except NotFound as error:
        raise Refusal(400, "unsupported", str(error)) from None
    except InvalidData as error:
        raise Refusal.at("tools", str(error)) from None
    given = [_tool(one, schemas[one.name]) for one in offered]
    written = json.dumps(given, ensure_ascii=False)
    if forged := [token for token in tokenizer.all_special_tokens if token in written]:
        raise Refusal.at("tools", f"found the special token {forged[0]!r}, which separates messages. Leave it out.")
    prompt = rendered_chat(tokenizer, messages, given)
    return ChatPrompt(prompt, CallReader(form, schemas, parallel=body.parallel_tool_calls is not False))


def _tool(function: tools.Function, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function as chat templates expect it."""
    described = {"description": function.description or ""}
    return {"type": "function", "function": {"name": function.name, **described, "parameters": schema}}


def _message(message: ChatMessage, form: CallForm | None) -> Mapping[str, Any]:
    """Return a message as chat templates expect it, with its calls if the template has a form for them."""
    if form is None or not isinstance(message, AssistantMessage) or not message.tool_calls:
        return message.for_template()
    calls = [_for_template(Call(one.function.name, one.function.arguments), one.id) for one in message.tool_calls]
    return {**message.model_copy(update={"tool_calls": None}).for_template(), "tool_calls": calls}


def _for_template(call: Call, name: str) -> dict[str, Any]:
    """Return a call as chat templates expect it: the arguments are an object, unless they are not JSON."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = call.arguments
    return {"id": name, "type": "function", "function": {"name": call.name, "arguments": arguments}}
