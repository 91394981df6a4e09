"""LabelColumn, the cells of a label column, and LabelFormat, how the cells become labels.

The module `label_recognition.py` recognises the format of a label column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from afina.data import problems
from afina.data.entities import Entity
from afina.data.kinds import Kind
from afina.data.readers.formats import FileTable
from afina.data.readers.missing_values import is_empty, means_missing
from afina.data.readers.number_notation import WHOLE, Notation
from afina.errors import InvalidData
from afina.sentence import Sentence

Label = str | int | float | tuple[str, ...] | tuple[Entity, ...]
"""The label of one text as the data spell it: a class, a number, or a tuple of labels, target texts or entities."""


class OtherKind(NamedTuple):
    """A kind as which labels can also be read, and a clause that says so."""

    kind: Kind
    words: Sentence


@dataclass(frozen=True)
class LabelFormat:
    """How to read the cells of a label column.

    separator  the text between the labels of a cell; None: a cell holds a list, or at most one label
    notation   how numbers are written; None: the notation is recognised
    hot        the label name of each position, if cells are multi-hot lists; the column's name, if a single column
               says with true and false whether the text has the label of this name; else empty
    keeps      whether a word such as `NA` is a label and not a missing value
    tagged     whether a cell has a tag for each word of a list of words, and not spans of a text
    names      the names of the tags 0, 1, ..., if tags are numbers
    """

    kind: Kind
    separator: str | None = None
    notation: Notation | None = None
    hot: tuple[str, ...] = ()
    keeps: bool = False
    tagged: bool = False
    names: tuple[str, ...] = ()
    repair: bool = False
    other: tuple[OtherKind, ...] = ()


@dataclass(frozen=True)
class LabelColumn:
    """The cells of a label column of a table.

    cells  the values of the non-empty cells by row, without surrounding white space
    known  the values by row of the cells that do not hold a word for a missing value
    """

    table: FileTable
    name: str
    keeps: bool
    cells: Mapping[int, Any]
    known: Mapping[int, Any]

    @classmethod
    def of(cls, table: FileTable, name: str, keeps: bool) -> LabelColumn:
        bare = (value.strip() if isinstance(value, str) else value for value in table.columns[name])
        cells = {row: value for row, value in enumerate(bare) if not is_empty(value)}
        known = cells if keeps else {row: value for row, value in cells.items() if not means_missing(value)}
        return cls(table, name, keeps, cells, known)

    @property
    def rows(self) -> range:
        return range(len(self.table.places))

    @property
    def values(self) -> list[Any]:
        return list(self.known.values())

    def where(self, row: int) -> str:
        return f"{self.table.where(row)}: column {self.name!r}"

    def said(self, *words: str) -> bool:
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name)
        return any(word.casefold() in words for word in re.findall(r"[^\W\d_]+", split))


def surrogate(where: str, column: str) -> InvalidData:
    """Return the error for half of a surrogate pair in a cell."""
    return problems.SURROGATE(where=where, column=column, _place=f"{where}: column {column!r}", _what="text")


def spelled(label: Label, whole: bool) -> str:
    """Return a label as a class name; if all labels are whole numbers (`whole`), `1.0` becomes `1`."""
    match = WHOLE.fullmatch(str(label)) if whole else None
    return str(int(match[1])) if match else str(label)
