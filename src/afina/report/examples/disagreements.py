"""The evaluation texts on which methods disagree most, by votes (labels), distance (numbers) or words (texts).

The records of runs contain no texts. To show texts, `EvaluationTexts` reads the task again, without the network; if it
cannot, it has the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afina.data.addresses import is_at_hand
from afina.data.reading_options import ReadingOptions
from afina.data.split import FileRows
from afina.errors import AfinaError
from afina.report.arms import Arm, measured_on
from afina.report.examples.marked_answers import MarkedAnswers
from afina.report.examples.side_by_side import SideBySide, which_differ
from afina.report.formatting import listed
from afina.report.presentation import PRESENTATIONS
from afina.report.sections import Notes, Section, of_table
from afina.report.tables import Table, columns_of
from afina.studies.runs.inputs import evaluation_of
from afina.studies.runs.record import Record

DISAGREEMENTS, EXAMPLES, ERRORS = "Where the methods disagree", "Examples", "Examples of errors"
SHOWN = 20
LONGEST = 280  # characters of a text in the table of disagreements


@dataclass(frozen=True)
class EvaluationTexts:
    """The texts of an evaluation split, for a report; the two texts of a pair are joined.

    Attributes:
        texts: The N texts of the split; None if the texts must not be shown or cannot be read.
        digest: The digest of the split. A report shows the texts only if the records of the runs have the same digest.
        reason: The reason why `texts` is None.
        withheld: Whether the user asked for a report without texts.
        rows: The file and row of each text. None: the texts are not rows of files.
    """

    texts: Sequence[str] | None = None
    digest: str = ""
    reason: str = ""
    withheld: bool = False
    rows: FileRows | None = None

    def shown(self, record: Record) -> tuple[Sequence[str] | None, str]:
        """Return the texts that the run of `record` was evaluated on, or None, and the reason for None."""
        if self.texts is not None and self.digest != record.environment.evaluation_digest:
            return None, "the task's evaluation texts are no longer those of these runs"
        if self.texts is None or not record.too_long_rows:
            return self.texts, self.reason
        return [self.texts[row] for row in _kept(len(self.texts), record)], self.reason

    def rows_shown(self, record: Record) -> FileRows | None:
        """Return the file and row of each text that `shown` returns; None if the texts are not rows of files."""
        return None if self.rows is None else self.rows.take(_kept(len(self.rows), record))

    @classmethod
    def read(cls, address: str, data: ReadingOptions, kind: str | None = None) -> EvaluationTexts:
        """Read the evaluation texts of a task, without the network; if this fails, the result has the reason."""
        if not is_at_hand(address):
            return cls(reason="the task is not on this machine, and a report uses no network")
        try:
            split = evaluation_of(address, data, kind)
        except AfinaError:
            return cls(reason="the task could not be read again")
        pairs = split.pairs
        texts = split.texts if pairs is None else [f"{a} ⏎ {b}" for a, b in zip(split.texts, pairs, strict=True)]
        return cls(texts, split.digest, rows=split.rows)


def _kept(count: int, record: Record) -> list[int]:
    """Return the places of the evaluation texts, of `count` in all, that the run of `record` did not leave out."""
    left_out = set(record.too_long_rows)
    return [row for row in range(count) if row not in left_out]


WITHHELD = EvaluationTexts(reason="texts were left out on request", withheld=True)


@dataclass(frozen=True)
class Disagreement:
    """An evaluation text on which methods disagree.

    Attributes:
        index: The row in the evaluation split, from 0.
        answers: For each method, the number of seeds that gave each prediction; predictions are in words.
    """

    index: int
    right: str
    answers: tuple[Counter[str], ...]


def disagreements(arms: Sequence[Arm]) -> tuple[list[Arm], list[Disagreement]]:
    """Return the compared methods, and the texts on which these methods disagree most, largest disagreement first.

    Local models without training are left out if there are two other methods, because answers of an untrained model may
    be random. Methods that were evaluated on other texts than the first method are also left out.
    """
    chosen = _adapted(arms)
    if len(chosen) < 2:
        return chosen, []
    presentation, names = PRESENTATIONS[chosen[0].record.kind], chosen[0].record.label_names
    rank = _by_distance if presentation.by_distance else _by_votes
    found = rank(chosen, lambda answer: presentation.in_words(names, answer))
    return chosen, [one for _, one in sorted(found, key=lambda one: (one[0], one[1].index))[:SHOWN]]


def _adapted(arms: Sequence[Arm]) -> list[Arm]:
    """The trained methods and the models behind an API, if they are at least two; otherwise all methods."""
    adapted = [arm for arm in arms if arm.trained or arm.record.endpoint is not None]
    return _comparable(adapted if len(adapted) > 1 else arms)


def _comparable(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if measured_on(arm.results[0]) == measured_on(arms[0].results[0])]


def sections_of(arms: Sequence[Arm], evaluated: EvaluationTexts) -> list[Section]:
    """Return the sections of a report that show evaluation texts one by one: answers side by side, or a table."""
    presentation = PRESENTATIONS[arms[0].record.kind]
    if presentation.marks_text:
        return _marked_sections(arms, evaluated)
    if not presentation.side_by_side:
        table = disagreement_table(arms, evaluated)
        return [of_table(table)] if table else []
    every, compared = SideBySide(_comparable(arms)), SideBySide(_adapted(arms))
    texts, reason = evaluated.shown(arms[0].record)
    rows = compared.most_apart()
    said = [which_differ(len(rows), compared.arms)] if rows else []
    if texts is None:
        said += [f"Row numbers only: {reason}."] if reason else []
        said += [_HELD] if evaluated.withheld else []
        return [of_table(compared.table(rows, DISAGREEMENTS, said))] if rows else []
    made = [Section(EXAMPLES, (Notes(tuple(every.notes)), every.examples(every.spread(), texts)))]
    if rows:
        found = compared.examples(rows, texts, disagreement=True)
        made.append(Section(DISAGREEMENTS, (Notes(tuple(said)), found)))
    return made


def _marked_sections(arms: Sequence[Arm], evaluated: EvaluationTexts) -> list[Section]:
    texts, _ = evaluated.shown(arms[0].record)
    if texts is None:
        table = disagreement_table(arms, evaluated)
        return [of_table(table)] if table else []
    every, compared = MarkedAnswers(_comparable(arms)), MarkedAnswers(_adapted(arms))
    made, wrong, apart = list[Section](), every.spread(), compared.most_apart()
    if wrong:
        made.append(Section(ERRORS, (Notes(tuple(every.notes(len(wrong)))), every.examples(wrong, texts))))
    if apart:
        said = Notes((compared.which_differ(len(apart)),))
        made.append(Section(DISAGREEMENTS, (said, compared.examples(apart, texts))))
    return made


_HELD = "The files in `predictions` hold the answers and the references: do not share these files."


def disagreement_table(arms: Sequence[Arm], evaluated: EvaluationTexts) -> Table | None:
    """Return a table of the texts on which methods disagree most; None if no methods disagree or can be compared."""
    compared, found = disagreements(arms)
    if not found:
        return None
    record = compared[0].record
    texts, reason = evaluated.shown(record)
    rows = tuple(
        (
            str(one.index),
            *([] if texts is None else [_short(texts[one.index])]),
            one.right,
            *map(_answer, one.answers),
        )
        for one in found
    )
    presentation = PRESENTATIONS[record.kind]
    headings = ["Row", *([] if texts is None else ["Text"]), presentation.right, *(arm.label for arm in compared)]
    notes = [
        presentation.which_disagree(len(found), SHOWN),
        *_left_out(arms, compared),
        "Row: place in the evaluation split, the first is 0.",
        *([f"Row numbers only: {reason}."] if texts is None and reason else []),
    ]
    return Table(DISAGREEMENTS, columns_of(headings), rows, tuple(notes))


def _left_out(arms: Sequence[Arm], compared: Sequence[Arm]) -> list[str]:
    names = [arm.label for arm in arms if arm not in compared]
    if not names:
        return []
    return [f"Not compared here: {listed(names)}, without training or evaluated on other texts."]


def _answer(counted: Counter[str]) -> str:
    if counted.total() == 1:
        return next(iter(counted))
    return ", ".join(f"{answer} ×{times}" for answer, times in sorted(counted.items()))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"


def _by_votes(arms: Sequence[Arm], in_words: Callable[[Any], str]) -> list[tuple[float, Disagreement]]:
    """Return the texts on which methods differ, each with the votes for its most frequent answer.

    A method has one vote per text, shared equally among its seeds.
    """
    answered = [arm.answers.swapaxes(0, 1).tolist() for arm in arms]  # nested lists: text, then seed
    found = []
    for index, (right, *given) in enumerate(zip(arms[0].targets.tolist(), *answered, strict=True)):
        answers = tuple(Counter(in_words(answer) for answer in seeds) for seeds in given)
        votes: dict[str, float] = {}
        for counted in answers:
            for answer, times in counted.items():
                votes[answer] = votes.get(answer, 0.0) + times / counted.total()
        if len({counted.most_common(1)[0][0] for counted in answers}) > 1:
            found.append((max(votes.values()), Disagreement(index, in_words(right), answers)))
    return found


def _by_distance(arms: Sequence[Arm], in_words: Callable[[Any], str]) -> list[tuple[float, Disagreement]]:
    """Return all texts, each with minus the range of the methods' predicted numbers; the largest range sorts first."""
    means = [arm.answers.mean(axis=0) for arm in arms]
    found = []
    for index, right in enumerate(arms[0].targets.tolist()):
        given = [float(one[index]) for one in means]
        answers = tuple(Counter([in_words(value)]) for value in given)
        found.append((min(given) - max(given), Disagreement(index, in_words(right), answers)))
    return found
