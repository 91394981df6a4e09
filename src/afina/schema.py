"""Base classes of facts that are stored as JSON. Also pydantic's errors in plain words, and sizes such as "8GiB".

Knows none of the facts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from afina import digest
from afina.errors import InvalidStudy

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


class Sparing(Frozen):
    """A model that does not write certain fields while they have their defaults, so that older files stay valid.

    Attributes:
        unwritten: names of these fields.
    """

    unwritten: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _sparing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        for name in self.unwritten:
            if getattr(self, name) == type(self).model_fields[name].default:
                written.pop(name, None)
        return written


class Sealed(Frozen):
    """A fact with its own digest, which shows whether the file was changed by hand.

    Attributes:
        content_digest: digest of all other fields as JSON; None in files of earlier versions.
    """

    content_digest: str | None = None

    def sealed(self) -> Self:
        """Return a copy with its `content_digest`."""
        return self.model_copy(update={"content_digest": digest_of_content(self.model_dump_json())})

    def refuses(self, text: str | bytes) -> str:
        """Return how `text`, the JSON of this fact, differs from the digest, in words; "" if it matches."""
        if self.content_digest is None or (found := digest_of_content(text)) == self.content_digest:
            return ""
        return f"its fields give digest {found[:19]}, it states {self.content_digest[:19]}"


def digest_of_content(text: str | bytes) -> str:
    """Return the digest of a JSON object without its `content_digest`.

    The digest is over the written text, so fields that later versions add do not change it.
    """
    return digest.of_json({name: value for name, value in json.loads(text).items() if name != "content_digest"})


@dataclass(frozen=True)
class Problem:
    """The first error that pydantic found.

    Attributes:
        kind: pydantic's type of the error, such as `missing` or `extra_forbidden`.
        place: names and indices from the outside in; empty for the whole value.
        message: pydantic's message, with a lower-case first letter so that it fits into a sentence.
        found: the invalid input.
    """

    kind: str
    place: tuple[str, ...]
    message: str
    found: Any

    @classmethod
    def of(cls, error: ValidationError) -> Problem:
        """Return the first problem of a ValidationError."""
        first = error.errors()[0]
        message = first["msg"][:1].lower() + first["msg"][1:]
        return cls(first["type"], tuple(map(str, first["loc"])), message, first["input"])

    @property
    def field(self) -> str:
        """The place, joined by dots."""
        return ".".join(self.place)


def read_size(text: str, what: str = "memory") -> int:
    """Return the bytes of a size such as "8GiB", "512 MiB" or "16GB". Raises InvalidStudy, also for a missing unit."""
    try:
        size = TypeAdapter(ByteSize).validate_python(text.strip())
    except ValidationError:
        size = ByteSize(0)
    if size == 0 or not text.strip()[-1].isalpha():
        raise InvalidStudy(
            f"{what} {text!r}: expected a size with its unit, such as 8GiB, 512MiB or 16GB.",
            code="option.invalid",
            option=what,
            found=text,
        )
    return int(size)
