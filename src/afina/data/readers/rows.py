"""The labelled rows of a FileTable: texts and targets, missing values, and labels that differ only in spelling."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from afina.data import problems
from afina.data.kinds import Duplicates, How, Kind
from afina.data.readers.cells import is_date, is_empty, means_missing, plain_number, text_of
from afina.data.readers.columns import ColumnNames
from afina.data.readers.formats import WORKBOOKS, FileTable
from afina.data.readers.label_column import Label, LabelFormat, spelled
from afina.data.readers.source import counted
from afina.data.readers.splitting import LabelledRows, classes_of, identities
from afina.data.readers.target_kinds import TARGETS
from afina.data.split import Split
from afina.sentence import Sentence


def labelled(table: FileTable, columns: ColumnNames, form: LabelFormat, how: How | None) -> LabelledRows:
    """Return the labelled texts of a table. Raises InvalidData, which names the row.

    If `how` is None, an empty text or label is an error, and words such as `NA` are kept.
    """
    if not table.places:
        problem = "no rows below the column names"
        raise problems.FILE_EMPTY(path=table.path, _problem=problem, _expected="at least one example")
    _refuse_names(table, (*columns.texts, *columns.labels))
    notes = (*table.notes, *columns.notes, *_said(table, columns.labels, form))
    notes += tuple(note for name in columns.texts if (note := _numbers_said(table, name)))
    kind = TARGETS[form.kind]
    if how is not None:
        table, left_out = _without_missing(table, columns, form, how)
        notes += left_out
    table, said = kind.prepared(table, columns.text, columns.labels, form)
    notes += said
    return LabelledRows(
        _texts(table, columns.text),
        None if columns.text_pair is None else _texts(table, columns.text_pair),
        kind.parse(table, columns.labels, form),
        table.where,
        form.kind,
        ",".join(columns.labels),
        names=form.hot
        or (columns.labels if len(columns.labels) > 1 else kind.names_of(table.classes.get(columns.labels[0], ()))),
        columns=columns.roles,
        other=form.other,
        notes=notes,
        groups=None if columns.group is None else _groups(table, columns.group, columns.text),
        rows=table.rows,
        spaced=form.tagged,
    )


def _groups(table: FileTable, name: str, text: str) -> list[str]:
    """Return the group of each row, from the column `name`; a row with an empty cell has its text as its group."""
    both = zip(table.columns[name], table.columns[text], strict=True)
    return [str(one) if is_empty(group) else str(group) for group, one in both]


def _refuse_names(table: FileTable, names: Sequence[str]) -> None:
    """Raise InvalidData if a row repeats the column names, as in a concatenation of several files."""
    again = [row for row, value in enumerate(table.columns[names[0]]) if value == names[0]]
    row = next((row for row in again if all(table.columns[name][row] == name for name in names)), None)
    if row is not None:
        raise problems.HEADER_AGAIN(where=table.where(row))


def _said(table: FileTable, names: Sequence[str], form: LabelFormat) -> list[str]:
    """Return notes for the user about the notation of numbers and about multi-hot lists in the label column."""
    notes: list[str] = []
    column = f"{table.path}: column {names[0]!r}"
    if form.notation and (said := form.notation.said(table.columns[names[0]])):
        notes.append(f"{column} holds numbers that are not written plainly: {said}.")
    if form.hot and form.hot != tuple(names):
        told = ", ".join(form.hot[:4]) + (", ..." if len(form.hot) > 4 else "")
        said = "{column} holds multi-hot lists, 0 or 1 for each of {count} labels in their order ({names})."
        notes.append(Sentence.of(f"{said} `labels` names them.", column=column, count=len(form.hot), names=told))
    return notes


def _numbers_said(table: FileTable, name: str) -> str:
    values = table.columns[name]
    if all(plain_number(value) is not None or is_date(value) or is_empty(value) for value in values):
        example = next((value for value in values if not is_empty(value)), "")
        return Sentence.of(
            "{path}: column {name!r} has only numbers or dates, such as {example}, which are read as texts. If another "
            "column has the texts, name it with `text`.",
            path=table.path,
            name=name,
            example=example,
        )
    rows = [row for row, value in enumerate(values) if not isinstance(value, str | list) and not is_empty(value)]
    return f"{table.path}: numbers in column {name!r} are read as texts ({rows_in_words(table, rows)})." if rows else ""


def _texts(table: FileTable, name: str) -> list[str]:
    texts = []
    for i, value in enumerate(table.columns[name]):
        text = text_of(value, name, partial(table.where, i))
        if text is None:
            raise problems.TEXT_EMPTY(where=table.where(i), column=name)
        texts.append(text)
    return texts


SHOWN = 10
"""The largest number of rows that an error message or note names."""


def _without_missing(
    table: FileTable, columns: ColumnNames, form: LabelFormat, how: How
) -> tuple[FileTable, tuple[str, ...]]:
    """Return the table without the rows in which a text or label is missing, and a note about these rows.

    Raises InvalidData, which names the rows, if `how` is not "skip".
    """
    kind = TARGETS[form.kind]
    optional = kind.optional(form, columns.labels)
    missing: dict[int, tuple[str, str]] = {}
    for name in dict.fromkeys([*columns.texts, *columns.labels]):
        of_text = name in columns.texts
        lacks = is_empty if of_text else kind.empty
        for row, value in enumerate(table.columns[name]):
            empty = lacks(value)
            if (empty and (of_text or not optional)) or (not empty and how != "keep" and means_missing(value)):
                missing.setdefault(row, (name, "a text" if of_text else kind.expected))
    if not missing:
        return table, ()
    rows = sorted(missing)
    if how != "skip":
        _refuse(table, rows, *missing[rows[0]])
    kept = [row for row in range(len(table.places)) if row not in missing]
    if not kept:
        raise problems.ALL_ROWS_INCOMPLETE(path=table.path, rows=len(rows))
    number = f"{len(rows):,} rows are" if len(rows) > 1 else "1 row is"
    return table.take(kept), (
        f"{table.path}: {number} left out because a value is missing ({rows_in_words(table, rows)}).",
    )


def _refuse(table: FileTable, rows: Sequence[int], name: str, expected: str) -> None:
    value = table.columns[name][rows[0]]
    more = f" Values are missing in {len(rows):,} rows: {rows_in_words(table, rows)}." if len(rows) > 1 else ""
    where = f"{table.where(rows[0])}: column {name!r}"
    if means_missing(value):
        raise problems.CELL_MEANS_MISSING(where=where, found=value.strip(), expected=expected, _more=more)
    formula = table.path.suffix.lower() in WORKBOOKS
    saved = " For a formula, the value that the workbook saved is read." if formula else ""
    raise problems.CELL_MISSING(where=where, expected=expected, _more=saved + more)


def rows_in_words(table: FileTable, rows: Sequence[int]) -> str:
    """Return the numbers of at most SHOWN rows in words, such as `lines 3, 7, 12`."""
    places = [f"{table.places[row]:,}" for row in rows[:SHOWN]]
    unit = table.unit if len(rows) == 1 else f"{table.unit}s"
    return f"{unit} {', '.join(places)}{', ...' if len(rows) > SHOWN else ''}"


GROUPS_SHOWN = 5
"""The largest number of groups of similar labels in an error message."""


_WHOLE = re.compile(r"([-+]?)0*(\d+)(?:\.0*|,0{1,2})?")


_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Variation selectors, which choose how a character is drawn, such as an emoji in colours."""

