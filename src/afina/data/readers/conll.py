"""Read files with one word in each line or row: CoNLL columns, and tables with a column of sentences.

CoNLL columns have a word a line with its tag in the last column, and a blank line after each sentence.
Columns are separated by tabs, or else by spaces. A line that begins with `-DOCSTART-` begins a document. A line that
begins with `#` before the first word of a sentence is a comment if it does not have the columns of a word. The
format is that of the shared task of CoNLL-2003 (Tjong Kim Sang & De Meulder 2003), in which the word stands first.

A table with one word in each row has a column of words, a column of tags, and a column that says to which sentence a
word belongs: its value changes, or is not empty, where a sentence begins. Its columns are then called as those of CoNLL
files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.readers import source
from afina.data.readers.source import RowStream, Source, is_blank
from afina.data.readers.tag_schemes import OUTSIDE, looks_like_tag
from afina.errors import AfinaError

SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
PLAIN = ".txt"
"""The suffix of text files, some of which are CoNLL columns."""

WORDS, TAGS, DOCUMENT = "tokens", "tags", "document"
"""The columns of words, of tags (the last column of the file) and of documents. Other columns are `column 2`, ..."""

_DOCUMENT_START = "-DOCSTART-"
_LOOKED_AT = 200
"""Lines or rows by which a file with one word in each is recognised."""

_SPACES = re.compile(" +")


def conll_rows(file: Source, path: Path) -> RowStream:
    """Return the sentences of a file, each with the list of its words and the list of its tags."""
    sentences = _Sentences(file, path)
    return RowStream(str(path), None, sentences.rows(), lambda: file.share, notes=sentences.notes)


def is_conll(path: Path) -> bool:
    """Return whether a text file has CoNLL columns: the last column of its first lines holds tags such as B-PER."""
    if source.kind(path) != PLAIN or not path.is_file():
        return False
    try:
        with source.opened(path) as file:
            lines = [line.strip() for line in islice(file.lines(western=True), _LOOKED_AT)]
    except AfinaError:
        return False
    words = [line.split() for line in lines if line and not line.startswith((_DOCUMENT_START, "# "))]
    return bool(words) and all(len(one) > 1 and looks_like_tag(one[-1]) for one in words)


class _Sentences:
    """The sentences of a file in CoNLL columns; the first word decides whether tabs separate columns, and how many."""

    def __init__(self, file: Source, path: Path) -> None:
        self._file, self._path = file, path
        self.tabs: bool | None = None
        self.width = self.comments = self.documents = 0

    def notes(self) -> tuple[str, ...]:
        mark = "tabs" if self.tabs else "spaces"
        said = [f"{self._path}: CoNLL columns, {self.width} in each line, separated by {mark}."] if self.width else []
        if self.documents:
            documents = source.counted(self.documents, "document")
            said.append(f"{self._path}: {documents}; the sentences of a document are kept together.")
        if self.comments:
            said.append(f"{self._path}: {source.counted(self.comments, 'comment')} (lines that begin with #) left out.")
        return (*said, *self._file.notes)

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        words: list[list[str]] = []
        first = 0
        for number, line in enumerate(self._file.lines(western=True), start=1):
            bare = line.rstrip("\r\n")
            begins_document = bare.startswith(_DOCUMENT_START)
            if not bare.strip() or begins_document:
                if words:
                    yield first, self._row(words)
                words = []
                self.documents += begins_document
                continue
            fields = self._fields(bare)
            if not words and self._is_comment(bare, fields):
                self.comments += 1
                continue
            self._check(number, bare, fields)
            first = first if words else number
            words.append(fields)
        if words:
            yield first, self._row(words)

    def _fields(self, line: str) -> list[str]:
        tabs = "\t" in line if self.tabs is None else self.tabs
        return [*map(str.strip, line.split("\t"))] if tabs else _SPACES.split(line.strip(" \t"))

    def _is_comment(self, line: str, fields: list[str]) -> bool:
        """Return whether a line before a sentence is a comment: `#`, and no tag in the last of as many columns."""
        if not line.startswith("#"):
            return False
        columns = len(fields) == self.width if self.width else len(fields) > 1
        return not columns or (line.startswith("# ") and not looks_like_tag(fields[-1]))

    def _check(self, number: int, line: str, fields: list[str]) -> None:
        if self.tabs is None:
            self.width, self.tabs = len(fields), "\t" in line
        if len(fields) != self.width:
            raise problems.CONLL_COLUMNS(
                path=self._path,
                line=number,
                found=len(fields),
                expected=self.width,
                _columns=source.counted(len(fields), "column"),
                _mark="tabs" if self.tabs else "spaces",
            )

    def _row(self, words: list[list[str]]) -> dict[str, Any]:
        columns = [list(column) for column in zip(*words, strict=True)]
        names = [WORDS, *(f"column {number}" for number in range(2, self.width)), *([TAGS] if self.width > 1 else [])]
        document = {DOCUMENT: str(self.documents)} if self.documents else {}
        return {**dict(zip(names, columns, strict=True)), **document}


SENTENCE = ("sentence", "sentence #", "sentence_id", "sentence id", "sentence_idx", "sent_id", "sentence_number")
WORD = ("word", "words", "token", "tokens")
TAG = ("tag", "tags", "ner_tag", "ner_tags", "ner", "label", "labels", "entity")
"""Usual names of the columns of sentences, words and tags."""

_Row = tuple[int, Mapping[str, Any]]


def by_sentence(stream: RowStream) -> RowStream:
    """Return the sentences of a table with one word in each row; any other table is returned as it is."""
    columns = _columns(stream.names or ())
    if columns is None:
        return stream
    first = [*islice(stream.rows, _LOOKED_AT)]
    rows = chain(first, stream.rows)
    if not columns.hold([row for _, row in first]):
        return replace(stream, rows=rows)
    assert stream.names is not None
    return replace(
        stream,
        names=[columns.renamed.get(name, name) for name in stream.names],
        rows=_sentences(rows, columns),
        notes=lambda: (columns.note(stream.name), *stream.notes()),
    )


@dataclass(frozen=True)
class _Columns:
    sentence: str
    word: str
    tag: str

    @property
    def renamed(self) -> dict[str, str]:
        return {self.word: WORDS, self.tag: TAGS}

    def hold(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether rows have one word each, with tags such as B-PER, and a sentence of several rows."""
        tags, words = ([row.get(name) for row in rows] for name in (self.tag, self.word))
        if not all(isinstance(one, str) and looks_like_tag(one.strip()) for one in tags) or {*tags} <= {OUTSIDE}:
            return False
        begins = [begins for begins, _ in _begun(((0, row) for row in rows), self.sentence)]
        return all(isinstance(one, str) for one in words) and not all(begins)

    def note(self, name: str) -> str:
        return (
            f"{name}: one word in each row. The rows of a sentence (column {self.sentence!r}) are one text; column "
            f"{self.word!r} is called {WORDS!r}, and column {self.tag!r} is called {TAGS!r}."
        )


