"""EntityTargets: how the targets of token classification (named entities) are read.

The target of a text is its entities. A file gives them as spans of the text (`spans.py`), or as a list of words and a
list of their tags; the text is then the words joined by single spaces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.entities import Entity, as_entities
from afina.data.kinds import ENTITIES
from afina.data.readers.cells import list_in
from afina.data.readers.conll import (
    OUTSIDE,
    SUFFIXES,
    TagScheme,
    faults,
    looks_like_tag,
    nearest_scheme,
    runs_of,
    scheme_of,
    tags_in,
)
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.source import counted, is_blank, is_whole, kind
from afina.data.readers.spans import entities_of_spans
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.target_kind import SHOWN, LabelsOfParts, LabelWords, Names, check_names, in_words, split_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split, normalised
from afina.errors import InvalidData

NO_ENTITIES = "none"
"""The target of a text without entities, as it is shown."""


class EntityTargets(LabelsOfParts):
    """Targets of token classification: object [N], a tuple of entities for each text, sorted, without overlaps."""

    kind = ENTITIES
    expected = "a list of entities, [] if there are none"
    plural = "entities"
    means = "each value is the entities of the text: its parts with labels"
    of_words = True
    counted = "entities"
    column = "entities"

    def holds(self, found: np.ndarray) -> bool:
        return found.dtype.kind == "O"

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        form = LabelFormat(self.kind, keeps=column.keeps, repair=asked.repair)
        return self.form_to_measure(form, column.table, (column.name,), asked.labels, ())

    def form_to_measure(
        self, form: LabelFormat, table: FileTable, columns: Sequence[str], labels: Names, known: Sequence[str]
    ) -> LabelFormat:
        """Return `form` with whether the cells are tags, not spans, and the names of tags that are numbers."""
        tagged = hold_tags(table.columns[columns[0]])
        names = tuple(labels) if labels is not None and OUTSIDE in labels else ()  # else they are labels of entities
        return replace(form, tagged=tagged, names=names)

    def prepared(
        self, table: FileTable, text: str, labels: Sequence[str], form: LabelFormat
    ) -> tuple[FileTable, tuple[str, ...]]:
        label = labels[0]
        if form.tagged:
            texts, entities, notes = texts_of_words(table, text, label, form)
            return replace(table, columns=table.columns | {text: texts, label: entities}), notes
        entities, notes = entities_of_spans(table, text, label, repair=form.repair)
        return replace(table, columns=table.columns | {label: entities}), notes

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        return list(table.columns[columns[0]])

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> Label:
        found: Label = column.table.columns[column.name][row]
        return found

    def names(self, label: Label) -> tuple[str, ...]:
        return tuple(entity.label for entity in _entities(label))

    def renamed(self, label: Label, name: Callable[[str], str]) -> Label:
        return tuple(entity._replace(label=name(entity.label)) for entity in _entities(label))

    def names_of(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of tags, such as LOC and PER for O, B-LOC, I-LOC and B-PER; other names unchanged."""
        if OUTSIDE not in classes:
            return tuple(classes)
        return tuple(dict.fromkeys(name.partition("-")[2] or name for name in classes if name != OUTSIDE))

    def same(self, label: Label, text: str) -> Hashable:
        """Return the entities with their places in the normalised text, which has only letters and digits."""
        places = cache(lambda end: len(normalised(text[:end])))
        return tuple((places(entity.start), places(entity.end), entity.label) for entity in _entities(label))

    def in_words(self, label: Label, text: str) -> str:
        shown = (f"{text[entity.start : entity.end]} ({entity.label})" for entity in _entities(label))
        return ", ".join(shown) or NO_ENTITIES

    def answer_in_words(self, answer: str, text: str) -> str:
        return self.in_words(tuple(Entity(**one) for one in json.loads(answer)), text)

    def _ordered(self, train: LabelledRows, labels: Names) -> tuple[str, ...]:
        known = tuple(sorted({name for label in train.labels for name in self.names(label)}))
        if labels is None:
            return known
        check_names(labels)
        if set(labels) == set(known):
            return tuple(labels)
        if OUTSIDE not in labels or not set(known) <= set(self.names_of(labels)):
            raise problems.LABELS_OF_TRAINING_OTHER(labels=labels, expected=known, _known=in_words(known), _or_names="")
        return known

    def _split(self, rows: LabelledRows, known: Sequence[str], whose: str) -> Split:
        for row, label in enumerate(rows.labels):
            for name in self.names(label):
                if name not in known:
                    raise problems.LABEL_UNKNOWN(
                        where=rows.where(row), label=name, _whose=whose, _known=in_words(known)
                    )
        return split_of(rows, as_entities(map(_entities, rows.labels)))

    def about(self, split: Split, label_names: Sequence[str], some: Sequence[str]) -> Split:
        kept = ([entity for entity in each if entity.label in some] for each in split.labels)
        return replace(split, labels=as_entities(kept))

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return list(found.tolist())

    def answers(self, label_names: Sequence[str], found: np.ndarray, words: LabelWords = None) -> list[str]:
        return [json.dumps([entity._asdict() for entity in each]) for each in found.tolist()]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        counts = np.array([len(each) for each in found])
        labels = f"{len(label_names)} label{'s' * (len(label_names) != 1)} ({in_words(label_names, SHOWN)})"
        none = f"{(counts == 0).mean():.0%} of the texts have none"
        return f"{counts.sum():,} entities with {labels}, {counts.mean():.2g} in a text; {none}"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        if not any(map(len, found)):
            raise problems.NO_TEXT_LABELLED(task=address, examples=len(found), _target="an entity")


