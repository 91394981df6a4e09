"""Kinds of targets: a class, a number, several labels, or a text.

`TARGETS` has an entry for each kind; no other code in `data` asks for the kind. The module does not know file formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from afina.data import problems
from afina.data.kinds import KINDS, LONGS, Kind, Long
from afina.data.readers.class_targets import ClassTargets
from afina.data.readers.label_targets import LabelTargets
from afina.data.readers.number_targets import NumberTargets
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.readers.target_kind import TargetKind
from afina.data.readers.text_targets import TextTargets
from afina.data.split import Split
from afina.errors import UnknownName

TARGETS: Mapping[Kind, TargetKind] = {
    made.kind: made for made in (ClassTargets(), NumberTargets(), LabelTargets(), TextTargets())
}


def of_kind(kind: str) -> TargetKind:
    """Return the entry of TARGETS for a kind's name. Raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    return TARGETS[kind]


def check_long(where: str, kind: Kind, long: str | None) -> Long:
    """Return how to treat targets that are too long. Raises UnknownName, or InvalidData for another kind."""
    if long is not None and not TARGETS[kind].written:
        raise problems.LONG_INAPPLICABLE(kind=kind, where=where, option="long")
    for one in LONGS:
        if one == (long or "refuse"):
            return one
    raise UnknownName("long", str(long), LONGS)


def splits(
    train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None = None, names: Sequence[str] = ()
) -> TaskData:
    """Return label names and both splits.

    Integers are in numerical order and names are sorted, unless `labels` gives the order, or names for the integers
    0..n-1. `names`: the data's own names for the integers 0..n-1, if any. Raises InvalidData with the row.
    """
    return TARGETS[train.kind].splits(train, evaluation, labels, names)


def matched(
    rows: LabelledRows,
    label_names: Sequence[str],
    labels: Sequence[str] | None = None,
    names: Sequence[str] = (),
    whose: str = "the adapter's",
) -> Split:
    """Return a split of rows whose labels are in `label_names`. Not every name has to occur.

    labels  the names in `label_names` of the integers 0..n-1 in the data. None: `names`
    names   the data's own names for the integers 0..n-1
    Raises InvalidData for a label that is not in `label_names`; the message lists the labels of both.
    """
    return TARGETS[rows.kind].matched(rows, label_names, labels, names, whose)
