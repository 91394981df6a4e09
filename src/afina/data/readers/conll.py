"""Read files with one word and its tag in each line or row: CoNLL columns, and tables with a column of sentences.

CoNLL columns have the tag in the last column, and a blank line after each sentence. Columns are separated by tabs, or
else by spaces. A line that begins with `-DOCSTART-` begins a document. A line that begins with `#` before the first
word of a sentence is a comment if it does not have the columns of a word. The format is that of the shared task of
CoNLL-2003 (Tjong Kim Sang & De Meulder 2003), in which the word stands first. In a table, the value of the column of
sentences changes, or is not empty, where a sentence begins.

Tags, such as B-PER, mark entities by one of the schemes IOB2, IOB1, IO, BIOES, BILOU and BMES. In all schemes, O marks
a word outside of entities, and B-PER begins an entity with the label PER. The schemes differ in how they mark other
words (Ratinov & Roth, Design Challenges and Misconceptions in Named Entity Recognition, CoNLL 2009). The entities of a
valid sequence of tags are those that the script conlleval of CoNLL-2000 finds. That script also finds entities in an
invalid sequence, which is how `repair` reads one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from afina.data import problems
from afina.data.readers import source
from afina.data.readers.source import RowStream, Source, is_blank
from afina.errors import AfinaError

OUTSIDE = "O"


class Tag(NamedTuple):
    """A tag of a word; `part` is "B" (first word), "I" (inside), "E" (last word), "S" (only word), or "O" (none)."""

    part: str
    label: str


_NONE = Tag(OUTSIDE, "")

_NO_NAMES = frozenset(("", OUTSIDE))
"""Strings that cannot be the label of an entity."""


@dataclass(frozen=True)
class TagScheme:
    """A scheme of tags.

    Attributes:
        parts: `Tag.part` by the letter before the hyphen. Empty: a tag is a label alone.
        closed: Whether the last word of an entity is marked.
    """

    name: str
    parts: Mapping[str, str]
    closed: bool = False

    def tag(self, name: str) -> Tag | None:
        """Return the tag with a name such as "B-PER"; None if the scheme has no such tag."""
        if name == OUTSIDE:
            return _NONE
        if not self.parts:
            return Tag("I", name) if name.strip() else None
        letter, _, label = name.partition("-")
        named = letter in self.parts and label.strip() not in _NO_NAMES
        return Tag(self.parts[letter], label.strip()) if named else None

    def fault(self, before: Tag, after: Tag) -> bool:
        """Return whether a tag may not follow another; the tag O stands before and after the words of a text."""
        same = before.label == after.label
        if self.closed:
            opened, goes_on = before.part in ("B", "I"), after.part in ("I", "E")
            return opened != goes_on or (opened and not same)
        if self is IOB1:
            return after.part == "B" and not same
        return self is BIO and after.part == "I" and not same


BIO = TagScheme("BIO (IOB2)", {"B": "B", "I": "I"})
IOB1 = TagScheme("IOB1", {"B": "B", "I": "I"})
IO = TagScheme("IO", {"I": "I"})
LABELS_ALONE = TagScheme("IO (labels alone)", {})
BIOES = TagScheme("BIOES", {"B": "B", "I": "I", "E": "E", "S": "S"}, closed=True)
BILOU = TagScheme("BILOU", {"B": "B", "I": "I", "L": "E", "U": "S"}, closed=True)
BMES = TagScheme("BMES", {"B": "B", "M": "I", "E": "E", "S": "S"}, closed=True)
BMEWO = TagScheme("BMEWO", {"B": "B", "M": "I", "E": "E", "W": "S"}, closed=True)

_CLOSED = (BIOES, BILOU, BMES, BMEWO)

_PREFIXED = re.compile(r"([A-Z])-.+")
_OTHERWISE = re.compile(r"\s*|[BIESLUMWbieslumw]|[BIOESLUMWbioeslumw][-_.:|/].*|.*[-_.:|/][BIESLUMWbieslumw]")
"""Tags in another notation than B-PER, such as B_PER, b-per and PER-B, and tags without a label, such as B."""

_NO_LABELS = frozenset(("o", "0", "_", "-", "*"))
"""Names that may stand for O, and are no labels."""


def _letter(name: str) -> str | None:
    found = _PREFIXED.fullmatch(name)
    return found[1] if found else None


def looks_like_tag(name: str) -> bool:
    """Return whether a name is O, or a letter, a hyphen and a label, such as B-PER."""
    return name == OUTSIDE or _letter(name) is not None


def written_otherwise(name: str) -> bool:
    """Return whether a name may be a tag in another notation than B-PER, such as B_PER, b-per, PER-B or B."""
    return _letter(name) is None and (name in _NO_LABELS or _OTHERWISE.fullmatch(name) is not None)


def scheme_of(texts: Sequence[Sequence[str]]) -> TagScheme | None:
    """Return the scheme of the tags of several texts; None if the tags belong to no scheme or to several.

    Tags with the letters B and I are IOB1 if B stands only between two entities with the same label.
    """
    names = {name for text in texts for name in text} - {OUTSIDE}
    letters = {_letter(name) for name in names}
    if letters == {None}:
        outside = any(OUTSIDE in text for text in texts)
        return LABELS_ALONE if outside and not any(map(written_otherwise, names)) else None
    if letters <= {"I"}:
        return IO if letters else BIO
    if letters <= {"B", "I"}:
        tags = [tags_in(BIO, text) for text in texts]
        return BIO if _faults(BIO, tags) <= _faults(IOB1, tags) else IOB1
    return next((scheme for scheme in _CLOSED if letters <= scheme.parts.keys()), None)


def nearest_scheme(texts: Iterable[Sequence[str]]) -> TagScheme | None:
    """Return the scheme to which the most tags of several texts belong; None if no tag has a letter of a scheme."""
    counts = Counter(name for text in texts for name in text if name != OUTSIDE)

    def fitting(scheme: TagScheme) -> int:
        return sum(count for name, count in counts.items() if scheme.tag(name) is not None)

    best = max((BIO, *_CLOSED), key=fitting)
    return best if fitting(best) else None


def tags_in(scheme: TagScheme, names: Iterable[str]) -> list[Tag]:
    return [found for name in names if (found := scheme.tag(name)) is not None]


def _faults(scheme: TagScheme, texts: Iterable[Sequence[Tag]]) -> int:
    return sum(map(len, (faults(scheme, tags) for tags in texts)))


def faults(scheme: TagScheme, tags: Sequence[Tag]) -> list[int]:
    """Return the places at which a tag of a text may not follow the tag before it.

    The place after the last word is one.
    """
    both = pairwise([_NONE, *tags, _NONE])
    return [place for place, (before, after) in enumerate(both) if scheme.fault(before, after)]


def runs_of(tags: Sequence[Tag]) -> list[tuple[int, int, str]]:
    """Return the first word, the word after the last, and the label of each entity, by the rule of conlleval."""
    found: list[tuple[int, int, str]] = []
    for place, (before, tag) in enumerate(pairwise([_NONE, *tags])):
        if tag.part == OUTSIDE:
            continue
        begins = tag.part in ("B", "S") or before.part in ("E", "S", OUTSIDE) or before.label != tag.label
        if begins:
            found.append((place, place + 1, tag.label))
        else:
            first, _, label = found[-1]
            found[-1] = first, place + 1, label
    return found


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
    sentences = _Sentences(file, path)
    return RowStream(str(path), None, sentences.rows(), lambda: file.share, notes=sentences.notes)


def is_conll(path: Path, encoding: str | None = None) -> bool:
    """Return whether a text file has CoNLL columns: the last column of its first lines holds tags such as B-PER."""
    if source.kind(path) != PLAIN or not path.is_file():
        return False
    try:
        with source.opened(path, encoding) as file:
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
