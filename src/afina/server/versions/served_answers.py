"""`ServedAnswers`: the counts of a version's answers to clients, without imports of torch and FastAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import Any

from pydantic import Field, ValidationError

from afina.models.answer_profile import AnswerProfile
from afina.schema import Frozen
from afina.server import problems
from afina.stats.drift import EFFECT, LEVEL, Drift

KEPT_DAYS = 35  # the number of days whose counts a server keeps
WINDOW_DAYS = 7  # the number of days, today included, whose counts are compared with the reference by default


class ServedAnswers(Frozen):
    """The counts of the answers of a version.

    Attributes:
        score: the name of the number by which answers are counted: `confidence` or `value`.
        one_label: whether each answer has exactly one label.
        since: the time from which the answers of the version are counted. None: the server has counted none.
        reference: the counts of the adapter's evaluation texts. None: the adapter's manifest has none.
        servers: the number of servers whose counts were added.
    """

    name: str
    alias: str
    version: int
    digest: str
    kind: str
    score: str
    one_label: bool
    days: int = Field(ge=1, le=KEPT_DAYS)
    since: datetime | None
    reference: AnswerProfile | None
    answers: AnswerProfile
    servers: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ServedAnswers:
        """Return the counts that a server sent as JSON values. Raises InvalidData if they are malformed."""
        try:
            counts = cls.model_validate({name: value for name, value in values.items() if name != "drift"})
        except ValidationError:
            counts = None
        if counts is None or (counts.reference is not None and counts.reference.edges != counts.answers.edges):
            raise problems.COUNTS_MALFORMED()
        return counts

    @property
    def identity(self) -> tuple[object, ...]:
        """The fields that are equal for all servers whose counts may be added."""
        return self.name, self.alias, self.version, self.digest, self.days, self.answers.edges

    def plus(self, other: ServedAnswers) -> ServedAnswers:
        """Return the counts of both servers together, whose `identity` must be equal."""
        begun = [counts.since for counts in (self, other) if counts.since is not None]
        changed = {
            "since": min(begun, default=None),
            "answers": self.answers.plus(other.answers),
            "servers": self.servers + other.servers,
        }
        return self.model_copy(update=changed)

    def drift(self, level: float = LEVEL, effect: float = EFFECT) -> Drift | None:
        """Return how far the answers differ from the reference; None if there is no reference."""
        if self.reference is None:
            return None
        return self.reference.drift(self.answers, one_label=self.one_label, level=level, effect=effect)

    def as_json(self, level: float = LEVEL, effect: float = EFFECT) -> dict[str, Any]:
        drift = self.drift(level, effect)
        return {**self.model_dump(mode="json"), "drift": None if drift is None else drift.as_json()}


def days_of(days: str | None) -> int:
    """Return the number of days that a request or a command names; None: WINDOW_DAYS. Raises InvalidData."""
    if days is None:
        return WINDOW_DAYS
    if not days.isascii() or not days.isdigit() or not 1 <= int(days) <= KEPT_DAYS:
        raise problems.DAYS_INVALID(found=days[:40], most=KEPT_DAYS)
    return int(days)


def summed(servers: Sequence[ServedAnswers]) -> ServedAnswers | None:
    """Return the counts of all servers together; None if they count different versions."""
    if len({counts.identity for counts in servers}) > 1:
        return None
    return reduce(ServedAnswers.plus, servers)
