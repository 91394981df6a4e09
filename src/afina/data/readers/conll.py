"""Read CoNLL columns: a word a line with its tag in the last column, and a blank line after each sentence.

Columns are separated by tabs, or else by spaces. A line that begins with `-DOCSTART-` begins a document. A line that
begins with `#` before the first word of a sentence is a comment if it does not have the columns of a word. The
format is that of the shared task of CoNLL-2003 (Tjong Kim Sang & De Meulder 2003), in which the word stands first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.readers import source
from afina.data.readers.source import RowStream, Source
from afina.data.readers.tag_schemes import looks_like_tag
from afina.errors import AfinaError

SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
PLAIN = ".txt"
"""The suffix of text files, some of which are CoNLL columns."""

WORDS, TAGS, DOCUMENT = "tokens", "tags", "document"
"""The columns of words, of tags (the last column of the file) and of documents. Other columns are `column 2`, ..."""

_DOCUMENT_START = "-DOCSTART-"
_LOOKED_AT = 200
"""Lines of a text file by which CoNLL columns are recognised."""

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
