"""Strict parsing of request bodies into pydantic models. `Settings.body_bytes` is the largest size of a body.

The cost of parsing is bounded. The JSON values in a body are counted before the body is parsed, and the validation of
an array stops at the first wrong element. FastAPI does not parse bodies; it only gets the JSON Schemas of the bodies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from afina.server.http.refusals import Refusal
from afina.server.json_shapes import Shape

Given = TypeVar("Given", bound="Body")
Item = TypeVar("Item")

Array = Annotated[list[Item], Field(fail_fast=True)]
"""The type of a list whose validation stops at the first wrong element."""

_VISIBLE = r"[^\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"

Readable = Annotated[str, Field(json_schema_extra={"minLength": 1, "pattern": _VISIBLE})]
"""The type of a text for a model. Its JSON Schema excludes blank texts (`is_blank`), which `Core.accept` refuses."""

REMARK: Shape = {"type": "string", "minLength": 1, "pattern": r"\S", "maxLength": 1000}
"""The JSON Schema of a `Remark`."""

Remark = Annotated[str, Field(max_length=1000, json_schema_extra=REMARK)]
"""The type of a reason for the audit log, or of a name. The store refuses a blank one."""

Texts = Annotated[Array[Readable], Field(json_schema_extra={"minItems": 1})]
"""The type of a list of texts. The JSON Schema of `Texts` excludes empty lists, and `Core.accept` refuses empty
lists."""

MOST_VALUES = 8192
"""The largest number of JSON values in a request's body, which is many times the largest number of texts."""

_SHOWN = 80  # the largest number of characters that error messages show of a value, or of a value's path in a body

_HALF = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
"""Pattern of a JSON escape of a surrogate, either lone or in a pair."""


def _same(expected: bool, given: Any) -> Any:
    """Return a value that is `expected`. Python's Literal takes the numbers 0 and 1 too."""
    if given is not expected:
        raise PydanticCustomError("literal_error", "wrong", {"expected": str(expected)})
    return given


OnlyTrue = Annotated[Literal[True], BeforeValidator(partial(_same, True))]
OnlyFalse = Annotated[Literal[False], BeforeValidator(partial(_same, False))]


class Body(BaseModel):
    """Base class of request bodies. Unknown fields are refused: ignoring an option would change answers silently."""

    model_config = ConfigDict(strict=True, extra="forbid")

    most_values: ClassVar[int] = MOST_VALUES  # largest number of JSON values in a body of this kind


