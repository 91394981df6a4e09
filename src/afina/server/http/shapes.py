"""Shapes: JSON Schema of what is answered, in as few words as it takes. Knows no protocol."""

from __future__ import annotations

from typing import Any

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
