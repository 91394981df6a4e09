"""Arms -> the evaluation texts on which the methods disagree most.

Records hold no texts; whoever has them gives them, in the task's order. Reads no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from afina.report.answers import in_words
from afina.report.arms import Arm, measured_on
from afina.report.evaluated import Evaluated
from afina.report.tables import Column, Table

DISAGREEMENTS = "Where the methods disagree"
SHOWN = 20
LONGEST = 280
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Disagreement:
    """One evaluation text.

    right    in words
    answers  a mapping per method: what was answered, in words, to the number of seeds that did
    """

    index: int
    right: str
    answers: tuple[Counter[str], ...]


def disagreements(arms: Sequence[Arm], most: int = SHOWN) -> tuple[list[Arm], list[Disagreement]]:
    """The arms that are compared, and the texts on which they are most evenly split, in the order of the split.

    Numbers: the texts on which the methods' means over the seeds are furthest apart.
    Methods that trained nothing are left out where two others are there: their answers are chance. So are arms that
    were evaluated on other texts than the first.
    """
    trained = [arm for arm in arms if arm.trained]
    chosen = trained if len(trained) > 1 else list(arms)
    chosen = [arm for arm in chosen if measured_on(arm.results[0]) == measured_on(chosen[0].results[0])]
    if len(chosen) < 2:
        return chosen, []
    far = _apart(chosen) if chosen[0].record.kind == "number" else _split(chosen)
    return chosen, [one for _, one in sorted(far, key=lambda one: (one[0], one[1].index))[:most]]


def _split(arms: Sequence[Arm]) -> list[tuple[float, Disagreement]]:
    """Texts that are answered differently, with the votes of the answer that has most, each method having one."""
    record = arms[0].record
    answered = [arm.answers.swapaxes(0, 1).tolist() for arm in arms]  # by text, then by seed
    found = []
    for index, (right, *given) in enumerate(zip(arms[0].targets.tolist(), *answered, strict=True)):
        told = tuple(Counter(in_words(record, answer) for answer in seeds) for seeds in given)
        votes: dict[str, float] = {}
        for counted in told:
            for answer, times in counted.items():
                votes[answer] = votes.get(answer, 0.0) + times / counted.total()
        if len({counted.most_common(1)[0][0] for counted in told}) > 1:
            found.append((max(votes.values()), Disagreement(index, in_words(record, right), told)))
    return found


def _apart(arms: Sequence[Arm]) -> list[tuple[float, Disagreement]]:
    """All texts, with how far apart the methods' numbers are, as a negative number."""
    means = [arm.answers.mean(axis=0) for arm in arms]
    record, found = arms[0].record, []
    for index, right in enumerate(arms[0].targets.tolist()):
        given = [float(one[index]) for one in means]
        told = tuple(Counter([in_words(record, value)]) for value in given)
        found.append((min(given) - max(given), Disagreement(index, in_words(record, right), told)))
    return found


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
    right = "Given" if record.kind == "number" else "Right label" + "s" * (record.kind == "labels")
    headings = ["Row", *([] if texts is None else ["Text"]), right, *(arm.label for arm in compared)]
    notes = [
        _which(record.kind, len(found)),
        "Row: place in the evaluation split, the first is 0.",
        *([f"Row numbers only: {reason}."] if texts is None and reason else []),
    ]
    return Table(DISAGREEMENTS, tuple(Column(name, "left") for name in headings), rows, tuple(notes))


def _which(kind: str, shown: int) -> str:
    if kind == "number":
        return f"The {shown} evaluation texts on which the methods' numbers, means over the seeds, are furthest apart."
    if shown == SHOWN:
        return f"The {shown} evaluation texts on which the answers are most evenly split, of all on which they differ."
    return "Every evaluation text on which the methods' answers differ."


def _answer(counted: Counter[str]) -> str:
    if counted.total() == 1:
        return next(iter(counted))
    return ", ".join(f"{answer} ×{times}" for answer, times in sorted(counted.items()))


def _short(text: str) -> str:
    """One line, cut where it is very long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
