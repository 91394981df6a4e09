"""How well each label is found: precision, recall, F1, how many texts have it; and what is most often taken for what.

Pure. Of classes and of several labels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afina.report.arms import Arm
from afina.report.tables import Column, Table
from afina.report.words import count, share

if TYPE_CHECKING:
    import numpy as np

BY_LABEL, CONFUSIONS = "Figures by label", "The most frequent confusions"
MOST = 30
"""Labels that are shown, the most frequent ones; and beyond which confusions are listed instead of drawn."""

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
    import numpy as np

    gold, answers = _columns(arm)
    both = (gold & answers).sum(axis=1).astype(float)  # [S, L]
    told, there = answers.sum(axis=1), gold.sum(axis=1)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        made: np.ndarray = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0).mean(axis=0)
        return made

    figures = (ratio(both, told), ratio(both, there), ratio(2 * both, told + there))
    columns = zip(arm.record.label_names, *(one.tolist() for one in figures), there[0].tolist(), strict=True)
    return [Found(*one) for one in columns]


def _columns(arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """What is right, bool [1, N, L], and what was answered, bool [S, N, L]."""
    import numpy as np

    if arm.record.kind == "labels":
        return arm.targets[None].astype(bool), arm.answers.astype(bool)
    labels = np.arange(len(arm.record.label_names))
    return arm.targets[None, :, None] == labels, arm.answers[:, :, None] == labels


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
            rows.append((arm.label, one.name, *map(share, (one.precision, one.recall, one.f1)), count(one.support)))
    columns = (
        Column("Method", "left"),
        Column("Label", "left"),
        *map(Column, ("Precision", "Recall", "F1", "Texts that have it")),
    )
    names = len(arms[0].record.label_names)
    few = f" The {MOST} most frequent of {names} labels." if names > MOST else ""
    return Table(BY_LABEL, columns, tuple(rows), (f"Means over the seeds. {_UNDEFINED}{few}",))


def _confusions(arms: Sequence[Arm]) -> Table:
    import numpy as np

    rows = []
    for arm in arms:
        names, size = arm.record.label_names, len(arm.record.label_names)
        pairs = np.bincount((arm.targets * size + arm.answers).ravel(), minlength=size * size).reshape(size, size)
        np.fill_diagonal(pairs, 0)
        for place in np.argsort(-pairs, axis=None, kind="stable")[:MOST_CONFUSED].tolist():
            right, told = divmod(place, size)
            if pairs[right, told]:
                rows.append((arm.label, names[right], names[told], count(pairs[right, told])))
    columns = (*(Column(name, "left") for name in ("Method", "Right", "Answered")), Column("Texts"))
    return Table(CONFUSIONS, columns, tuple(rows), ("Seeds added up.",))
