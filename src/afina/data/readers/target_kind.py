"""TargetKind: the base class of the kinds of task, with methods to read targets from cells and to show them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from afina.data import problems
from afina.data.kinds import Kind
from afina.data.readers.cells import is_empty
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split

Names = Sequence[str] | None
"""The label names that the user gives, in their order. None: the user gives none."""

LabelWords = Mapping[str, Sequence[str]] | None
"""The words of each label; None: the label names."""

SHOWN = 8
"""The largest number of label names in the line that describes a task's targets."""


class TargetKind(ABC):
    """A kind of task: how its targets are read from cells, divided, compared and shown.

    Attributes:
        expected: The expected content of a target's cell in error messages, such as "a number".
        plural: The plural of the target in messages, such as "numbers".
        named: Whether the labels of this kind have names.
        several: Whether a text can have several labels, in one cell with a separator or in several columns.
        usual: Whether a manifest that does not state the kind means this kind.
        stratified: Whether each label needs a text in both splits if a file is divided.
        written: Whether the target is a text that the model writes, so that other column names are usual.
        of_words: Whether a target says something of each word, so that a long text is read in windows (`WordTokens`).
        counted: What is counted by label in an inspection: texts, or entities.
        column: The name of the column of targets in a file that a person fills, if nothing else names the column.
    """

    kind: ClassVar[Kind]
    expected: ClassVar[str] = "a label"
    plural: ClassVar[str] = "labels"
    means: ClassVar[str] = "each value is the name of a class"
    named: ClassVar[bool] = True
    several: ClassVar[bool] = False
    usual: ClassVar[bool] = False
    stratified: ClassVar[bool] = False
    written: ClassVar[bool] = False
    of_words: ClassVar[bool] = False
    counted: ClassVar[str] = "texts"
    role: ClassVar[str] = "label"
    column: ClassVar[str] = "label"

    @property
    def told(self) -> Kind | None:
        """The name of the kind; None for single-label classification, which manifests and cards do not state."""
        return None if self.usual else self.kind

    def holds(self, found: np.ndarray) -> bool:
        """Return whether the array `found` has a dtype that targets of this kind may have."""
        return found.dtype.kind in "biuf"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """Return whether an empty cell of a label column is a valid target and not a missing value."""
        return False

    def empty(self, value: Any) -> bool:
        return is_empty(value)

    @abstractmethod
    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat: ...

    def form_to_measure(
        self, form: LabelFormat, table: FileTable, columns: Sequence[str], labels: Names, known: Sequence[str]
    ) -> LabelFormat:
        """Return the format `form` adapted to another table, of texts to evaluate with labels among those `known`."""
        return form

    def prepared(
        self, table: FileTable, text: str, labels: Sequence[str], form: LabelFormat
    ) -> tuple[FileTable, tuple[str, ...]]:
        """Return the table with texts as strings and labels that were checked against the texts, and notes."""
        return table, ()

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        column = LabelColumn.of(table, columns[0], form.keeps)
        return [self.read(column, row, form) for row in column.rows]

    @abstractmethod
    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> Label:
        """Return the label in a row of a label column. Raises InvalidData, which names the row."""

    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the stratum of each row, such as its label; texts of each stratum are held out for evaluation."""
        return [""] * len(rows)

    def names(self, label: Label) -> tuple[str, ...]:
        return ()

    def renamed(self, label: Label, name: Callable[[str], str]) -> Label:
        kept = name(str(label))
        return label if kept == str(label) else kept

    def names_of(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the label names of the class names that a file gives for the integers 0, 1, ..."""
        return tuple(classes)

    def same(self, label: Label, text: str) -> Hashable:
        """Return the normalised form of a text's label; labels with equal normalised forms count as the same label."""
        return label

    def in_words(self, label: Label, text: str) -> str:
        return f"{label:g}" if isinstance(label, float) else str(label)

    def answer_in_words(self, answer: str, text: str) -> str:
        """Return a target of `text`, as `answers` returns it, as it is shown to a person."""
        return answer

    @abstractmethod
    def splits(self, train: LabelledRows, evaluation: LabelledRows, labels: Names = None) -> TaskData:
        """Return the label names and both splits of a task, given its labelled rows.

        Integer labels are in numerical order and label names are sorted, unless `labels` gives another order, or names
        for the integer labels 0..n-1. Raises InvalidData, which names the row.
        """

    @abstractmethod
    def matched(
        self, rows: LabelledRows, label_names: Sequence[str], labels: Names = None, whose: str = "the adapter's"
    ) -> Split:
        """Return a split whose labels are those of an adapter or a task with the names `label_names` (`whose` labels).

        For data with integer labels, `labels` are the names in `label_names` of 0..n-1. Raises InvalidData for a label
        that is not in `label_names`.
        """

    def ordered(self, label_names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return the label names of an adapter in the order that the user gives in `labels`. Raises InvalidData."""
        self.refuse_names(labels)
        return label_names

    def refuse_names(self, labels: Sequence[str] | None) -> None:
        """Raise InvalidData if the user gives label names for targets without names, such as numbers."""
        if labels is not None:
            raise problems.LABELS_INAPPLICABLE(labels=labels, option="labels", _plural=self.plural)

    def unsaid(self, rows: LabelledRows, label_names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels in `label_names` for which the data do not say which texts have the label."""
        return ()

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        """Return the split with targets for only the labels `some`, in the order of `some`."""
        return split

    def findings(self, *parts: LabelledRows) -> tuple[str, ...]:
        """Return notes for the user about the targets of all rows, such as repeated target texts."""
        return ()

    def better_kind(self, data: TaskData) -> tuple[str, ...]:
        """Return a note for the user if another kind probably fits the targets of a task better."""
        return ()

    def grouped(self, split: Split) -> Split:
        """Merge rows with the same input for evaluation; only the kind "text" does so, other kinds keep all rows."""
        return split

    @abstractmethod
    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]: ...

    @abstractmethod
    def answers(self, label_names: Sequence[str], found: np.ndarray, words: LabelWords = None) -> list[str]:
        """Return the targets of an array as texts, as they stand behind an example in a prompt.

        `words` has the words of each label, of which the first is used. None: the label names.
        """

    def drawn_strata(self, found: np.ndarray, count: int) -> np.ndarray:
        """Return the stratum of each target, int64 [N], for a draw of `count` texts with equal shares of the strata."""
        return np.zeros(len(found), np.int64)

    @abstractmethod
    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """Return a description of targets, such as `2 classes (no, yes)` or `numbers from 1 to 5`."""

    @abstractmethod
    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData if all training texts have the same target, or if no training text has a label."""

    def without_positive(self, label_names: Sequence[str]) -> str | None:
        """Return why no label can be the positive label, such as `3 classes` or `kind number`; None if one can be."""
        return f"kind {self.kind}"

    def with_positive(self, label_names: Sequence[str], positive: str, where: str) -> tuple[str, ...]:
        """Return the two label names with `positive` as the second. Raises InvalidData if there are not two."""
        if what := self.without_positive(label_names):
            raise problems.POSITIVE_INAPPLICABLE(found=what, where=where, option="positive")
        if positive not in label_names:
            raise problems.POSITIVE_UNKNOWN(where=where, label=positive, known=label_names)
        return tuple(label_names if positive == label_names[1] else label_names[::-1])


class LabelsOfParts(TargetKind):
    """A kind whose texts can have several labels each: any number of labels, or of entities with a label."""

    def strata(self, rows: LabelledRows) -> list[str]:
        """Return the rarest label of each row, from whose rows a part is held out; "" for a row without labels."""
        several = [self.names(label) for label in rows.labels]
        counts = Counter(name for names in several for name in names)
        return [min(names, key=lambda name: (counts[name], name), default="") for names in several]

    def splits(self, train: LabelledRows, evaluation: LabelledRows, labels: Names = None) -> TaskData:
        known = self._ordered(train, labels)
        whose = "the training split has"
        return TaskData(known, self._split(train, known, whose), self._split(evaluation, known, whose), self.kind)

    def matched(
        self, rows: LabelledRows, label_names: Sequence[str], labels: Names = None, whose: str = "the adapter's"
    ) -> Split:
        return self._split(rows, label_names, f"{whose} labels are")

    def ordered(self, label_names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return `label_names` unchanged: the order of labels has no meaning, and names of tags are no labels."""
        return label_names

    @abstractmethod
    def _ordered(self, train: LabelledRows, labels: Names) -> tuple[str, ...]:
        """Return the labels of the training rows, in the user's order if `labels` has them."""

    @abstractmethod
    def _split(self, rows: LabelledRows, known: Sequence[str], whose: str) -> Split:
        """Return the rows as a split. Raises InvalidData for a label that is not among those `known`."""


def check_names(labels: Sequence[str]) -> None:
    """Raise InvalidData if a label name that the user gives is empty or given twice."""
    if not all(label.strip() for label in labels):
        raise problems.LABEL_NAME_EMPTY(labels=labels)
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise problems.LABEL_NAME_TWICE(labels=labels, repeated=repeated)


def in_words(names: Iterable[str], most: int = 20) -> str:
    """Return the first `most` names separated by commas, with `...` if there are more."""
    names = list(names)
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def first_words(label_names: Sequence[str], words: LabelWords) -> list[str]:
    """Return the first word of each label, without spaces around it; without `words`, the label names."""
    return list(label_names) if words is None else [words[name][0].strip() for name in label_names]


def split_of(rows: LabelledRows, targets: np.ndarray) -> Split:
    """Return a split with the texts of labelled rows and the given targets."""
    pairs = None if rows.pairs is None else list(rows.pairs)
    return Split(list(rows.texts), targets, pairs, rows.groups, rows=rows.rows, spaced=rows.spaced)
