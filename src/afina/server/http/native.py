"""Our own: one text for several models (`POST /tasks`), and lines (`POST /bulk`)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.schemas import COUNT, NOTHING, NUMBER, TEXT, YES_OR_NO, Array, Body, array, either, record
from afina.server.requests import ServedAnswer

TASKS_EXAMPLE = {"text": "It broke on the second day.", "models": ["acme/reviews@production", "acme/urgent"]}
ALIAS_EXAMPLE = {"version": 3, "expected": 2, "message": "three points better on checked texts"}
LINE_EXAMPLE = '{"model": "acme/reviews", "text": "It broke."}\n{"model": "acme/urgent", "text": "Call me now!"}\n'

_RECEIPT = record({"version": TEXT, "adapter": TEXT, "base": TEXT, "dtype": TEXT})
_ANSWERED = {"model": TEXT, "truncated": YES_OR_NO, "receipt": _RECEIPT}
_BY_KIND = [record({**_ANSWERED, **one.fields}) for one in ANSWER_FORMATS.values()]
TASKS_ANSWER = record({"results": array(either(*_BY_KIND))})
ALIAS_ANSWER = record({"name": TEXT, "alias": TEXT, "from": either(COUNT, NOTHING), "to": COUNT})
_ENDS = either(array(NUMBER), NOTHING)
_COUNTED = {"texts": COUNT, "flips": either(COUNT, NOTHING), "drift": NUMBER, "scatter": NUMBER, "faults": COUNT}
_TOLD = {"flip_rate": either(NUMBER, NOTHING), "flip_interval": _ENDS, "drift_interval": _ENDS, "left_out": COUNT}
_WISH = {
    "name": TEXT,
    "current": COUNT,
    "shadow": either(COUNT, NOTHING),
    "state": TEXT,
    "problem": either(TEXT, NOTHING),
}
SHADOW = record({**_WISH, **_COUNTED, **_TOLD})
LIVE, READY = record({"live": YES_OR_NO}), record({"ready": YES_OR_NO})
ERROR = record({"error": TEXT, "kind": TEXT})


class Tasks(Body):
    """A text, or a pair, and the models to ask."""

    text: str
    pair: str | None = None
    models: Array[str] = Field(min_length=1, max_length=64)


class Line(Body):
    """A line of `/bulk`; the model may be in the query."""

    text: str
    pair: str | None = None
    model: str | None = None


class Alias(Body):
    """Where an alias is to point to; expected: where it points to now."""

    version: int = Field(ge=1)
    expected: int | None = Field(None, ge=1)
    message: str | None = Field(None, max_length=1000, description="it stays in the log for good")


def answered(answer: ServedAnswer) -> dict[str, Any]:
    """What a model says: its answer as `afina predict` prints it, and what answered."""
    return {**answer.prediction.answer, "truncated": answer.prediction.truncated, "receipt": answer.receipt.as_json()}


def error(status: int, kind: str, message: str) -> dict[str, Any]:
    """What is said instead."""
    return {"error": message, "kind": kind}
