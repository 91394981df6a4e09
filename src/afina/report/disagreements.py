"""Records -> the evaluation texts on which the methods disagree most.

Records hold no texts; whoever has them gives them, in the task's order. Reads no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from afina.report.rows import groups, labels
from afina.report.tables import Column, Table
from afina.studies.record import Record

DISAGREEMENTS = "Where the methods disagree"
SHOWN = 20
LONGEST = 280
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Evaluated:
    """The texts of an evaluation split, a pair as one text.

    texts   N strings, or None where they are not to be shown or not at hand; `reason` then says why
    digest  the split's digest; texts of another split than the records' are not shown
    """

    texts: Sequence[str] | None = None
    digest: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Disagreement:
    """One evaluation text. `answers` has a mapping per method: label index to the number of seeds that gave it."""

    index: int
    gold: int
    answers: tuple[Counter[int], ...]


def disagreements(records: Sequence[Record], most: int = SHOWN) -> tuple[list[str], list[Disagreement]]:
    """The methods' labels, and the texts on which they are most evenly split, in the order of the split.

    Methods that trained nothing are left out where two others are there: their answers are chance. So are methods
    that were evaluated on other texts than the first.
    """
    grouped = groups(records)
    named = list(zip(labels(grouped), grouped, strict=True))
    trained = [entry for entry in named if entry[1][0].steps]
    named = trained if len(trained) > 1 else named
    named = [entry for entry in named if _texts_of(entry[1][0]) == _texts_of(named[0][1][0])]
    if len(named) < 2:
        return [name for name, _ in named], []
    gold = named[0][1][0].gold
    found = []
    for index in range(len(gold)):
        answers = tuple(Counter(record.predicted[index] for record in group) for _, group in named)
        votes: dict[int, float] = {}  # every method has one
        for counted in answers:
            for answer, times in counted.items():
                votes[answer] = votes.get(answer, 0.0) + times / counted.total()
        if len({counted.most_common(1)[0][0] for counted in answers}) > 1:
            found.append((max(votes.values()), Disagreement(index, gold[index], answers)))
    chosen = sorted(found, key=lambda one: (one[0], one[1].index))[:most]
    return [name for name, _ in named], [one for _, one in chosen]


def disagreement_table(records: Sequence[Record], evaluated: Evaluated) -> Table | None:
    """A row per text, its right label and the answers; None where methods nowhere disagree or cannot be compared."""
    methods, found = disagreements(records)
    if not found:
        return None
    first = next(record for record in records if record.gold)
    texts, reason = evaluated.texts, evaluated.reason
    if texts is not None and evaluated.digest != first.environment.evaluation_digest:
        texts, reason = None, "the task's evaluation texts are no longer those of these runs"
    names = first.label_names
    rows = tuple(
        (
            str(one.index),
            *([] if texts is None else [_short(texts[one.index])]),
            names[one.gold],
            *(_answer(counted, names) for counted in one.answers),
        )
        for one in found
    )
    headings = ["Row", *([] if texts is None else ["Text"]), "Right label", *methods]
    notes = [
        f"The {len(found)} evaluation texts on which the answers are most evenly split, of all on which they differ."
        if len(found) == SHOWN
        else "Every evaluation text on which the methods' answers differ.",
        "Row: place in the evaluation split, the first is 0.",
        *([f"Row numbers only: {reason}."] if texts is None and reason else []),
    ]
    return Table(DISAGREEMENTS, tuple(Column(name, "left") for name in headings), rows, tuple(notes))


def _texts_of(record: Record) -> tuple[str, tuple[int, ...]]:
    return record.environment.evaluation_digest, record.gold


def _answer(counted: Counter[int], names: Sequence[str]) -> str:
    if counted.total() == 1:
        return names[next(iter(counted))]
    return ", ".join(f"{names[answer]} ×{times}" for answer, times in sorted(counted.items()))


def _short(text: str) -> str:
    """One line, cut where it is very long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
