"""Arms -> the evaluation texts on which the methods disagree most.

Records hold no texts; whoever has them gives them, in the task's order. Reads no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from afina.report.arms import Arm, measured_on
from afina.report.evaluated import Evaluated
from afina.report.tables import Column, Table

DISAGREEMENTS = "Where the methods disagree"
SHOWN = 20
LONGEST = 280
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Disagreement:
    """One evaluation text. `answers` has a mapping per method: label index to the number of seeds that gave it."""

    index: int
    gold: int
    answers: tuple[Counter[int], ...]


def disagreements(arms: Sequence[Arm], most: int = SHOWN) -> tuple[list[Arm], list[Disagreement]]:
    """The arms that are compared, and the texts on which they are most evenly split, in the order of the split.

    Methods that trained nothing are left out where two others are there: their answers are chance. So are arms that
    were evaluated on other texts than the first.
    """
    trained = [arm for arm in arms if arm.trained]
    chosen = trained if len(trained) > 1 else list(arms)
    chosen = [arm for arm in chosen if measured_on(arm.results[0]) == measured_on(chosen[0].results[0])]
    if len(chosen) < 2:
        return chosen, []
    answered = [arm.answers.T.tolist() for arm in chosen]  # by text, then by seed
    found = []
    for index, (gold, *given) in enumerate(zip(chosen[0].targets.tolist(), *answered, strict=True)):
        answers: tuple[Counter[int], ...] = tuple(map(Counter, given))
        votes: dict[int, float] = {}  # every method has one
        for counted in answers:
            for answer, times in counted.items():
                votes[answer] = votes.get(answer, 0.0) + times / counted.total()
        if len({counted.most_common(1)[0][0] for counted in answers}) > 1:
            found.append((max(votes.values()), Disagreement(index, gold, answers)))
    ordered = sorted(found, key=lambda one: (one[0], one[1].index))[:most]
    return chosen, [one for _, one in ordered]


def disagreement_table(arms: Sequence[Arm], evaluated: Evaluated) -> Table | None:
    """A row per text, its right label and the answers; None where methods nowhere disagree or cannot be compared."""
    compared, found = disagreements(arms)
    if not found:
        return None
    record = compared[0].record
    texts, reason = evaluated.texts, evaluated.reason
    if texts is not None and evaluated.digest != record.environment.evaluation_digest:
        texts, reason = None, "the task's evaluation texts are no longer those of these runs"
    names = record.label_names
    rows = tuple(
        (
            str(one.index),
            *([] if texts is None else [_short(texts[one.index])]),
            names[one.gold],
            *(_answer(counted, names) for counted in one.answers),
        )
        for one in found
    )
    headings = ["Row", *([] if texts is None else ["Text"]), "Right label", *(arm.label for arm in compared)]
    notes = [
        f"The {len(found)} evaluation texts on which the answers are most evenly split, of all on which they differ."
        if len(found) == SHOWN
        else "Every evaluation text on which the methods' answers differ.",
        "Row: place in the evaluation split, the first is 0.",
        *([f"Row numbers only: {reason}."] if texts is None and reason else []),
    ]
    return Table(DISAGREEMENTS, tuple(Column(name, "left") for name in headings), rows, tuple(notes))


def _answer(counted: Counter[int], names: Sequence[str]) -> str:
    if counted.total() == 1:
        return names[next(iter(counted))]
    return ", ".join(f"{names[answer]} ×{times}" for answer, times in sorted(counted.items()))


def _short(text: str) -> str:
    """One line, cut where it is very long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
