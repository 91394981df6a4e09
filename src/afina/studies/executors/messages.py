"""Messages between an executor and a worker: a line of JSON each way. Knows what is said; not how it travels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter

from afina.events import Progress, ValidationScore
from afina.schema import Frozen
from afina.studies.record import Record
from afina.studies.run import Run


class _Message(Frozen):
    model_config = ConfigDict(ser_json_inf_nan="constants")  # a loss may be no number


class CarryOut(_Message):
    """To a worker: carry `run` out under `out`. It ends in Recorded or Failed."""

    kind: Literal["carry out"] = "carry out"
    run: Run
    out: str
    study: str


class TryOut(_Message):
    """To a worker: try `run` out. After each Scored that is not the last, it waits for GoOn."""

    kind: Literal["try out"] = "try out"
    run: Run
    shares: tuple[float, ...]
    limit: int | None


class Foresee(_Message):
    """To a worker: say what memory these runs need. It ends in Foreseen."""

    kind: Literal["foresee"] = "foresee"
    runs: tuple[Run, ...]


class GoOn(_Message):
    """To a worker: take the steps up to the next score."""

    kind: Literal["go on"] = "go on"


class Stop(_Message):
    """To a worker: end; a run that trains leaves a checkpoint first."""

    kind: Literal["stop"] = "stop"


class Progressed(_Message):
    """From a worker: how far it is."""

    kind: Literal["progress"] = "progress"
    progress: Progress


class Scored(_Message):
    """From a worker: how a trial does so far."""

    kind: Literal["score"] = "score"
    score: ValidationScore
    last: bool


class Recorded(_Message):
    """From a worker: the run is done."""

    kind: Literal["record"] = "record"
    record: Record


class Foreseen(_Message):
    """From a worker: bytes that there are, and bytes that each run needs, by its key; none where that is unknown."""

    kind: Literal["foreseen"] = "foreseen"
    available: int
    needed: dict[str, int]


class Failed(_Message):
    """From a worker: what failed, where the user can mend it."""

    kind: Literal["error"] = "error"
    error: str
    code: str
    fields: dict[str, JsonValue]


Request = CarryOut | TryOut | Foresee
"""A request that a worker is started with."""

Message = Request | GoOn | Stop | Progressed | Scored | Recorded | Foreseen | Failed

_ANY: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> str:
    """One line, with its end."""
    return message.model_dump_json() + "\n"


def decode(line: str | bytes) -> Message:
    """The message of a whole line."""
    return _ANY.validate_json(line)
