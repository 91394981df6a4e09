"""EntityTargets: how the targets of token classification (named entities) are read.

The target of a text is its entities. A file gives them as spans of the text (`span_cells.py`), or as tags of the words
of which the text consists (`tagged_words.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from afina.data import problems
from afina.data.entities import Entity, as_entities
from afina.data.kinds import ENTITIES
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.span_cells import entities_of_spans
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.tag_schemes import OUTSIDE
from afina.data.readers.tagged_words import hold_tags, texts_of_words
from afina.data.readers.target_kind import SHOWN, LabelsOfParts, check_names, in_words, split_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split, normalised

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
        self,
        form: LabelFormat,
        table: FileTable,
        columns: Sequence[str],
        labels: Sequence[str] | None,
        known: Sequence[str],
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

    def _ordered(self, train: LabelledRows, labels: Sequence[str] | None) -> tuple[str, ...]:
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

    def answers(
        self, label_names: Sequence[str], found: np.ndarray, words: Mapping[str, Sequence[str]] | None = None
    ) -> list[str]:
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
