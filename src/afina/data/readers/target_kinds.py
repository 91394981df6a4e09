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
        """Its name; None for the usual kind, which is left out of manifests and cards."""
        return None if self.usual else self.kind

    def holds(self, found: np.ndarray) -> bool:
        """Whether targets of this kind may be of that type."""
        return found.dtype.kind in "biuf"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """Whether an empty cell is an answer, and no missing value."""
        return False

    @abstractmethod
    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """How a column is read where the user says that it is of this kind. Raises InvalidData."""

    def form_to_measure(
        self,
        form: LabelFormat,
        table: FileTable,
        columns: Sequence[str],
        labels: Sequence[str] | None,
        known: Sequence[str],
    ) -> LabelFormat:
        """The form in which other texts of the kind are read, of which `known` are the labels that may occur."""
        return form

    @abstractmethod
    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """The label of every row. Raises InvalidData that names the row."""

    @abstractmethod
    def strata(self, rows: LabelledRows) -> list[str]:
        """The stratum of each row: a held-out part is drawn from each stratum."""

    @abstractmethod
    def names(self, label: Label) -> tuple[str, ...]:
        """The names in a label, as the data spell them."""

    @abstractmethod
    def same(self, label: Label) -> Label:
        """A label in the form in which two are compared."""

    @abstractmethod
    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """As `splits`, of rows of this kind."""

    @abstractmethod
    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """As `matched`, of rows of this kind."""

    @abstractmethod
    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Targets as the data would spell them: the inverse of `splits`."""

    @abstractmethod
    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """The targets in words: `2 classes (no, yes)`, `numbers from 1 to 5`."""

    @abstractmethod
    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData where one thing is right of all training texts."""

    def check_positive(self, label_names: Sequence[str]) -> str | None:
        """What speaks against calling one of two labels positive: `3 classes`, `kind number`; None: nothing."""
        return f"kind {self.kind}"


SHOWN = 8
"""Names of labels that a line shows."""


class ClassTargets(TargetKind):
    """One label of several: int64 [N], indices into the label names."""

    kind = CLASSES
    usual = True
    stratified = True

    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """Every cell is a name."""
        return LabelFormat(self.kind, keeps=asked.keeps)

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """A name or an integer each."""
        return [as_name(table, columns[0], row, form) for row in range(len(table.places))]

    def strata(self, rows: LabelledRows) -> list[str]:
        """The label."""
        return [spelled(label, True) for label in rows.labels]

    def names(self, label: Label) -> tuple[str, ...]:
        """The label itself."""
        return (str(label),)

    def same(self, label: Label) -> Label:
        """`1.0` is `1`."""
        return spelled(label, True)

    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Integers keep their order, strings are sorted."""
        return splitting.splits_of_classes(train, evaluation, labels, names)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """By name, or by the integer that stands for it."""
        return splitting.matched_classes(rows, label_names, labels, names, whose)

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Each by its name."""
        return [label_names[index] for index in found.tolist()]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """How many, and their names."""
        return f"{len(label_names)} classes ({_listed(label_names)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData for a single class."""
        if len(np.unique(found)) < 2:
            raise InvalidData(
                f"task {address}: all {len(found)} training examples are labelled {label_names[found[0]]!r}. "
                "Expected at least two different labels; give more examples.",
                code="data.one-value",
                task=address,
                examples=len(found),
            )

    def check_positive(self, label_names: Sequence[str]) -> str | None:
        """It takes two of them."""
        return None if len(label_names) == 2 else f"{len(label_names)} classes"


class NumberTargets(TargetKind):
    """A number: float64 [N]."""

    kind = NUMBER
    expected = "a number"
    plural = "numbers"
    named = False

    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """In the one notation that fits all."""
        return LabelFormat(self.kind, notation=notation_of(cells.table, cells.name, asked.keeps))

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """A finite number each."""
        notation = form.notation or notation_of(table, columns[0], form.keeps)
        return [as_number(table, columns[0], row, notation) for row in range(len(table.places))]

    def strata(self, rows: LabelledRows) -> list[str]:
        """All are of one."""
        return [""] * len(rows)

    def names(self, label: Label) -> tuple[str, ...]:
        """None."""
        return ()

    def same(self, label: Label) -> Label:
        """The number."""
        return label

    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Under the name of the column."""
        return splitting.splits_of_numbers(train, evaluation, labels)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """There are no names to match."""
        return splitting.numbers(rows)

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """The numbers."""
        return list(found.tolist())

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """The least and the greatest."""
        return f"numbers from {found.min():g} to {found.max():g}"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData where all are the same number."""
        if len(np.unique(found)) < 2:
            raise InvalidData(
                f"task {address}: all {len(found)} training examples have the number {found[0]:g}, so there is "
                "nothing to learn. Give examples with different ones.",
                code="data.one-value",
                task=address,
                examples=len(found),
            )


