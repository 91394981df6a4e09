"""Kinds of targets: a class, a number, several labels, or a text.

`TARGETS` has an entry for each kind; no other code in `data` asks for the kind. The module does not know file formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from afina.data import problems
from afina.data.kinds import CLASSES, KINDS, LABELS, LONGS, NUMBER, Kind, Long
from afina.data.readers import splitting
from afina.data.readers.formats import FileTable
from afina.data.readers.labels import (
    Label,
    LabelColumn,
    LabelFormat,
    LabelOptions,
    as_name,
    as_number,
    as_several,
    form_of_several,
    is_of_one_label,
    notation_of,
    spelled,
    with_multi_hot,
)
from afina.data.readers.references import TextTargets
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.readers.target_kind import TargetKind
from afina.data.split import Split
from afina.errors import UnknownName

SHOWN = 8
"""The largest number of label names in a line."""


class ClassTargets(TargetKind):
    """One class per text: int64 [N], indices into the label names."""

    kind = CLASSES
    usual = True
    stratified = True

    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """Return the format: every cell is a class name."""
        return LabelFormat(self.kind, keeps=asked.keeps)

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """Return a name or an integer per row."""
        return [as_name(table, columns[0], row, form) for row in range(len(table.places))]

    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the label of each row."""
        return [spelled(label, True) for label in rows.labels]

    def names(self, label: Label) -> tuple[str, ...]:
        """Return the label itself."""
        return (str(label),)

    def same(self, label: Label) -> Label:
        """Return the label's name; `1.0` becomes `1`."""
        return spelled(label, True)

    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Return label names and both splits. Integers are in numerical order, names are sorted."""
        return splitting.splits_of_classes(train, evaluation, labels, names)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """Return a split of labels that are matched by name, or by the integer that stands for the name."""
        return splitting.matched_classes(rows, label_names, labels, names, whose)

    def ordered(self, label_names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return `labels`. Raises InvalidData if they are not the label names."""
        splitting.check_complete(labels, label_names, "the adapter's")
        return labels

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        """Return the same classes as indices into `some`, which has all labels in another order."""
        order = [some.index(name) for name in label_names]
        return replace(split, labels=np.array(order, dtype=np.int64)[split.labels])

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return the name of each class."""
        return [label_names[index] for index in found.tolist()]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the number of labels and their names in words."""
        return f"{len(label_names)} classes ({_listed(label_names)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if all texts have the same class."""
        if len(np.unique(found)) < 2:
            raise problems.ONE_VALUE(_target="label", found=label_names[found[0]], task=address, examples=len(found))

    def check_positive(self, label_names: Sequence[str]) -> str | None:
        """Return the number of classes in words, unless there are two."""
        return None if len(label_names) == 2 else f"{len(label_names)} classes"


class NumberTargets(TargetKind):
    """A number: float64 [N]."""

    kind = NUMBER
    expected = "a number"
    plural = "numbers"
    named = False

    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """Return the notation that fits all numbers. Raises InvalidData if several notations fit."""
        return LabelFormat(self.kind, notation=notation_of(cells.table, cells.name, asked.keeps))

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """Return a finite number per row."""
        notation = form.notation or notation_of(table, columns[0], form.keeps)
        return [as_number(table, columns[0], row, notation) for row in range(len(table.places))]

    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the same stratum for all rows."""
        return [""] * len(rows)

    def names(self, label: Label) -> tuple[str, ...]:
        """Return no names."""
        return ()

    def same(self, label: Label) -> Label:
        """Return the number itself."""
        return label

    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Return both splits; the label name is the column's name."""
        return splitting.splits_of_numbers(train, evaluation, labels)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """Return the split: numbers have no names to match."""
        return splitting.numbers(rows)

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return the numbers."""
        return list(found.tolist())

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the smallest and the largest number in words."""
        return f"numbers from {found.min():g} to {found.max():g}"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if all numbers are equal."""
        if len(np.unique(found)) < 2:
            raise problems.ONE_VALUE(_target="number", found=float(found[0]), task=address, examples=len(found))
        with np.errstate(over="ignore", invalid="ignore"):
            spread = found.std()
        if not np.isfinite(spread):
            raise problems.NUMBERS_TOO_LARGE(found=np.abs(found).max(), task=address)


class LabelTargets(TargetKind):
    """Any number of labels per text: int64 [N, L], 0 or 1."""

    kind = LABELS
    several = True

    def holds(self, found: np.ndarray) -> bool:
        """Return whether targets of this kind may have the dtype of `found`."""
        return found.dtype.kind in "biuf"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """Return whether an empty cell means no label: not if labels are multi-hot or each label has a column."""
        return len(columns) == 1 and not form.hot

    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """Return how to read a column of lists, multi-hot lists, or names with a separator."""
        return form_of_several(cells, asked.separator, asked)

    def form_to_measure(
        self,
        form: LabelFormat,
        table: FileTable,
        columns: Sequence[str],
        labels: Sequence[str] | None,
        known: Sequence[str],
    ) -> LabelFormat:
        """Return `form` with the names of multi-hot lists, or with the name of a column that is about one label."""
        if not known or len(columns) != 1:
            return form
        if columns[0] in known and is_of_one_label(table, columns[0]):
            return replace(form, hot=tuple(columns))
        return with_multi_hot(table, columns[0], form, labels, known)

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """Return the label names in each row."""
        return as_several(table, columns, form)

    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the rarest label of each row; empty for a row without labels."""
        several = [self.names(label) for label in rows.labels]
        counts = Counter(name for names in several for name in names)
        return [min(names, key=lambda name: (counts[name], name), default="") for names in several]

    def names(self, label: Label) -> tuple[str, ...]:
        """Return all names in the label."""
        return label if isinstance(label, tuple) else ()

    def same(self, label: Label) -> Label:
        """Return the sorted names: the order of labels does not matter."""
        return tuple(sorted(self.names(label)))

    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Return label names and both splits. Columns keep the file's order, other names are sorted."""
        return splitting.splits_of_labels(train, evaluation, labels)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """Return a split of labels that are matched by name."""
        return splitting.several(rows, label_names, whose)

    def ordered(self, label_names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return the label names: `labels` are about the places of multi-hot lists, and no label is positive."""
        return label_names

    def unsaid(self, rows: LabelledRows, label_names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels without a column, or without a place in multi-hot lists."""
        return tuple(name for name in label_names if rows.names and name not in rows.names)

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        """Return the columns of `some` labels."""
        return replace(split, labels=split.labels[:, [label_names.index(name) for name in some]])

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return the label names of each text."""
        return [tuple(label_names[int(index)] for index in np.flatnonzero(row)) for row in found]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the number of labels and their names in words."""
        return f"any of {len(label_names)} labels ({_listed(label_names)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if no text has a label."""
        if not found.any():
            raise problems.NO_TEXT_LABELLED(task=address, examples=len(found))


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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
