"""Base classes of facts that are stored as JSON. Also pydantic's errors in plain words, and sizes such as "8GiB".

The module knows none of the facts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from afina import digest, problems
from afina.errors import nearest

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of texts, steps, parameters or bytes.

The limit rejects numbers too large for a float in a manipulated file.
"""


def null_where_undefined(figure: float | None) -> float | None:
    """Return a metric as a JSON value: None for NaN."""
    return None if figure is None or isnan(figure) else figure


Figure = Annotated[
    float,
    BeforeValidator(lambda value: nan if value is None else value),
    PlainSerializer(null_where_undefined, return_type=float | None, when_used="json"),
]
"""The value of a metric. NaN means undefined (`stats.answered.UNDEFINED`); JSON has null for NaN."""

FigureOrNone = Annotated[float | None, PlainSerializer(null_where_undefined, when_used="json")]
"""The value of a metric, or None if it was not measured. NaN and None are both null in JSON, and are read as None."""


def figures_as_json(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics by name as JSON values."""
    return {name: null_where_undefined(figure) for name, figure in figures.items()}


class Frozen(BaseModel):
    """A model that cannot be changed and rejects undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def non_defaults(self, without: Collection[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as JSON values; recursively for fields that are models.

        `digest.of_settings` says why keys cover these.

        Args:
            without: Names of fields to leave out; as a mapping to names, of fields of a field.
        """
        leave: Any = without if isinstance(without, Mapping) else set(without)
        found = self.model_dump(mode="json", exclude_defaults=True, exclude=leave)
        return {name: value for name, value in found.items() if value != {}}


FORMAT = 2
"""Format of the facts that studies and recommendations write. Raise it when older files cannot be read any more."""


class Sealed(Frozen):
    """A fact with its own digest, which shows whether the file was changed by hand.

    Attributes:
        format: The format of the file.
        content_digest: Digest of all other fields as JSON; empty before the fact is written.
    """

    format: int = FORMAT
    content_digest: str = ""

    def sealed(self) -> Self:
        return self.model_copy(update={"content_digest": digest_of_content(self.model_dump_json())})

    def refuses(self, text: str | bytes) -> str:
        """Return how `text`, the JSON of this fact, differs from the digest, in words; "" if it matches."""
        if (found := digest_of_content(text)) == self.content_digest:
            return ""
        stated = f"it states {self.content_digest[:19]}" if self.content_digest else "it states none"
        return f"its fields give digest {found[:19]}, {stated}"


def check_format(text: str | bytes, path: object, advice: str) -> None:
    """Raise InvalidData if a JSON object states another format than FORMAT; what is no JSON object is not checked.

    Args:
        advice: What to do, as a sentence.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict) and (found := content.get("format")) != FORMAT:
        raise problems.RESULTS_FORMAT_UNKNOWN(path=path, found=str(found)[:40], expected=FORMAT, _advice=advice)


def digest_of_content(text: str | bytes) -> str:
    """Return the digest of a JSON object without its `content_digest`.

    The digest is over the written text, so fields that later versions add do not change it.
    """
    return digest.of_json({name: value for name, value in json.loads(text).items() if name != "content_digest"})


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
        "a list in square brackets, such as [1, 2]",
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
"""What is expected in place of a value, in a user's words, by pydantic's type of the error."""


def _in_words(kind: str, message: str, context: Mapping[str, Any], found: Any) -> str:
    """Return pydantic's error in a user's words, to follow a colon."""
    if kind in ("value_error", "assertion_error"):
        said = str(context.get("error", message))
    elif kind not in _EXPECTED:
        said = message.replace("Input should be", "expected")
    else:
        given = {name: f"{one:g}" if isinstance(one, float) else one for name, one in context.items()}
        length = next((given[name] for name in ("min_length", "max_length") if name in given), 0)
        said = f"expected {_EXPECTED[kind].format(**given, s='s' * (length != 1))}"
    near = (
        nearest(found, re.findall(r"'([^']*)'", said)) if isinstance(found, str) and kind == "literal_error" else None
    )
    return f"{said[:1].lower()}{said[1:]}" + (f". Did you mean {near!r}?" if near else "")


@dataclass(frozen=True)
class WrongValue:
    """The first error that pydantic found.

    Attributes:
        kind: pydantic's type of the error, such as `missing` or `extra_forbidden`.
        place: names and indices from the outside in; empty for the whole value.
        message: what is wrong, in a user's words, with a lower-case first letter so that it fits into a sentence.
        found: the invalid input.
    """

    kind: str
    place: tuple[str, ...]
    message: str
    found: Any

    @classmethod
    def of(cls, error: ValidationError) -> WrongValue:
        """Return the first error of a ValidationError."""
        first = error.errors()[0]
        message = _in_words(first["type"], first["msg"], first.get("ctx", {}), first["input"])
        return cls(first["type"], tuple(map(str, first["loc"])), message, first["input"])

    @property
    def sentence(self) -> str:
        """The message with its full stop or question mark."""
        return self.message if self.message.endswith("?") else f"{self.message}."

    @property
    def field(self) -> str:
        return ".".join(self.place)


def read_size(text: str, what: str = "memory") -> int:
    """Return the bytes of a size such as "8GiB", "512 MiB" or "16GB". Raises InvalidStudy, also for a missing unit."""
    try:
        size = TypeAdapter(ByteSize).validate_python(text.strip())
    except ValidationError:
        size = ByteSize(0)
    if size == 0 or re.fullmatch(r"[\d.]+\s*[a-zA-Z]+", text.strip()) is None:
        raise problems.SIZE_INVALID(option=what, found=text)
    return int(size)
