"""Which column is what, and are its values usable: a Table becomes Rows.

Knows column names; knows neither file formats nor the order of labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
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

MISSING = frozenset({"nan", "<na>"})
"""What pandas makes of a missing value when it is written as a string; in any case of letters."""


@dataclass(frozen=True)
class Columns:
    """Names of columns; `label` is None where none is asked for."""

    text: str
    text_pair: str | None = None
    label: str | None = None


def of_texts(where: str, names: Iterable[str], text: str | None, text_pair: str | None) -> Columns:
    """The columns of the texts: those named, otherwise the first of the usual names, in any case of letters.

    where  begins the messages.  Raises InvalidData.
    """
    names = list(names)
    usual = _usual(names)
    if text is None and text_pair is None:
        for one, other in PAIRS:
            if one in usual and other in usual:
                return Columns(usual[one], usual[other])
    found = _column(where, names, text, TEXT, "text")
    if text_pair is None:
        return Columns(found)
    second = _column(where, names, text_pair, (), "text_pair")
    if second == found:
        raise InvalidData(f"{where}: `text_pair` {second} is the column of the text too. Name another one, or none.")
    return Columns(found, second)


def choose(table: Table, text: str | None, text_pair: str | None, label: str | None) -> Columns:
    """`of_texts`, and the column of the label, found alike."""
    where, names = str(table.path), list(table.columns)
    texts = of_texts(where, names, text, text_pair)
    found = _column(where, names, label, LABEL, "label")
    if found in (texts.text, texts.text_pair):
        raise InvalidData(f"{where}: `label` {found} is the column of a text too. Name another one.")
    return Columns(texts.text, texts.text_pair, found)


def _usual(names: list[str]) -> dict[str, str]:
    return {name.strip().casefold(): name for name in reversed(names)}


def _column(where: str, names: list[str], named: str | None, candidates: tuple[str, ...], field: str) -> str:
    if named is not None:
        if named in names:
            return named
        raise InvalidData(
            f"{where}: no column {named!r}. Found: {', '.join(names)}. Name the right one with `{field}`."
        )
    usual = _usual(names)
    for name in candidates:
        if name in usual:
            return usual[name]
    raise InvalidData(
        f"{where}: no {field} column. Found: {', '.join(names)}. "
        f"Expected {' or '.join(candidates)}; name another one with `{field}`."
    )


def rows(table: Table, columns: Columns) -> Rows:
    """The labelled texts of a table. Raises InvalidData that names the row."""
    if not table.places:
        raise InvalidData(f"{table.path}: no rows below the names of the columns. Expected at least one example.")
    assert columns.label is not None
    return Rows(
        _texts(table, columns.text),
        None if columns.text_pair is None else _texts(table, columns.text_pair),
        [_label(table, columns.label, i) for i in range(len(table.places))],
        table.where,
    )


def _texts(table: Table, name: str) -> list[str]:
    values = table.columns[name]
    for i, value in enumerate(values):
        if text_of(value, name, partial(table.where, i)) is None:
            raise InvalidData(
                f"{table.where(i)}: column {name!r} is empty. Expected a text; fill it in or remove the row."
            )
    return values


def text_of(value: Any, name: str, where: Callable[[], str]) -> str | None:
    """The text that stands in column `name`; None where there is none. Raises InvalidData, where it is no text."""
    if _missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise InvalidData(f"{where()}: column {name!r} holds a {type(value).__name__}, expected a text.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidData(f"{where()}: column {name!r} holds half a surrogate pair. Repair the text.")
    return value


def _label(table: Table, name: str, row: int) -> str | int:
    value = table.columns[name][row]
    if isinstance(value, str):
        value = value.strip()
    if _missing(value) or value == "":
        raise InvalidData(
            f"{table.where(row)}: column {name!r} is empty. Expected a label; fill it in or remove the row."
        )
    if isinstance(value, str) and value.casefold() in MISSING:
        raise InvalidData(
            f"{table.where(row)}: column {name!r} is {value!r}, as a missing label is written. Fill it in or remove "
            "the row; if it is a label, give it another name."
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
