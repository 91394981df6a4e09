"""Facts that are written down as JSON: pydantic models, and what pydantic found wrong, in our words. Sizes: "8GiB".

Knows no fact.
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
"""Of texts, steps, parameters, bytes: a file that was tampered with may hold numbers that no float can."""


def null_where_undefined(figure: float | None) -> float | None:
    """A figure as a JSON value."""
    return None if figure is None or isnan(figure) else figure


Figure = Annotated[
    float,
    BeforeValidator(lambda value: nan if value is None else value),
    PlainSerializer(null_where_undefined, return_type=float | None, when_used="json"),
]
"""What a metric comes to: NaN where it is undefined (`stats.answered.UNDEFINED`), which JSON has as null."""

FigureOrNone = Annotated[float | None, PlainSerializer(null_where_undefined, when_used="json")]
"""The same, or None where there is none at all; both are null in JSON, and read as None."""


def figures_as_json(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures by name, as JSON values."""
    return {name: null_where_undefined(figure) for name, figure in figures.items()}


class Frozen(BaseModel):
    """Cannot be changed, and has no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sparing(Frozen):
    """Leaves fields out of what is written where they have their defaults, so that files from before stay as they are.

    unwritten  names of those fields
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
    """A fact with a digest of its own, so that a file that was changed by hand is found out.

    content_digest  of every other field as JSON has it; None in what earlier versions wrote
    """

    content_digest: str | None = None

    def sealed(self) -> Self:
        """The fact with its `content_digest`."""
        return self.model_copy(update={"content_digest": digest_of_content(self.model_dump_json())})

    def refuses(self, text: str | bytes) -> str:
        """How the JSON that this was read from differs from what was sealed, in words; empty where it does not."""
        if self.content_digest is None or (found := digest_of_content(text)) == self.content_digest:
            return ""
        return f"its fields give digest {found[:19]}, it states {self.content_digest[:19]}"


def digest_of_content(text: str | bytes) -> str:
    """Digest of a JSON object without its `content_digest`: of what is written, so that later fields do not matter."""
    return digest.of_json({name: value for name, value in json.loads(text).items() if name != "content_digest"})


@dataclass(frozen=True)
class Problem:
    """The first thing that pydantic found wrong.

    kind   pydantic's name for it, such as `missing` or `extra_forbidden`
    place  where: names and numbers from the outside in; empty for the whole
    """

    kind: str
    place: tuple[str, ...]
    message: str
    found: Any

    @classmethod
    def of(cls, error: ValidationError) -> Problem:
        """The message begins in lower case, to stand in a sentence."""
        first = error.errors()[0]
        message = first["msg"][:1].lower() + first["msg"][1:]
        return cls(first["type"], tuple(map(str, first["loc"])), message, first["input"])

    @property
    def field(self) -> str:
        """The place, dotted."""
        return ".".join(self.place)


def read_size(text: str, what: str = "memory") -> int:
    """Bytes of a size such as "8GiB", "512 MiB" or "16GB". Raises InvalidStudy, also where there is no unit."""
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
