"""The value of a cell: a missing value, a number in some notation, or several labels.

Missing values are empty cells, and the words of pandas and of spreadsheets. A `Notation` describes decimal points or
commas, thousands and percent. Several labels are a list (JSON or Python), names between separators, or multi-hot: 0 or
1 for each of L labels, in their order. The module knows the cells of one column. It does not know which column is the
label.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afina.data import problems
from afina.data.readers.formats import FileTable
from afina.data.readers.source import is_blank

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+|True|False|None)"""
_PYTHON = re.compile(rf"\[\s*(?:{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?\s*)?\]")

NAMED = "label_{}"
"""The name of the label at a place, if the data and the user give no name."""


def as_list(value: Any) -> list[Any] | None:
    """Return the list in a cell, which is a list, or JSON or Python text of a list; None if it is not a list."""
    if isinstance(value, list | tuple):
        return list(value)
    if not bracketed(value):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        # Reject numpy's print format, ['a' 'b'], which Python would read as the single name 'ab'.
        found = ast.literal_eval(value) if _PYTHON.fullmatch(value) else None
    return found if isinstance(found, list) else None


def bracketed(value: Any) -> bool:
    """Return whether a cell is a text in square brackets."""
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def split_labels(value: Any, separator: str | None) -> list[Any]:
    """Return the labels in a cell of several labels."""
    found = as_list(value)
    if found is not None:
        return found
    if isinstance(value, str) and separator:
        return [part.strip() for part in value.split(separator)]
    return [value]


def multi_hot_names(
    table: FileTable, name: str, cells: Mapping[int, Any], separator: str | None, labels: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names of the places of multi-hot lists; empty if the cells hold label names.

    Lists are multi-hot if they have one length, two or more, and hold only 0 and 1. Raises InvalidData if both readings
    are possible, or if only some lists are multi-hot.

    Args:
        cells: The cells that are not empty, by row.
    """
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
        return _names(table, name, length, labels, next(iter(lists)))
    twice = any(len(parts) > len({_bit(part) for part in parts}) for parts in binary.values())
    names = {str(part) for parts in lists.values() for part in parts}
    filled = sum(bool(parts) for parts in lists.values())
    if twice or (length > 1 and 2 * count > filled and set(labels or ()) != names):
        raise problems.MULTI_HOT_MIXED(
            found=str(table.columns[name][other])[:40], where=table.where(other), column=name, expected=length
        )
    return ()


def _names(table: FileTable, name: str, length: int, labels: Sequence[str] | None, row: int) -> tuple[str, ...]:
    if length == 1 and (labels is None or len(labels) > 2):
        raise problems.SINGLE_BIT_LISTS(where=table.where(row), column=name)
    if length == 1 and labels is not None and len(labels) == 2:
        return ()
    if labels is None:
        return tuple(NAMED.format(place) for place in range(length))
    if len(labels) != length:
        raise problems.MULTI_HOT_NAMES(
            where=table.where(row), column=name, expected=length, found=labels, _count=len(labels)
        )
    return tuple(labels)


def multi_hot_labels(
    table: FileTable, name: str, row: int, parts: Sequence[Any], names: Sequence[str]
) -> tuple[str, ...]:
    """Return the labels that a multi-hot list marks with 1. Raises InvalidData."""
    bits = [_bit(part) for part in parts]
    if len(bits) != len(names) or None in bits:
        raise problems.MULTI_HOT_MALFORMED(
            found=str(table.columns[name][row])[:40], where=table.where(row), column=name, expected=len(names)
        )
    return tuple(name for name, bit in zip(names, bits, strict=True) if bit)


def _bit(part: Any) -> int | None:
    """Return 0 or 1 if a part of a list is one of these, else None."""
    if isinstance(part, str):
        return {"0": 0, "1": 1}.get(part)
    return int(part) if isinstance(part, bool | int | float) and part in (0, 1) else None


def check_readable(table: FileTable, name: str, cells: Mapping[int, Any]) -> None:
    """Raise InvalidData if all cells are in square brackets, but one cell is not a readable list."""
    if cells and all(bracketed(cell) for cell in cells.values()):
        row = next((row for row, cell in cells.items() if as_list(cell) is None), None)
        if row is not None:
            raise problems.LIST_MALFORMED(found=str(cells[row])[:40], where=table.where(row), column=name)


PANDAS = frozenset(
    ("-1.#IND", "1.#QNAN", "1.#IND", "-1.#QNAN", "#N/A N/A", "#N/A", "N/A", "n/a", "NA", "<NA>", "#NA", "NULL")
) | {"null", "NaN", "-NaN", "nan", "-nan", "None"}
"""Words that pandas reads as missing: `STR_NA_VALUES` of pandas 3.0 (pandas/_libs/parsers.pyx), without ""."""


SPREADSHEETS = frozenset(("#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"))
"""Words that a spreadsheet shows if a formula fails; `#N/A` is in PANDAS too."""


ANY_CASE = frozenset({"nan", "<na>"})
"""Words that pandas writes for a missing value that is converted to a string; compared without case."""


def is_empty(value: Any) -> bool:
    """Return whether a cell is empty, or has nothing visible."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or _blank(value)


def _blank(value: Any) -> bool:
    return isinstance(value, str) and is_blank(value)


def means_missing(value: Any) -> bool:
    """Return whether a cell holds a word for a missing value."""
    if not isinstance(value, str):
        return False
    bare = value.strip()
    return bare in PANDAS or bare in SPREADSHEETS or bare.casefold() in ANY_CASE


# Numbers with leading zeros are codes: such labels stay strings.
WHOLE = re.compile(r"([-+]?(?:0|[1-9]\d*))(?:\.0*)?", re.ASCII)

_CODE = re.compile(r"[-+]?0\d", re.ASCII)
_POINT = re.compile(r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d*,\d+|\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+)", re.ASCII)
_THOUSANDS = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)", re.ASCII)
_LIKE = re.compile(r"[-+−–]?\s*[\d.,'’\s]*\d[\d.,'’\s]*%?")
_ODD = re.compile(r"[,'%\s]|[^\x00-\x7f]")

