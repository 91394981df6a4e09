"""Functions that build JSON Schemas of responses."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}
BYTES: Shape = {"type": "string", "format": "binary"}
NUMBER: Shape = {"type": "number"}
COUNT: Shape = {"type": "integer", "minimum": 0}
YES_OR_NO: Shape = {"type": "boolean"}
NOTHING: Shape = {"type": "null"}


def about(shape: Shape, description: str) -> Shape:
    return {**shape, "description": description}


def array(items: Shape) -> Shape:
    return {"type": "array", "items": items}


def by_name(values: Shape) -> Shape:
    """Return the JSON Schema of an object with arbitrary property names and values of one schema."""
    return {"type": "object", "additionalProperties": values}


def record(*, optional: Collection[str] = (), **fields: Shape) -> Shape:
    """Return the JSON Schema of an object with exactly the given fields. All fields are required except `optional`."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def either(*shapes: Shape) -> Shape:
    """Return the JSON Schema of a value that matches at least one of several schemas."""
    return {"anyOf": [*shapes]}


def exactly_one(first: str, *others: str) -> Shape:
    """Return the part of a JSON Schema that says that exactly one of several fields is neither missing nor null.

    It has no `oneOf`, of which generators of clients make several types of the object.
    """
    given: Shape = {"required": [first], "properties": {first: {"not": NOTHING, "description": "the field given"}}}
    if not others:
        return given
    none = {"properties": {name: about(NOTHING, "left out") for name in others}}
    return {"if": given, "then": none, "else": exactly_one(*others)}


def one_of(*values: object) -> Shape:
    """Return the JSON Schema of a value that is one of several. A single value is a `const`, also for booleans."""
    return {"enum": [*values]} if len(values) > 1 else {"const": values[0]}
