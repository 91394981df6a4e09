"""LabelColumn, the cells of a label column, and LabelFormat, how the cells become labels.

The format of a column follows from the cells, the name of the column and the user's options. A cell with several labels
is a list in JSON or Python notation, names between separators, or a multi-hot list, which holds 1 for each label that
the text has and 0 for each other label, in the order of the labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from afina.data import problems
from afina.data.entities import Entity
from afina.data.kinds import CLASSES, LABELS, NUMBER, Kind
from afina.data.readers.cells import (
    PLAIN,
    WHOLE,
    Notation,
    as_list,
    bracketed,
    is_date,
    is_empty,
    looks_like_one,
    means_missing,
    notations,
    plain_number,
)
from afina.data.readers.formats import FileTable
from afina.sentence import Sentence

Label = str | int | float | tuple[str, ...] | tuple[Entity, ...]
"""The label of one text as the data spell it: a class, a number, or a tuple of labels, target texts or entities."""


class OtherKind(NamedTuple):
    """A kind as which labels can also be read, and a clause that says so."""

    kind: Kind
    words: Sentence


@dataclass(frozen=True)
class LabelFormat:
    """How to read the cells of a label column.

    separator  the text between the labels of a cell; None: a cell holds a list, or at most one label
    notation   how numbers are written; None: the notation is recognised
    hot        the label name of each position, if cells are multi-hot lists; the column's name, if a single column
               says with true and false whether the text has the label of this name; else empty
    keeps      whether a word such as `NA` is a label and not a missing value
    tagged     whether a cell has a tag for each word of a list of words, and not spans of a text
    names      the names of the tags 0, 1, ..., if tags are numbers
    """

    kind: Kind
    separator: str | None = None
    notation: Notation | None = None
    hot: tuple[str, ...] = ()
    keeps: bool = False
    tagged: bool = False
    names: tuple[str, ...] = ()
    repair: bool = False
    other: tuple[OtherKind, ...] = ()


@dataclass(frozen=True)
class LabelColumn:
    """The cells of a label column of a table.

    cells  the values of the non-empty cells by row, without surrounding white space
    known  the values by row of the cells that do not hold a word for a missing value
    """

    table: FileTable
    name: str
    keeps: bool
    cells: Mapping[int, Any]
    known: Mapping[int, Any]

    @classmethod
    def of(cls, table: FileTable, name: str, keeps: bool) -> LabelColumn:
        bare = (value.strip() if isinstance(value, str) else value for value in table.columns[name])
        cells = {row: value for row, value in enumerate(bare) if not is_empty(value)}
        known = cells if keeps else {row: value for row, value in cells.items() if not means_missing(value)}
        return cls(table, name, keeps, cells, known)

    @property
    def rows(self) -> range:
        return range(len(self.table.places))

    @property
    def values(self) -> list[Any]:
        return list(self.known.values())

    def where(self, row: int) -> str:
        return f"{self.table.where(row)}: column {self.name!r}"

    def said(self, *words: str) -> bool:
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name)
        return any(word.casefold() in words for word in re.findall(r"[^\W\d_]+", split))


def spelled(label: Label, whole: bool) -> str:
    """Return a label as a class name; if all labels are whole numbers (`whole`), `1.0` becomes `1`."""
    match = WHOLE.fullmatch(str(label)) if whole else None
    return str(int(match[1])) if match else str(label)


NAMED = "label_{}"
"""The name of the label at a position of multi-hot lists, if neither the data nor the user name the labels."""


def split_labels(value: Any, separator: str | None) -> list[Any]:
    """Return the labels in a cell: the items of a list, or the names between separators."""
    found = as_list(value)
    if found is not None:
        return found
    if isinstance(value, str) and separator:
        return [part.strip() for part in value.split(separator)]
    return [value]


def multi_hot_names(column: LabelColumn, separator: str | None, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the label name of each position of multi-hot lists; empty if the cells hold label names.

    Lists are multi-hot if they hold only 0 and 1 and all have the same length of at least two. Raises InvalidData if
    the lists may be multi-hot or hold names, or if only some lists are multi-hot.
    """
    cells = column.known
    lists = {
        row: parts
        for row, cell in cells.items()
        if (parts := split_labels(cell, separator)) or as_list(cell) is not None
    }
    if not all(as_list(cell) is not None or separator for cell in cells.values()):
        return ()
    binary = {row: parts for row, parts in lists.items() if parts and all(_bit(part) is not None for part in parts)}
    if not binary:
        return ()
    length, count = Counter(len(parts) for parts in binary.values()).most_common(1)[0]
    other = next((row for row, parts in lists.items() if row not in binary or len(parts) != length), None)
    if other is None:
        return _names(column, length, labels, next(iter(lists)))
    twice = any(len(parts) > len({_bit(part) for part in parts}) for parts in binary.values())
    names = {str(part) for parts in lists.values() for part in parts}
    filled = sum(bool(parts) for parts in lists.values())
    if twice or (length > 1 and 2 * count > filled and set(labels or ()) != names):
        raise problems.MULTI_HOT_MIXED(
            found=str(column.table.columns[column.name][other])[:40],
            where=column.table.where(other),
            column=column.name,
            expected=length,
        )
    return ()


