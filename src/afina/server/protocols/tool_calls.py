"""Function calls by the model's own choice, in the form that the chat template teaches.

An answer is a call if all of it, except text before the first call, has the form that the chat template teaches, and if
the arguments follow the JSON schemas of functions of the request. Every other answer is a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from afina import meter
from afina.data.prompts import ChatRefused, rendered, rendered_chat
from afina.data.tokenize import Tokenizer
from afina.errors import InvalidData, NotFound
from afina.generating import guides, problems
from afina.generating.schema_checks import SECONDS, violation
from afina.server.http.refusals import Refusal
from afina.server.protocols import openai_bodies, tools
from afina.server.protocols.openai_bodies import AssistantMessage, ChatRequest, ToolMessage

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

    def place(self, text: str, *, begun: bool = False) -> int:
        """Return the index from which a text, or the text with more characters, may be calls.

        `begun`: whether the text continues another text, which was no call.
        """
        if not self.begin:
            bare, keys = "".join(text.split()), ("name", "type", self.arguments)
            could = any(bare.startswith(f'{{"{one}":') or f'{{"{one}":'.startswith(bare) for one in keys)
            return 0 if could and not begun else len(text)
        found = text.find(self.begin)
        ends = (size for size in range(len(self.begin) - 1, 0, -1) if text.endswith(self.begin[:size]))
        place = found if found >= 0 else len(text) - next(ends, 0)
        return len(text[:place].rstrip())

    def read(self, text: str) -> Said | None:
        """Return the calls in an answer, or None if the answer is not in this form."""
        start = at = self.place(text)
        calls = list[Call]()
        try:
            while at < len(text) and (self.begin or not calls):
                members, at = _members(text, _after(self.begin, text, at))
                at = _after(self.end, text, at)
                kind, name = json.loads(members.pop("type", '"function"')), json.loads(members.pop("name", "null"))
                calls.append(Call(name, members.pop(self.arguments)))
                if kind != "function" or not isinstance(name, str) or members:
                    return None
        except (ValueError, KeyError, RecursionError):
            return None
        return Said(text[:start], calls) if calls and at == len(text) else None


def _after(mark: str, text: str, at: int) -> int:
    """Return the index after a mark and the whitespace around it. Raises ValueError if the text has no mark there."""
    found = re.compile(rf"\s*{re.escape(mark)}\s*").match(text, at)
    if found is None:
        raise ValueError(mark)
    return found.end()


def _members(text: str, at: int) -> tuple[dict[str, str], int]:
    """Return the members of the JSON object at an index, with values as JSON, and the index after the object.

    Raises ValueError if there is no JSON object, and RecursionError.
    """
    decode, members = json.JSONDecoder().raw_decode, dict[str, str]()
    at = _after("{", text, at)
    while True:
        name, end = decode(text, at)
        at = _after(":", text, end)
        _, end = decode(text, at)
        members[str(name)] = text[at:end]
        at = _after("", text, end)
        if text[at : at + 1] == "}":
            return members, at + 1
        at = _after(",", text, at)


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
        if said is None or any(one.name not in self.schemas for one in said.calls):
            return Said(text)
        try:
            found = _violations([(one.arguments, self.schemas[one.name]) for one in said.calls])
        except InvalidData:  # nobody knows whether these arguments hold to the schemas
            return Said(text)
        if any(one is not None for one in found):
            return Said(text)
        return said if self.parallel else Said(said.text, said.calls[:1])


def _violations(pairs: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str | None]:
    """Return how each JSON text violates its schema, as `violation`; all checks together have the time of one."""
    until, found = meter.processor_seconds() + SECONDS, list[str | None]()
    for text, schema in pairs:
        found.append(violation(text, schema))
        if meter.processor_seconds() > until:
            raise problems.SCHEMA_UNCHECKED(_problem=f"the checks take more than {SECONDS:g} seconds")
    return found


@dataclass(eq=False)
class CallStream:
    """Reads the calls in a streamed answer. Text that may be a call is held back until the answer is complete."""

    reader: CallReader
    _held: str = ""
    _begun: bool = False

    def add(self, text: str) -> str:
        """Add a piece of the answer, and return the text that cannot be a call."""
        self._held += text
        place = self.reader.form.place(self._held, begun=self._begun)
        ready, self._held = self._held[:place], self._held[place:]
        self._begun = self._begun or bool(ready)
        return ready

    def end(self, text: str) -> Said:
        """Add the last piece of the answer, and return the rest of what it says. Not in an event loop."""
        ready = self.add(text)
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
    for token in tokenizer.added_tokens_decoder.values():
        text = text.replace(token.content, "") if token.special else text
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
        headers: further headers of the response.
    """

    text: str
    reader: CallReader | None = None
    headers: Mapping[str, str] = MappingProxyType({})


def chat_prompt(tokenizer: Tokenizer, body: ChatRequest) -> ChatPrompt:
    """Return the prompt that the chat template makes of a request. Raises Refusal and InvalidData."""
    offered = tools.offered(body)
    form = form_of(tokenizer) if body.tools or any(getattr(one, "tool_calls", None) for one in body.messages) else None
    messages = chat_messages(body, form)
    if not offered:
        return ChatPrompt(rendered_chat(tokenizer, messages))
    if form is None or openai_bodies.is_restricted(body):
        unused = {UNUSED: "template" if form is None else "grammar"}
        return ChatPrompt(rendered_chat(tokenizer, messages), headers=unused)
    schemas = {one.name: tools.schema_of(one) for one in offered}
    try:
        guides.require()
        _violations(("{}", one) for one in schemas.values())  # refused early if they cannot be checked at all
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


def chat_messages(body: ChatRequest, form: CallForm | None) -> list[Mapping[str, Any]]:
    """Return messages as chat templates expect them, with calls and names of called functions if there is a form."""
    if form is None:
        return [one.for_template() for one in body.messages]
    found, names = list[Mapping[str, Any]](), dict[str, str]()
    for one in body.messages:
        if isinstance(one, AssistantMessage) and one.tool_calls:
            names |= {each.id: each.function.name for each in one.tool_calls}
            calls = [_for_template(Call(**each.function.model_dump()), each.id) for each in one.tool_calls]
            found.append({**one.model_copy(update={"tool_calls": None}).for_template(), "tool_calls": calls})
        elif isinstance(one, ToolMessage) and one.tool_call_id in names:
            found.append({"name": names[one.tool_call_id], **one.for_template()})
        else:
            found.append(one.for_template())
    return found


def _for_template(call: Call, name: str) -> dict[str, Any]:
    """Return a call as chat templates expect it: the arguments are an object, unless they are not JSON."""
    arguments: Any = call.arguments
    with suppress(ValueError, RecursionError):
        read = json.loads(call.arguments)
        json.dumps([[[[read]]]], ensure_ascii=False).encode()  # ValueError: half a character
        arguments = read
    return {"id": name, "type": "function", "function": {"name": call.name, "arguments": arguments}}
