"""TargetKind: how a kind of task reads its targets from cells, and splits, compares, spells and shows them.

`target_kinds.py` has the list of kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from afina.data import problems
from afina.data.kinds import Kind
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.missing_values import is_empty
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split

SHOWN = 8
"""The largest number of label names in a line about a task."""


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
        written: Whether the model writes the target, so that columns have other usual names.
        role: The role of the target's column, in words.
    """

    kind: ClassVar[Kind]
    expected: ClassVar[str] = "a label"
    plural: ClassVar[str] = "labels"
    named: ClassVar[bool] = True
    several: ClassVar[bool] = False
    usual: ClassVar[bool] = False
    stratified: ClassVar[bool] = False
    written: ClassVar[bool] = False
    role: ClassVar[str] = "label"

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

    def empty(self, value: Any) -> bool:
        return is_empty(value)

    @abstractmethod
    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
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

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """Return the label of every row. Raises InvalidData with the row."""
        column = LabelColumn.of(table, columns[0], form.keeps)
        return [self.read(column, row, form) for row in column.rows]

    @abstractmethod
    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> Label:
        """Return the label in a row. Raises InvalidData with the row."""

    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the stratum of each row: a held-out part is drawn from each stratum."""
        return [""] * len(rows)

    def names(self, label: Label) -> tuple[str, ...]:
        """Return the names in a label, as the data spell them."""
        return ()

    def same(self, label: Label) -> Label:
        """Return a normalised label: two labels are equal if their normalised labels are."""
        return label

    @abstractmethod
    def splits(
        self,
        train: LabelledRows,
        evaluation: LabelledRows,
        labels: Sequence[str] | None = None,
        names: Sequence[str] = (),
    ) -> TaskData:
        """Return label names and both splits.

        Integers are in numerical order and names are sorted, unless `labels` gives the order, or names for the integers
        0..n-1. `names`: the data's own names for the integers 0..n-1, if any. Raises InvalidData with the row.
        """

    @abstractmethod
    def matched(
        self,
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

    def ordered(self, label_names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return the label names of a trained adapter in the order that a user gives. Raises InvalidData."""
        self.refuse_names(labels)
        return label_names

    def refuse_names(self, labels: Sequence[str] | None) -> None:
        """Raise InvalidData for names of targets that have none."""
        if labels is not None:
            raise problems.LABELS_INAPPLICABLE(labels=labels, _plural=self.plural)

    def unsaid(self, rows: LabelledRows, label_names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of `label_names` of which the rows do not say which texts have them."""
        return ()

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        """Return a split whose targets are about `some` of the labels, in their order."""
        return split

    def findings(self, *parts: LabelledRows) -> tuple[str, ...]:
        """Return notes about the targets of all rows."""
        return ()

    def grouped(self, split: Split) -> Split:
        """Return a split with one row for each input, for evaluation; most kinds keep every row."""
        return split

    @abstractmethod
    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Return targets as the data spell them: the inverse of `splits`."""

    @abstractmethod
    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return the targets in words: `2 classes (no, yes)`, `numbers from 1 to 5`."""

    @abstractmethod
    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if all training texts have the same target, or none has a label."""

    def without_positive(self, label_names: Sequence[str]) -> str | None:
        """Return why no label can be the positive label: `3 classes`, `kind number`. None: a label can be positive."""
        return f"kind {self.kind}"

    def with_positive(self, label_names: Sequence[str], positive: str, where: str) -> tuple[str, ...]:
        """Return two label names in the order in which `positive` is the second. Raises InvalidData."""
        if what := self.without_positive(label_names):
            raise problems.POSITIVE_INAPPLICABLE(found=what, where=where)
        if positive not in label_names:
            raise problems.POSITIVE_UNKNOWN(where=where, label=positive, known=label_names)
        return tuple(label_names if positive == label_names[1] else label_names[::-1])


def check_names(labels: Sequence[str]) -> None:
    """Raise InvalidData if a name of a label is empty or given twice."""
    if not all(label.strip() for label in labels):
        raise problems.LABEL_NAME_EMPTY(labels=labels)
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise problems.LABEL_NAME_TWICE(labels=labels, repeated=repeated)


def in_words(names: Iterable[str], most: int = 20) -> str:
    """Return the first names with commas."""
    names = list(names)
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def split_of(rows: LabelledRows, targets: np.ndarray) -> Split:
    """Return a split of the rows' texts with these targets."""
    return Split(list(rows.texts), targets, None if rows.pairs is None else list(rows.pairs))
