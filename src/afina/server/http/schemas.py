"""Bodies of requests as pydantic models, or a refusal; and what OpenAPI says of routes, bodies and answers.

What a body costs is bounded before it is read: its values are counted in its bytes, and the first error ends it. A body
of a stranger is read here alone; FastAPI sees the routes, and is told what to say of them. Knows no protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from afina.server.http.errors import Refusal

Given = TypeVar("Given", bound="Body")
Item = TypeVar("Item")

Array = Annotated[list[Item], Field(fail_fast=True)]
"""A list of which the first wrong element is the only one that is told."""

MOST_VALUES = 8192
"""JSON values in a body: several times as many as its texts may be."""

_SHOWN = 80
"""Characters of a place in a body that are told."""

_HALF = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
"""The escape of half a character, with or without the other half."""


class Body(BaseModel):
    """What a request has. Fields that are not known are left alone: protocols have more than is used here."""

    model_config = ConfigDict(strict=True, extra="ignore")


def parse_body(content: bytes, kind: type[Given]) -> Given:
    """Raises Refusal: 400 for what is not JSON or has too many values, 422 for what is not such an object."""
    if count_values(content) > MOST_VALUES:
        raise Refusal(400, "invalid", f"The body has more than {MOST_VALUES:,} JSON values. Send less at once.")
    found = decoded(content)
    if not isinstance(found, dict):
        raise Refusal(422, "invalid", "The body must be a JSON object.")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        places = [str(part)[:40] for part in first["loc"][:4] if part != "str" and "[" not in str(part)]
        where = ".".join(places)  # without the branches of a union
        raise Refusal(422, "invalid", f"`{where}`: {first['msg'][:200]}.") from None


def count_values(content: bytes) -> int:
    """At least as many as the body has of arrays, objects and their elements, in a few milliseconds a MiB."""
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    if strings > 2 * MOST_VALUES:  # of a field, its name is a string too
        return strings
    outside = b"".join(bare.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{")))


def decoded(content: bytes) -> Any:
    """JSON values: whole characters in UTF-8, no NaN, nested no deeper than Python goes. Raises Refusal."""
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_not_a_number, object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise Refusal(400, "invalid", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refusal(400, "invalid", f"Not valid JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise Refusal(400, "invalid", "Not valid JSON: it is nested too deep.") from None
    except ValueError:  # Python's own limit
        raise Refusal(400, "invalid", "Not valid JSON: a number has too many digits.") from None
    if _HALF.search(content) and (half := _half(found)) is not None:
        raise Refusal(422, "invalid", f"`{half}` holds half a character (a lone surrogate).")
    return found


def _not_a_number(text: str) -> NoReturn:
    raise Refusal(400, "invalid", f"Not valid JSON: {text} is not allowed.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Readers of JSON disagree about which of two values of a name counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        shown = name[:40].encode("ascii", "backslashreplace").decode()
        raise Refusal(400, "invalid", f"Not valid here: `{shown}` stands twice in the same object. Leave one out.")
    return found


def _half(found: Any) -> str | None:
    """Where the first string stands that is not whole. Walks without recursion: nobody says how deep it is nested."""
    left: list[tuple[str, Any]] = [("", found)]
    while left:
        where, one = left.pop()
        if isinstance(one, str) and not _is_whole(one):
            return where.removeprefix(".") or "body"
        if isinstance(one, dict):
            left += [(where, name) for name in one] + [(f"{where}.{name}"[:_SHOWN], one[name]) for name in one]
        elif isinstance(one, list):
            left += [(f"{where}[{index}]"[:_SHOWN], each) for index, each in enumerate(one)]
    return None


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


REFERENCE = "#/components/schemas/{model}"

_FAILURES = {
    400: "Not valid JSON, or not a valid request.",
    401: "No valid key.",
    403: "The key lacks the scope.",
    404: "There is no such model, or not for this client.",
    408: "It did not come in time.",
    409: "It is not so, or is refused.",
    413: "Too large.",
    415: "The body is compressed.",
    422: "Not what is expected.",
    429: "Too much is asked; Retry-After says when to come again.",
    500: "It could not be computed.",
    503: "Not at the moment.",
    504: "Not in time.",
}


def describe(
    tag: str,
    error: Shape,
    answer: Shape | None = None,
    body: type[Body] | None = None,
    example: Mapping[str, Any] | None = None,
    *,
    lines: str | None = None,
    media: str = "application/json",
    query: Sequence[str] = (),
) -> dict[str, Any]:
    """Arguments of a route: what it takes, an example of that, what it answers, and what may be answered instead."""
    responses: dict[int, Any] = {code: _response(why, "application/json", error) for code, why in _FAILURES.items()}
    extra: dict[str, Any] = {}
    if query:
        extra["parameters"] = [{"name": name, "in": "query", "schema": TEXT} for name in query]
    if body is not None:
        schema = {"$ref": REFERENCE.format(model=body.__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
        extra["requestBody"] = {"required": True, "content": content}
    elif lines is not None:
        content = {"application/x-ndjson": {"schema": TEXT, "example": lines}}
        extra["requestBody"] = {"required": True, "content": content}
    return {
        "tags": [tag],
        "response_class": Response,
        "responses": {200: _response("What was asked for.", media, answer or TEXT), **responses},
        "openapi_extra": extra,
    }


def describe_health(tag: str, answer: Shape, *, ready: bool) -> dict[str, Any]:
    """Arguments of a route that needs no key. ready: whether it may say that it is not."""
    codes = {200: "It does.", **({503: "It does not."} if ready else {})}
    responses = {code: _response(why, "application/json", answer) for code, why in codes.items()}
    return {"tags": [tag], "response_class": Response, "responses": responses, "openapi_extra": {"security": []}}


def describe_file(tag: str, media: str) -> dict[str, Any]:
    """Arguments of a route that answers everybody with the same file."""
    responses = {200: _response("It.", media, TEXT)}
    return {"tags": [tag], "response_class": Response, "responses": responses, "openapi_extra": {"security": []}}


def _response(why: str, media: str, shape: Shape) -> dict[str, Any]:
    return {"description": why, "content": {media: {"schema": shape}}}


def body_schemas(bodies: list[type[Body]]) -> dict[str, Any]:
    """Of all that routes refer to, by name."""
    _, found = models_json_schema([(one, "validation") for one in bodies], ref_template=REFERENCE)
    made: dict[str, Any] = found["$defs"]
    return made


Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": "number"}
COUNT: Shape = {"type": "integer", "minimum": 0}
YES_OR_NO: Shape = {"type": "boolean"}
NOTHING: Shape = {"type": "null"}


def array(items: Shape) -> Shape:
    """Of any length."""
    return {"type": "array", "items": items}


def by_name(values: Shape) -> Shape:
    """An object whose names are not known before."""
    return {"type": "object", "additionalProperties": values}


def record(fields: dict[str, Shape], *optional: str) -> Shape:
    """An object of these fields and no others, all of them there but for the optional ones."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def either(*shapes: Shape) -> Shape:
    """One of them."""
    return {"anyOf": [*shapes]}


def one_of(*values: object) -> Shape:
    """One of these values."""
    return {"enum": [*values]}


RANKED_SCORES = array(record({"label": TEXT, "score": NUMBER}))
"""Labels with scores, as several protocols have them."""
