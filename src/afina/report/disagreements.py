"""Arms -> the evaluation texts on which the methods disagree most.

Records hold no texts; whoever has them gives them, in the task's order. Reads no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from afina.report.answers import Disagreement
from afina.report.arms import Arm, measured_on
from afina.report.evaluated import Evaluated
from afina.report.kinds import PRESENTATIONS
from afina.report.tables import Column, Table

DISAGREEMENTS = "Where the methods disagree"
SHOWN = 20
LONGEST = 280
"""Characters of a text that are shown."""


def disagreements(arms: Sequence[Arm], most: int = SHOWN) -> tuple[list[Arm], list[Disagreement]]:
    """The arms that are compared, and the texts on which they disagree most, as their kind of task ranks them.

    Methods that trained nothing are left out where two others are there: their answers are chance. So are arms that
    were evaluated on other texts than the first.
    """
    trained = [arm for arm in arms if arm.trained]
    chosen = trained if len(trained) > 1 else list(arms)
    chosen = [arm for arm in chosen if measured_on(arm.results[0]) == measured_on(chosen[0].results[0])]
    if len(chosen) < 2:
        return chosen, []
    found = PRESENTATIONS[chosen[0].record.kind].disagreements(chosen)
    return chosen, [one for _, one in sorted(found, key=lambda one: (one[0], one[1].index))[:most]]


def disagreement_table(arms: Sequence[Arm], evaluated: Evaluated) -> Table | None:
    """A row per text, its right label and the answers; None where methods nowhere disagree or cannot be compared."""
    compared, found = disagreements(arms)
    if not found:
        return None
    record = compared[0].record
    texts, reason = evaluated.texts, evaluated.reason
    if texts is not None and evaluated.digest != record.environment.evaluation_digest:
        texts, reason = None, "the task's evaluation texts are no longer those of these runs"
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
        "Row: place in the evaluation split, the first is 0.",
        *([f"Row numbers only: {reason}."] if texts is None and reason else []),
    ]
    return Table(DISAGREEMENTS, tuple(Column(name, "left") for name in headings), rows, tuple(notes))


def _answer(counted: Counter[str]) -> str:
    if counted.total() == 1:
        return next(iter(counted))
    return ", ".join(f"{answer} ×{times}" for answer, times in sorted(counted.items()))


def _short(text: str) -> str:
    """One line, cut where it is very long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
