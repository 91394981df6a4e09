"""Described: what OpenAPI says of a route whose body is read by `bodies`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from afina.server.http.bodies import Body
from afina.server.http.shapes import TEXT, Shape

TEMPLATE = "#/components/schemas/{model}"

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


def described(
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
    responses: dict[int, Any] = {code: _said(why, "application/json", error) for code, why in _FAILURES.items()}
    extra: dict[str, Any] = {}
    if query:
        extra["parameters"] = [{"name": name, "in": "query", "schema": TEXT} for name in query]
    if body is not None:
        schema = {"$ref": TEMPLATE.format(model=body.__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
        extra["requestBody"] = {"required": True, "content": content}
    elif lines is not None:
        content = {"application/x-ndjson": {"schema": TEXT, "example": lines}}
        extra["requestBody"] = {"required": True, "content": content}
    return {
        "tags": [tag],
        "response_class": Response,
        "responses": {200: _said("What was asked for.", media, answer or TEXT), **responses},
        "openapi_extra": extra,
    }


def health(tag: str, answer: Shape, *, ready: bool) -> dict[str, Any]:
    """Arguments of a route that needs no key. ready: whether it may say that it is not."""
    codes = {200: "It does.", **({503: "It does not."} if ready else {})}
    responses = {code: _said(why, "application/json", answer) for code, why in codes.items()}
    return {"tags": [tag], "response_class": Response, "responses": responses, "openapi_extra": {"security": []}}


def still(tag: str, media: str) -> dict[str, Any]:
    """Arguments of a route that answers everybody with the same file."""
    responses = {200: _said("It.", media, TEXT)}
    return {"tags": [tag], "response_class": Response, "responses": responses, "openapi_extra": {"security": []}}


def _said(why: str, media: str, shape: Shape) -> dict[str, Any]:
    return {"description": why, "content": {media: {"schema": shape}}}


def schemas(bodies: list[type[Body]]) -> dict[str, Any]:
    """Of all that routes refer to, by name."""
    _, found = models_json_schema([(one, "validation") for one in bodies], ref_template=TEMPLATE)
    made: dict[str, Any] = found["$defs"]
    return made
