"""Read tables with one word in each row as tables with one sentence in each row.

Such a table has a column of words, a column of tags, and a column that says to which sentence a word belongs: its value
changes, or is not empty, where a sentence begins. The columns are then called as those of CoNLL files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from afina.data.readers.conll import TAGS, WORDS
from afina.data.readers.source import RowStream, is_blank
from afina.data.readers.tag_schemes import OUTSIDE, looks_like_tag

SENTENCE = ("sentence", "sentence #", "sentence_id", "sentence id", "sentence_idx", "sent_id", "sentence_number")
WORD = ("word", "words", "token", "tokens")
TAG = ("tag", "tags", "ner_tag", "ner_tags", "ner", "label", "labels", "entity")
"""Usual names of the columns of sentences, words and tags."""

_LOOKED_AT = 200
"""Rows by which such a table is recognised."""

Row = tuple[int, Mapping[str, Any]]


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


def _begun(rows: Iterable[Row], sentence: str) -> Iterator[tuple[bool, Row]]:
    last: Any = None
    for number, row in enumerate(rows):
        value = row[1].get(sentence)
        is_same = value is None or (isinstance(value, str) and is_blank(value)) or value == last
        yield not is_same or number == 0, row
        last = last if is_same else value


def _sentences(rows: Iterable[Row], columns: _Columns) -> Iterator[Row]:
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
