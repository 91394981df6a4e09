"""Recognise the format of a label column: classes, numbers, or several labels for each text.

The format follows from the cells, the name of the column and the user's options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES, LABELS, NUMBER
from afina.data.readers.label_column import LabelColumn, LabelFormat, OtherKind
from afina.data.readers.listed_labels import as_list, check_readable, multi_hot_names
from afina.data.readers.number_notation import PLAIN, WHOLE, Notation, is_date, looks_like_one, notations, plain_number
from afina.sentence import Sentence

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
    if separator is None and not _lists(column.values):
        separator = _occurring(column.values, SEPARATORS)
    hot = multi_hot_names(column, separator, labels)
    return LabelFormat(LABELS, separator, hot=hot, keeps=column.keeps)


def form_found(column: LabelColumn, labels: Sequence[str] | None, published: bool) -> LabelFormat:
    """Return the format of a label column if the user has not named the kind of task (docs/reference/tasks.md).

    Whole numbers in data that are `published` on the Hub are read by the rule of afina's first version, because
    recorded runs used this rule. Raises InvalidData.
    """
    known = column.values
    check_readable(column)
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
    """Return the notation of a column whose numbers have commas or percent signs; None if the cells are not numbers.

    Raises InvalidData if the notation is ambiguous.
    """
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
    """Return whether every cell is a list, or the JSON or Python text of a list."""
    return bool(filled) and all(as_list(value) is not None for value in filled)


def _occurring(filled: Sequence[Any], separators: Sequence[str]) -> str | None:
    return next((mark for mark in separators if any(isinstance(v, str) and mark in v for v in filled)), None)
