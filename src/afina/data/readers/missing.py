"""Missing values: which cells of a file hold none, and which of its rows are refused or left out for that.

Knows cells and rows; does not know what a label may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from afina.data.kinds import HOWS, How
from afina.data.readers.table import Table
from afina.data.readers.workbook import SUFFIXES
from afina.errors import InvalidData, UnknownName

PANDAS = frozenset(
    ("-1.#IND", "1.#QNAN", "1.#IND", "-1.#QNAN", "#N/A N/A", "#N/A", "N/A", "n/a", "NA", "<NA>", "#NA", "NULL")
) | {"null", "NaN", "-NaN", "nan", "-nan", "None"}
"""What pandas reads as missing beside the empty cell: `STR_NA_VALUES` in pandas/_libs/parsers.pyx, of version 3.0."""

SPREADSHEETS = frozenset(("#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"))
"""What a spreadsheet shows where a formula fails; `#N/A` is pandas' too."""

ANY_CASE = frozenset({"nan", "<na>"})
"""What pandas makes of a missing value when it is written as a string; in any case of letters."""

SHOWN = 10
"""Rows that a message names."""


def empty(value: Any) -> bool:
    """Whether a cell holds nothing, or white space alone."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == "" or _blank(value)


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def word(value: Any) -> bool:
    """Whether a cell holds a word that stands for a missing value."""
    if not isinstance(value, str):
        return False
    bare = value.strip()
    return bare in PANDAS or bare in SPREADSHEETS or bare.casefold() in ANY_CASE


def check_how(how: str) -> How:
    """Raise UnknownName where `how` is none of HOWS."""
    for one in HOWS:
        if one == how:
            return one
    raise UnknownName("missing", how, HOWS)


def without(
    table: Table, texts: Sequence[str], labels: Sequence[str], how: How, *, expected: str = "a label", optional: bool
) -> tuple[Table, tuple[str, ...]]:
    """The table without the rows where a value is missing, and what is to be said of that.

    texts, labels  the columns that are read;  expected  in a label's;  optional  whether a label's cell may be empty
    Raises InvalidData that names the rows, unless `how` is to skip them.
    """
    found: dict[int, tuple[str, str]] = {}
    for name in dict.fromkeys([*texts, *labels]):
        of_text = name in texts
        for row, value in enumerate(table.columns[name]):
            if empty(value):
                if of_text or not optional:
                    found.setdefault(row, (name, "a text" if of_text else expected))
            elif how != "keep" and word(value):
                found.setdefault(row, (name, "a text" if of_text else expected))
    if not found:
        return table, ()
    rows = sorted(found)
    if how != "skip":
        _refuse(table, rows, *found[rows[0]])
    kept = [row for row in range(len(table.places)) if row not in found]
    if not kept:
        raise InvalidData(
            f"{table.path}: a value is missing in each of its {len(rows):,} rows. Give complete ones.",
            code="data.value-missing",
            path=table.path,
            rows=len(rows),
        )
    left = replace(
        table,
        columns={name: [values[row] for row in kept] for name, values in table.columns.items()},
        places=[table.places[row] for row in kept],
    )
    number = f"{len(rows):,} rows are" if len(rows) > 1 else "1 row is"
    return left, (f"{table.path}: {number} left out, where a value is missing ({listed(table, rows)}).",)


def _refuse(table: Table, rows: Sequence[int], name: str, expected: str) -> None:
    value = table.columns[name][rows[0]]
    more = f" Values are missing in {len(rows):,} rows: {listed(table, rows)}." if len(rows) > 1 else ""
    where = f"{table.where(rows[0])}: column {name!r}"
    mend = "fill it in or remove the row, or leave such rows out with `missing` skip."
    if empty(value) and table.path.suffix.lower() in SUFFIXES:
        mend += " A formula counts by the value that was saved with it."
    if empty(value):
        raise InvalidData(
            f"{where} is empty. Expected {expected}; {mend}{more}",
            code="data.value-missing",
            where=where,
            expected=expected,
        )
    raise InvalidData(
        f"{where} holds {value.strip()!r}, as a missing value is written. Expected {expected}; {mend}{more} "
        f"If it is {expected}, say so with `missing` keep.",
        code="data.value-missing",
        where=where,
        found=value.strip(),
        expected=expected,
    )


def listed(table: Table, rows: Sequence[int]) -> str:
    """`lines 3, 7 and 12`; no more than SHOWN."""
    places = [f"{table.places[row]:,}" for row in rows[:SHOWN]]
    unit = table.unit if len(rows) == 1 else f"{table.unit}s"
    return f"{unit} {', '.join(places)}{', ...' if len(rows) > SHOWN else ''}"
