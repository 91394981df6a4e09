"""Which column is what, and are its values usable: a Table becomes Rows.

Knows column names; knows neither file formats nor the order of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from afina.data.readers import labels
from afina.data.readers.labels import Form
from afina.data.readers.rows import Rows
from afina.data.readers.table import Table
from afina.errors import InvalidData

TEXT = ("text", "sentence", "sentence1", "review", "content", "comment", "tweet", "message", "body", "question")
LABEL = ("label", "labels", "target", "sentiment", "class", "category", "rating", "score", "stars", "tags")
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
    """Names of columns; `labels` are empty where none is asked for, and several where each tells of one label."""

    text: str
    text_pair: str | None = None
    labels: tuple[str, ...] = ()


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
    """`of_texts`, and the column of the label, found alike; `a,b,c` names several, where there is none of that name."""
    where, names = str(table.path), list(table.columns)
    texts = of_texts(where, names, text, text_pair)
    asked = [label] if label is None or label in names else [name.strip() for name in label.split(",")]
    found = tuple(dict.fromkeys(_column(where, names, name, LABEL, "label") for name in asked))
    for name in found:
        if name in (texts.text, texts.text_pair):
            raise InvalidData(f"{where}: `label` {name} is the column of a text too. Name another one.")
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


def rows(table: Table, columns: Columns, form: Form) -> Rows:
    """The labelled texts of a table. Raises InvalidData that names the row."""
    if not table.places:
        raise InvalidData(f"{table.path}: no rows below the names of the columns. Expected at least one example.")
    return Rows(
        _texts(table, columns.text),
        None if columns.text_pair is None else _texts(table, columns.text_pair),
        labels.parse(table, columns.labels, form),
        table.where,
        form.kind,
        ",".join(columns.labels),
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
    if labels.missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise InvalidData(f"{where()}: column {name!r} holds a {type(value).__name__}, expected a text.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidData(f"{where()}: column {name!r} holds half a surrogate pair. Repair the text.")
    return value
