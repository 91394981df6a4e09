"""Differences between kinds of task on the studio's pages: how a version is asked, how an answer is corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT

TARGET_COLUMN = "target"
"""The column of the right texts in a file of corrections."""


@dataclass(frozen=True)
class AnswerKind:
    """A kind of task on the pages Try and Keep.

    Attributes:
        writes: Whether an answer is written text: it takes longer, and is streamed.
        column: The column of the right answers in a file of corrections.
        has_several: Whether a right answer has any number of labels.
        marks_text: Whether an answer is entities, shown as marks in the text and corrected as JSON.
    """

    writes: bool = False
    column: str = "label"
    has_several: bool = False
    is_number: bool = False
    marks_text: bool = False
    can_be_asked_untrained: bool = False

    @property
    def has_one_label(self) -> bool:
        """Whether a right answer is one of the labels."""
        return not (self.writes or self.has_several or self.is_number or self.marks_text)


ANSWER_KINDS: Mapping[str, AnswerKind] = {
    CLASSES: AnswerKind(can_be_asked_untrained=True),
    NUMBER: AnswerKind(is_number=True),
    LABELS: AnswerKind(has_several=True),
    TEXT: AnswerKind(writes=True, column=TARGET_COLUMN),
    ENTITIES: AnswerKind(marks_text=True, column="entities"),
}
"""By kind of task."""
