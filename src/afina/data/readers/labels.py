"""How to read a label column: as classes, as numbers, or as several labels per text. Recognised, or set by the user.

The module knows cell values of files. It does not know which labels a task has, or their order.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES, LABELS, NUMBER, Kind
from afina.data.readers import cell_values
from afina.data.readers.cell_values import PLAIN, WHOLE, Notation, looks_like_one, notations, plain_number
from afina.data.readers.formats import FileTable
from afina.data.readers.source import is_whole

Label = str | int | float | tuple[str, ...]
"""The label of one text as the data spell it: a class, a number, or several labels."""

TELLING, SEPARATORS = (";", "|"), (";", "|", ",")
"""TELLING: separators that are recognised if splitting yields a label that occurs in different cells. SEPARATORS: those
that are tried if the user sets the kind. The comma is not in TELLING because names of classes can contain commas."""

MOST_CLASSES = 20
"""More distinct whole numbers than these are measurements, unless they have no gap, or a word of COUNTED is in the
column's name."""

RATED = frozenset(("rating", "ratings", "score", "scores", "star", "stars", "grade", "grades", "points"))
"""Words in a column's name that mean: whole numbers are measurements."""

COUNTED = frozenset(("class", "classes", "category", "categories", "topic", "intent", "id"))
"""Words in a column's name that mean: whole numbers are class indices."""

_INFINITE = re.compile(r"[-+]?inf(?:inity)?", re.IGNORECASE)
_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

_AS_NUMBERS, _AS_CLASSES = "`kind` number reads them as numbers", "`kind` classes reads them as names of classes"
_OR_LABELS = ", and `kind` labels as several labels"
_AS_LABELS = "`kind` labels reads a cell such as {!r} as several labels"


@dataclass(frozen=True)
class LabelFormat:
    """How to read the cells of a label column.

    separator  the text between the labels of a cell; None: a cell holds a list, or at most one label
    notation   the notation of numbers; None: recognised
    hot        the label names of multi-hot lists, by position, or the name of the only column, if it is about this
               label; empty if cells hold names
    keeps      whether a word such as `NA` is a label, instead of a missing value
    other      how to read the cells as another kind, in words; empty if the kind is clear
    """

    kind: Kind
    separator: str | None = None
    notation: Notation | None = None
    hot: tuple[str, ...] = ()
    keeps: bool = False
    other: str = ""


@dataclass(frozen=True)
class LabelOptions:
    """The user's options for reading labels, and whether the data come from the Hub.

    kind, separator, labels  arguments of `Task.load`
    keeps      whether a word such as `NA` is a label, instead of a missing value
    published  whether the data come from the Hub; whole numbers are then read by the first version's rule, because
               recorded runs used this rule
    """

    kind: str | None = None
    separator: str | None = None
    labels: Sequence[str] | None = None
    keeps: bool = False
    published: bool = False


@dataclass(frozen=True)
class LabelColumn:
    """The label column.

    cells  the non-empty values by row, without surrounding white space
    known  the cells that do not stand for a missing value
    """

    table: FileTable
    name: str
    cells: Mapping[int, Any]
    known: Mapping[int, Any]

    @classmethod
    def of(cls, table: FileTable, name: str, keeps: bool) -> LabelColumn:
        """Return the column `name` of a table. keeps: whether a word such as `NA` is a label."""
        bare = (value.strip() if isinstance(value, str) else value for value in table.columns[name])
        cells = {row: value for row, value in enumerate(bare) if not cell_values.is_empty(value)}
        known = cells if keeps else {row: value for row, value in cells.items() if not cell_values.means_missing(value)}
        return cls(table, name, cells, known)

    @property
    def values(self) -> list[Any]:
        """The cells that are not missing."""
        return list(self.known.values())

    def where(self, row: int) -> str:
        """Return the place of a cell, for messages."""
        return f"{self.table.where(row)}: column {self.name!r}"

    def said(self, *words: str) -> bool:
        """Return whether the column's name contains one of these words."""
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name)
        return any(word.casefold() in words for word in re.findall(r"[^\W\d_]+", split))


def spelled(label: Label, whole: bool) -> str:
    """Return the name of a class. whole: labels are whole numbers, so that `1.0` becomes `1`."""
    match = WHOLE.fullmatch(str(label)) if whole else None
    return str(int(match[1])) if match else str(label)


def form_of_several(column: LabelColumn, separator: str | None, asked: LabelOptions) -> LabelFormat:
    """Return how to read a column with several labels per text. Raises InvalidData."""
    if separator is None and not _lists(column.values):
        separator = _occurring(column.values, SEPARATORS)
    hot = cell_values.multi_hot_names(column.table, column.name, column.known, separator, asked.labels)
    return LabelFormat(LABELS, separator, hot=hot, keeps=asked.keeps)


