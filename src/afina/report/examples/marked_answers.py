"""Evaluation texts with marked entities, one below the other: the right ones, and those that each method found.

An entity of a method has its error as a remark, such as `wrong border`. A missed entity is marked in the answer too,
with the remark `missed`, unless the method found another entity in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from afina.pages.marked_text import Mark, MarkedText
from afina.report.examples.side_by_side import FirstAnswers
from afina.report.formatting import count, counted, listed
from afina.stats.entities import EntityError, errors
from afina.stats.entity_alignment import Entity

LONGEST = 600  # characters around the first error of a text
SHOWN = 8  # texts with errors


@dataclass(frozen=True)
class MarkedLine:
    """A text with the entities of one source: a method, or the right answer."""

    label: str
    remark: str
    text: MarkedText


@dataclass(frozen=True)
class MarkedExample:
    """An evaluation text, several times with the entities of different sources."""

    title: str
    lines: tuple[MarkedLine, ...]


@dataclass(frozen=True)
class MarkedExamples:
    items: tuple[MarkedExample, ...]


def marked_answer(text: str, given: Sequence[Entity], found: Sequence[EntityError]) -> MarkedText:
    """Return a text with the entities `given` that a method found, and the method's errors on the text as remarks."""
    kinds = {one.answer: one.kind for one in found if one.answer is not None}
    marks = [Mark(*one, kinds.get(one, "")) for one in map(plain, given)]
    missed = [Mark(*one.target, one.kind) for one in found if one.target is not None and one.answer is None]
    marks += [one for one in missed if not any(one.start < mark.end and mark.start < one.end for mark in marks)]
    return MarkedText(text, tuple(sorted(marks)))


def first_place(found: Sequence[EntityError]) -> int:
    """Return the first character of the errors of a text; 0 for a text without errors."""
    return min((one[0] for error in found for one in (error.target, error.answer) if one is not None), default=0)


def plain(entity: Entity) -> Entity:
    start, end, label = entity
    return start, end, label


class MarkedAnswers(FirstAnswers):
    """The entities that methods found in the same texts."""

    @cached_property
    def errors(self) -> list[dict[int, list[EntityError]]]:
        """The errors of each method by text; a text without an error is left out."""
        made = []
        for answers in self.answers:
            by_text: dict[int, list[EntityError]] = {}
            for one in errors(self.arms[0].targets, answers):
                by_text.setdefault(one.text, []).append(one)
            made.append(by_text)
        return made

    def differences(self, answers: Sequence[Any]) -> list[float]:
        return [len({*one} ^ {*other}) for one, other in combinations(answers, 2)]

    @cached_property
    def wrong(self) -> list[int]:
        """The rows of the texts on which at least one method has an error."""
        return sorted({row for by_text in self.errors for row in by_text})

    def spread(self) -> list[int]:
        places = np.linspace(0, len(self.wrong) - 1, min(len(self.wrong), SHOWN)).round()
        return [self.wrong[int(place)] for place in places]

    def examples(self, rows: Sequence[int], texts: Sequence[str]) -> MarkedExamples:
        return MarkedExamples(tuple(self._example(row, texts[row]) for row in rows))

    def _example(self, row: int, text: str) -> MarkedExample:
        found = [by_text.get(row, []) for by_text in self.errors]
        near = first_place([one for each in found for one in each])
        right = MarkedText.of(text, map(plain, self.arms[0].targets[row]))
        lines = [MarkedLine("Right", "", right.excerpt(LONGEST, near))]
        for arm, given, each in zip(self.arms, self.answers, found, strict=True):
            shown = marked_answer(text, given[row], each).excerpt(LONGEST, near)
            lines.append(MarkedLine(arm.label, counted(len(each), "error"), shown))
        return MarkedExample(f"Row {row}", tuple(lines))

    def notes(self, shown: int) -> list[str]:
        """Return the notes on `spread`: how many texts have errors, and how to read the marks."""
        texts, wrong = len(self.answers[0]), len(self.wrong)
        which = f"; {shown} of these are shown, evenly spaced" if shown < wrong else ""
        return [
            f"At least one method has an error on {count(wrong)} of {count(texts)} evaluation texts{which}."
            f"{self.seed_note}",
            "Row: place in the evaluation split, the first is 0. Long texts are cut around their first error. A missed "
            "entity is marked in an answer if the answer has no other entity there.",
        ]

    def which_differ(self, shown: int) -> str:
        methods = listed([arm.label for arm in self.arms])
        return (
            f"The {counted(shown, 'evaluation text')} on which {methods} differ in the most "
            " entities: those that only one of two methods has, the mean over pairs of methods."
        )