def _entities(label: Label) -> tuple[Entity, ...]:
    return tuple(one for one in label if isinstance(one, Entity)) if isinstance(label, tuple) else ()


_SHOWN = 8
"""The largest number of tags in an error message."""

_SCHEMES = ("BIO", "IOB1", "BIOES", "BILOU", "BMES")

_BREAKS = (" ", "\t", "\n", "\r")


def hold_words(cells: Sequence[Any]) -> bool:
    return any(isinstance(item, str) for cell in cells for item in list_in(cell) or ())


def hold_tags(cells: Sequence[Any]) -> bool:
    """Return whether cells of a column look like lists of tags: the items of a list are names or numbers."""
    items = [item for cell in cells for item in list_in(cell) or ()]
    return bool(items) and not any(isinstance(item, Mapping | list | tuple) for item in items)


def match_words(tags: Sequence[Any], words: Sequence[Any]) -> bool:
    """Return whether most cells of a column are lists of tags with as many items as the list of words of the row."""
    both = [(list_in(one), list_in(other)) for one, other in zip(tags, words, strict=True)]
    equal = sum(one is not None and other is not None and len(one) == len(other) for one, other in both)
    return hold_tags(tags) and 2 * equal > len(both)


def look_like_tags(cells: Sequence[Any], names: Sequence[str]) -> bool:
    """Return whether most items of the lists in a column are tags, such as B-PER, or numbers with such `names`."""
    items = [item for cell in cells for item in list_in(cell) or ()]
    named = [names[item] if isinstance(item, int) and 0 <= item < len(names) else item for item in items]
    return 2 * sum(isinstance(item, str) and looks_like_tag(item) for item in named) > len(items)


def joined(words: Sequence[Any], where: Callable[[int], str]) -> str:
    """Return the text of words, joined by single spaces. Raises InvalidData for a word that is empty or has spaces."""
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise problems.WORD_OF_OTHER_TYPE(where=where(index), found=type(word).__name__)
        if is_blank(word):
            raise problems.WORD_EMPTY(where=where(index))
        if any(mark in word for mark in _BREAKS):
            raise problems.WORD_WITH_SPACE(where=where(index), found=word[:40])
        if not is_whole(word):
            raise problems.SURROGATE(where=where(index), _place=where(index), _what="word")
    return " ".join(words)


@dataclass(frozen=True)
class WordPlaces:
    """The places of words in a file: lines of CoNLL columns, or a row and the number of the word in it."""

    table: FileTable
    column: str

    def where(self, row: int) -> str:
        return f"{self.table.where(row)}: column {self.column!r}"

    def of_word(self, row: int, index: int) -> str:
        if self.table.unit == "line" and kind(self.table.path) in (*SUFFIXES, ".txt"):
            return f"{self.table.path}, line {self.table.places[row] + index}: column {self.column!r}"
        return f"{self.where(row)}, word {index + 1}"


def _check_numbered(table: FileTable, column: str) -> None:
    """Raise InvalidData if the words of every text are the numbers 1, 2, ..., as in the first column of CoNLL-U."""
    cells = [list_in(cell) or [] for cell in table.columns[column]]
    numbered = all(list(map(str, cell)) == list(map(str, range(1, len(cell) + 1))) for cell in cells)
    if numbered and max(map(len, cells), default=0) > 2:
        raise problems.WORDS_ARE_NUMBERS(path=table.path, column=column, found=list(table.columns))


def _words_in(places: WordPlaces, row: int) -> list[Any]:
    cell = places.table.columns[places.column][row]
    found = list_in(cell)
    if not found:
        raise problems.WORDS_MALFORMED(where=places.where(row), found=str(cell)[:40])
    return found


def _tags_of_row(places: WordPlaces, row: int, names: Sequence[str]) -> list[str]:
    """Return the names of the tags in a row; `names` are those of the numbers 0, 1, ... Raises InvalidData."""
    cell = places.table.columns[places.column][row]
    found = list_in(cell)
    if found is None:
        raise problems.TAGS_MALFORMED(where=places.where(row), found=str(cell)[:40])
    return [_name(tag, index, places, row, names) for index, tag in enumerate(found)]


