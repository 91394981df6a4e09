"""Facts that are written down as JSON: pydantic models, and what pydantic found wrong, in our words. Knows no fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Of texts, steps, parameters, bytes: a file that was tampered with may hold numbers that no float can."""


class Frozen(BaseModel):
    """Cannot be changed, and has no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
