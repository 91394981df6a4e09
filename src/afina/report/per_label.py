"""How well each label is found: precision, recall, F1, how many texts have it; and what is most often taken for what.

Pure. Of classes and of several labels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afina.report.arms import Arm
from afina.report.tables import Column, Table
from afina.report.words import brief, count, share
from afina.schema import figures_as_json

if TYPE_CHECKING:
    import numpy as np

BY_LABEL, CONFUSIONS, CONFUSION = "Figures by label", "The most frequent confusions", "Confusion matrix"
MOST = 30
"""Labels that are shown, the most frequent ones; and beyond which confusions are listed instead of drawn."""

FITS = 12
"""Labels that a terminal has room for."""

MOST_CONFUSED = 15
"""Pairs that are listed."""


@dataclass(frozen=True)
class Found:
    """One label: means over the seeds, NaN where a seed has none; support: texts that have it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


_UNDEFINED = "Undefined: the precision of a label that was never answered, the recall of one that no text has."


def of_labels(arm: Arm) -> list[Found]:
    """Every label, in its order."""
    return found(arm.record.kind, arm.record.label_names, arm.targets, arm.answers)


def found(kind: str, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[Found]:
    """Every label, in its order; of targets [N, ...] and answers [S, N, ...]."""
    import numpy as np

    gold, given = _columns(kind, names, targets[None]), _columns(kind, names, answers)
    both = (gold & given).sum(axis=1).astype(float)  # [S, L]
    told, there = given.sum(axis=1), gold.sum(axis=1)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        made: np.ndarray = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0).mean(axis=0)
        return made

    figures = (ratio(both, told), ratio(both, there), ratio(2 * both, told + there))
    columns = zip(names, *(one.tolist() for one in figures), there[0].tolist(), strict=True)
    return [Found(*one) for one in columns]


def _columns(kind: str, names: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Whether each label is among them, bool [S, N, L]."""
    import numpy as np

    made: np.ndarray = labels.astype(bool) if kind == "labels" else labels[:, :, None] == np.arange(len(names))
    return made


def for_terminal(
    kind: str, names: Sequence[str], targets: np.ndarray, answers: np.ndarray, of: str = ""
) -> list[Table]:
    """How well each label is found, and of classes which is taken for which; none of numbers.

    targets [N, ...], answers [S, N, ...];  of  whose they are, for the titles
    """
    if kind == "number":
        return []
    named = [brief(name) for name in names]
    whose = f", {of}" if of else ""
    shown = sorted(found(kind, named, targets, answers), key=lambda one: -one.support)
    few = f" The {FITS} most frequent of {len(names)} labels." if len(names) > FITS else ""
    rows = tuple((one.name, *_figures(one)) for one in shown[:FITS])
    columns = (Column("Label", "left"), *_FIGURES[:-1], Column("Texts"))
    made = [Table(f"{BY_LABEL}{whose}", columns, rows, (few.strip(),) if few else ())]
    if kind == "classes":
        counts = _confused(targets, answers, len(names))
        if len(names) > FITS:
            columns = (*(Column(name, "left") for name in ("Right", "Answered")), Column("Texts"))
            rows = tuple((named[right], named[told], count(times)) for right, told, times in _most_confused(counts))
            made.append(Table(f"{CONFUSIONS}{whose}", columns, rows))
        else:
            columns = (Column("Right", "left"), *(Column(f"answered {name}") for name in named))
            rows = tuple((name, *map(count, row)) for name, row in zip(named, counts.tolist(), strict=True))
            made.append(Table(f"{CONFUSION}{whose}", columns, rows))
    return made


def as_json(kind: str, names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> dict[str, object]:
    """`labels`, by name its figures, null where undefined, and of classes `confusion`, rows as right; of arrays as
    `for_terminal` has them.
    """
    if kind == "number":
        return {"labels": None, "confusion": None}
    figures = {
        one.name: {
            **figures_as_json({"precision": one.precision, "recall": one.recall, "f1": one.f1}),
            "support": one.support,
        }
        for one in found(kind, names, targets, answers)
    }
    counts = _confused(targets, answers, len(names)).tolist() if kind == "classes" else None
    return {"labels": figures, "confusion": counts}


def tables(arms: Sequence[Arm]) -> list[Table]:
    """By label, and where there are too many classes to draw, which are confused; none of numbers."""
    if arms[0].record.kind == "number":
        return []
    made = [_by_label(arms)]
    if arms[0].record.kind == "classes" and len(arms[0].record.label_names) > MOST:
        made += [_confusions(arms)]
    return made


def _by_label(arms: Sequence[Arm]) -> Table:
    rows = []
    for arm in arms:
        for one in sorted(of_labels(arm), key=lambda one: -one.support)[:MOST]:
            rows.append((arm.label, one.name, *_figures(one)))
    names = len(arms[0].record.label_names)
    few = f" The {MOST} most frequent of {names} labels." if names > MOST else ""
    columns = (Column("Method", "left"), Column("Label", "left"), *_FIGURES)
    return Table(BY_LABEL, columns, tuple(rows), (f"Means over the seeds. {_UNDEFINED}{few}",))


_FIGURES = tuple(map(Column, ("Precision", "Recall", "F1", "Texts that have it")))


def _figures(one: Found) -> tuple[str, ...]:
    return (*map(share, (one.precision, one.recall, one.f1)), count(one.support))


def _confusions(arms: Sequence[Arm]) -> Table:
    rows = []
    for arm in arms:
        names = arm.record.label_names
        for right, told, times in _most_confused(_confused(arm.targets, arm.answers, len(names))):
            rows.append((arm.label, names[right], names[told], count(times)))
    columns = (*(Column(name, "left") for name in ("Method", "Right", "Answered")), Column("Texts"))
    return Table(CONFUSIONS, columns, tuple(rows), ("Seeds added up.",))


def _confused(targets: np.ndarray, answers: np.ndarray, size: int) -> np.ndarray:
    """How many texts of each class, a row, were answered with each, a column; the seeds added up. int [C, C]."""
    import numpy as np

    counts: np.ndarray = np.bincount((targets * size + answers).ravel(), minlength=size * size).reshape(size, size)
    return counts


def _most_confused(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """What was right, what was answered instead, and how often: the most frequent first."""
    import numpy as np

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = [
        divmod(place, len(counts)) for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED].tolist()
    ]
    return [(right, told, int(wrong[right, told])) for right, told in pairs if wrong[right, told]]