def _columns(names: Sequence[str]) -> _Columns | None:
    known = {name.strip().casefold(): name for name in names}
    sentence, word, tag = (next((known[one] for one in usual if one in known), None) for usual in (SENTENCE, WORD, TAG))
    return None if sentence is None or word is None or tag is None else _Columns(sentence, word, tag)


def _begun(rows: Iterable[_Row], sentence: str) -> Iterator[tuple[bool, _Row]]:
    last: Any = None
    for number, row in enumerate(rows):
        value = row[1].get(sentence)
        is_same = value is None or (isinstance(value, str) and is_blank(value)) or value == last
        yield not is_same or number == 0, row
        last = last if is_same else value


def _sentences(rows: Iterable[_Row], columns: _Columns) -> Iterator[_Row]:
    """Yield the place of each sentence's first word, and its columns: lists, and the value of the sentence's column."""
    words: list[Mapping[str, Any]] = []
    first = 0
    for begins, (place, row) in _begun(rows, columns.sentence):
        if begins and words:
            yield first, _sentence(words, columns)
            words = []
        first = first if words else place
        words.append(row)
    if words:
        yield first, _sentence(words, columns)


def _sentence(words: Sequence[Mapping[str, Any]], columns: _Columns) -> dict[str, Any]:
    lists = {columns.renamed.get(name, name): [row.get(name) for row in words] for name in words[0]}
    return lists | {columns.sentence: words[0].get(columns.sentence)}
