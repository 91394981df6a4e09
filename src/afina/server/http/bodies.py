"""Bodies: JSON of a stranger to a model's fields, or a refusal. Knows no protocol.

What a body costs is bounded before it is read: its values are counted in its bytes, and the first error ends it.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from afina.server.http.refusal import Refusal

Given = TypeVar("Given", bound="Body")
Item = TypeVar("Item")

Array = Annotated[list[Item], Field(fail_fast=True)]
"""A list of which the first wrong element is the only one that is told."""

MOST = 8192
"""JSON values in a body: several times as many as its texts may be."""

_SHOWN = 80
"""Characters of a place in a body that are told."""

_HALF = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
"""The escape of half a character, with or without the other half."""


class Body(BaseModel):
    """What a request has. Fields that are not known are left alone: protocols have more than is used here."""

    model_config = ConfigDict(strict=True, extra="ignore")


def parsed(content: bytes, kind: type[Given]) -> Given:
    """Raises Refusal: 400 for what is not JSON or has too many values, 422 for what is not such an object."""
    if values(content) > MOST:
        raise Refusal(400, "invalid", f"The body has more than {MOST:,} JSON values. Send less at once.")
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


def values(content: bytes) -> int:
    """At least as many as the body has of arrays, objects and their elements, in a few milliseconds a MiB."""
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    if strings > 2 * MOST:  # of a field, its name is a string too
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
