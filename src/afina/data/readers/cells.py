"""Cells of a table: missing values, numbers in several notations, dates, lists and texts."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from afina.data import problems
from afina.data.readers.source import is_blank, is_whole
from afina.errors import InvalidData

PANDAS = frozenset(
    ("-1.#IND", "1.#QNAN", "1.#IND", "-1.#QNAN", "#N/A N/A", "#N/A", "N/A", "n/a", "NA", "<NA>", "#NA", "NULL")
) | {"null", "NaN", "-NaN", "nan", "-nan", "None"}
"""Words that pandas reads as a missing value: `STR_NA_VALUES` of pandas 3.0 (pandas/_libs/parsers.pyx), without ""."""


SPREADSHEETS = frozenset(("#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"))
"""Words that a spreadsheet shows if a formula fails, except `#N/A`, which is in PANDAS."""


ANY_CASE = frozenset({"nan", "<na>"})
"""Words that pandas writes if a missing value is converted to a string; cells are compared with them without case."""


def is_empty(value: Any) -> bool:
    """Return whether a cell is None, NaN, or a string without visible characters."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and is_blank(value))
    )


def means_missing(value: Any) -> bool:
    """Return whether a cell holds a word such as `NA` that pandas or a spreadsheet writes for a missing value."""
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
    """How the numbers of a column are written.

    Attributes:
        comma: Whether a comma is the decimal mark or separates thousands. None: the numbers have no comma.
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
    """Return the notations in which all cells are numbers; for `1,000`, which may be 1 or 1000, two notations."""
    for plain in (PLAIN, Notation(percent=True)):
        if plain.reads(cells):
            return [plain]
    return [other for other in _OTHERS if other.reads(cells)]


_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}\.\d{3}", re.ASCII)


def points_undecided(cells: Sequence[Any]) -> tuple[str, str] | None:
    """Return two cells if points may be decimal marks or separate thousands, such as `1.000` and `900`; else None.

    Numbers with three decimals throughout, and numbers with another number of decimals, have decimal points.
    """
    if not all(
        isinstance(cell, str) and (PLAIN.reads([cell]) or Notation(percent=True).reads([cell])) for cell in cells
    ):
        return None
    grouped = [cell for cell in cells if "." in cell]
    whole = next((cell for cell in cells if "." not in cell), None)
    alike = all(_GROUPED.fullmatch(cell.removesuffix("%").rstrip()) for cell in grouped)
    return (grouped[0], whole) if grouped and whole is not None and alike else None


_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?", re.ASCII)


def is_date(cell: Any) -> bool:
    return isinstance(cell, str) and _DATE.fullmatch(cell) is not None


def plain_number(cell: Any) -> float | None:
    """Return the finite number in a cell without comma and percent sign; None if the cell has no such number."""
    return PLAIN.value(cell)


def looks_like_one(cell: Any) -> bool:
    """Return whether a cell looks like a number in an unusual notation, such as `1'000`, `3,5 %` or Arabic digits."""
    return isinstance(cell, str) and _LIKE.fullmatch(cell) is not None and _ODD.search(cell) is not None


_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+|True|False|None)"""
_PYTHON = re.compile(rf"\[\s*(?:{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?\s*)?\]")

_MOST_PYTHON = 1 << 20
"""The largest number of characters of a list in Python notation."""


STARTS = ("start", "start_offset", "start_char", "begin")
WRAPPERS = ("entities", "spans")
"""The key of an object around a list of spans, as spaCy writes it."""


def as_list(value: Any) -> list[Any] | None:
    """Return the list in a cell that is a list, or the JSON or Python text of a list; None for any other cell."""
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
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def list_in(cell: Any) -> list[Any] | None:
    """Return the list in a cell that is a list, an object of lists, or a list's text in JSON or Python; else None."""
    if isinstance(cell, str):
        cell = _literal(cell.strip())
    if isinstance(cell, Mapping):
        return _of_lists(cell)
    return list(cell) if isinstance(cell, list | tuple) else None


def _literal(text: str) -> Any:
    if not text.startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MOST_PYTHON or "' '" in text or "'\n" in text:  # numpy's print format, without commas
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _of_lists(cell: Mapping[str, Any]) -> list[Any] | None:
    """Return the spans of `{"entities": [...]}`, or of `{"start": [0, 9], "end": [5, 13], "label": ["PER", "LOC"]}`."""
    if len(cell) == 1 and next(iter(cell)) in WRAPPERS:
        return list_in(next(iter(cell.values())))
    columns = {name: list(values) for name, values in cell.items() if isinstance(values, list | tuple)}
    if not any(name in columns for name in STARTS) or len({len(values) for values in columns.values()}) != 1:
        return None
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def surrogate(where: str, column: str) -> InvalidData:
    return problems.SURROGATE(where=where, column=column, _place=f"{where}: column {column!r}", _what="text")


def text_of(value: Any, name: str, where: Callable[[], str]) -> str | None:
    """Return a cell of a text column, also a number, as a string; None if the cell is empty. Raises InvalidData."""
    if is_empty(value):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    if not isinstance(value, str):
        place = f"{where()}: column {name!r}"
        raise problems.CELL_OF_OTHER_TYPE(
            where=where(), column=name, found=type(value).__name__, _place=place, _expected="a text"
        )
    if not is_whole(value):
        raise surrogate(where(), name)
    return value