def with_multi_hot(
    table: FileTable, name: str, form: LabelFormat, labels: Sequence[str] | None, known: Sequence[str]
) -> LabelFormat:
    """Return `form` with the label names of multi-hot lists, if the column holds multi-hot lists.

    known  the labels that may occur; `form` is unchanged if no position of the lists has one of these names
    """
    column = LabelColumn.of(table, name, form.keeps)
    hot = cell_values.multi_hot_names(table, name, column.known, form.separator, labels)
    return replace(form, hot=hot) if set(hot) & set(known) else form


def form_found(column: LabelColumn, asked: LabelOptions) -> LabelFormat:
    """Return how to read a column whose kind the user has not named, by the rule in docs/reference/tasks.md.

    Raises InvalidData.
    """
    known = column.values
    cell_values.check_readable(column.table, column.name, column.known)
    if _lists(known):
        return form_of_several(column, None, asked)
    plain = [value for value in known if plain_number(value) is not None]
    if known and len(plain) == len(known):
        return _of_numbers(column, asked, PLAIN)
    if not asked.published and known and all(map(cell_values.is_date, known)):
        raise problems.LABELS_ARE_DATES(path=column.table.path, column=column.name, found=known[0])
    if not asked.published and known:
        notation = _of_odd_numbers(column)
        if notation is not None:
            return _of_numbers(column, asked, notation)
    measured = any(WHOLE.fullmatch(str(value)) is None for value in plain)
    if 2 * len(plain) > len(known) and (measured or (column.said(*RATED) and not asked.published)):
        _refuse_text(column)
    separator = next((mark for mark in TELLING if _recur(known, mark)), None)
    if separator:
        return form_of_several(column, separator, asked)
    joined = next((value for value in known if isinstance(value, str) and "," in value), "")
    return LabelFormat(CLASSES, keeps=asked.keeps, other=_AS_LABELS.format(joined[:40]) if _recur(known, ",") else "")


def _recur(known: Sequence[Any], separator: str) -> bool:
    """Return whether a name between separators occurs in different cells."""
    distinct = [{part.strip() for part in cell.split(separator)} for cell in set(map(str, known))]
    return max(Counter(part for parts in distinct for part in parts).values(), default=0) > 1


def _of_odd_numbers(column: LabelColumn) -> Notation | None:
    """Return the notation of numbers that are not all plain; None if the cells are not numbers. Raises InvalidData."""
    fits = notations(column.values)
    if len(fits) == 1:
        return fits[0]
    alike = [value for value in column.values if plain_number(value) is not None or looks_like_one(value)]
    if len(fits) > 1 or (len(alike) == len(column.known) and any(map(looks_like_one, alike))):
        _refuse_odd(column, fits)
    if 2 * len(alike) > len(column.known) and sum(map(looks_like_one, alike)) > 1:
        _refuse_text(column)
    return None


def notation_of(table: FileTable, name: str, keeps: bool = False) -> Notation:
    """Return the notation of a column's numbers. Raises InvalidData if several notations fit."""
    column = LabelColumn.of(table, name, keeps)
    fits = notations(column.values)
    if len(fits) > 1 and column.known:
        _refuse_odd(column, fits)
    return fits[0] if fits else PLAIN


def _refuse_odd(column: LabelColumn, fits: Sequence[Notation]) -> None:
    row, value = next((row, value) for row, value in column.known.items() if looks_like_one(value))
    if fits:
        first, second = (fit.value(value) for fit in fits)
        problem = f", which is {first:.15g} with a decimal comma, and {second:.15g} with a comma after the thousands"
    else:
        others = (each for each in column.values if plain_number(each) is not None or looks_like_one(each))
        other = next((each for each in others if notations([value, each]) == []), value)
        beside = f" beside {other!r}" if other != value else ""
        problem = f"{beside}, which is no one way to write numbers"
    raise problems.NOTATION_AMBIGUOUS(where=column.where(row), found=value, _problem=problem)


def _refuse_text(column: LabelColumn) -> None:
    row, value = next(
        (row, value) for row, value in column.known.items() if plain_number(value) is None and not looks_like_one(value)
    )
    raise problems.TEXT_AMONG_NUMBERS(where=column.where(row), found=str(value)[:40])


def _of_numbers(column: LabelColumn, asked: LabelOptions, notation: Notation) -> LabelFormat:
    """Return how to read a column of numbers, and the alternative, by the rule in docs/reference/tasks.md."""
    numbers = LabelFormat(NUMBER, notation=notation, keeps=asked.keeps, other=_AS_CLASSES)
    classes = LabelFormat(CLASSES, keeps=asked.keeps, other=_AS_NUMBERS)
    if notation != PLAIN:
        values = {notation.value(value) or 0.0 for value in column.values}
        numbers = replace(numbers, other=numbers.other + _OR_LABELS) if notation.comma else numbers
        return classes if len(values) <= 2 and all(map(float.is_integer, values)) else numbers
    if not all(WHOLE.fullmatch(str(value)) for value in column.values):
        return numbers
    distinct = {int(float(value)) for value in column.values}
    first, last = min(distinct), max(distinct)
    gapless = first in (0, 1) and last - first + 1 == len(distinct)
    if asked.published:
        return numbers if len(distinct) > MOST_CLASSES and not gapless else classes
    if len(distinct) <= 2 or distinct <= {-1, 0, 1} or column.said(*COUNTED):
        return classes
    if column.said(*RATED):
        return numbers
    if len(distinct) <= MOST_CLASSES:
        return classes
    if gapless:
        raise problems.NUMBERS_OR_CLASSES(
            first=first, last=last, distinct=len(distinct), path=column.table.path, column=column.name
        )
    return numbers


