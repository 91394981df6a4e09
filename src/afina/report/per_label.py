"""Figures of each label (precision, recall, F1, number of texts) and the most frequent confusions of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from afina.report.arms import Arm
from afina.report.formatting import brief, count, share
from afina.report.tables import Table, columns_of
from afina.schema import figures_as_json
from afina.stats.answered import MISSING

BY_LABEL, CONFUSIONS, CONFUSION = "Figures by label", "The most frequent confusions", "Confusion matrix"
MOST = 30
"""The report shows figures of this many labels, the most frequent; with more labels, it has no confusion matrix."""

FITS = 12  # labels in a table on the terminal
MOST_CONFUSED = 15  # pairs of labels in a list of confusions


@dataclass(frozen=True)
class LabelFigures:
    """Precision, recall and F1 of one label: means over the seeds, NaN if a figure is undefined for a seed.

    Attributes:
        support: The number of texts whose target is or has the label, or of target entities with the label.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


_UNDEFINED = "Undefined: the precision of a label that was never answered, the recall of one that no text has."


def label_figures(names: Sequence[str], gold: np.ndarray, given: np.ndarray) -> list[LabelFigures]:
    """Return the figures of each label, in the order of `names`.

    Args:
        gold: Whether each text has each label, bool [1, N, L].
        given: Whether each label was predicted for each text by each seed, bool [S, N, L].
    """
    both = (gold & given).sum(axis=1).astype(float)  # [S, L]
    predicted, there = given.sum(axis=1), gold.sum(axis=1)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        made: np.ndarray = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0).mean(axis=0)
        return made

    figures = (ratio(both, predicted), ratio(both, there), ratio(2 * both, predicted + there))
    columns = zip(names, *(one.tolist() for one in figures), there[0].tolist(), strict=True)
    return [LabelFigures(*one) for one in columns]


def as_json(found: Sequence[LabelFigures]) -> dict[str, object]:
    return {
        one.name: {
            **figures_as_json({"precision": one.precision, "recall": one.recall, "f1": one.f1}),
            "support": one.support,
        }
        for one in found
    }


def terminal_table(found: Sequence[LabelFigures], of: str = "", having: str = "Texts") -> Table:
    shown = sorted(found, key=lambda one: -one.support)
    few = (f"The {FITS} most frequent of {len(found)} labels.",) if len(found) > FITS else ()
    rows = tuple((brief(one.name), *_figures(one)) for one in shown[:FITS])
    columns = columns_of(["Label"], [*_FIGURES, having])
    return Table(_of(BY_LABEL, of), columns, rows, few)


def terminal_confusion(names: Sequence[str], counts: np.ndarray, of: str = "", seeds: int = 1) -> Table:
    notes = (f"{seeds} seeds added up.",) if seeds > 1 else ()
    named = [brief(name) for name in names]
    if len(names) > FITS:
        most = most_confused(counts)
        listed = tuple((named[right], named[predicted], count(times)) for right, predicted, times in most)
        return Table(_of(CONFUSIONS, of), columns_of(["Right", "Answered"], ["Texts"]), listed, notes)
    columns = columns_of(["Right"], [f"answered {name}" for name in named])
    rows = tuple((name, *map(count, row)) for name, row in zip(named, counts.tolist(), strict=True))
    return Table(_of(CONFUSION, of), columns, rows, notes)


def _of(title: str, of: str) -> str:
    return f"{title}, {of}" if of else title


def table(arms: Sequence[Arm], found: Sequence[Sequence[LabelFigures]], having: str = "Texts") -> Table:
    """Return a table with a row for each method and label; `found` has the figures of the labels by method."""
    rows = []
    for arm, labels in zip(arms, found, strict=True):
        for one in sorted(labels, key=lambda one: -one.support)[:MOST]:
            rows.append((arm.label, one.name, *_figures(one)))
    names = len(arms[0].record.label_names)
    few = f" The {MOST} most frequent of {names} labels." if names > MOST else ""
    columns = columns_of(["Method", "Label"], [*_FIGURES, f"{having} that have it"])
    return Table(BY_LABEL, columns, tuple(rows), (f"Means over the seeds. {_UNDEFINED}{few}",))


_FIGURES = ("Precision", "Recall", "F1")


def _figures(one: LabelFigures) -> tuple[str, ...]:
    return (*map(share, (one.precision, one.recall, one.f1)), count(one.support))


def confusions(arms: Sequence[Arm]) -> Table:
    rows = []
    for arm in arms:
        names = arm.record.label_names
        for right, predicted, times in most_confused(confused(arm.targets, arm.answers, len(names))):
            rows.append((arm.label, names[right], names[predicted], count(times)))
    columns = columns_of(["Method", "Right", "Answered"], ["Texts"])
    return Table(CONFUSIONS, columns, tuple(rows), ("Seeds added up.",))


def confused(targets: np.ndarray, answers: np.ndarray, size: int) -> np.ndarray:
    """Return the confusion matrix summed over the seeds, int [C, C]; rows are right classes, columns predictions.

    Missing answers are no predictions, so a row may have fewer texts than the class.
    """
    places = (targets * size + answers)[answers != MISSING]
    counts: np.ndarray = np.bincount(places, minlength=size * size).reshape(size, size)
    return counts


def most_confused(counts: np.ndarray, most: int = MOST_CONFUSED) -> list[tuple[int, int, int]]:
    """Return (right class, predicted class, number of texts), the most frequent first."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = [divmod(place, len(counts)) for place in np.argsort(-wrong, axis=None, kind="stable")[:most].tolist()]
    return [(right, predicted, int(wrong[right, predicted])) for right, predicted in pairs if wrong[right, predicted]]
