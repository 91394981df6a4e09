"""Targets that are texts: references in cells, a training row for each reference, one evaluation row for each input.

A reference is a right answer to an input, as in machine translation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.kinds import TEXT
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.listed_labels import as_list, bracketed
from afina.data.readers.missing_values import is_empty
from afina.data.readers.source import is_blank, is_whole
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.readers.target_kind import TargetKind
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split, as_references


class TextTargets(TargetKind):
    """A text, or several texts of which each is right: object [N], tuples of strings.

    A training split has one row for each input and reference. Other splits have one row for each input, with all its
    references.
    """

    kind = TEXT
    expected = "a text"
    plural = "texts"
    named = False
    written = True
    role = "target"

    def holds(self, found: np.ndarray) -> bool:
        return found.dtype.kind == "O"

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        return LabelFormat(self.kind, keeps=column.keeps)

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> tuple[str, ...]:
        """Return the different references in a row, without surrounding white space. Raises InvalidData with the row.

        A cell holds a text; a list of texts, also as JSON; or SQuAD's `{"text": [...]}`.
        """
        value, where = column.table.columns[column.name][row], column.where(row)
        found = [] if is_empty(value) else listed(value)
        if found is None:
            raise problems.REFERENCES_MALFORMED(
                where=where, found=value.strip()[:40], _written=json.dumps([value.strip()[:12]])
            )
        if not found:
            raise problems.REFERENCE_MISSING(where=where)
        return tuple(dict.fromkeys(_checked(one, where) for one in found))

    def empty(self, value: Any) -> bool:
        """Return whether a cell has no text, such as the list of answers to a question without an answer."""
        found = listed(value)
        return found is not None and all(is_empty(one) for one in found)

    def same(self, label: Label) -> Label:
        """Return no text: different references of an input do not contradict each other."""
        return ()

    def splits(
        self,
        train: LabelledRows,
        evaluation: LabelledRows,
        labels: Sequence[str] | None = None,
        names: Sequence[str] = (),
    ) -> TaskData:
        """Return both splits; the label name is the column's name. Raises InvalidData if `labels` is given."""
        self.refuse_names(labels)
        found = single(of_rows(train)), self.grouped(of_rows(evaluation))
        return TaskData((train.column,), *found, train.kind, column=train.column)

    def matched(self, rows: LabelledRows, *_: object) -> Split:
        """Return a split with a row for each input: texts have no names to match."""
        return self.grouped(of_rows(rows))

    def findings(self, *parts: LabelledRows) -> tuple[str, ...]:
        count, inputs, places = 0, dict[tuple[str, str], set[str]](), list[str]()
        for rows in parts:
            pairs = rows.pairs if rows.pairs is not None else [""] * len(rows)
            for row, (*given, label) in enumerate(zip(rows.texts, pairs, rows.labels, strict=True)):
                known = inputs.setdefault((given[0], given[1]), set())
                for reference in label if isinstance(label, tuple) else ():
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
        """Return a row for each different input, in the order of the first of each, with all its references."""
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
        return Split(kept.texts, as_references(map(tuple, found)), kept.pairs, kept.groups)

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return list(found.tolist())

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        words = [len(reference.split()) for one in found for reference in one]
        return f"texts of {min(words)} to {max(words)} words"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        different = {reference for one in found for reference in one}
        if len(different) < 2:
            raise problems.ONE_VALUE(
                _target="target", found=next(iter(different))[:40], task=address, examples=len(found)
            )


def of_rows(rows: LabelledRows) -> Split:
    """Return a split of rows, with all references of each row."""
    found = as_references(label for label in rows.labels if isinstance(label, tuple))
    return Split(list(rows.texts), found, None if rows.pairs is None else list(rows.pairs), rows.groups)


def single(split: Split) -> Split:
    """Return a split with a row for each reference of each row."""
    if all(len(one) == 1 for one in split.labels):
        return split
    made = split.take([row for row, one in enumerate(split.labels) for _ in one])
    each = as_references((reference,) for one in split.labels for reference in one)
    return Split(made.texts, each, made.pairs, made.groups)


def listed(value: Any) -> list[Any] | None:
    """Return the references in a cell, whose types are not checked; None if it begins as a list and is not JSON."""
    if isinstance(value, str):
        bare = value.strip()
        return as_list(bare) if _opens_list(bare) else [value]
    if isinstance(value, dict) and "text" in value:
        return listed(value["text"])
    if isinstance(value, list | tuple):
        return [one["text"] if isinstance(one, dict) and "text" in one else one for one in value]
    return [value]


def _opens_list(text: str) -> bool:
    """Return whether a text is in brackets and begins as a list of texts, so that `[1, 2]` and `[laughs]` are texts."""
    return bracketed(text) and text[1:].lstrip()[:1] in ("'", '"')


def _checked(reference: Any, where: str) -> str:
    if not isinstance(reference, str):
        raise problems.REFERENCE_OF_OTHER_TYPE(where=where, found=type(reference).__name__)
    if is_blank(reference):
        raise problems.REFERENCE_EMPTY(where=where)
    if not is_whole(reference):
        raise problems.REFERENCE_SURROGATE(where=where)
    return reference.strip()
