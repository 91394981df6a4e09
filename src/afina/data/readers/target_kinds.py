"""Targets by kind of task: how they are read from cells, split, compared, spelled and shown.

`TARGETS` has an entry for each kind; no other code in `data` asks for the kind. The module does not know file formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from afina.data.kinds import CLASSES, KINDS, LABELS, NUMBER, Kind
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
    notation_of,
    spelled,
    with_multi_hot,
)
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.split import Split
from afina.errors import InvalidData, UnknownName


class TargetKind(ABC):
    """How `data` reads and shows a kind of task.

    Attributes:
        kind: The kind's name.
        expected: The expected content of a cell, in words.
        plural: The plural of the target, in words.
        named: Whether the kind has label names.
        several: Whether a text can have several labels, in one cell with a separator or in several columns.
        usual: Whether a manifest without a kind is of this kind.
        stratified: Whether each label needs a text in both splits of a file.
    """

    kind: ClassVar[Kind]
    expected: ClassVar[str] = "a label"
    plural: ClassVar[str] = "labels"
    named: ClassVar[bool] = True
    several: ClassVar[bool] = False
    usual: ClassVar[bool] = False
    stratified: ClassVar[bool] = False

    @property
    def told(self) -> Kind | None:
        """The kind's name; None for the usual kind, which is left out of manifests and cards."""
        return None if self.usual else self.kind

    def holds(self, found: np.ndarray) -> bool:
        """Return whether targets of this kind may have the dtype of `found`."""
        return found.dtype.kind in "biuf"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """Return whether an empty cell is a valid target, instead of a missing value."""
        return False

    @abstractmethod
    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """Return how to read a column that the user has declared to be of this kind. Raises InvalidData."""

    def form_to_measure(
        self,
        form: LabelFormat,
        table: FileTable,
        columns: Sequence[str],
        labels: Sequence[str] | None,
        known: Sequence[str],
    ) -> LabelFormat:
        """Return `form` adjusted to another table with this kind of targets. known: the labels that may occur."""
        return form

    @abstractmethod
    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """Return the label of every row. Raises InvalidData with the row."""

    @abstractmethod
    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the stratum of each row: a held-out part is drawn from each stratum."""

    @abstractmethod
    def names(self, label: Label) -> tuple[str, ...]:
        """Return the names in a label, as the data spell them."""

    @abstractmethod
    def same(self, label: Label) -> Label:
        """Return a normalised label: two labels are equal if their normalised labels are."""

    @abstractmethod
    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Return label names and both splits, for rows of this kind (arguments of the function `splits`)."""

    @abstractmethod
    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """Return a split with known labels, for rows of this kind (arguments of the function `matched`)."""

    @abstractmethod
    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return targets as the data spell them: the inverse of `splits`."""

    @abstractmethod
    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the targets in words: `2 classes (no, yes)`, `numbers from 1 to 5`."""

    @abstractmethod
    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if all training texts have the same target, or none has a label."""

    def check_positive(self, label_names: Sequence[str]) -> str | None:
        """Return why no label can be the positive label: `3 classes`, `kind number`. None: a label can be positive."""
        return f"kind {self.kind}"


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

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return the name of each class."""
        return [label_names[index] for index in found.tolist()]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the number of labels and their names in words."""
        return f"{len(label_names)} classes ({_listed(label_names)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if all texts have the same class."""
        if len(np.unique(found)) < 2:
            raise InvalidData(
                f"task {address}: all {len(found)} training examples are labelled {label_names[found[0]]!r}. "
                "Expected at least two different labels; give more examples.",
                code="data.one-value",
                task=address,
                examples=len(found),
            )

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
            raise InvalidData(
                f"task {address}: all {len(found)} training examples have the number {found[0]:g}, so there is "
                "nothing to learn. Give examples with different numbers.",
                code="data.one-value",
                task=address,
                examples=len(found),
            )


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
        """Return `form` with the label names of multi-hot lists, if the column holds multi-hot lists."""
        if not known or len(columns) != 1:
            return form
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

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return the label names of each text."""
        return [tuple(label_names[int(index)] for index in np.flatnonzero(row)) for row in found]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the number of labels and their names in words."""
        return f"any of {len(label_names)} labels ({_listed(label_names)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if no text has a label."""
        if not found.any():
            raise InvalidData(
                f"task {address}: none of {len(found)} training texts has a label. Give more examples.",
                code="data.no-labels",
                task=address,
                examples=len(found),
            )


TARGETS: Mapping[Kind, TargetKind] = {made.kind: made for made in (ClassTargets(), NumberTargets(), LabelTargets())}


def of_kind(kind: str) -> TargetKind:
    """Return the entry of TARGETS for a kind's name. Raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    return TARGETS[kind]


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
