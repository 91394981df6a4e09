"""Labels as the data spell them, to targets: indices of classes, numbers, or rows of a table of labels.

Knows no file format; which rows are there, and how they are cut, is `rows`, and which kind takes which, `kinds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from afina.data.kinds import CLASSES, Kind
from afina.data.readers.labels import spelled
from afina.data.readers.notation import WHOLE
from afina.data.readers.rows import Rows
from afina.data.split import Split
from afina.errors import InvalidData


@dataclass(frozen=True)
class Read:
    """What reading a task gives.

    label_names  of classes or labels in their order; of a number, what it is called
    metric       the standard one of a benchmark's task; None: the kind's
    ceiling      how well one human tells what others say of the evaluation split, by metric, where the data tell
    separator    between the labels of a cell, where the file has one
    column       what the labels are called there
    columns, other, notes  of a file, as of `Rows`
    """

    label_names: tuple[str, ...]
    train: Split
    evaluation: Split
    kind: Kind = CLASSES
    metric: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    separator: str | None = None
    column: str = "label"
    columns: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    notes: tuple[str, ...] = ()


def splits_of_numbers(train: Rows, evaluation: Rows, labels: Sequence[str] | None) -> Read:
    """Both splits under the name of the column. Raises InvalidData for `labels`."""
    if labels is not None:
        raise InvalidData(
            f"`labels` {','.join(labels)}: the labels are numbers, which have no names. Leave it out.",
            code="data.option-inapplicable",
            labels=labels,
        )
    return Read((train.column,), numbers(train), numbers(evaluation), train.kind, column=train.column)


def splits_of_labels(train: Rows, evaluation: Rows, labels: Sequence[str] | None) -> Read:
    """Both splits, of the labels that training texts have. Raises InvalidData that names the row."""
    ordered = _of_several(train, labels)
    return Read(ordered, several(train, ordered), several(evaluation, ordered), train.kind, column=train.column)


def splits_of_classes(train: Rows, evaluation: Rows, labels: Sequence[str] | None, names: Sequence[str]) -> Read:
    """Both splits, of the classes that training texts have. Raises InvalidData that names the row."""
    known, whole = _known(train)
    if labels is None:
        named = {str(i): name for i, name in enumerate(names)}
        told, label_names = known, tuple(named.get(label, label) for label in known)
    else:
        told, label_names = _ordered(known, whole, labels), tuple(labels)
    index = {label: i for i, label in enumerate(told)}
    return Read(label_names, _split(train, index, whole), _split(evaluation, index, whole), column=train.column)


def matched_classes(
    rows: Rows, label_names: Sequence[str], labels: Sequence[str] | None, names: Sequence[str], whose: str
) -> Split:
    """A split of rows whose classes are among `label_names`; arguments as of `kinds.matched`. Raises InvalidData."""
    index = {name: i for i, name in enumerate(label_names)}
    told = {str(label) for label in rows.labels}
    whole = all(WHOLE.fullmatch(label) for label in told)
    called = labels if labels is not None else names
    if labels is not None and sorted(labels) != sorted(label_names):
        raise InvalidData(
            f"`labels` {','.join(labels)}: {whose} labels are {_list(label_names)}. Give each of them once, in the "
            "order of the integers from 0 that stand for them in the data.",
            code="data.labels-mismatch",
            labels=labels,
            expected=label_names,
        )
    found = {str(int(label.split(".")[0])) for label in told} if whole else told
    if called and whole and not found <= index.keys():
        index |= {str(i): index[name] for i, name in enumerate(called) if name in index}
    foreign = sorted(found - index.keys())
    if foreign:
        where = next(i for i, label in enumerate(rows.labels) if spelled(label, whole) in foreign)
        counted = whole and found <= {str(i) for i in range(len(label_names))}
        raise InvalidData(
            f"{rows.where(where)}: its labels are {_list(sorted(found))}; {whose} are {_list(label_names)}. "
            + (
                f"Say what 0 to {len(label_names) - 1} stand for with `labels`, such as {','.join(label_names)}."
                if counted
                else "Give texts with those labels, or rename these."
            ),
            code="data.labels-mismatch",
            where=rows.where(where),
            found=found,
            expected=label_names,
        )
    return _split(rows, index, whole)


def _known(train: Rows) -> tuple[list[str], bool]:
    """The training labels in their natural order, and whether they are integers."""
    told = {str(label) for label in train.labels}
    if all(WHOLE.fullmatch(label) for label in told):
        return [str(label) for label in sorted({int(label.split(".")[0]) for label in told})], True
    return sorted(told), False


def _ordered(known: list[str], whole: bool, labels: Sequence[str]) -> list[str]:
    """The data's labels in the order of `labels`."""
    _check_names(labels)
    if set(labels) == set(known):
        return list(labels)
    if whole and known == [str(i) for i in range(len(labels))]:
        return known
    raise InvalidData(
        f"`labels` {','.join(labels)}: the training split has the labels {', '.join(known[:20])}. "
        "Give each of them once, as it stands in the data"
        + (", or a name for each of the integers from 0." if whole else "."),
        code="data.labels-mismatch",
        labels=labels,
        expected=known[:20],
    )


