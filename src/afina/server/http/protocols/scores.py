"""Scores: an answer as labels and numbers, in the adapter's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from afina.data.kinds import LABELS, NUMBER
from afina.server.asked import Answer
from afina.server.http.shapes import NUMBER as ANY_NUMBER
from afina.server.http.shapes import TEXT, array, record

RANKED = array(record({"label": TEXT, "score": ANY_NUMBER}))


class Score(NamedTuple):
    """A label and its probability; of an adapter that answers with a number, its name and that."""

    label: str
    score: float


def scores(answer: Answer, *, raw: bool = False) -> Sequence[Score]:
    """One a label. raw: what the head computed, in the place of probabilities."""
    names = answer.objective.label_names
    if raw:
        return [Score(*one) for one in zip(names, answer.prediction.outputs.tolist(), strict=True)]
    if answer.objective.kind == NUMBER:
        return [Score(names[0], answer.prediction.answer["value"])]
    return [Score(*one) for one in answer.prediction.answer["probabilities"].items()]


def ranked(answer: Answer, *, raw: bool = False, most: int | None = None) -> Sequence[dict[str, object]]:
    """The best first."""
    ordered = sorted(scores(answer, raw=raw), key=lambda one: -one.score)
    return [one._asdict() for one in ordered[:most]]


def label(answer: Answer) -> str:
    """The one label to name: the answer's, or the most probable of those that exclude none."""
    if answer.objective.kind in (NUMBER, LABELS):
        return max(scores(answer), key=lambda one: one.score).label
    return str(answer.prediction.answer["label"])
