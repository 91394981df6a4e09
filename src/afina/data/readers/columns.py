"""Which column is what, and are its values usable: a Table becomes Rows.

Knows column names; knows neither file formats nor the order of labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from afina.data.readers.rows import Rows
from afina.data.readers.table import Table
from afina.errors import InvalidData

TEXT = ("text", "sentence", "sentence1", "review", "content", "comment", "tweet", "message", "body", "question")
LABEL = ("label", "labels", "target", "sentiment", "class", "category")
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
"""Taken together where a file has both and no column is named; the names of the Hub and of GLUE."""


@dataclass(frozen=True)
class Columns:
    """Names of columns."""

    text: str
    label: str
    text_pair: str | None = None


def choose(table: Table, text: str | None, text_pair: str | None, label: str | None) -> Columns:
    """The columns to read: those named, otherwise the first of the usual names, in any case of letters."""
    usual = {name.strip().casefold(): name for name in reversed(table.columns)}
    if text is None and text_pair is None:
        for one, other in PAIRS:
            if one in usual and other in usual:
                text, text_pair = usual[one], usual[other]
                break
    return Columns(
        _column(table, text, TEXT, usual, "text"),
        _column(table, label, LABEL, usual, "label"),
        None if text_pair is None else _column(table, text_pair, (), usual, "text_pair"),
    )


def _column(table: Table, named: str | None, candidates: tuple[str, ...], usual: dict[str, str], field: str) -> str:
    if named is not None:
        if named in table.columns:
            return named
        raise InvalidData(
            f"{table.path}: no column {named!r}. Found: {', '.join(table.columns)}. Name the right one with `{field}`."
        )
    for name in candidates:
        if name in usual:
            return usual[name]
    raise InvalidData(
        f"{table.path}: no {field} column. Found: {', '.join(table.columns)}. "
        f"Expected {' or '.join(candidates)}; name another one with `{field}`."
    )


def rows(table: Table, columns: Columns) -> Rows:
    """The labelled texts of a table. Raises InvalidData that names the row."""
    if not table.places:
        raise InvalidData(f"{table.path}: no rows below the names of the columns. Expected at least one example.")
    return Rows(
        _texts(table, columns.text),
        None if columns.text_pair is None else _texts(table, columns.text_pair),
        [_label(table, columns.label, i) for i in range(len(table.places))],
        table.where,
    )


def _texts(table: Table, name: str) -> list[str]:
    values = table.columns[name]
    for i, value in enumerate(values):
        if _missing(value) or (isinstance(value, str) and not value.strip()):
            raise InvalidData(
                f"{table.where(i)}: column {name!r} is empty. Expected a text; fill it in or remove the row."
            )
        if not isinstance(value, str):
            raise InvalidData(f"{table.where(i)}: column {name!r} holds a {type(value).__name__}, expected a text.")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidData(f"{table.where(i)}: column {name!r} holds half a surrogate pair. Repair the text.")
    return values


def _label(table: Table, name: str, row: int) -> str | int:
    value = table.columns[name][row]
    if isinstance(value, str):
        value = value.strip()
    if _missing(value) or value == "":
        raise InvalidData(
            f"{table.where(row)}: column {name!r} is empty. Expected a label; fill it in or remove the row."
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    raise InvalidData(
        f"{table.where(row)}: column {name!r} holds a {type(value).__name__}, expected a name or an integer."
    )


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
