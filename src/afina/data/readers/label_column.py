"""LabelColumn: the cells of a label column, and LabelFormat: how they are read.

`label_recognition.py` recognises the format of a label column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afina.data.kinds import Kind
from afina.data.readers.formats import FileTable
from afina.data.readers.missing_values import is_empty, means_missing
from afina.data.readers.number_notation import WHOLE, Notation

Label = str | int | float | tuple[str, ...]
"""The label of one text as the data spell it: a class, a number, or several labels."""


@dataclass(frozen=True)
class LabelFormat:
    """How to read the cells of a label column.

    separator  the text between the labels of a cell; None: a cell holds a list, or at most one label
    notation   the notation of numbers; None: recognised
    hot        the label names of multi-hot lists, by position, or the name of the only column, if it is about this
               label; empty if cells hold names
    keeps      whether a word such as `NA` is a label, instead of a missing value
    other      how to read the cells as another kind, in words; empty if the kind is clear
    """

    kind: Kind
    separator: str | None = None
    notation: Notation | None = None
    hot: tuple[str, ...] = ()
    keeps: bool = False
    other: str = ""


@dataclass(frozen=True)
class LabelColumn:
    """The label column.

    cells  the non-empty values by row, without surrounding white space
    known  the cells that do not stand for a missing value
    keeps  whether a word such as `NA` is a label
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
        """Return whether the column's name contains one of these words."""
        split = re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name)
        return any(word.casefold() in words for word in re.findall(r"[^\W\d_]+", split))


def spelled(label: Label, whole: bool) -> str:
    """Return the name of a class. whole: labels are whole numbers, so that `1.0` becomes `1`."""
    match = WHOLE.fullmatch(str(label)) if whole else None
    return str(int(match[1])) if match else str(label)