Comma = Literal["decimal", "thousands"]


@dataclass(frozen=True)
class Notation:
    """The notation of a column's numbers.

    Attributes:
        comma: The meaning of a comma; None: there is no comma.
        percent: Whether each number ends with a percent sign, which does not change the value.
    """

    comma: Comma | None = None
    percent: bool = False

    def value(self, cell: Any) -> float | None:
        """Return the finite number in a cell; None if the cell has no number in this notation."""
        if isinstance(cell, bool) or self.percent != (isinstance(cell, str) and cell.endswith("%")):
            return None
        number = cell
        if isinstance(cell, str):
            digits = cell.removesuffix("%").rstrip()
            pattern = {None: _POINT, "decimal": _DECIMAL_COMMA, "thousands": _THOUSANDS}[self.comma]
            plain = self.comma is None and WHOLE.fullmatch(digits)
            if _CODE.match(digits) or not (plain or pattern.fullmatch(digits)):
                return None
            if self.comma == "decimal":
                digits = digits.replace(".", "")
            number = digits.replace(",", "." if self.comma == "decimal" else "")
        elif not isinstance(cell, int | float):
            return None
        try:
            found = float(number)
        except OverflowError:
            return None
        return found if math.isfinite(found) else None

    def reads(self, cells: Sequence[Any]) -> bool:
        """Return whether all cells are numbers in this notation."""
        return all(self.value(cell) is not None for cell in cells)

    def said(self, cells: Sequence[Any]) -> str:
        """Return a note on how the first cell with a decimal comma or a percent sign is read; "" if no cell has one."""
        marks = [mark for mark, there in ((",", self.comma), ("%", self.percent)) if there]
        cell = next((cell for cell in cells if isinstance(cell, str) and any(mark in cell for mark in marks)), None)
        return "" if cell is None else f"{cell!r} is read as {self.value(cell):.15g}"


PLAIN = Notation()

_OTHERS = tuple(
    Notation(comma, percent)
    for percent in (False, True)
    for comma in ((None, "decimal", "thousands") if percent else ("decimal", "thousands"))
)


def notations(cells: Sequence[Any]) -> list[Notation]:
    """Return the notations in which all cells are numbers: two for an ambiguous `1,000`, which may be 1 or 1000.

    Plain numbers, with or without percent, have only this notation.
    """
    for plain in (PLAIN, Notation(percent=True)):
        if plain.reads(cells):
            return [plain]
    return [other for other in _OTHERS if other.reads(cells)]


_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?", re.ASCII)


def is_date(cell: Any) -> bool:
    """Return whether a cell holds a date in ISO form, with or without a time."""
    return isinstance(cell, str) and _DATE.fullmatch(cell) is not None


def plain_number(cell: Any) -> float | None:
    """Return the finite number in a cell in plain notation, else None."""
    return PLAIN.value(cell)


def looks_like_one(cell: Any) -> bool:
    """Return whether a cell holds only digits with commas, percent signs, spaces or apostrophes, or other digits."""
    return isinstance(cell, str) and _LIKE.fullmatch(cell) is not None and _ODD.search(cell) is not None
