"""Scores: an answer as labels and numbers, in the adapter's order."""

from __future__ import annotations

from collections.abc import Sequence

from afina.server.answer_formats import ANSWER_FORMATS, LabelScore
from afina.server.http.shapes import NUMBER, TEXT, array, record
from afina.server.requests import ServedAnswer

RANKED = array(record({"label": TEXT, "score": NUMBER}))


def scores(answer: ServedAnswer, *, raw: bool = False) -> Sequence[LabelScore]:
    """One a label. raw: what the head computed, in the place of probabilities."""
    written = ANSWER_FORMATS[answer.objective.kind]
    return (written.raw_scores if raw else written.scores)(answer.objective, answer.prediction)


def ranked(answer: ServedAnswer, *, raw: bool = False, most: int | None = None) -> Sequence[dict[str, object]]:
    """The best first."""
    ordered = sorted(scores(answer, raw=raw), key=lambda one: -one.score)
    return [one._asdict() for one in ordered[:most]]


def label(answer: ServedAnswer) -> str:
    """The one label to name: the answer's, or the most probable of those that exclude none."""
    return ANSWER_FORMATS[answer.objective.kind].label(answer.objective, answer.prediction)
