"""Read texts without labels: from a file or standard input in chunks, or from lists, arrays, Series and DataFrames.

This module does not import pandas, polars or other libraries whose DataFrames it reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from afina.data import problems
from afina.data.kinds import columns_in_words
from afina.data.readers import columns, formats, source
from afina.data.readers.cells import is_empty, list_in, text_of
from afina.data.readers.columns import ColumnNames
from afina.data.readers.entity_targets import joined
from afina.data.readers.formats import READERS
from afina.data.readers.source import STANDARD_INPUT, RowStream, Source
from afina.data.reading_options import USUAL, ReadingOptions
from afina.errors import NotFound
from afina.sentence import Option, Sentence

FIRST, GROWTH, MOST = 16, 4, 4096
"""FIRST is the number of texts in the first chunk of a file, GROWTH the factor by which the next chunk is larger, MOST
the largest number of texts in a chunk. A small first chunk gives the first answers soon. Large later chunks are faster,
because the texts of a chunk are sorted by length."""

TEXT, PAIR = "text", "text_pair"
"""The name of the only column of a file that has one text a line and no columns."""

MOST_CHARACTERS = 1 << 24
"""The number of characters at which a chunk of texts ends, so that long texts do not fill the memory."""


@dataclass(frozen=True)
class Row:
    """A row or a line of a file of texts.

    Attributes:
        number: The number of the row among the rows that are read, from 1.
        text: None: the row has no text.
        columns: All values of the row, by the name of the column.
        spaced: Whether the row has words, which single spaces join to the text.
    """

    number: int
    where: str
    text: str | None
    pair: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    spaced: bool = False


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file, and the texts of these rows.

    Attributes:
        texts: The texts of the rows that have a text.
        before: The number of texts of the file before this chunk.
        share: The share of the file that was read up to the end of this chunk. None: the file's size is unknown.
        rows: All rows of the chunk, including rows without a text.
    """

    texts: list[str]
    pairs: list[str] | None = None
    before: int = 0
    share: float | None = None
    rows: Sequence[Row] = ()

    @property
    def spaced(self) -> bool:
        """Whether the file has words, which single spaces join to texts (`Split.spaced`)."""
        return any(row.spaced for row in self.rows)

    @classmethod
    def of(cls, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Self:
        rows = []
        for number, text in enumerate(texts, start=1):
            pair = {} if pairs is None else {PAIR: pairs[number - 1]}
            rows.append(Row(number, f"text {number}", text, pair.get(PAIR), columns={TEXT: text, **pair}))
        return cls(list(texts), None if pairs is None else list(pairs), rows=rows)


class TextStream:
    """An iterator over the texts of a file, chunk by chunk.

    `blank` counts the rows without a text so far, and `first_blank` is the place of the first ("" without one).
    `columns` are the columns by role, as far as they are known.
    """

    def __init__(self, rows: Iterator[Row], opened: Source | RowStream) -> None:
        self._rows, self._opened = rows, opened
        self.blank, self.first_blank = 0, ""
        self.columns: dict[str, str] = {}
        self._said = 0

    @classmethod
    def of_columns(cls, opened: RowStream, wanted: _Wanted) -> Self:
        """Return the texts of a file with columns. Raises InvalidData if the text column is missing or ambiguous."""
        chosen = None if opened.names is None else wanted.among(opened.name, opened.names)
        made = cls(iter(()), opened)
        if chosen is not None:
            made._tell(chosen)
        made._rows = _read(opened, chosen, wanted, made._tell)
        return made

    def _tell(self, chosen: ColumnNames) -> None:
        self.columns = self.columns or chosen.roles

    def __iter__(self) -> Iterator[Chunk]:
        before, most, ends = 0, FIRST, False
        while not ends:
            rows: list[Row] = []
            size = 0
            for row in self._rows:
                rows.append(row)
                size += len(row.text or "") + len(row.pair or "")
                if row.text is None:
                    self.first_blank = self.first_blank or row.where
                    self.blank += 1
                if len(rows) == most or size >= MOST_CHARACTERS:
                    break
            else:
                ends = True
            texts = [row.text for row in rows if row.text is not None]
            pairs = [row.pair for row in rows if row.text is not None and row.pair is not None]
            if rows:
                yield Chunk(texts, pairs or None, before, self._share(), rows)
            before, most = before + len(texts), min(most * GROWTH, MOST)

    def _share(self) -> float | None:
        return self._opened.share if isinstance(self._opened, Source) else self._opened.share()

    def news(self) -> Sentence:
        """Return notes that are new since the last call, a line each: the columns, and unexpected findings."""
        notes = self._opened.notes if isinstance(self._opened, Source) else self._opened.notes()
        notes_so_far = [*([f"{columns_in_words(self.columns)}."] if self.columns else []), *notes]
        new, self._said = notes_so_far[self._said :], max(self._said, len(notes_so_far))
        return Sentence.joined(new, "\n")

    @property
    def note(self) -> str | None:
        """A sentence about the rows that get no answer because they have no text; None if all rows have a text."""
        if not self.blank:
            return None
        if self.blank == 1:
            return f"{self.first_blank}: no text there, so no answer."
        return f"{self.first_blank}: no text there, as in {self.blank - 1:,} more, so no answer."


NO_TEXT = frozenset(
    (".xls", ".ods", ".doc", ".docx", ".odt", ".pdf", ".7z", ".tar", ".tgz", ".tbz2", ".txz", ".zst")
) | {".npy", ".npz", ".pkl", ".pickle", ".pt", ".db", ".sqlite", ".safetensors"}
"""Suffixes of files that are refused because they are not text files: each line would be read as a text."""


def check_there(file: str | Path) -> None:
    """Raise NotFound if the file of texts does not exist; the content of the file is not read."""
    if str(file) != STANDARD_INPUT and not os.path.exists(file):
        raise problems.TEXT_FILE_MISSING(path=file, _field="file")


@contextmanager
def chunks(
    file: str | Path,
    asked: ReadingOptions = USUAL,
    usual: ReadingOptions = USUAL,
    *,
    written: bool = False,
) -> Iterator[TextStream]:
    """Open a file of texts, in columns for formats such as csv; other files and standard input have one text a line.

    The text columns of `usual`, the options of an adapter's task, are used if `asked` names none and the file has them.
    If the adapter writes texts (`written`), the names in `columns.WRITTEN` are usual too. Raises NotFound, InvalidData.
    """
    file = Path(file)
    plain = str(file) == STANDARD_INPUT or not formats.has_columns(file, asked.encoding)
    if plain and source.kind(file) in NO_TEXT:
        raise problems.TEXT_FILE_UNREADABLE(found=source.kind(file), path=file, expected=list(READERS))
    if plain and (named := [name for name in asked.given if name != "encoding"]):
        raise problems.COLUMN_OF_PLAIN_TEXTS(path=file, option=named[0])
    with ExitStack() as stack:
        try:
            if plain:
                lines = stack.enter_context(source.opened(file, asked.encoding))
                found = TextStream(_of_lines(lines), lines)
            else:
                rows = stack.enter_context(formats.opened(file, asked.sheet, asked.encoding))
                found = TextStream.of_columns(rows, _Wanted(asked, usual, written))
        except NotFound as error:
            raise error.within(Option("file"), " ") from None
        yield found


def refuse_blank(
    texts: Sequence[str], pairs: Sequence[str] | None = None, *, where: str = "text", before: int = 0
) -> None:
    """Raise InvalidData if an item is no string, blank, or has an unpaired surrogate.

    Items are numbered after `before`.
    """
    for given, which in ((texts, ""), (pairs or (), "second part of ")):
        for number, text in enumerate(given, start=before + 1):
            if not isinstance(text, str):
                raise problems.ITEM_NOT_A_TEXT(row=number, found=type(text).__name__, _which=which, _where=where)
            if source.is_blank(text):
                raise problems.ITEM_BLANK(found=text, row=number, _which=which, _where=where)
            if not source.is_whole(text):
                raise problems.SURROGATE(
                    found=text, row=number, _place=f"{which}{where} {number}: {text!r}", _what="text"
                )


def _of_lines(file: Source) -> Iterator[Row]:
    for number, line in enumerate(file.lines(western=True), start=1):
        text = line.removesuffix("\n").removesuffix("\r")
        where = f"{file.name}, line {number}"
        yield Row(number, where, None if source.is_blank(text) else text, columns={TEXT: text})


@dataclass(frozen=True)
class _Wanted:
    asked: ReadingOptions
    usual: ReadingOptions
    written: bool = False

    def among(self, where: str, names: Iterable[str]) -> ColumnNames:
        names = list(names)
        own, named = ((each.text, each.text_pair) for each in (self.usual, self.asked))
        taken = own if named == (None, None) and all(name in names for name in own if name) else named
        return columns.of_texts(where, names, *taken, written=self.written, words=True)

    def are_words(self, where: str, chosen: ColumnNames, row: Mapping[str, Any]) -> bool:
        """Return whether the chosen column holds lists of words. Raises InvalidData if only its name says so."""
        named, usual = (
            chosen.text in (self.asked.text, self.usual.text),
            chosen.text.strip().casefold() in columns.WORDS,
        )
        cell = row[chosen.text]
        words = chosen.text_pair is None and (
            (usual and list_in(cell) is not None) or (named and isinstance(cell, list))
        )
        if usual and not named and not words:
            raise problems.NO_SUCH_ROLE(where=where, field="text", found=list(row), expected=columns.TEXT, _more="")
        return words


def _read(
    file: RowStream, chosen: ColumnNames | None, wanted: _Wanted, tell: Callable[[ColumnNames], object]
) -> Iterator[Row]:
    last: Iterable[str] | None = None
    spaced: bool | None = None
    for number, (place, row) in enumerate(file.rows, start=1):
        where = file.where(place)
        if file.names is None and row.keys() != last:
            last = row.keys()
            found = wanted.among(where, row)
            if chosen is not None and found != chosen:
                raise problems.LINE_COLUMNS_DIFFER(where=where, found=found.texts, expected=chosen.texts)
            chosen = found
            tell(found)
        assert chosen is not None
        cell = row.get(chosen.text)
        if spaced is None and not is_empty(cell):
            spaced = wanted.are_words(where, chosen, row)
        if spaced:
            text = joined(list_in(cell) or (), lambda index, where=where: f"{where}, word {index + 1}")  # type: ignore[misc]
            yield Row(number, where, text or None, None, row, spaced=True)
            continue
        values = [text_of(row.get(name), name, partial(file.where, place)) for name in chosen.texts]
        first, pair = (None, None) if None in values else (values[0], values[1] if len(values) > 1 else None)
        yield Row(number, where, first, pair, row)


EXPECTED = "Expected a list, an array or a Series of texts, or a frame with one column of texts or two of pairs."


def as_lists(texts: Iterable[Any], pairs: Iterable[Any] | None = None) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Convert texts or pairs in memory to a list of texts and a list of second texts (None for single texts).

    `texts` is a sequence or one-dimensional array of texts, or a DataFrame, array or list of rows with one or two
    texts. Raises InvalidData. Whether each item is a string is not checked.
    """
    first, second = _columns(texts, "texts")
    if pairs is None:
        return first, second
    if second is not None:
        raise problems.PAIRS_TWICE(argument="pairs")
    third, fourth = _columns(pairs, "pairs")
    if fourth is not None:
        raise problems.ROWS_OF_TEXTS_WIDE(argument="pairs", _widths=2, _expected=EXPECTED)
    if len(first) != len(third):
        raise problems.PAIRS_LENGTH(texts=len(first), pairs=len(third))
    return first, third


def column_names(texts: object) -> list[str] | None:
    """Return the column names of a DataFrame; None for any other object."""
    if len(getattr(texts, "shape", ())) != 2:
        return None
    names = frame_columns(texts)
    return names if names and all(isinstance(name, str) for name in names) else None


def frame_columns(frame: Any) -> list[Any]:
    """Return the names of the columns of a frame of any library; pyarrow and `datasets` have `column_names`."""
    names: Any = getattr(frame, "column_names", None) or getattr(frame, "columns", ())
    return list(names)


def _columns(given: Any, what: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    if isinstance(given, str | bytes):
        raise problems.ONE_STRING(found=given[:40], argument="texts", _name="", _items="texts")
    if isinstance(given, Mapping | Set) or not (isinstance(given, Iterable) or hasattr(given, "__array__")):
        raise problems.ARGUMENT_OF_OTHER_TYPE(_shape="", argument=what, found=type(given).__name__, _expected=EXPECTED)
    shape = getattr(given, "shape", None)
    if shape is not None:
        return _of_array(given, len(shape), what)
    if hasattr(given, "to_pylist"):  # an array of pyarrow, whose items are no strings
        given = given.to_pylist()
    rows = given if isinstance(given, list | tuple) else list(given)
    if rows and all(isinstance(row, list | tuple) for row in rows):
        return _of_rows(rows, what)
    return rows, None


def _of_array(given: Any, dimensions: int, what: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    if dimensions == 1:
        return list(given), None  # a Series in its order; the index is ignored
    if dimensions != 2 or (width := given.shape[1]) not in (1, 2) or not hasattr(given, "__array__"):
        names = column_names(given)
        found = f" with the columns {', '.join(map(repr, names))}" if names else f" of shape {tuple(given.shape)}"
        raise problems.ARGUMENT_OF_OTHER_TYPE(
            argument=what, found=type(given).__name__, _shape=found, _expected=EXPECTED
        )
    columns = np.asarray(given, dtype=object).T.tolist()
    return columns[0], columns[1] if width == 2 else None


def _of_rows(rows: Sequence[Sequence[Any]], what: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    widths = sorted({len(row) for row in rows})
    if widths not in ([1], [2]):
        found = list(map(str, widths))
        raise problems.ROWS_OF_TEXTS_WIDE(found=found, argument=what, _widths=found, _expected=EXPECTED)
    return [row[0] for row in rows], [row[1] for row in rows] if widths == [2] else None