_TAG = re.compile(r"[BI]-(?=.)")


def folded(name: str) -> str:
    """Return a label's name normalised in case, white space, invisible characters and Unicode form.

    Spellings of a whole number (`+1`, `01`, `1.0`), `true` and 1, and `false` and 0, have the same normalised name. The
    letters i with and without a dot are the same, because they differ only by case in some languages.
    """
    bare = _SELECTORS.sub("", unicodedata.normalize("NFKC", name))
    shown = (one for one in bare if one.isspace() or unicodedata.category(one) not in ("Cf", "Cc"))
    same = " ".join("".join(shown).casefold().replace("i\u0307", "i").replace("ı", "i").split())
    if number := _WHOLE.fullmatch(same):
        return number[2] if number[1] != "-" or number[2] == "0" else f"-{number[2]}"
    return {"true": "1", "false": "0"}.get(same, same)


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Return the names in groups of equal normalised names; `B-PER` is in the group of `PER` if there is a `PER`."""
    names = sorted(names)
    there = {folded(name) for name in names}
    groups: dict[str, list[str]] = {}
    for name in names:
        label = folded(_TAG.sub("", name, count=1))
        groups.setdefault(label if label in there else folded(name), []).append(name)
    return list(groups.values())


def _told_apart(names: Sequence[str]) -> str:
    """Return names in quotation marks; if some of them look the same, with escapes for all but ASCII characters."""
    seen = {unicodedata.normalize("NFC", _SELECTORS.sub("", name)) for name in names}
    return " and ".join(map(repr if len(seen) == len(names) else ascii, names))


class MergedLabels(str):
    """The note about labels that differed only in spelling, and were merged."""


@dataclass(frozen=True)
class Spellings:
    """The spelling to keep, by the normalised name (`folded`). Empty: all labels keep their spelling."""

    kept: Mapping[str, str]

    @classmethod
    def of(cls, rows: LabelledRows, labels: Sequence[str] | None, *, merge: bool) -> Spellings:
        """Return the spelling to keep for each label of the training rows.

        With `merge`, the most frequent spelling is kept. Spellings that the user lists separately in `labels` stay
        different labels. Raises InvalidData if labels differ only in spelling and are not merged.
        """
        if not TARGETS[rows.kind].named:
            return cls({})
        _, whole = classes_of(rows)
        names_in = TARGETS[rows.kind].names
        counts = Counter(spelled(name, whole) for label in rows.labels for name in names_in(label))
        groups, given = _alike(counts), set(labels or ())
        if merge:
            found = [(names, max(names, key=lambda one: counts[one])) for names in groups]
            merged = [(names, name) for names, name in found if not set(names) <= given - {name}]
            return cls({folded(one): name for names, name in merged for one in names})
        alike = [names for names in groups if len(names) > 1 and not set(names) <= given]
        if alike:
            shown = "; ".join(map(_told_apart, alike[:GROUPS_SHOWN]))
            places = ((i, name) for i, label in enumerate(rows.labels) for name in names_in(label))
            place = next(i for i, name in places if spelled(name, whole) == alike[0][1])
            raise problems.LABELS_ALIKE(found=shown, where=rows.where(place))
        return cls({})

    def applied(self, rows: LabelledRows) -> LabelledRows:
        if not self.kept:
            return rows
        changed: dict[str, str] = {}

        def written(name: str) -> str:
            kept = self.kept.get(folded(name), name)
            if kept != name:
                changed[name] = kept
            return kept

        found = [TARGETS[rows.kind].renamed(label, written) for label in rows.labels]
        if not changed:
            return rows
        changes = ", ".join(f"{name!r} is read as {kept!r}" for name, kept in sorted(changed.items()))
        note = MergedLabels(f"Labels that differ only in spelling: {changes}.")
        return replace(rows, labels=found, notes=(*rows.notes, note))


class Contradictions(str):
    """The note about equal texts with different labels."""


def contradictions(*parts: LabelledRows) -> tuple[str, ...]:
    first: dict[str, tuple[Label, str, str]] = {}
    counts: Counter[str] = Counter()
    differing: dict[str, str] = {}
    for rows in parts:
        both = zip(rows.labels, rows.texts, strict=True)
        for row, (same, (label, text)) in enumerate(zip(identities(rows), both, strict=True)):
            counts[same] += 1
            if same not in first:
                first[same] = label, text, rows.where(row)
            elif same not in differing:
                before = TARGETS[rows.kind].same(*first[same][:2])
                differing |= {same: rows.where(row)} if TARGETS[rows.kind].same(label, text) != before else {}
    if not differing:
        return ()
    same, place = next(iter(differing.items()))
    what = TARGETS[parts[0].kind].plural
    texts = f"{len(differing):,} texts occur" if len(differing) > 1 else "1 text occurs"
    number = sum(counts[each] for each in differing)
    return (
        Contradictions(
            f"{texts} in {number:,} rows with different {what} (first: {first[same][2]}, and {place}). The rows are "
            "kept; correct them if they are mistakes."
        ),
    )


def rows_of(split: Split, kind: Kind, label_names: Sequence[str]) -> LabelledRows:
    """Return the rows of a split, as they were read or as they were changed since."""
    where = split.rows.where if split.rows is not None else lambda row: f"text {row + 1}"
    return LabelledRows(
        split.texts, split.pairs, TARGETS[kind].spelled(label_names, split.labels), where, kind, rows=split.rows
    )


def without_duplicates(
    train: Split, held_out: Split, kind: Kind, label_names: Sequence[str], how: Duplicates
) -> tuple[Split, tuple[str, ...]]:
    """Return the training split without the rows that `how` leaves out, and a note that counts these rows.

    Raises InvalidData if no row of a label would be left.
    """
    rows = rows_of(train, kind, label_names)
    names, known = identities(rows), {*identities(rows_of(held_out, kind, label_names))}
    labels = [TARGETS[kind].same(label, text) for label, text in zip(rows.labels, rows.texts, strict=True)]
    written = TARGETS[kind].written
    keys = [(name, rows.labels[row] if written else labels[row]) for row, name in enumerate(names)]
    of_text: dict[str, set[Hashable]] = {}
    for name, label in zip(names, labels, strict=True):
        of_text.setdefault(name, set()).add(label)
    first = {key: row for row, key in reversed([*enumerate(keys)])}
    agreed = {name for name in names if how != "agreed" or len(of_text[name]) == 1}
    kept = [row for row, key in enumerate(keys) if first[key] == row and key[0] not in known and key[0] in agreed]
    lost = {*_names(rows)} - {*_names(rows.take(kept))}
    if lost or not kept:
        raise problems.DUPLICATES_ALL(label=min(lost, default=""), rows=len(train), option="duplicates")
    gone = len(train) - len(kept)
    if not gone:
        return train, ()
    differ = f", or have a text with different {TARGETS[kind].plural}" if how == "agreed" else ""
    return train.take(kept), (f"{counted(gone, 'training row')} left out: they repeat a text{differ}.",)


def _names(rows: LabelledRows) -> Iterator[str]:
    return (name for label in rows.labels for name in TARGETS[rows.kind].names(label))
