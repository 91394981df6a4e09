"""ClassTargets: how the classes of single-label classification are read, ordered and matched with an adapter's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from afina.data import problems
from afina.data.kinds import CLASSES
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat, spelled, surrogate
from afina.data.readers.missing_values import ANY_CASE
from afina.data.readers.number_notation import WHOLE
from afina.data.readers.source import is_whole
from afina.data.readers.splitting import LabelledRows, TaskData, classes_of
from afina.data.readers.target_kind import SHOWN, TargetKind, check_names, first_words, in_words, split_of
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
            raise problems.LABEL_MISSING(where=where, column=column.name)
        if isinstance(value, str):
            if not form.keeps and value.casefold() in ANY_CASE:
                raise problems.LABEL_MEANS_MISSING(where=where, column=column.name, found=value)
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

    def splits(
        self,
        train: LabelledRows,
        evaluation: LabelledRows,
        labels: Sequence[str] | None = None,
        names: Sequence[str] = (),
    ) -> TaskData:
        known, whole = classes_of(train)
        if labels is None:
            named = {str(i): name for i, name in enumerate(names)}
            if set(known) <= set(train.names):
                known = [name for name in train.names if name in known]
            order, label_names = known, tuple(named.get(label, label) for label in known)
        else:
            order, label_names = _ordered(known, whole, labels), tuple(labels)
        index = {label: i for i, label in enumerate(order)}
        both = _split(train, index, whole), _split(evaluation, index, whole)
        return TaskData(label_names, *both, self.kind)

    def matched(
        self,
        rows: LabelledRows,
        label_names: Sequence[str],
        labels: Sequence[str] | None = None,
        names: Sequence[str] = (),
        whose: str = "the adapter's",
    ) -> Split:
        """Return a split whose labels are indices into `label_names`, found by name or by the integer for the name."""
        index = {name: i for i, name in enumerate(label_names)}
        seen = {str(label) for label in rows.labels}
        whole = all(WHOLE.fullmatch(label) for label in seen)
        called = labels if labels is not None else names
        if labels is not None:
            _check_complete(labels, label_names, whose)
        found = {str(int(label.split(".")[0])) for label in seen} if whole else seen
        if called and whole and not found <= index.keys():
            index |= {str(i): index[name] for i, name in enumerate(called) if name in index}
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

    def answers(
        self, label_names: Sequence[str], found: np.ndarray, words: Mapping[str, Sequence[str]] | None = None
    ) -> list[str]:
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
            raise problems.CLASS_UNKNOWN(where=rows.where(i), label=name, _known=in_words(index))
        found[i] = index[name]
    return split_of(rows, found)