def _names(column: LabelColumn, length: int, labels: Sequence[str] | None, row: int) -> tuple[str, ...]:
    where = column.table.where(row)
    if length == 1 and (labels is None or len(labels) > 2):
        raise problems.SINGLE_BIT_LISTS(where=where, column=column.name)
    if length == 1 and labels is not None and len(labels) == 2:
        return ()
    if labels is None:
        return tuple(NAMED.format(place) for place in range(length))
    if len(labels) != length:
        raise problems.MULTI_HOT_NAMES(
            where=where, column=column.name, expected=length, found=labels, labels=labels, _count=len(labels)
        )
    return tuple(labels)


def multi_hot_labels(column: LabelColumn, row: int, parts: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the labels that a multi-hot list marks with 1. Raises InvalidData for a malformed list."""
    bits = [_bit(part) for part in parts]
    if len(bits) != len(names) or None in bits:
        found = str(column.table.columns[column.name][row])[:40]
        raise problems.MULTI_HOT_MALFORMED(
            found=found, where=column.table.where(row), column=column.name, expected=len(names)
        )
    return tuple(name for name, bit in zip(names, bits, strict=True) if bit)


def _bit(part: Any) -> int | None:
    """Return an item of a multi-hot list as the integer 0 or 1; None if the item is neither 0 nor 1."""
    if isinstance(part, str):
        return {"0": 0, "1": 1}.get(part)
    return int(part) if isinstance(part, bool | int | float) and part in (0, 1) else None


def _check_lists(column: LabelColumn, *, published: bool = False, several: bool = False) -> None:
    """Raise InvalidData if most cells of a label column are in square brackets, or some are lists, but others are not.

    If each text has any number of labels (`several`), a cell may be the name of one label beside lists. In data that
    are `published` on the Hub, a cell is refused only if all cells are in square brackets.
    """
    cells = column.known
    brackets, lists = (sum(map(test, cells.values())) for test in (bracketed, _is_list))
    if brackets < len(cells) if published else not lists and 2 * brackets <= len(cells):
        return
    wrong = (row for row, cell in cells.items() if not _is_list(cell) and (not several or _half_bracketed(cell)))
    row = next(wrong, None)
    if row is None:
        return
    table, one = column.table, not _half_bracketed(cells[row])
    example = next((table.places[row] for row, cell in cells.items() if _is_list(cell)), None)
    raise problems.LIST_MALFORMED(
        found=str(cells[row])[:40],
        where=table.where(row),
        column=column.name,
        kinds=[CLASSES, LABELS] if one else [CLASSES],
        _beside="" if example is None else f", and a list in {table.unit} {example:,}",
        _or_labels=_OR_ONE if one else "",
    )


_OR_ONE = Sentence.of("; if this cell is the name of one label, set `kind` labels")


def _is_list(cell: Any) -> bool:
    return as_list(cell) is not None


def _half_bracketed(cell: Any) -> bool:
    return isinstance(cell, str) and (cell.startswith("[") or cell.endswith("]"))


TELLING, SEPARATORS = (";", "|"), (";", "|", ",")
"""TELLING: separators of labels that are recognised if splitting gives a label that occurs in different cells.
SEPARATORS: separators that are tried if the user sets the kind "labels". TELLING has no comma, because class names can
contain commas."""

MOST_CLASSES = 20
"""The largest number of distinct whole numbers that are read as classes. More distinct numbers than MOST_CLASSES are
measurements, unless they have no gap or the column's name has a word in COUNTED."""

RATED = frozenset(("rating", "ratings", "score", "scores", "star", "stars", "grade", "grades", "points"))
"""Words in the name of a label column that say that whole numbers are measurements, such as ratings."""

COUNTED = frozenset(("class", "classes", "category", "categories", "topic", "intent", "id"))
"""Words in the name of a label column that say that whole numbers are class indices."""

_AS_NUMBERS = OtherKind(NUMBER, Sentence.of("`kind` number reads them as numbers"))
_AS_CLASSES = OtherKind(CLASSES, Sentence.of("`kind` classes reads them as names of classes"))
_OR_LABELS = OtherKind(LABELS, Sentence.of("`kind` labels as several labels"))
_AS_LABELS = "`kind` labels reads a cell such as {cell!r} as several labels"


def form_of_several(column: LabelColumn, separator: str | None, labels: Sequence[str] | None) -> LabelFormat:
    if separator is None:
        _check_lists(column, several=True)
    if separator is None and not _lists(column.values):
        separator = _occurring(column.values, SEPARATORS)
    hot = multi_hot_names(column, separator, labels)
    return LabelFormat(LABELS, separator, hot=hot, keeps=column.keeps)


def form_found(column: LabelColumn, labels: Sequence[str] | None, published: bool) -> LabelFormat:
    """Return the format of a label column if the user has not named the kind of task (docs/reference/tasks.md).

    Data that are `published` on the Hub are read by the rule of afina's first version, as recorded runs did.
    """
    known = column.values
    _check_lists(column, published=published)
    if _lists(known):
        return form_of_several(column, None, labels)
    plain = [value for value in known if plain_number(value) is not None]
    if known and len(plain) == len(known):
        return _of_numbers(column, published, PLAIN)
    if not published and known and all(map(is_date, known)):
        raise problems.LABELS_ARE_DATES(path=column.table.path, column=column.name, found=known[0], kinds=[CLASSES])
    if not published and known:
        notation = _of_odd_numbers(column)
        if notation is not None:
            return _of_numbers(column, published, notation)
    measured = any(WHOLE.fullmatch(str(value)) is None for value in plain)
    if 2 * len(plain) > len(known) and (measured or (column.said(*RATED) and not published)):
        _refuse_text(column)
    separator = next((mark for mark in TELLING if _recur(known, mark)), None)
    if separator:
        return form_of_several(column, separator, labels)
    joined = next((value for value in known if isinstance(value, str) and "," in value), "")
    other = (OtherKind(LABELS, Sentence.of(_AS_LABELS, cell=joined[:40])),) if _recur(known, ",") else ()
    return LabelFormat(CLASSES, keeps=column.keeps, other=other)


def _recur(known: Sequence[Any], separator: str) -> bool:
    """Return whether splitting cells at `separator` gives a name that occurs in several different cells."""
    distinct = [{part.strip() for part in cell.split(separator)} for cell in set(map(str, known))]
    return max(Counter(part for parts in distinct for part in parts).values(), default=0) > 1


def _of_odd_numbers(column: LabelColumn) -> Notation | None:
    """Return the notation of a column whose numbers have commas or percent signs; None if the cells are not numbers."""
    fits = notations(column.values)
    if len(fits) == 1:
        return fits[0]
    alike = [value for value in column.values if plain_number(value) is not None or looks_like_one(value)]
    if len(fits) > 1 or (len(alike) == len(column.known) and any(map(looks_like_one, alike))):
        _refuse_odd(column, fits)
    if 2 * len(alike) > len(column.known) and sum(map(looks_like_one, alike)) > 1:
        _refuse_text(column)
    return None


def notation_of(column: LabelColumn) -> Notation:
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
    raise problems.NOTATION_AMBIGUOUS(where=column.where(row), found=value, kinds=[CLASSES], _problem=problem)


def _refuse_text(column: LabelColumn) -> None:
    row, value = next(
        (row, value) for row, value in column.known.items() if plain_number(value) is None and not looks_like_one(value)
    )
    raise problems.TEXT_AMONG_NUMBERS(where=column.where(row), found=str(value)[:40], kinds=[CLASSES])


def _of_numbers(column: LabelColumn, published: bool, notation: Notation) -> LabelFormat:
    """Return whether a column of numbers is read as numbers or as classes, by the rule in docs/reference/tasks.md."""
    numbers = LabelFormat(NUMBER, notation=notation, keeps=column.keeps, other=(_AS_CLASSES,))
    classes = LabelFormat(CLASSES, keeps=column.keeps, other=(_AS_NUMBERS,))
    if notation != PLAIN:
        values = {notation.value(value) or 0.0 for value in column.values}
        numbers = replace(numbers, other=(_AS_CLASSES, _OR_LABELS)) if notation.comma else numbers
        return classes if len(values) <= 2 and all(map(float.is_integer, values)) else numbers
    if not all(WHOLE.fullmatch(str(value)) for value in column.values):
        return numbers
    distinct = {int(float(value)) for value in column.values}
    first, last = min(distinct), max(distinct)
    gapless = first in (0, 1) and last - first + 1 == len(distinct)
    if published:
        return numbers if len(distinct) > MOST_CLASSES and not gapless else classes
    if len(distinct) <= 2 or distinct <= {-1, 0, 1} or column.said(*COUNTED):
        return classes
    if column.said(*RATED):
        return numbers
    if len(distinct) <= MOST_CLASSES:
        return classes
    if gapless:
        raise problems.NUMBERS_OR_CLASSES(
            first=first,
            last=last,
            distinct=len(distinct),
            path=column.table.path,
            column=column.name,
            kinds=[CLASSES, NUMBER],
        )
    return numbers


def _lists(filled: Sequence[Any]) -> bool:
    return bool(filled) and all(map(_is_list, filled))


def _occurring(filled: Sequence[Any], separators: Sequence[str]) -> str | None:
    return next((mark for mark in separators if any(isinstance(v, str) and mark in v for v in filled)), None)
