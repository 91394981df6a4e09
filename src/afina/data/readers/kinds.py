"""Targets by kind of task: how they are read from cells, cut, told apart, spelled back and shown.

`TARGETS` has one entry a kind. Elsewhere in `data` nothing asks of which kind a task is. Knows no file format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from afina.data.kinds import CLASSES, KINDS, LABELS, NUMBER, Kind
from afina.data.readers import targets
from afina.data.readers.labels import (
    Cells,
    Form,
    Label,
    Reads,
    as_name,
    as_number,
    as_several,
    form_found,
    form_of_several,
    notation_of,
    spelled,
    with_multi_hot,
)
from afina.data.readers.rows import Rows
from afina.data.readers.table import Table
from afina.data.readers.target_kind import TargetKind
from afina.data.readers.targets import Read
from afina.data.split import Split
from afina.errors import InvalidData, UnknownName

SHOWN = 8
"""Names of labels that a line shows."""


class ClassTargets(TargetKind):
    """One label of several: int64 [N], indices into the label names."""

    kind = CLASSES
    usual = True
    stratified = True

    def form(self, cells: Cells, asked: Reads) -> Form:
        """Every cell is a name."""
        return Form(self.kind, keeps=asked.keeps)

    def parse(self, table: Table, columns: Sequence[str], form: Form) -> list[Label]:
        """A name or an integer each."""
        return [as_name(table, columns[0], row, form) for row in range(len(table.places))]

    def strata(self, rows: Rows) -> list[str]:
        """The label."""
        return [spelled(label, True) for label in rows.labels]

    def names(self, label: Label) -> tuple[str, ...]:
        """The label itself."""
        return (str(label),)

    def same(self, label: Label) -> Label:
        """`1.0` is `1`."""
        return spelled(label, True)

    def splits(self, train: Rows, evaluation: Rows, labels: Sequence[str] | None, names: Sequence[str]) -> Read:
        """Integers keep their order, strings are sorted."""
        return targets.splits_of_classes(train, evaluation, labels, names)

    def matched(
        self,
        rows: Rows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """By name, or by the integer that stands for it."""
        return targets.matched_classes(rows, label_names, labels, names, whose)

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

    def form(self, cells: Cells, asked: Reads) -> Form:
        """In the one notation that fits all."""
        return Form(self.kind, notation=notation_of(cells.table, cells.name, asked.keeps))

    def parse(self, table: Table, columns: Sequence[str], form: Form) -> list[Label]:
        """A finite number each."""
        notation = form.notation or notation_of(table, columns[0], form.keeps)
        return [as_number(table, columns[0], row, notation) for row in range(len(table.places))]

    def strata(self, rows: Rows) -> list[str]:
        """All are of one."""
        return [""] * len(rows)

    def names(self, label: Label) -> tuple[str, ...]:
        """None."""
        return ()

    def same(self, label: Label) -> Label:
        """The number."""
        return label

    def splits(self, train: Rows, evaluation: Rows, labels: Sequence[str] | None, names: Sequence[str]) -> Read:
        """Under the name of the column."""
        return targets.splits_of_numbers(train, evaluation, labels)

    def matched(
        self,
        rows: Rows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """There are no names to match."""
        return targets.numbers(rows)

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

    def optional(self, form: Form, columns: Sequence[str]) -> bool:
        """A text may have no label, unless its labels are multi-hot or in columns of their own."""
        return len(columns) == 1 and not form.hot

    def form(self, cells: Cells, asked: Reads) -> Form:
        """Lists, multi-hot lists, or names with a separator between them."""
        return form_of_several(cells, asked.separator, asked)

    def form_to_measure(
        self, form: Form, table: Table, columns: Sequence[str], labels: Sequence[str] | None, known: Sequence[str]
    ) -> Form:
        """With the names of multi-hot lists."""
        if not known or len(columns) != 1:
            return form
        return with_multi_hot(table, columns[0], form, labels, known)

    def parse(self, table: Table, columns: Sequence[str], form: Form) -> list[Label]:
        """The names of each."""
        return as_several(table, columns, form)

    def strata(self, rows: Rows) -> list[str]:
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

    def splits(self, train: Rows, evaluation: Rows, labels: Sequence[str] | None, names: Sequence[str]) -> Read:
        """Columns keep the file's order, other names are sorted."""
        return targets.splits_of_labels(train, evaluation, labels)

    def matched(
        self,
        rows: Rows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """By name."""
        return targets.several(rows, label_names, whose)

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


def form_of(table: Table, columns: Sequence[str], asked: Reads) -> Form:
    """How the columns of the label are read, as far as `asked` does not say. Raises InvalidData, UnknownName."""
    separator, kind = asked.separator, None if asked.kind is None else of_kind(asked.kind)
    if separator is not None and kind and not kind.several:
        raise InvalidData(
            f"`separator` {separator!r}: stands between several labels, and `kind` is {kind.kind}.",
            code="data.option-inapplicable",
            separator=separator,
        )
    if len(columns) > 1:
        if (kind and not kind.several) or separator is not None:
            raise InvalidData(
                f"{table.path}: `label` names {len(columns)} columns, one a label, so `kind` can only be labels, and "
                "nothing separates them.",
                code="data.kind-mismatch",
                path=table.path,
            )
        return Form(LABELS)
    cells = Cells.of(table, columns[0], asked.keeps)
    if separator is not None and not any(isinstance(value, str) and separator in value for value in cells.values):
        raise InvalidData(
            f"{table.path}: `separator` {separator!r} stands in no row of column {columns[0]!r}. Give the one that "
            "does, or leave it out.",
            code="data.option-inapplicable",
            path=table.path,
            separator=separator,
            column=columns[0],
        )
    if separator is not None:
        return form_of_several(cells, separator, asked)
    return form_found(cells, asked) if kind is None else kind.form(cells, asked)


def splits(train: Rows, evaluation: Rows, labels: Sequence[str] | None = None, names: Sequence[str] = ()) -> Read:
    """Label names and both splits.

    Integers keep their order and strings are sorted, unless `labels` gives the order, or names the
    integers 0..n-1. `names` are the data's own names of the integers 0..n-1, where it has any.
    Raises InvalidData that names the row.
    """
    return TARGETS[train.kind].splits(train, evaluation, labels, names)


def matched(
    rows: Rows,
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
