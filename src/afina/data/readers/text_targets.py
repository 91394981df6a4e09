"""TextTargets: how the targets of text-to-text tasks are read.

A reference is a correct answer to an input, as in machine translation; an input may have several references.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.kinds import TEXT
from afina.data.readers.cells import as_list, bracketed, is_empty
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.source import is_blank, is_whole
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.readers.target_kind import LabelWords, Names, TargetKind, split_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split, as_references


class TextTargets(TargetKind):
    """Targets of text-to-text tasks: object [N], a tuple of one or more references (correct answers) for each input.

    A training split has one row for each reference. Other splits have one row for each input, with all its references.
    """

    kind = TEXT
    expected = "a text"
    plural = "texts"
    means = "each value is a text to learn to write"
    named = False
    written = True
    role = "target"

    def holds(self, found: np.ndarray) -> bool:
        return found.dtype.kind == "O"

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        return LabelFormat(self.kind, keeps=column.keeps)

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> tuple[str, ...]:
        """Return the distinct references in a row, without surrounding white space.

        A cell holds a text, a list of texts, the JSON text of a list, or SQuAD's `{"text": [...]}`.
        """
        value, where = column.table.columns[column.name][row], column.where(row)
        found = [] if is_empty(value) else listed(value)
        if found is None:
            raise problems.REFERENCES_MALFORMED(
                where=where, found=value.strip()[:40], _written=json.dumps([value.strip()[:12]])
            )
        if not found:
            raise problems.CELL_MISSING(where=where, expected=self.expected, _more="")
        return tuple(dict.fromkeys(_checked(one, where) for one in found))

    def empty(self, value: Any) -> bool:
        """Return whether a cell has no reference, such as an empty list of answers to a question."""
        found = listed(value)
        return found is not None and all(is_empty(one) for one in found)

    def same(self, label: Label, text: str) -> Label:
        """Return the same value for all references, because different references do not contradict each other."""
        return ()

    def splits(self, train: LabelledRows, evaluation: LabelledRows, labels: Names = None) -> TaskData:
        self.refuse_names(labels)
        found = single(_split(train)), self.grouped(_split(evaluation))
        return TaskData((train.column,), *found, train.kind)

    def matched(self, rows: LabelledRows, *_: object, **named: object) -> Split:
        """Return a split with a row for each input; unlike classes, texts need not be matched with label names."""
        return self.grouped(_split(rows))

    def findings(self, *parts: LabelledRows) -> tuple[str, ...]:
        count, inputs, places = 0, dict[tuple[str, str], set[str]](), list[str]()
        for rows in parts:
            pairs = rows.pairs if rows.pairs is not None else [""] * len(rows)
            for row, (*given, label) in enumerate(zip(rows.texts, pairs, rows.labels, strict=True)):
                known = inputs.setdefault((given[0], given[1]), set())
                for reference in references_in(label):
                    count += 1
                    places += [rows.where(row)] if reference in known else []
                    known.add(reference)
        most = max(map(len, inputs.values()))
        notes = [f"{len(inputs):,} different inputs, each with 1 to {most} references."] if most > 1 else []
        if places:
            number = f"{len(places):,} references repeat" if len(places) > 1 else "1 reference repeats"
            notes.append(f"{number} a reference of the same input (first: {places[0]}). Training counts each.")
        return tuple(notes)

    def grouped(self, split: Split) -> Split:
        """Merge rows with the same input, in the order of their first rows."""
        inputs: dict[tuple[str, str | None], list[int]] = {}
        pairs: Sequence[str | None] = split.pairs if split.pairs is not None else [None] * len(split)
        for row, given in enumerate(zip(split.texts, pairs, strict=True)):
            inputs.setdefault(given, []).append(row)
        if len(inputs) == len(split):
            return split
        kept = split.take([rows[0] for rows in inputs.values()])
        found = [
            dict.fromkeys(reference for row in rows for reference in split.labels[row]) for rows in inputs.values()
        ]
        return replace(kept, labels=as_references(map(tuple, found)))

    def in_words(self, label: Label, text: str) -> str:
        return ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return list(found.tolist())

    def answers(self, label_names: Sequence[str], found: np.ndarray, words: LabelWords = None) -> list[str]:
        return [references[0] for references in found.tolist()]

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        words = [len(reference.split()) for one in found for reference in one]
        return f"texts of {min(words)} to {max(words)} words"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        different = {reference for one in found for reference in one}
        if len(different) < 2:
            raise problems.ONE_VALUE(
                _target="target", found=next(iter(different))[:40], task=address, examples=len(found)
            )


def _split(rows: LabelledRows) -> Split:
    return split_of(rows, as_references(map(references_in, rows.labels)))


def references_in(label: Label) -> tuple[str, ...]:
    return tuple(map(str, label)) if isinstance(label, tuple) else ()


def single(split: Split) -> Split:
    """Return a split with one row for each reference: a row with several references becomes several rows."""
    if all(len(one) == 1 for one in split.labels):
        return split
    made = split.take([row for row, one in enumerate(split.labels) for _ in one])
    each = as_references((reference,) for one in split.labels for reference in one)
    return replace(made, labels=each)


def listed(value: Any) -> list[Any] | None:
    """Return the references in a cell, without checking their types; None for the malformed text of a list."""
    if isinstance(value, str):
        bare = value.strip()
        return as_list(bare) if _opens_list(bare) else [value]
    if isinstance(value, dict) and "text" in value:
        return listed(value["text"])
    if isinstance(value, list | tuple):
        return [one["text"] if isinstance(one, dict) and "text" in one else one for one in value]
    return [value]


def _opens_list(text: str) -> bool:
    """Return whether a string looks like the text of a list of strings, unlike `[1, 2]` and `[laughs]`."""
    return bracketed(text) and text[1:].lstrip()[:1] in ("'", '"')


def _checked(reference: Any, where: str) -> str:
    if not isinstance(reference, str):
        raise problems.CELL_OF_OTHER_TYPE(
            where=where, found=type(reference).__name__, _place=where, _expected="a text or a list of texts"
        )
    if is_blank(reference):
        raise problems.REFERENCE_EMPTY(where=where)
    if not is_whole(reference):
        raise problems.SURROGATE(where=where, _place=where, _what="text")
    return reference.strip()
