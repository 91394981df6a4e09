"""Base classes of pydantic models that are stored as JSON; pydantic's errors in plain words; sizes such as "8GiB"."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from math import isnan, nan
from numbers import Real
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticKnownError
from pydantic_core.core_schema import no_info_before_validator_function

from afina import digest, problems
from afina.errors import nearest
from afina.sentence import Sentence

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of texts, steps, parameters or bytes; numbers that are too large for a float are rejected."""


def null_where_undefined(figure: float | None) -> float | None:
    return None if figure is None or isnan(figure) else figure


Figure = Annotated[
    float,
    BeforeValidator(lambda value: nan if value is None else value),
    PlainSerializer(null_where_undefined, return_type=float | None, when_used="json"),
]
"""The value of a metric. NaN means that the metric is undefined (`stats.answered.UNDEFINED`), and is null in JSON."""

FigureOrNone = Annotated[float | None, PlainSerializer(null_where_undefined, when_used="json")]
"""The value of a metric, or None if it was not measured. Both NaN and None are null in JSON, which is read as None."""


def figures_as_json(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: null_where_undefined(figure) for name, figure in figures.items()}


def is_number(value: object, kind: type = Real) -> bool:
    """Return whether a value is a number, or a number of a kind such as Integral; booleans are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


class StrictNumbers:
    """The base of a type, or an annotation of it: true and false are refused for its numbers.

    Pydantic alone reads them as 1 and 0.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        made = handler(source)
        _check_numbers(handler.resolve_ref_schema(made), handler)
        return made


def _check_numbers(schema: Any, handler: GetCoreSchemaHandler) -> None:
    """Add the check to each number in a core schema, which is changed, also within fields that are dataclasses."""
    for key, part in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key in ("default", "metadata", "serialization", "config", "keys_schema"):  # keys of JSON are strings
            continue
        if isinstance(part, dict) and part.get("type") == "definition-ref":
            found = handler.resolve_ref_schema(cast(CoreSchema, part))
            if found["type"] == "dataclass":
                _check_numbers(found, handler)
        elif isinstance(part, dict) and part.get("type") in _CHECKS:
            schema[key] = no_info_before_validator_function(_CHECKS[part["type"]], cast(CoreSchema, part))
        elif isinstance(part, dict | list) and not _is_checked(part):
            _check_numbers(part, handler)


def _is_checked(schema: Any) -> bool:
    is_function = isinstance(schema, dict) and schema.get("type") == "function-before"
    return is_function and schema["function"]["function"] in _CHECKS.values()


