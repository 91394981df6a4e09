"""Which texts a run answered how: its confusions by label, and the texts of the held-out split behind each of them.

Records contain no texts: `find_texts` reads the task again, and refuses texts that changed since the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from afina.errors import UnknownName
from afina.models.objectives import OBJECTIVES
from afina.pages.marked_text import MarkedText
from afina.report import per_label, problems
from afina.report.arms import Arm
from afina.report.examples.disagreements import EvaluationTexts
from afina.report.examples.marked_answers import first_place, marked_answer, plain
from afina.report.per_label import LabelFigures
from afina.report.presentation import PRESENTATIONS
from afina.stats.entities import EntityError, errors
from afina.stats.entity_alignment import Entity
from afina.studies.results import Results
from afina.studies.runs.record import Record, Result

MOST_LISTED = 100  # confusions, if the labels are too many for a matrix


@dataclass(frozen=True)
class Confusion:
    """How many texts with the right label `given` were answered with `predicted`."""

    given: str
    predicted: str
    texts: int


@dataclass(frozen=True)
class AnsweredRun:
    """The answers of one run, counted by label.

    Attributes:
        title: Unique in a report.
        method: The run's name, with which commands choose it.
        labels: Empty if the kind of task has no labels.
        matrix: The number of texts by right label (rows) and predicted label; empty for more than `per_label.MOST`
            labels, and if a text can have several labels.
        confusions: The most frequent confusions, if there is no matrix.
    """

    title: str
    method: str
    backbone: str
    seed: int
    key: str
    names: tuple[str, ...]
    labels: tuple[LabelFigures, ...]
    matrix: tuple[tuple[int, ...], ...] = ()
    confusions: tuple[Confusion, ...] = ()
    marks_text: bool = False

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "labels": per_label.as_json(self.labels)}


def answered_run(title: str, result: Result) -> AnsweredRun:
    record, names = result.record, result.record.label_names
    made = PRESENTATIONS[record.kind].found(names, result.targets, result.answers[None])
    matrix: tuple[tuple[int, ...], ...] = ()
    confusions: tuple[Confusion, ...] = ()
    if OBJECTIVES[record.kind].one_label:
        counts = per_label.confused(result.targets, result.answers, len(names))
        if len(names) <= per_label.MOST:
            matrix = tuple(map(tuple, counts.tolist()))
        else:
            most = per_label.most_confused(counts, MOST_LISTED)
            confusions = tuple(Confusion(names[right], names[predicted], times) for right, predicted, times in most)
    about = (title, record.name, record.backbone, record.seed, record.key)
    return AnsweredRun(*about, names, (*made,), matrix, confusions, PRESENTATIONS[record.kind].marks_text)


@dataclass(frozen=True)
class AnsweredRow:
    """A text with its answer.

    Attributes:
        row: The place among the evaluation texts that the run answered, the first is 0.
        given: The right label; the right entities in words, such as `Maria PER, Porto LOC`.
        probability: The probability of the predicted label; None if the model gives none.
        right: The text with its right entities; None for other kinds of task.
        answer: The text with the entities of the answer, with the errors as remarks.
        where: Such as `reviews.csv, line 7`; None if the text is not a row of a file.
    """

    row: int
    text: str
    given: str
    predicted: str
    probability: float | None
    right: MarkedText | None = None
    answer: MarkedText | None = None
    where: str | None = None


@dataclass(frozen=True)
class FoundTexts:
    """The texts that a run answered in a certain way, those with the most probable answer or the most errors first.

    `count` is the number of all such texts; `texts` may have fewer.
    """

    method: str
    title: str
    backbone: str
    seed: int
    given: str | None
    predicted: str | None
    count: int
    examples: int
    texts: tuple[AnsweredRow, ...]

    @property
    def words(self) -> str:
        asked = [f"the right label `{self.given}`"] if self.given is not None else []
        asked += [f"the answer `{self.predicted}`"] if self.predicted is not None else []
        which = f"with {' and '.join(asked)}" if asked else "with a wrong answer"
        shown = f", of which {len(self.texts):,} are shown" if len(self.texts) < self.count else ""
        return f"{self.count:,} of {self.examples:,} held-out texts {which}{shown}."


@dataclass(frozen=True)
class RunChoice:
    """Which run of several is asked for; None: any. Without a method, the run to use is meant, or the only one."""

    method: str | None = None
    seed: int | None = None
    backbone: str | None = None


def find_texts(
    results: Results,
    arms: Sequence[Arm],
    used: Record | None,
    chosen: RunChoice,
    given: str | None = None,
    predicted: str | None = None,
    *,
    most: int | None = None,
    longest: int | None = None,
) -> FoundTexts:
    """Return the evaluation texts with the right label `given` that a run answered with the label `predicted`.

    If answers are entities, these are the texts with an error whose right entity has the label `given` and whose
    answer has the label `predicted`.

    Args:
        used: The run whose adapter to use; None if it has no record.
        given: None: any label.
        predicted: None: any label. If both are None: the texts with a wrong answer.
        most: The largest number of texts; None: no limit.
        longest: The largest number of characters of a text; a longer text is cut.

    Raises:
        InvalidData: The task has neither single labels nor entities, or its texts changed since the run.
        UnknownName: No text can have such a label.
        NotFound: There is no such run.
    """
    result = _result(results, arms, used, chosen)
    record, where = result.record, str(results.out)
    marks_text = PRESENTATIONS[record.kind].marks_text
    if not (marks_text or OBJECTIVES[record.kind].one_label):
        raise problems.ANSWERS_WITHOUT_LABELS(path=where, kind=record.kind)
    for label in (given, predicted):
        _check_label(record.label_names, label, where)
    find = _with_errors if marks_text else _with_labels
    evaluated = EvaluationTexts.read(results.task, results.data, record.kind)
    rows, shown = find(result, _texts(evaluated, results, record), given, predicted, longest)
    places = evaluated.rows_shown(record)
    found = [replace(shown(row), where=None if places is None else places.where(row)) for row in rows[:most]]
    title = next(arm.label for arm in arms if record.key in {one.key for one in arm.records})
    about = (record.name, title, record.backbone, record.seed)
    return FoundTexts(*about, given, predicted, len(rows), record.examples, tuple(found))


def _with_labels(
    result: Result, texts: Sequence[str], given: str | None, predicted: str | None, longest: int | None
) -> tuple[Sequence[int], Callable[[int], AnsweredRow]]:
    record, chances = result.record, _chances(result)
    names = record.label_names
    rows = _rows(result, *(None if one is None else names.index(one) for one in (given, predicted)))
    if chances is not None:
        rows = rows[np.argsort(-chances[rows], kind="stable")]

    def shown(row: int) -> AnsweredRow:
        return AnsweredRow(
            row,
            _cut(texts[row], longest),
            names[int(result.targets[row])],
            PRESENTATIONS[record.kind].in_words(names, int(result.answers[row])),
            None if chances is None else round(float(chances[row]), 4),
        )

    return rows.tolist(), shown


def _with_errors(
    result: Result, texts: Sequence[str], label: str | None, answered: str | None, longest: int | None
) -> tuple[Sequence[int], Callable[[int], AnsweredRow]]:
    """Return the rows of the texts with errors of these labels, the most errors first, and what shows a row."""
    found, counts = dict[int, list[EntityError]](), Counter[int]()
    for one in errors(result.targets, result.answers):
        found.setdefault(one.text, []).append(one)
        counts[one.text] += label in (None, _label(one.target)) and answered in (None, _label(one.answer))

    def shown(row: int) -> AnsweredRow:
        text, right, answer = texts[row], result.targets[row], result.answers[row]
        most, near = len(text) if longest is None else longest, first_place(found[row])
        marked = MarkedText.of(text, map(plain, right)), marked_answer(text, answer, found[row])
        given, predicted = (_in_words(text, one) for one in (right, answer))
        shown_right, shown_answer = (one.excerpt(most, near) for one in marked)
        return AnsweredRow(row, _cut(text, longest), given, predicted, None, shown_right, shown_answer)

    return [row for row, times in counts.most_common() if times], shown


def _in_words(text: str, entities: Sequence[Entity]) -> str:
    return ", ".join(f"{text[start:end]} {label}" for start, end, label in entities) or "none"


def _label(entity: Entity | None) -> str | None:
    return None if entity is None else entity[2]


def _result(results: Results, arms: Sequence[Arm], used: Record | None, chosen: RunChoice) -> Result:
    every = [result for arm in arms for result in arm.results]
    names = [*dict.fromkeys(one.record.name for one in every)]
    where = str(results.out)
    if chosen == RunChoice() and used is not None:
        return next(one for one in every if one.record.key == used.key)
    if chosen.method is None and used is None and len(names) != 1:
        made = results.recommendation
        raise problems.NO_RUN_OF_USE(path=where, method=made.recommended if made else "method", known=names)
    asked = chosen.method or (used.name if used else names[0])
    named = [one for one in every if one.record.name == asked] or [one for one in every if one.record.method == asked]
    if not named:
        raise UnknownName("method", asked, names, where)
    seed, backbone = chosen.seed, chosen.backbone
    found = [one for one in named if seed in (None, one.record.seed) and backbone in (None, one.record.backbone)]
    if not found:
        known = [f"{one.record.name}, seed {one.record.seed}, on {one.record.backbone}" for one in named]
        raise problems.RUN_MISSING(path=where, method=asked, known=known)
    return max(found, key=lambda one: one.record.train_examples)


def _check_label(names: Sequence[str], label: str | None, where: str) -> None:
    if label is not None and label not in names:
        raise UnknownName("label", label, names, where)


def _rows(result: Result, given: int | None, predicted: int | None) -> np.ndarray:
    """The rows of the texts with these labels; of those with wrong answers if no label is asked for."""
    targets, answers = result.targets, result.answers
    if given is None and predicted is None:
        found = targets != answers
    else:
        found = np.ones(len(targets), bool)
        found &= True if given is None else targets == given
        found &= True if predicted is None else answers == predicted
    rows: np.ndarray = np.flatnonzero(found)
    return rows


def _chances(result: Result) -> np.ndarray | None:
    """The probability of each answer, [N]; None if the model gives none."""
    every = result.chances
    if every is None or every.shape[1] != len(result.record.label_names):
        return None
    found: np.ndarray = np.take_along_axis(every, result.answers[:, None], axis=1)[:, 0]
    return found


def _texts(evaluated: EvaluationTexts, results: Results, record: Record) -> Sequence[str]:
    texts, reason = evaluated.shown(record)
    if texts is None:
        raise problems.TEXTS_UNAVAILABLE(path=str(results.out), reason=reason, task=results.task)
    return texts


def _cut(text: str, longest: int | None) -> str:
    return text if longest is None or len(text) <= longest else f"{text[:longest].rstrip()}…"