def _name(tag: Any, index: int, places: WordPlaces, row: int, names: Sequence[str]) -> str:
    number = int(tag) if isinstance(tag, float) and tag.is_integer() else tag
    if isinstance(number, str) and number.strip().isdecimal() and names:
        number = int(number)
    if isinstance(number, str) and not number.strip().isdecimal():
        return number.strip()
    if isinstance(number, str):
        raise problems.TAG_NUMBER_UNNAMED(where=places.table.where(row), column=places.column, found=number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise problems.TAGS_MALFORMED(where=places.of_word(row, index), found=str(tag)[:40])
    if not names:
        raise problems.TAG_NUMBER_UNNAMED(where=places.table.where(row), column=places.column, found=number)
    if not 0 <= number < len(names):
        raise problems.TAG_NUMBER_UNKNOWN(where=places.of_word(row, index), found=number, expected=len(names))
    return names[number]


def _scheme_found(places: WordPlaces, tags: Sequence[Sequence[str]]) -> TagScheme:
    found = scheme_of(tags)
    if found is not None:
        return found
    names = list(dict.fromkeys(name for each in tags for name in each))
    where = f"{places.table.path}: column {places.column!r}"
    if OUTSIDE not in names and not any(map(looks_like_tag, names)):
        raise problems.TAGS_WITHOUT_OUTSIDE(where=where, found=names[:_SHOWN])
    most = nearest_scheme(tags)
    first = next(name for name in names if name != OUTSIDE and (most is None or most.tag(name) is None))
    row, index = next((row, each.index(first)) for row, each in enumerate(tags) if first in each)
    if most is not None:
        raise _unknown(places.of_word(row, index), most, first)
    shown = [repr(name) for name in names if name != OUTSIDE][:_SHOWN]
    raise problems.TAGS_OF_NO_SCHEME(where=places.of_word(row, index), found=shown, expected=_SCHEMES)


def _unknown(where: str, scheme: TagScheme, name: str) -> InvalidData:
    letters = [f"{letter}-LABEL" for letter in scheme.parts]
    return problems.TAG_UNKNOWN(where=where, found=name[:40], expected=letters, _scheme=scheme.name)


@dataclass
class TagReading:
    """The tags of texts are checked, and become entities; with `repair`, impossible tags are read as conlleval does."""

    places: WordPlaces
    scheme: TagScheme
    repair: bool
    repaired: int = 0

    def entities(self, row: int, words: Sequence[str], names: Sequence[str]) -> tuple[Entity, ...]:
        if len(names) != len(words):
            both = counted(len(names), "tag"), counted(len(words), "word")
            where = self.places.where(row)
            raise problems.TAGS_MISCOUNTED(
                where=where, found=len(names), expected=len(words), _tags=both[0], _words=both[1]
            )
        for index, name in enumerate(names):
            if self.scheme.tag(name) is None:
                raise _unknown(self.places.of_word(row, index), self.scheme, name)
        tags = tags_in(self.scheme, names)
        wrong = faults(self.scheme, tags)
        if wrong and not self.repair:
            self._refuse(row, names, wrong[0])
        self.repaired += len(wrong)
        starts = [0, *accumulate(len(word) + 1 for word in words)]
        return tuple(Entity(starts[first], starts[last] - 1, label) for first, last, label in runs_of(tags))

    def _refuse(self, row: int, names: Sequence[str], place: int) -> None:
        before = names[place - 1] if place else None
        if place == len(names):
            found = f"the text ends after {before}"
        elif before is None:
            found = f"the text begins with {names[place]}"
        else:
            found = f"{names[place]} follows {before}"
        where = self.places.of_word(row, min(place, len(names) - 1))
        raise problems.TAGS_IMPOSSIBLE(where=where, found=found, _scheme=self.scheme.name)


def texts_of_words(
    table: FileTable, text: str, label: str, form: LabelFormat
) -> tuple[list[str], list[tuple[Entity, ...]], tuple[str, ...]]:
    """Return the text and the entities of each row of words and tags, and notes. Raises InvalidData."""
    _check_numbered(table, text)
    words, tags = WordPlaces(table, text), WordPlaces(table, label)
    rows = range(len(table.places))
    every = [_words_in(words, row) for row in rows]
    texts = [joined(each, lambda index, row=row: words.of_word(row, index)) for row, each in enumerate(every)]  # type: ignore[misc]
    names = [_tags_of_row(tags, row, form.names) for row in rows]
    reading = TagReading(tags, _scheme_found(tags, names), form.repair)
    entities = [reading.entities(row, each, names[row]) for row, each in zip(rows, every, strict=True)]
    notes = [f"{table.path}: column {label!r} holds {reading.scheme.name} tags."]
    if reading.repaired:
        notes.append(f"{table.path}: repaired: {counted(reading.repaired, 'tag')} out of order (read as by conlleval).")
    return texts, entities, tuple(notes)
