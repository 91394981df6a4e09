"""Cells of csv files that a spreadsheet may open: a cell that looks like a formula is written with an apostrophe.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula. Such a cell is written with an
apostrophe before it, and read without.
"""

from __future__ import annotations

import re

_FORMULA, _WRITTEN = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")


def harmless(cell: str) -> str:
    """Return the cell as a spreadsheet may read it: with an apostrophe before what would be a formula."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def restored(cell: str) -> str:
    """Return the cell that `harmless` has written."""
    return cell[1:] if _WRITTEN.match(cell) else cell
