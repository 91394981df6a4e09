"""Numbers as files write them: with a decimal point or a decimal comma, with thousands separated, in percent.

Knows cells; knows no column and no kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Leading zeros make a code, not a number: such labels stay strings.
WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?", re.ASCII)

_CODE = re.compile(r"[-+]?0\d", re.ASCII)
_POINT = re.compile(r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d*,\d+|\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+)", re.ASCII)
_THOUSANDS = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+)", re.ASCII)
_LIKE = re.compile(r"[-+−–]?\s*[\d.,'’\s]*\d[\d.,'’\s]*%?", re.ASCII)
_ODD = re.compile(r"[,'’%−–\s]")

Comma = Literal["decimal", "thousands"]


@dataclass(frozen=True)
class Notation:
    """How a column writes its numbers.

    comma    what a comma in them is; None: there is none
    percent  whether each ends with a percent sign, which is no part of the value
    """

    comma: Comma | None = None
    percent: bool = False

    def value(self, cell: Any) -> float | None:
        """The finite number that a cell holds; None where it holds none in this notation."""
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
        """Whether all cells are numbers in it."""
        return all(self.value(cell) is not None for cell in cells)

    def said(self, cells: Sequence[Any]) -> str:
        """What is worth saying of it, with the first cell that it matters for; "" of plain numbers."""
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
    """Those in which all cells are numbers: one, where that is clear; two for `1,000`, which may be one or a thousand.

    Plain numbers, in percent or not, are read in no other way.
    """
    for plain in (PLAIN, Notation(percent=True)):
        if plain.reads(cells):
            return [plain]
    return [other for other in _OTHERS if other.reads(cells)]


def number(cell: Any) -> float | None:
    """The finite number that a cell holds, written plainly."""
    return PLAIN.value(cell)


def looks_like_one(cell: Any) -> bool:
    """Whether a cell holds digits with commas, percent signs, spaces or apostrophes, and nothing else."""
    return isinstance(cell, str) and _LIKE.fullmatch(cell) is not None and _ODD.search(cell) is not None
