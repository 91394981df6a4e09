"""The class Refusal, an error as HTTP status, kind and message, which every protocol writes in its own format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from afina.errors import (
    Busy,
    CannotWrite,
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
from afina.sentence import Option, Sentence
from afina.server.routes import ERROR_KIND, MODEL_FIELD, ClientProtocol, Route
from afina.server.tenants import Missing

GONE = 499
"""The status, in metrics only, of requests whose client closed the connection. The server never sends this status."""


@dataclass
class Refusal(Exception):
    """The reason why a request is refused: HTTP status, kind, message and headers of the error response.

    Attributes:
        kind: the kind of error in one word, for programs. Metrics count refused requests by kind.
        field: the field of the request that is wrong. None: not a single field.
    """

    status: int
    kind: str
    message: str
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    field: str | None = None

    @classmethod
    def at(cls, field: str, problem: str, kind: str = "invalid", status: int = 422) -> Refusal:
        """Return the refusal of a request for a single field, with which the message begins."""
        return cls(status, kind, Sentence([Option(field), ": ", problem]), field=field)

    @classmethod
    def of_path(cls, path: str) -> Refusal:
        """Return the refusal of a path that has no route."""
        hint = f" Leave out the last `/`: {path.rstrip('/')[:80]}." if path.endswith("/") else ""
        return cls(404, "not_found", f"No such path.{hint}")

    def renamed(self, name: Callable[[str], str]) -> Refusal:
        """Return the refusal with other names of the fields that it speaks of."""
        message = self.message.renamed(name) if isinstance(self.message, Sentence) else self.message
        return dataclasses.replace(self, message=message, field=None if self.field is None else name(self.field))

    def body(self, protocol: ClientProtocol) -> dict[str, Any]:
        return protocol.error(protocol.status(self.status), self.kind, self.message, self.field)

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """Return the refusal for an exception; one that the client did not cause names nothing in the store."""
        match error:
            case Refusal():
                return error
            case Overloaded():
                after = {"Retry-After": str(max(1, math.ceil(error.after)))}
                return cls(429, "overloaded", str(error), after)
            case Missing():
                return cls(404, "not_found", str(error), field=MODEL_FIELD)
            case Busy() | NotFound():
                return cls(503, "unavailable", "not available at the moment. Try again.", {"Retry-After": "1"})
            case CannotWrite():
                message = "nothing can be written: the disk is full, or read-only. Nothing was changed. See the log."
                return cls(507, "unwritable", message)
            case Conflict() | Refused():
                return cls(409, "conflict", str(error))
            case InvalidData() if error.code == "request.text-tokens":
                return cls(413, "too_large", str(error))
            case InvalidStudy() if error.code == "decoding.no-token":  # by what the request restricts
                return cls(422, "invalid", error.sentence)
            case InvalidData() | InvalidName():
                return cls(422, "invalid", error.sentence, field=error.sentence.subject)
            case TimeoutError():
                return cls(504, "timeout", "not answered in time. Try again later.", {"Retry-After": "1"})
            case CorruptStore():
                return cls(503, "unservable", "what this request needs of the store is damaged. See the log.")
            case CorruptAdapter() | InvalidStudy() | UnknownName() | WrongBackbone():
                message = "this model is damaged, or its golden test fails. See the server's log."
                return cls(503, "unservable", message)
            case _:
                return cls(500, "failed", "the answer could not be computed.")


def error_response(route: Route, refusal: Refusal) -> JSONResponse:
    """Return the error response for a refusal, in the format of the route's protocol and with the kind in a header."""
    headers, status = {ERROR_KIND: refusal.kind, **refusal.headers}, route.protocol.status(refusal.status)
    return JSONResponse(refusal.body(route.protocol), status, headers)