def without_nulls(fields: Any) -> Any:
    """Return a JSON object without the fields that are null."""
    return {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields


def unknown_are_null(schema: dict[str, Any]) -> None:
    """Change the JSON Schema of a body, whose unknown fields must be null; no type of TypeScript says so."""
    del schema["additionalProperties"]
    schema["unevaluatedProperties"] = {"type": "null"}


class Strict(Body):
    """Base class of request bodies in which null counts as absent: clients send null for options they do not set."""

    model_config = ConfigDict(json_schema_extra=unknown_are_null)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return without_nulls(given)


def parse_body(content: bytes, kind: type[Given]) -> Given:
    """Parse the JSON body of a request, or raise Refusal: 400 for no JSON or too many values, 422 for a wrong field."""
    if count_values(content, kind.most_values) > kind.most_values:
        raise Refusal(400, "invalid", f"The body has more than {kind.most_values} JSON values. Send less at once.")
    value = decoded(content)
    if not isinstance(value, dict):
        raise Refusal(422, "invalid", "The body must be a JSON object.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _wrong_field(value, error) from None


_EXPECTED: Mapping[str, str] = {
    "string_type": "a string",
    "text_or_array_type": "a string or an array",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
}
"""Texts for error messages that say which value is expected, by the type of pydantic's error.

Names in braces are filled in from the context of pydantic's error.
"""


def _wrong_field(body: Any, error: ValidationError) -> Refusal:
    """Return the refusal of a body for its first wrong field.

    pydantic reports an error for each type that a field may have. The deepest error counts; at the same depth one about
    a value before one about a type, so that an array of too many strings is said to be too long.
    """
    errors = error.errors(include_url=False)
    places = [_place(body, one) for one in errors]
    of_field = [number for number, place in enumerate(places) if place[:1] == places[0][:1]]
    is_type = [str(one["type"]).endswith("_type") for one in errors]
    best = max(of_field, key=lambda number: (len(places[number]), not is_type[number]))
    alike = [errors[one] for one in of_field if places[one] == places[best] and is_type[one] == is_type[best]]
    where = ".".join(str(part)[:40] for part in places[best][:6])
    return Refusal.at(where, f"{_problem(alike)}.", "unsupported" if _unsupported(errors[best]) else "invalid")


def _unsupported(error: ErrorDetails) -> bool:
    return _is_full(error) or error["type"] in ("extra_forbidden", "literal_error", "union_tag_invalid")


def _is_full(error: ErrorDetails) -> bool:
    """Return whether pydantic's error is about a field that must be empty and is not."""
    return error["type"] == "too_long" and error["ctx"]["max_length"] == 0


def _place(value: Any, error: ErrorDetails) -> tuple[int | str, ...]:
    """Return the path of a wrong field in the body, from pydantic's path without the names of types in it."""
    place, last = list[int | str](), len(error["loc"]) - 1
    for index, part in enumerate(error["loc"]):
        inside = (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int))
        if inside:
            value = value[part]
        if inside or (index == last and error["type"] == "missing"):
            place.append(part)
    if str(error["type"]).startswith("union_tag"):
        place.append(error["ctx"]["discriminator"].strip("'"))
    return tuple(place)


def _problem(errors: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with a field, from pydantic's errors about it: one for each type that it may have."""
    first = errors[0]
    if first["type"] in ("missing", "union_tag_not_found"):
        return "is missing or null"
    if first["type"] == "extra_forbidden":
        return "this server has no such field. Leave it out"
    if _is_full(first):
        return "this server supports only an empty one. Leave it out"
    known = [_EXPECTED[one["type"]].format(**one.get("ctx", {})) for one in errors if one["type"] in _EXPECTED]
    if not known:
        return first["msg"][:200]
    expected = " or ".join(dict.fromkeys({"True": "true", "False": "false"}.get(one, one) for one in known))
    value = first["ctx"]["tag"] if first["type"] == "union_tag_invalid" else first["input"]
    return f"found {_shown(value)}, expected {expected}"[:200]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"a string of {len(value)} characters"
    return json.dumps(value)[:_SHOWN]


def count_values(content: bytes, most: int = MOST_VALUES) -> int:
    """Return an upper bound of the number of values in JSON, from commas and brackets outside strings, in milliseconds.

    If there are more than 2 * `most` strings, their number is returned, which is more than `most` anyway.
    """
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    if strings > 2 * most:  # the name of a field is a string too
        return strings
    outside = b"".join(bare.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{")))


def decoded(content: bytes) -> Any:
    """Return a body's JSON, or refuse invalid JSON or UTF-8, NaN, lone surrogates, repeated names, deep nesting."""
    try:
        value = json.loads(
            content.decode("utf-8"), parse_float=_number, parse_constant=_not_a_number, object_pairs_hook=_once
        )
    except UnicodeDecodeError:
        raise Refusal(400, "invalid", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refusal(400, "invalid", f"Not valid JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise Refusal(400, "invalid", "Not valid JSON: the nesting is too deep.") from None
    except ValueError:  # Python's own limit
        raise Refusal(400, "invalid", "Not valid JSON: a number has too many digits.") from None
    if _HALF.search(content) and (half := _half(value)) is not None:
        raise Refusal.at(half, "has a lone surrogate (half a character).")
    return value


EXACT = 2**53  # the largest number up to which a float represents every integer exactly


def _number(text: str) -> int | float:
    """Return a JSON number with a fraction or an exponent; a whole number up to `EXACT` is an integer, as 3.0 is 3."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= EXACT else number


def _not_a_number(text: str) -> NoReturn:
    raise Refusal(400, "invalid", f"Not valid JSON: {text} is not allowed.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Raises Refusal for a repeated name, which JSON parsers read differently."""
    members = dict(pairs)
    if len(members) < len(pairs):
        name = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        shown = name[:40].encode("ascii", "backslashreplace").decode()
        raise Refusal.at(shown, "occurs twice in the same object. Leave one out.", status=400)
    return members


def _half(found: Any) -> str | None:
    """Return the path of a string with a lone surrogate in a JSON value, or None.

    Without recursion, for deep bodies.
    """
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