def _check_names(labels: Sequence[str]) -> None:
    if not all(label.strip() for label in labels):
        raise InvalidData(
            f"`labels` {','.join(labels)!r}: an empty name. Give the labels in their order, with commas.",
            code="argument.invalid",
            labels=labels,
        )
    repeated = sorted({label for label in labels if list(labels).count(label) > 1})
    if repeated:
        raise InvalidData(
            f"`labels`: {', '.join(repeated)} is given twice.",
            code="argument.invalid",
            labels=labels,
            repeated=repeated,
        )


def _split(rows: Rows, index: dict[str, int], whole: bool) -> Split:
    found = np.empty(len(rows), dtype=np.int64)
    for i, label in enumerate(rows.labels):
        told = spelled(label, whole)
        if told not in index:
            raise InvalidData(
                f"{rows.where(i)}: label {told!r} does not occur in the training split, "
                f"which has {_list(index)}. Correct it, or add training examples of it.",
                code="data.label-unknown",
                where=rows.where(i),
                label=told,
            )
        found[i] = index[told]
    return _made(rows, found)


def numbers(rows: Rows) -> Split:
    """A number a text, float64."""
    return _made(rows, np.array(rows.labels, dtype=np.float64))


def _of_several(train: Rows, labels: Sequence[str] | None) -> tuple[str, ...]:
    """The names in their order; columns keep that of the file."""
    occurring = {name for label in train.labels if isinstance(label, tuple) for name in label}
    columns = train.names or train.column.split(",")
    known = [name for name in columns if name in occurring] if occurring <= set(columns) else sorted(occurring)
    if labels is None or tuple(labels) == train.names:
        return tuple(known)
    _check_names(labels)
    if set(labels) != set(known):
        raise InvalidData(
            f"`labels` {','.join(labels)}: the training split has the labels {_list(known)}. Give each of them once, "
            "as it stands in the data.",
            code="data.labels-mismatch",
            labels=labels,
            expected=known,
        )
    return tuple(labels)


def several(rows: Rows, label_names: Sequence[str], whose: str = "") -> Split:
    """A row a text, int64 0 or 1 for each label. Raises InvalidData that names the row."""
    index = {name: i for i, name in enumerate(label_names)}
    found = np.zeros((len(rows), len(index)), dtype=np.int64)
    for i, label in enumerate(rows.labels):
        for name in label if isinstance(label, tuple) else ():
            if name not in index:
                known = f"{whose} labels are" if whose else "the training split has"
                raise InvalidData(
                    f"{rows.where(i)}: label {name!r} does not occur among those to learn; {known} {_list(index)}. "
                    "Correct it, or add training examples of it.",
                    code="data.label-unknown",
                    where=rows.where(i),
                    label=name,
                )
            found[i, index[name]] = 1
    return _made(rows, found)


def _made(rows: Rows, targets: np.ndarray) -> Split:
    return Split(list(rows.texts), targets, None if rows.pairs is None else list(rows.pairs))


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