def _no_boolean(kind: Literal["int_type", "float_type"]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(kind)
        return value

    return check


_CHECKS = {"int": _no_boolean("int_type"), "float": _no_boolean("float_type")}


class Frozen(StrictNumbers, BaseModel):
    """A pydantic model whose fields cannot be changed, and that rejects undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def non_defaults(self, without: Collection[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as JSON values, also within fields that are models.

        Args:
            without: The names of the fields to leave out, or of the fields of fields, as in `model_dump`.
        """
        leave: Any = without if isinstance(without, Mapping) else set(without)
        changed = self.model_dump(mode="json", exclude_defaults=True, exclude=leave)
        return {name: value for name, value in changed.items() if value != {}}


FORMAT = 2
"""The format number in the files of studies and recommendations, which must be raised when older files can no longer be
read."""


class Sealed(Frozen):
    """A pydantic model with a digest of its fields, which shows whether somebody has edited the file.

    Attributes:
        format: The format number of the file.
        content_digest: The digest of all other fields as JSON; empty before the model is written to a file.
    """

    format: int = FORMAT
    content_digest: str = ""

    def sealed(self) -> Self:
        return self.model_copy(update={"content_digest": digest_of_content(self.model_dump_json())})

    def refuses(self, text: str | bytes) -> str:
        """Return a message if the JSON text of this model does not match its `content_digest`; "" if it matches."""
        if (found := digest_of_content(text)) == self.content_digest:
            return ""
        stated = f"it states {self.content_digest[:19]}" if self.content_digest else "it states none"
        return f"its fields give digest {found[:19]}, {stated}"


def check_format(text: str | bytes, path: object, advice: str) -> None:
    """Raise InvalidData, with a sentence of advice, if a JSON object has another format number than FORMAT."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict) and (found := content.get("format")) != FORMAT:
        raise problems.RESULTS_FORMAT_UNKNOWN(path=path, found=str(found)[:40], expected=FORMAT, _advice=advice)


def digest_of_content(text: str | bytes) -> str:
    """Return the digest of all fields that a JSON object has, which later versions of afina may add to."""
    return digest.of_json({name: value for name, value in json.loads(text).items() if name != "content_digest"})


_LIST, _LONGEST = "a list in square brackets", 40

_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("int_parsing_size", "decimal_max_digits"), "a smaller number"),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "a number"),
    "finite_number": "a finite number",
    "multiple_of": "a multiple of {multiple_of}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "a text"),
    "string_too_short": "a text of at least {min_length} character{s}",
    "string_too_long": "a text of at most {max_length} characters",
    "string_pattern_mismatch": "a text like {pattern}",
    **dict.fromkeys(("bytes_type", "bytes_invalid_encoding"), "bytes"),
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    **dict.fromkeys(
        ("tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type"),
        _LIST,
    ),
    "too_short": "at least {min_length} value{s} in the list",
    "too_long": "at most {max_length} value{s} in the list",
    **dict.fromkeys(
        (
            *("dict_type", "mapping_type", "model_type", "model_attributes_type"),
            *("dataclass_type", "dataclass_exact_type"),
        ),
        "a table of keys and values",
    ),
    "none_required": "no value",
}
"""For each type of pydantic's errors, what is expected instead of the invalid value, in plain words."""


def _in_words(kind: str, message: str, context: Mapping[str, Any], found: Any) -> str:
    """Return an error of pydantic in plain words, in a form that follows a colon."""
    if kind in ("value_error", "assertion_error"):
        raised = context.get("error")
        if isinstance(raised, ValueError) and raised.args and isinstance(raised.args[0], Sentence):
            return raised.args[0]
        problem = str(raised or message)
    elif kind not in _EXPECTED:
        problem = message.replace("Input should be", "expected")
    else:
        limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
        length = next((limits[name] for name in ("min_length", "max_length") if name in limits), 0)
        problem = f"expected {_EXPECTED[kind].format(**limits, s='s' * (length != 1))}"
        if _EXPECTED[kind] == _LIST and isinstance(found, str) and len(found) <= _LONGEST:
            problem += f", such as {json.dumps([found], ensure_ascii=False)}"
    known = re.findall(r"'([^']*)'", context["expected"]) if kind == "literal_error" else ()
    near = nearest(found, known) if isinstance(found, str) else None
    return f"{problem[:1].lower()}{problem[1:]}" + (f". Did you mean {near!r}?" if near else "")


_BRANCH = re.compile(r"bool|int|float|str|constrained-\w+|[\w-]+\[.*\]")
"""Pattern of the part of an error's place that pydantic adds for a type of a union."""


def _of_first_field(error: ValidationError) -> list[ErrorDetails]:
    """Return the first error; for a value that is of no type of a union, one error for each of the types.

    If a value is of one of the types apart from a value in it, the error is that of the inner value.
    """
    errors = error.errors()
    depth = len(errors[0]["loc"]) - 1
    field = errors[0]["loc"][:-1]
    types = [each for each in errors if each["loc"][:depth] == field and len(each["loc"]) > depth >= 0]
    if len(types) < 2 or not all(_BRANCH.fullmatch(str(each["loc"][depth])) for each in types):
        return errors[:1]
    for each in types:
        each["loc"] = field + each["loc"][depth + 1 :]
    inner = [each for each in types if len(each["loc"]) > depth]
    return inner[:1] or types


@dataclass(frozen=True)
class WrongValue:
    """The first error that pydantic found in a value."""

    kind: str  # pydantic's type of the error, such as `missing` or `extra_forbidden`
    place: tuple[str, ...]  # of the invalid field: names and indices, the outermost first; empty for the whole value
    message: str  # in plain words, beginning in lower case so that the message fits into a sentence
    found: Any  # the invalid input

    @classmethod
    def of(cls, error: ValidationError) -> WrongValue:
        first, *alternatives = _of_first_field(error)
        message = _in_words(first["type"], first["msg"], first.get("ctx", {}), first["input"])
        for each in alternatives:
            other = _in_words(each["type"], each["msg"], each.get("ctx", {}), each["input"])
            message = f"{message}, or {other.removeprefix('expected ')}"
        return cls(first["type"], tuple(map(str, first["loc"])), message, first["input"])

    @property
    def sentence(self) -> str:
        """The message with a full stop or question mark at its end."""
        return self.message if self.message.endswith("?") else Sentence([self.message, "."])

    @property
    def field(self) -> str:
        return ".".join(self.place)


@cache  # pydantic takes milliseconds to build one, and a study validates the same few types again and again
def validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[kind, StrictNumbers])


def read_size(text: str, what: str = "memory") -> int:
    """Parse a size such as "8GiB", "512 MiB" or "16GB" to bytes. Raises InvalidStudy, also if the unit is missing."""
    try:
        size: int = validator(ByteSize).validate_python(text.strip())
    except ValidationError:
        size = 0
    if size == 0 or re.fullmatch(r"[\d.]+\s*[a-zA-Z]+", text.strip()) is None:
        raise problems.SIZE_INVALID(option=what, found=text)
    return int(size)
