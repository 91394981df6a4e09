"""Described: what OpenAPI says of a route whose body is read by `bodies`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from afina.server.http.bodies import Body

TEMPLATE = "#/components/schemas/{model}"

_FAILURES = {
    400: "No JSON.",
    401: "No valid key.",
    403: "The key has not the scope.",
    404: "There is no such model, or not for this client.",
    413: "Too large.",
    422: "Not what is expected.",
    429: "Too much is asked; Retry-After says when to come again.",
    503: "Not at the moment.",
    504: "Not in time.",
}


def described(
    tag: str, body: type[Body] | None = None, example: Mapping[str, Any] | None = None, *, lines: str | None = None
) -> dict[str, Any]:
    """Arguments of a route: what it takes, an example of that, and what may be answered instead."""
    said: dict[str, Any] = {"tags": [tag], "responses": {code: {"description": why} for code, why in _FAILURES.items()}}
    if body is not None:
        schema = {"$ref": TEMPLATE.format(model=body.__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
    elif lines is not None:
        content = {"application/x-ndjson": {"schema": {"type": "string"}, "example": lines}}
    else:
        return said
    return {**said, "openapi_extra": {"requestBody": {"required": True, "content": content}}}


def schemas(bodies: list[type[Body]]) -> dict[str, Any]:
    """Of all that routes refer to, by name."""
    _, found = models_json_schema([(one, "validation") for one in bodies], ref_template=TEMPLATE)
    made: dict[str, Any] = found["$defs"]
    return made