def _lists(filled: Sequence[Any]) -> bool:
    """Return whether every cell is a list, or a list in JSON."""
    return bool(filled) and all(cell_values.as_list(value) is not None for value in filled)


def _occurring(filled: Sequence[Any], separators: Sequence[str]) -> str | None:
    return next((mark for mark in separators if any(isinstance(v, str) and mark in v for v in filled)), None)


def as_several(table: FileTable, names: Sequence[str], form: LabelFormat) -> list[Label]:
    """Return several labels per row, from one column or from one column per label. Raises InvalidData with the row."""
    rows = range(len(table.places))
    if len(names) > 1 or form.hot == tuple(names):
        return _some(table, names, [tuple(name for name in names if _truth(table, name, i)) for i in rows])
    return _some(table, names, [_several(table, names[0], i, form) for i in rows])


def _some(table: FileTable, names: Sequence[str], made: list[tuple[str, ...]]) -> list[Label]:
    if not any(made):
        raise problems.COLUMNS_WITHOUT_LABEL(path=table.path, columns=names)
    return list(made)


def as_number(table: FileTable, name: str, row: int, notation: Notation) -> float:
    """Return the number in a row. Raises InvalidData with the row."""
    value = table.columns[name][row]
    value = value.strip() if isinstance(value, str) else value
    where = f"{table.where(row)}: column {name!r}"
    if cell_values.is_empty(value):
        raise problems.NUMBER_MISSING(where=where)
    made = notation.value(value)
    if made is not None:
        return made
    if (isinstance(value, float) and math.isinf(value)) or _INFINITE.fullmatch(str(value)):
        raise problems.NUMBER_INFINITE(where=where)
    example = {None: "3.5", "decimal": "3,5", "thousands": "1,234.5"}[notation.comma] + " %" * notation.percent
    raise problems.NUMBER_MALFORMED(where=where, found=str(value)[:40], _example=example)


def _several(table: FileTable, name: str, row: int, form: LabelFormat) -> tuple[str, ...]:
    value = table.columns[name][row]
    value = value.strip() if isinstance(value, str) else value
    if cell_values.is_empty(value) or (
        not form.keeps and isinstance(value, str) and value.casefold() in cell_values.ANY_CASE
    ):
        return ()
    parts = cell_values.split_labels(value, form.separator)
    if form.hot:
        return cell_values.multi_hot_labels(table, name, row, parts, form.hot)
    if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
        raise problems.LABEL_NAMES_MALFORMED(where=table.where(row), column=name, found=str(value)[:60])
    for part in parts:
        _check_whole(table, name, row, str(part))
    return tuple(dict.fromkeys(stripped for part in parts if (stripped := str(part).strip())))


def _check_whole(table: FileTable, name: str, row: int, label: str) -> None:
    if not is_whole(label):
        raise problems.TEXT_SURROGATE(where=table.where(row), column=name)


def is_of_one_label(table: FileTable, name: str) -> bool:
    """Return whether a column holds only true and false: the column is then about the label with its name."""
    cells = {str(one).strip().casefold() for one in table.columns[name] if not cell_values.is_empty(one)}
    return bool(cells) and cells <= _TRUTH.keys()


def _truth(table: FileTable, name: str, row: int) -> bool:
    value = table.columns[name][row]
    text = "" if cell_values.is_empty(value) else str(value).strip().casefold()
    if text not in _TRUTH:
        raise problems.TRUTH_MALFORMED(where=table.where(row), column=name, found=str(value)[:40])
    return _TRUTH[text]


def as_name(table: FileTable, name: str, row: int, form: LabelFormat) -> str | int:
    """Return the class in a row. Raises InvalidData with the row."""
    value = table.columns[name][row]
    if isinstance(value, str):
        value = value.strip()
    if cell_values.is_empty(value):
        raise problems.LABEL_MISSING(where=table.where(row), column=name)
    if not form.keeps and isinstance(value, str) and value.casefold() in cell_values.ANY_CASE:
        raise problems.LABEL_MEANS_MISSING(where=table.where(row), column=name, found=value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        _check_whole(table, name, row, value)
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    raise problems.LABEL_OF_OTHER_TYPE(where=table.where(row), column=name, found=type(value).__name__)
