"""The functions of a request in OpenAI's protocol, and the field that says which of them the answer calls.

If the request names the function, a grammar restricts the answer to valid arguments. If the model may choose, see
`tool_calls`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from afina.server.http.bodies import Array, Strict
from afina.server.http.refusals import Refusal

NAME = r"[A-Za-z0-9_.-]{1,64}"
"""Pattern of the name of a function."""


CHOICES = (
    "with tools: auto (the default: the model chooses, if the chat template has tools), none (a text), the function "
    "that the answer calls, or required with one function"
)
PARALLEL = "false: at most one call in an answer"


class OfFunction(Strict):
    """The base class of parts of a request that have the type `function`."""

    type: Literal["function"] | None = Field("function", description="only functions are supported")


class NamedFunction(Strict):
    """The base class of parts of a request that name a function."""

    name: str = Field(description="name of the function", pattern=f"^{NAME}$")


class Function(NamedFunction):
    """A function that an answer may call."""

    description: str | None = Field(None, description="what the function does, for the chat template")
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments, an object. Default: no arguments"
    )
    strict: bool | None = Field(None, description="not used: the arguments always follow the schema")


class Tool(OfFunction):
    """A tool that an answer may call."""

    function: Function = Field(description="the function")


class NamedTool(OfFunction):
    """The tool that an answer must call."""

    function: NamedFunction = Field(description="the function")


Choice = Literal["none", "auto", "required"] | NamedTool | None


class Tools(Strict):
    """The request fields `tools` and `tool_choice`."""

    tools: Array[Tool] | None = Field(None, description="functions; see `tool_choice`")
    tool_choice: Choice = Field(
        None,
        description=CHOICES,
    )
    parallel_tool_calls: bool | None = Field(None, description=PARALLEL)


def forced(body: Tools) -> Function | None:
    """Return the function that the answer must call, or None if the request forces no call.

    Raises Refusal if `tools` and `tool_choice` do not name exactly one function.
    """
    tools, choice = body.tools or [], body.tool_choice
    functions = {one.function.name: one.function for one in tools}
    if len(functions) < len(tools):
        raise Refusal.at("tools", "two functions have the same name. Leave one out.")
    if isinstance(choice, NamedTool):
        if choice.function.name not in functions:
            raise Refusal.at("tool_choice", f"`tools` has no function {choice.function.name!r}.")
        return functions[choice.function.name]
    if choice == "required" and not functions:
        raise Refusal.at("tool_choice", "required needs a function in `tools`.")
    if choice != "required":
        return None
    if len(functions) == 1:
        return next(iter(functions.values()))
    raise Refusal.at(
        "tool_choice",
        "found required with several functions. Give the name of a function, required with one function, auto if the "
        "model may choose, or none for a text.",
        "unsupported",
    )


def offered(body: Tools) -> Sequence[Function]:
    """Return the functions among which the model may choose, or to call none. Raises as `forced`."""
    chosen = forced(body) is not None or body.tool_choice == "none"
    return [] if chosen else [one.function for one in body.tools or []]


def schema_of(function: Function) -> Mapping[str, Any]:
    """Return the JSON Schema of a function's arguments. Raises Refusal if the schema's type is not object."""
    given = function.parameters or {"properties": {}, "additionalProperties": False}
    if given.get("type", "object") != "object":
        found = str(given["type"])[:40]
        raise Refusal.at("tools", f"the parameters of {function.name} have the type {found}, expected object.")
    return {**given, "type": "object"}
