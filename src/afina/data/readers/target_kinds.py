"""The five kinds of task: the target of a text is a class, a number, several labels, a text, or entities.

`TARGETS` has an object for each kind; everything in `afina.data` that depends on the kind is a method of these objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.kinds import CLASSES, KINDS, LABELS, LONGS, NUMBER, Kind, Long, one_of
from afina.data.readers.cells import ANY_CASE, PLAIN, WHOLE, is_empty, surrogate
from afina.data.readers.entity_targets import EntityTargets
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import (
    Label,
    LabelColumn,
    LabelFormat,
    form_of_several,
    multi_hot_labels,
    multi_hot_names,
    notation_of,
    spelled,
    split_labels,
)
from afina.data.readers.source import is_whole
from afina.data.readers.splitting import LabelledRows, TaskData, classes_of
from afina.data.readers.target_kind import (
    SHOWN,
    LabelsOfParts,
    LabelWords,
    Names,
    TargetKind,
    check_names,
    first_words,
    in_words,
    split_of,
)
from afina.data.readers.text_targets import TextTargets
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.sentence import Sentence


class ClassTargets(TargetKind):
    """Targets of single-label classification: int64 [N], the index of each text's class in the label names."""

    kind = CLASSES
    usual = True
    stratified = True

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        return LabelFormat(self.kind, keeps=column.keeps)

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> str | int:
        value, where = column.cells.get(row), column.table.where(row)
        if value is None:
            raise problems.CELL_MISSING(where=column.where(row), column=column.name, expected=self.expected, _more="")
        if isinstance(value, str):
            if not form.keeps and value.casefold() in ANY_CASE:
                raise problems.CELL_MEANS_MISSING(
                    where=column.where(row), column=column.name, found=value, expected=self.expected, _more=""
                )
            if not is_whole(value):
                raise surrogate(where, column.name)
            return value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return int(value) if value.is_integer() else str(value)
        found = type(value).__name__
        raise problems.LABEL_MALFORMED(
            where=where, column=column.name, found=found, _found=f"a {found}", _expected="a name or an integer"
        )

    def strata(self, rows: LabelledRows) -> list[str]:
        return [spelled(label, True) for label in rows.labels]

    def names(self, label: Label) -> tuple[str, ...]:
        return (str(label),)

    def same(self, label: Label, text: str) -> Label:
        return spelled(label, True)

    def splits(self, train: LabelledRows, evaluation: LabelledRows, labels: Names = None) -> TaskData:
        known, whole = classes_of(train)
        if labels is None:
            if set(known) <= set(train.names):
                known = [name for name in train.names if name in known]
            order, label_names = known, tuple(known)
        else:
            order, label_names = _ordered(known, whole, labels), tuple(labels)
        index = {label: i for i, label in enumerate(order)}
        both = _split(train, index, whole), _split(evaluation, index, whole)
        return TaskData(label_names, *both, self.kind)

    def matched(
        self, rows: LabelledRows, label_names: Sequence[str], labels: Names = None, whose: str = "the adapter's"
    ) -> Split:
        """Return a split whose labels are indices into `label_names`, found by name or by the integer for the name."""
        index = {name: i for i, name in enumerate(label_names)}
        seen = {str(label) for label in rows.labels}
        whole = all(WHOLE.fullmatch(label) for label in seen)
        found = {str(int(label.split(".")[0])) for label in seen} if whole else seen
        if labels is not None:
            _check_complete(labels, label_names, whose)
            if whole and not found <= index.keys():
                index |= {str(i): index[name] for i, name in enumerate(labels)}
        foreign = sorted(found - index.keys())
        if foreign:
            where = next(i for i, label in enumerate(rows.labels) if spelled(label, whole) in foreign)
            counted = whole and found <= {str(i) for i in range(len(label_names))}
            last, named = len(label_names) - 1, ",".join(label_names)
            raise problems.LABELS_NOT_THOSE_KNOWN(
                where=rows.where(where),
                found=found,
                expected=label_names,
                _found=in_words(sorted(found)),
                _known=in_words(label_names),
                _whose=whose,
                _advice=Sentence.of(
                    "Name the labels 0 to {last} with `labels`, such as {named}.", last=last, named=named
                )
                if counted
                else "Give texts with the same labels, or rename the labels.",
            )
        return _split(rows, index, whole)

    def ordered(self, label_names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return `labels`. Raises InvalidData if `labels` are not the names in `label_names` in some order."""
        _check_complete(labels, label_names, "the adapter's")
        return labels

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        order = [some.index(name) for name in label_names]
        return replace(split, labels=np.array(order, dtype=np.int64)[split.labels])

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return [label_names[index] for index in found.tolist()]

    def answers(self, label_names: Sequence[str], found: np.ndarray, words: LabelWords = None) -> list[str]:
        spoken = first_words(label_names, words)
        return [spoken[index] for index in found.tolist()]

    def drawn_strata(self, found: np.ndarray, count: int) -> np.ndarray:
        return found.astype(np.int64)

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        return f"{len(label_names)} classes ({in_words(label_names, SHOWN)})"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        if len(np.unique(found)) < 2:
            raise problems.ONE_VALUE(_target="label", found=label_names[found[0]], task=address, examples=len(found))

    def without_positive(self, label_names: Sequence[str]) -> str | None:
        return None if len(label_names) == 2 else f"{len(label_names)} classes"


def _check_complete(labels: Sequence[str], label_names: Sequence[str], whose: str) -> None:
    """Raise InvalidData unless `labels` are the names in `label_names` in some order."""
    if sorted(labels) != sorted(label_names):
        raise problems.LABELS_INCOMPLETE(
            labels=labels, expected=label_names, _known=in_words(label_names), _whose=whose
        )


def _ordered(known: list[str], whole: bool, labels: Sequence[str]) -> list[str]:
    """Return the classes that occur in the data, in the order of the user's `labels`. Raises InvalidData."""
    check_names(labels)
    same = [spelled(label, whole) for label in labels]
    if set(same) == set(known):
        return same
    if whole and known == [str(i) for i in range(len(labels))]:
        return known
    names = ", or a name for each of the integers from 0" * whole
    raise problems.LABELS_OF_TRAINING_OTHER(labels=labels, expected=known[:20], _known=known[:20], _or_names=names)


def _split(rows: LabelledRows, index: dict[str, int], whole: bool) -> Split:
    found = np.empty(len(rows), dtype=np.int64)
    for i, label in enumerate(rows.labels):
        name = spelled(label, whole)
        if name not in index:
            raise problems.LABEL_UNKNOWN(
                where=rows.where(i), label=name, _whose="the training split has", _known=in_words(index)
            )
        found[i] = index[name]
    return split_of(rows, found)


_INFINITE = re.compile(r"[-+]?inf(?:inity)?", re.IGNORECASE)


class NumberTargets(TargetKind):
    """Targets of regression: float64 [N], a number for each text."""

    kind = NUMBER
    expected = "a number"
    plural = "numbers"
    means = "each value is a number that measures something"
    named = False

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        """Return the format with the notation that fits all numbers. Raises InvalidData if several fit."""
        return LabelFormat(self.kind, notation=notation_of(column))

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        if form.notation is None:
            form = replace(form, notation=notation_of(LabelColumn.of(table, columns[0], form.keeps)))
        return super().parse(table, columns, form)

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> float:
        value, where, notation = column.cells.get(row), column.where(row), form.notation or PLAIN
        if value is None:
            raise problems.CELL_MISSING(where=where, expected=self.expected, _more="")
        made = notation.value(value)
        if made is not None:
            return made
        if (isinstance(value, float) and math.isinf(value)) or _INFINITE.fullmatch(str(value)):
            raise problems.NUMBER_INFINITE(where=where)
        example = {None: "3.5", "decimal": "3,5", "thousands": "1,234.5"}[notation.comma] + " %" * notation.percent
        raise problems.NUMBER_MALFORMED(where=where, found=str(value)[:40], kind=self.kind, _example=example)

    def splits(self, train: LabelledRows, evaluation: LabelledRows, labels: Names = None) -> TaskData:
        self.refuse_names(labels)
        found = self.matched(train), self.matched(evaluation)
        return TaskData((train.column,), *found, self.kind)

    def matched(self, rows: LabelledRows, *_: object, **named: object) -> Split:
        """Return the rows as a split; unlike classes, numbers need not be matched with an adapter's label names."""
        return split_of(rows, np.array(rows.labels, dtype=np.float64))

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return list(found.tolist())

    def answers(self, label_names: Sequence[str], found: np.ndarray, words: LabelWords = None) -> list[str]:
        """Return the numbers with all their digits, without a point if they are whole."""
        return [np.format_float_positional(number, trim="-") for number in found.tolist()]

    def drawn_strata(self, found: np.ndarray, count: int) -> np.ndarray:
        """Return the quantile of each number, one of `count`, so that the drawn numbers are spread."""
        order = np.argsort(np.argsort(found, kind="stable"), kind="stable")
        return order * count // max(len(found), 1)

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        return f"numbers from {found.min():g} to {found.max():g}"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        if len(np.unique(found)) < 2:
            raise problems.ONE_VALUE(_target="number", found=float(found[0]), task=address, examples=len(found))
        with np.errstate(over="ignore", invalid="ignore"):
            spread = found.std()
        if not np.isfinite(spread):
            raise problems.NUMBERS_TOO_LARGE(found=np.abs(found).max(), task=address)


NO_LABELS = "none"
"""The answer of a prompt's example whose text has no label."""

_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


class LabelTargets(LabelsOfParts):
    """Targets of multi-label classification: int64 [N, L], 1 where the text has the label, else 0."""

    kind = LABELS
    several = True
    means = "each text has any number of labels"

    def optional(self, form: LabelFormat, columns: Sequence[str]) -> bool:
        """Return whether an empty cell means that the text has no label, as in a single column of names."""
        return len(columns) == 1 and not form.hot

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        return form_of_several(column, asked.separator, asked.labels)

    def form_to_measure(
        self, form: LabelFormat, table: FileTable, columns: Sequence[str], labels: Names, known: Sequence[str]
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

    def _ordered(self, train: LabelledRows, labels: Names) -> tuple[str, ...]:
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

    def better_kind(self, data: TaskData) -> tuple[str, ...]:
        if any((split.labels.sum(axis=1) != 1).any() for split in (data.train, data.evaluation)):
            return ()
        return (
            Sentence.of(
                "Every text has exactly one label. With `kind` labels, a text can be answered with no label or with "
                "several; `kind` classes gives each text one."
            ),
        )

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        return replace(split, labels=split.labels[:, [label_names.index(name) for name in some]])

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return [tuple(label_names[int(index)] for index in np.flatnonzero(row)) for row in found]

    def answers(self, label_names: Sequence[str], found: np.ndarray, words: LabelWords = None) -> list[str]:
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


TARGETS: Mapping[Kind, TargetKind] = {
    made.kind: made for made in (ClassTargets(), NumberTargets(), LabelTargets(), TextTargets(), EntityTargets())
}


def of_kind(kind: str) -> TargetKind:
    """Return the object in TARGETS for the name of a kind, such as "number". Raises UnknownName."""
    return TARGETS[one_of("kind", kind, KINDS)]


def check_long(where: str, kind: Kind, long: str | None) -> Long:
    """Return the value of the option `long`, by default "refuse". Raises UnknownName, InvalidData."""
    if long is not None and not TARGETS[kind].written:
        raise problems.LONG_INAPPLICABLE(kind=kind, where=where, option="long")
    return one_of("long", long or "refuse", LONGS)
