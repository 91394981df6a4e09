"""Notation: how a column of numbers is written (decimal point or comma, thousands separators, percent signs)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    """Return the notations in which all cells are numbers; for `1,000`, which may be 1 or 1000, two notations.

    If all numbers have no comma, only the notation without a comma is returned.
    """
    for plain in (PLAIN, Notation(percent=True)):
        if plain.reads(cells):
            return [plain]
    return [other for other in _OTHERS if other.reads(cells)]


_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?", re.ASCII)


def is_date(cell: Any) -> bool:
    """Return whether a cell holds a date in ISO format, with or without a time."""
    return isinstance(cell, str) and _DATE.fullmatch(cell) is not None


def plain_number(cell: Any) -> float | None:
    """Return the finite number in a cell without comma and percent sign; None if the cell has no such number."""
    return PLAIN.value(cell)


def looks_like_one(cell: Any) -> bool:
    """Return whether a cell looks like a number in an unusual notation, such as `1'000`, `3,5 %` or Arabic digits."""
    return isinstance(cell, str) and _LIKE.fullmatch(cell) is not None and _ODD.search(cell) is not None
