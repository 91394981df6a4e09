"""An error as an HTTP status, a kind and a message: why a request is not answered. Knows no protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from afina.errors import (
    Busy,
    Conflict,
    CorruptAdapter,
    CorruptStore,
    InvalidData,
    InvalidName,
    InvalidStudy,
    NotFound,
    Overloaded,
    Refused,
    UnknownName,
    WrongBackbone,
)
from afina.server.limits import Missing

GONE = 499
"""The status that is noted where the client has gone; nobody gets it."""


@dataclass
class Refusal(Exception):
    """kind: one word for programs, which metrics count by."""

    status: int
    kind: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """That of an error. What is said of one that is not the caller's names nothing of the store."""
        match error:
            case Refusal():
                return error
            case Overloaded():
                after = {"Retry-After": str(max(1, math.ceil(error.after)))}
                return cls(429, "overloaded", str(error), after)
            case Missing():
                return cls(404, "not_found", str(error))
            case Busy() | NotFound():
                return cls(503, "unavailable", "not available at the moment. Try again.", {"Retry-After": "1"})
            case Conflict() | Refused():
                return cls(409, "conflict", str(error))
            case InvalidData() | InvalidName():
                return cls(422, "invalid", str(error))
            case TimeoutError():
                return cls(504, "timeout", "not answered in time. Try again later.", {"Retry-After": "1"})
            case CorruptAdapter() | CorruptStore() | InvalidStudy() | UnknownName() | WrongBackbone():
                message = "this model is damaged, or does not compute what it did when it was made: see the log."
                return cls(503, "unservable", message)
            case _:
                return cls(500, "failed", "it could not be computed.")
