"""LabelTargets: how the targets of multi-label classification (any number of labels per text) are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.kinds import LABELS
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat, surrogate
from afina.data.readers.label_recognition import form_of_several
from afina.data.readers.listed_labels import multi_hot_labels, multi_hot_names, split_labels
from afina.data.readers.missing_values import ANY_CASE, is_empty
from afina.data.readers.source import is_whole
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.target_kind import SHOWN, LabelsOfParts, check_names, first_words, in_words, split_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split

NO_LABELS = "none"
"""The answer of a prompt's example whose text has no label."""

_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class LabelTargets(LabelsOfParts):
    """Targets of multi-label classification: int64 [N, L], 1 where the text has the label, else 0."""

    kind = LABELS
    several = True
    means = "each text has any number of labels"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """Return whether an empty cell means that the text has no label.

        An empty cell is a missing value if labels are multi-hot or each label has a column.
        """
        return len(columns) == 1 and not form.hot

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        return form_of_several(column, asked.separator, asked.labels)

    def form_to_measure(
        self,
        form: LabelFormat,
        table: FileTable,
        columns: Sequence[str],
        labels: Sequence[str] | None,
        known: Sequence[str],
    ) -> LabelFormat:
        """Return `form` with the label names of a multi-hot column, or of a column of true and false for one label."""
        if not known or len(columns) != 1:
            return form
        if columns[0] in known and _is_of_one_label(table, columns[0]):
            return replace(form, hot=tuple(columns))
        hot = multi_hot_names(LabelColumn.of(table, columns[0], form.keeps), form.separator, labels)
        return replace(form, hot=hot) if set(hot) & set(known) else form

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        """Return the names of the labels of each row, read from one column or from one column for each label."""
        if len(columns) > 1 or form.hot == tuple(columns):
            made: list[Label] = [
                tuple(name for name in columns if _truth(table, name, row)) for row in range(len(table.places))
            ]
        else:
            made = super().parse(table, columns, form)
        if not any(made):
            raise problems.COLUMNS_WITHOUT_LABEL(path=table.path, columns=columns)
        return made

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> tuple[str, ...]:
        value, where = column.cells.get(row), column.table.where(row)
        if value is None or (not form.keeps and isinstance(value, str) and value.casefold() in ANY_CASE):
            return ()
        parts = split_labels(value, form.separator)
        if form.hot:
            return multi_hot_labels(column, row, parts, form.hot)
        if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
            found = str(value)[:60]
            raise problems.LABEL_MALFORMED(
                where=where, column=column.name, found=found, _found=found, _expected="names of labels"
            )
        if not all(is_whole(str(part)) for part in parts):
            raise surrogate(where, column.name)
        return tuple(dict.fromkeys(stripped for part in parts if (stripped := str(part).strip())))

    def names(self, label: Label) -> tuple[str, ...]:
        return tuple(map(str, label)) if isinstance(label, tuple) else ()

    def renamed(self, label: Label, name: Callable[[str], str]) -> Label:
        return tuple(dict.fromkeys(map(name, self.names(label))))

    def same(self, label: Label, text: str) -> Label:
        return tuple(sorted(self.names(label)))

    def in_words(self, label: Label, text: str) -> str:
        return ", ".join(self.names(label)) or NO_LABELS

    def _ordered(self, train: LabelledRows, labels: Sequence[str] | None) -> tuple[str, ...]:
        occurring = {name for label in train.labels for name in self.names(label)}
        columns = train.names or train.column.split(",")
        known = [name for name in columns if name in occurring] if occurring <= set(columns) else sorted(occurring)
        if labels is None or tuple(labels) == train.names:
            return tuple(known)
        check_names(labels)
        if set(labels) != set(known):
            raise problems.LABELS_OF_TRAINING_OTHER(labels=labels, expected=known, _known=in_words(known), _or_names="")
        return tuple(labels)

    def _split(self, rows: LabelledRows, known: Sequence[str], whose: str) -> Split:
        index = {name: i for i, name in enumerate(known)}
        found = np.zeros((len(rows), len(index)), dtype=np.int64)
        for i, label in enumerate(rows.labels):
            for name in self.names(label):
                if name not in index:
                    raise problems.LABEL_UNKNOWN(where=rows.where(i), label=name, _whose=whose, _known=in_words(index))
                found[i, index[name]] = 1
        return split_of(rows, found)

    def unsaid(self, rows: LabelledRows, label_names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels that have no column in the data, or no position in the data's multi-hot lists."""
        return tuple(name for name in label_names if rows.names and name not in rows.names)

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        return replace(split, labels=split.labels[:, [label_names.index(name) for name in some]])

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return [tuple(label_names[int(index)] for index in np.flatnonzero(row)) for row in found]

    def answers(
        self, label_names: Sequence[str], found: np.ndarray, words: Mapping[str, Sequence[str]] | None = None
    ) -> list[str]:
        """Return the words of each text's labels, separated by commas; NO_LABELS for a text without labels."""
        spoken = first_words(label_names, words)
        return [", ".join(spoken[int(index)] for index in np.flatnonzero(row)) or NO_LABELS for row in found]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        return f"any of {len(label_names)} labels ({in_words(label_names, SHOWN)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        if not found.any():
            raise problems.NO_TEXT_LABELLED(task=address, examples=len(found), _target="a label")


def _is_of_one_label(table: FileTable, name: str) -> bool:
    """Return whether a column holds only true and false, and so says which texts have the label of its name."""
    cells = {str(one).strip().casefold() for one in table.columns[name] if not is_empty(one)}
    return bool(cells) and cells <= _TRUTH.keys()


def _truth(table: FileTable, name: str, row: int) -> bool:
    value: Any = table.columns[name][row]
    text = "" if is_empty(value) else str(value).strip().casefold()
    if text not in _TRUTH:
        found, expected = str(value)[:40], "1 or true where the text has that label, else 0 or false"
        raise problems.LABEL_MALFORMED(
            where=table.where(row), column=name, found=found, _found=repr(found), _expected=expected
        )
    return _TRUTH[text]