class LabelTargets(TargetKind):
    """Any number of labels at once: int64 [N, L], 0 or 1."""

    kind = LABELS
    several = True

    def holds(self, found: np.ndarray) -> bool:
        """Whether targets of this kind may be of that type."""
        return found.dtype.kind in "biuf"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """A text may have no label, unless its labels are multi-hot or in columns of their own."""
        return len(columns) == 1 and not form.hot

    def form(self, cells: LabelColumn, asked: LabelOptions) -> LabelFormat:
        """Lists, multi-hot lists, or names with a separator between them."""
        return form_of_several(cells, asked.separator, asked)

    def form_to_measure(
        self,
        form: LabelFormat,
        table: FileTable,
        columns: Sequence[str],
        labels: Sequence[str] | None,
        known: Sequence[str],
    ) -> LabelFormat:
        """With the names of multi-hot lists."""
        if not known or len(columns) != 1:
            return form
        return with_multi_hot(table, columns[0], form, labels, known)

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """The names of each."""
        return as_several(table, columns, form)

    def strata(self, rows: LabelledRows) -> list[str]:
        """The rarest of a text's labels."""
        several = [self.names(label) for label in rows.labels]
        counts = Counter(name for names in several for name in names)
        return [min(names, key=lambda name: (counts[name], name), default="") for names in several]

    def names(self, label: Label) -> tuple[str, ...]:
        """All that it has."""
        return label if isinstance(label, tuple) else ()

    def same(self, label: Label) -> Label:
        """In any order."""
        return tuple(sorted(self.names(label)))

    def splits(
        self, train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None, names: Sequence[str]
    ) -> TaskData:
        """Columns keep the file's order, other names are sorted."""
        return splitting.splits_of_labels(train, evaluation, labels)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """By name."""
        return splitting.several(rows, label_names, whose)

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """The names of each."""
        return [tuple(label_names[int(index)] for index in np.flatnonzero(row)) for row in found]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """How many, and their names."""
        return f"any of {len(label_names)} labels ({_listed(label_names)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData where no text has a label."""
        if not found.any():
            raise InvalidData(
                f"task {address}: none of {len(found)} training texts has a label. Give more examples.",
                code="data.no-labels",
                task=address,
                examples=len(found),
            )


TARGETS: Mapping[Kind, TargetKind] = {made.kind: made for made in (ClassTargets(), NumberTargets(), LabelTargets())}


def of_kind(kind: str) -> TargetKind:
    """The entry of a kind that a user names. Raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    return TARGETS[kind]


def splits(
    train: LabelledRows, evaluation: LabelledRows, labels: Sequence[str] | None = None, names: Sequence[str] = ()
) -> TaskData:
    """Label names and both splits.

    Integers keep their order and strings are sorted, unless `labels` gives the order, or names the
    integers 0..n-1. `names` are the data's own names of the integers 0..n-1, where it has any.
    Raises InvalidData that names the row.
    """
    return TARGETS[train.kind].splits(train, evaluation, labels, names)


def matched(
    rows: LabelledRows,
    label_names: Sequence[str],
    labels: Sequence[str] | None = None,
    names: Sequence[str] = (),
    whose: str = "the adapter's",
) -> Split:
    """A split of rows whose labels are among `label_names`, by name; not all of them need to occur.

    labels  what the integers 0..n-1 of the data are called in `label_names`;  names  likewise, where nothing is said
    Raises InvalidData that lists both where a label is none of them.
    """
    return TARGETS[rows.kind].matched(rows, label_names, labels, names, whose)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
