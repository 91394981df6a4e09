"""Answers that are texts, side by side: input, references, and each method's answer beside its nearest reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from afina.report.arms import Arm
from afina.report.examples.word_differences import Piece, Words, cut, nearest, pieces
from afina.report.formatting import brief, listed, metric_name, share
from afina.report.tables import Table, columns_of

SHOWN = 6  # examples, evenly spaced over the evaluation texts
DIFFERING = 10  # texts that are shown because methods disagree on them
LONGEST = 600  # characters of an input, a reference or an answer
FIRST = 2  # references that an example shows beside those that are nearest to an answer

ALIKE = 1 / 3
"""The least likeness (`Words.likeness`) of answer and nearest reference at which their differences are marked.

If less alike, nearly all words would be marked.
"""

METRIC = "rouge_l"


@dataclass(frozen=True)
class ExampleAnswer:
    """The answer of one method to one text; `marked` are the differences of its `pieces` from the nearest reference."""

    label: str
    remark: str
    pieces: tuple[Piece, ...]
    marked: bool


@dataclass(frozen=True)
class AnsweredText:
    """An evaluation text with the answers of methods and the shown references, of `count` in all, numbered from 1."""

    title: str
    text: str
    references: tuple[tuple[int, str], ...]
    count: int
    answers: tuple[ExampleAnswer, ...]


@dataclass(frozen=True)
class Examples:
    items: tuple[AnsweredText, ...]

    @property
    def marked(self) -> bool:
        return any(answer.marked for one in self.items for answer in one.answers)


@dataclass(frozen=True, eq=False)
class FirstAnswers(ABC):
    """The answers of methods to the same texts; for a method with several seeds, of the first seed."""

    arms: Sequence[Arm]

    @cached_property
    def answers(self) -> list[list[Any]]:
        return [arm.results[0].answers.tolist() for arm in self.arms]

    @abstractmethod
    def differences(self, answers: Sequence[Any]) -> list[float]:
        """Return how much the answers to a text differ, for each pair of methods."""

    @cached_property
    def disagreement(self) -> np.ndarray:
        """How much the answers to each text differ, the mean over pairs of methods, [N]."""
        apart = [self.differences(answers) for answers in zip(*self.answers, strict=True)]
        return np.array([sum(one) / len(one) if one else 0.0 for one in apart])

    def most_apart(self) -> list[int]:
        """Return the rows of at most DIFFERING texts whose answers differ, the largest disagreement first."""
        order = np.argsort(-self.disagreement, kind="stable")[:DIFFERING]
        return [int(row) for row in order if self.disagreement[row] > 0]

    @property
    def seed_note(self) -> str:
        return f" Answers of seed {self.arms[0].seeds[0]}." if any(len(arm.seeds) > 1 for arm in self.arms) else ""


class SideBySide(FirstAnswers):
    """The generated answers of methods to the same texts."""

    @cached_property
    def values(self) -> list[np.ndarray]:
        return [arm.results[0].values(METRIC) for arm in self.arms]

    def differences(self, answers: Sequence[Any]) -> list[float]:
        words = [Words.of(one) for one in answers]
        return [1 - one.likeness(other) for one, other in combinations(words, 2)]

    def spread(self) -> list[int]:
        size = len(self.answers[0])
        return sorted({int(place) for place in np.linspace(0, size - 1, min(size, SHOWN)).round()})

    def examples(self, rows: Sequence[int], texts: Sequence[str], *, disagreement: bool = False) -> Examples:
        return Examples(tuple(self._example(row, texts[row], disagreement) for row in rows))

    def _example(self, row: int, text: str, disagreement: bool) -> AnsweredText:
        references = self.arms[0].targets[row]
        words = [Words.of(one) for one in references]
        answers, near = [], set(range(min(FIRST, len(references))))
        for place, arm in enumerate(self.arms):
            answer = Words.of(self.answers[place][row])
            closest = nearest(answer, words)
            near.add(closest)
            marked = answer.likeness(words[closest]) >= ALIKE
            shown = pieces(answer, words[closest]) if marked else (Piece("".join(answer.shown)),)
            beside = f", nearest is reference {closest + 1}" if len(references) > 1 else ""
            remark = f"{metric_name(METRIC)} {share(self.values[place][row])}{beside}"
            answers.append(ExampleAnswer(arm.label, remark, cut(shown, LONGEST) if answer.shown else (), marked))
        title = f"Row {row}" + (f", disagreement {self.disagreement[row]:.2f}" if disagreement else "")
        shown_references = tuple((number + 1, brief(references[number], LONGEST)) for number in sorted(near))
        return AnsweredText(title, brief(text, LONGEST), shown_references, len(references), tuple(answers))

    def table(self, rows: Sequence[int], title: str, notes: Sequence[str]) -> Table:
        named = metric_name(METRIC)
        columns = columns_of([], ["Row", "Disagreement", *(f"{arm.label}, {named}" for arm in self.arms)])
        cells = tuple(
            (str(row), f"{self.disagreement[row]:.2f}", *(share(values[row]) for values in self.values)) for row in rows
        )
        return Table(title, columns, cells, tuple(notes))

    @property
    def notes(self) -> list[str]:
        return [
            f"Row: place in the evaluation split, the first is 0. Long texts are cut.{self.seed_note}",
            "Differences are marked beside the nearest reference: the one that shares the most words in the same "
            "order. Case and punctuation do not count. An answer that shares less than a third of its words with it "
            "has no marks.",
        ]


def which_differ(shown: int, arms: Sequence[Arm]) -> str:
    of = "texts" if shown > 1 else "text"
    return (
        f"The {shown} evaluation {of} on which the answers of {listed([arm.label for arm in arms])} differ most. "
        "Disagreement: 1 minus the share of words that two answers have in the same order, the mean over pairs of "
        "methods. 0: the same words, 1: no word in common."
    )
