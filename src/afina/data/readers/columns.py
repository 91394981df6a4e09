"""The roles of columns, and rows with missing values: a FileTable becomes LabelledRows.

The module knows column names. It does not know file formats, or the order of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from afina.data.kinds import HOWS, How
from afina.data.readers.cell_values import is_empty, means_missing
from afina.data.readers.formats import WORKBOOKS, FileTable
from afina.data.readers.labels import LabelFormat
from afina.data.readers.source import is_whole
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.target_kinds import TARGETS
from afina.errors import InvalidData, UnknownName

TEXT = ("text", "sentence", "sentence1", "review", "content", "comment", "tweet", "message", "body", "question")
LABEL = ("label", "labels", "target", "sentiment", "class", "category", "rating", "score", "stars", "tags")
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
"""Default pairs of text columns, as in data sets of the Hub and of GLUE.

A pair is used if a file has both columns and the user names no column.
"""

BESIDE = frozenset(
    ("title", "headline", "subject", "summary", "description", "abstract", "answer", "answers", "context", "passage")
) | {"document", "article", "paragraph", "query", "response", "reply", "prompt", "text1", "text2"}
"""Other columns that may hold texts. The user has to name the text if a file also has a column of TEXT or
PAIRS."""


@dataclass(frozen=True)
class ColumnNames:
    """Names of columns by role.

    Attributes:
        labels: Empty if no label is asked for; several if each column is about one label.
        others: Columns that are not read.
    """

    text: str
    text_pair: str | None = None
    labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of texts."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def roles(self) -> dict[str, str]:
        """The columns by role, with the words of `Task.load`; `others` are the columns that are not read."""
        found = {"text": self.text, "text_pair": self.text_pair, "label": ",".join(self.labels)}
        return {role: name for role, name in (found | {"others": ", ".join(self.others)}).items() if name}


def of_texts(
    where: str,
    names: Iterable[str],
    text: str | None,
    text_pair: str | None,
    *,
    label: Sequence[str] = (),
    first: bool = False,
) -> ColumnNames:
    """Return the columns of the texts: the named columns, or columns with usual names, compared without case.

    Args:
        where: Begins the error messages.
        label: Columns that are not texts.
        first: Take the first name of TEXT if several columns may be the text.

    Raises InvalidData, also if several columns may be the text.
    """
    names = list(names)
    usual = _usual(names)
    if text is None and text_pair is None:
        for one, other in PAIRS:
            if one in usual and other in usual:
                found = ColumnNames(usual[one], usual[other])
                if not first:
                    _check_one(where, names, found.texts, {*found.texts, *label})
                return found
    left = [name for name in names if name not in label and name != text_pair]
    if not _among(left, TEXT):
        left = names  # the caller raises if one column has two roles
    found = ColumnNames(_column(where, left if text is None else names, text, TEXT, "text"))
    if text is None and not first:
        _check_one(where, left, found.texts, found.texts)
    if text_pair is None:
        return found
    second = _column(where, names, text_pair, (), "text_pair")
    if second == found.text:
        raise InvalidData(
            f"{where}: `text_pair` {second} is also the column of the text. Name another column, or remove "
            "`text_pair`.",
            code="data.column-repeated",
            where=where,
            field="text_pair",
            column=second,
        )
    return ColumnNames(found.text, second)


def choose(
    table: FileTable, text: str | None, text_pair: str | None, label: str | None, *, first: bool = False
) -> ColumnNames:
    """Return the columns of texts and label; a label `a,b,c` names several columns, if no column has that name."""
    where, names = str(table.path), list(table.columns)
    asked = [label] if label is None or label in names else [name.strip() for name in label.split(",")]
    texts = of_texts(where, names, text, text_pair, label=[name for name in asked if name], first=first)
    found = tuple(dict.fromkeys(_label(where, names, name, texts.texts, first) for name in asked))
    for name in found:
        if name in texts.texts:
            raise InvalidData(
                f"{where}: `label` {name} is also the column of a text. Name another column.",
                code="data.column-repeated",
                where=where,
                field="label",
                column=name,
            )
    others = tuple(name for name in names if name not in (*texts.texts, *found))
    return ColumnNames(texts.text, texts.text_pair, found, others)


def _usual(names: Sequence[str]) -> dict[str, str]:
    return {name.strip().casefold(): name for name in reversed(names)}


def _among(names: Iterable[str], usual: Iterable[str]) -> list[str]:
    usual = set(usual)
    return [name for name in names if name.strip().casefold() in usual]


def _check_one(where: str, names: Sequence[str], taken: Sequence[str], known: Iterable[str]) -> None:
    """Raise InvalidData if another column may be the text too."""
    usual = {*TEXT, *BESIDE, *(name for pair in PAIRS for name in pair)}
    others = [name for name in _among(names, usual) if name not in set(known)]
    if others:
        found = ", ".join([*taken, *others])
        one, other = taken[0], (taken[1] if len(taken) > 1 else others[0])
        raise InvalidData(
            f"{where}: several columns may be the text: {found}. Name one with `text`, such as `text` {one}, or two "
            f"with `text` {one} and `text_pair` {other}.",
            code="data.column-ambiguous",
            where=where,
            field="text",
            found=[*taken, *others],
        )


def _label(where: str, names: list[str], named: str | None, texts: Sequence[str], first: bool) -> str:
    found = _column(where, names, named, LABEL, "label")
    several = [name for name in _among(names, LABEL) if name not in texts]
    if named is None and not first and len(several) > 1:
        raise InvalidData(
            f"{where}: several columns may be the label: {', '.join(several)}. Name one with `label`, such as `label` "
            f"{found}. If each column has 1 or 0 for one label, name all, such as `label` {','.join(several)}.",
            code="data.column-ambiguous",
            where=where,
            field="label",
            found=several,
        )
    return found


def _column(where: str, names: list[str], named: str | None, candidates: tuple[str, ...], field: str) -> str:
    if named is not None:
        if named in names:
            return named
        raise InvalidData(
            f"{where}: no column {named!r}. Found: {', '.join(names)}. Name the right one with `{field}`.",
            code="data.column-missing",
            where=where,
            field=field,
            column=named,
            found=names,
        )
    usual = _usual(names)
    for name in candidates:
        if name in usual:
            return usual[name]
    raise InvalidData(
        f"{where}: no {field} column. Found: {', '.join(names)}. "
        f"Expected {' or '.join(candidates)}. Name another column with `{field}`.",
        code="data.column-missing",
        where=where,
        field=field,
        found=names,
        expected=candidates,
    )


def rows(table: FileTable, columns: ColumnNames, form: LabelFormat, how: How | None) -> LabelledRows:
    """Return the labelled texts of a table. Raises InvalidData that names the row.

    `how` says how to treat missing values. None: an empty text or label is an error, and other words are kept.
    """
    if not table.places:
        raise InvalidData(
            f"{table.path}: no rows below the column names. Expected at least one example.",
            code="data.no-rows",
            path=table.path,
        )
    _refuse_names(table, (*columns.texts, *columns.labels))
    notes = (*table.notes, *_said(table, columns.labels, form))
    kind = TARGETS[form.kind]
    if how is not None:
        reading = {"expected": kind.expected, "optional": kind.optional(form, columns.labels)}
        table, left_out = without(table, columns.texts, columns.labels, how, **reading)  # type: ignore[arg-type]
        notes += left_out
    return LabelledRows(
        _texts(table, columns.text),
        None if columns.text_pair is None else _texts(table, columns.text_pair),
        kind.parse(table, columns.labels, form),
        table.where,
        form.kind,
        ",".join(columns.labels),
        names=form.hot,
        columns=columns.roles,
        other=form.other,
        notes=notes,
    )


def _refuse_names(table: FileTable, names: Sequence[str]) -> None:
    """Raise InvalidData for a row that repeats the column names, such as after concatenating files."""
    again = [row for row, value in enumerate(table.columns[names[0]]) if value == names[0]]
    row = next((row for row in again if all(table.columns[name][row] == name for name in names)), None)
    if row is not None:
        raise InvalidData(
            f"{table.where(row)}: this row repeats the column names. Remove it, and other rows like it.",
            code="data.header-malformed",
            where=table.where(row),
        )


def _said(table: FileTable, names: Sequence[str], form: LabelFormat) -> list[str]:
    """Return notes about how labels are read."""
    notes = []
    column = f"{table.path}: column {names[0]!r}"
    if form.notation and (said := form.notation.said(table.columns[names[0]])):
        notes.append(f"{column} holds numbers that are not written plainly: {said}.")
    if form.hot:
        shown = ", ".join(form.hot[:4]) + (", ..." if len(form.hot) > 4 else "")
        notes.append(
            f"{column} holds multi-hot lists, 0 or 1 for each of {len(form.hot)} labels in their order ({shown}). "
            "`labels` names them."
        )
    return notes


def _texts(table: FileTable, name: str) -> list[str]:
    values = table.columns[name]
    for i, value in enumerate(values):
        if text_of(value, name, partial(table.where, i)) is None:
            raise InvalidData(
                f"{table.where(i)}: column {name!r} is empty. Expected a text. Fill it in or remove the row.",
                code="data.text-empty",
                where=table.where(i),
                column=name,
            )
    return values


def text_of(value: Any, name: str, where: Callable[[], str]) -> str | None:
    """Return the text in column `name`; None if it is empty. Raises InvalidData if the value is not a text."""
    if is_empty(value):
        return None
    if not isinstance(value, str):
        raise InvalidData(
            f"{where()}: column {name!r} holds a {type(value).__name__}. Expected a text.",
            code="data.type-wrong",
            where=where(),
            column=name,
            found=type(value).__name__,
        )
    if not is_whole(value):
        raise InvalidData(
            f"{where()}: column {name!r} holds half a surrogate pair. Repair the text.",
            code="data.surrogate",
            where=where(),
            column=name,
        )
    return value


SHOWN = 10
"""The number of rows that a message names."""


def check_how(how: str) -> How:
    """Return `how` as a `How`. Raises UnknownName if it is not one of HOWS."""
    for one in HOWS:
        if one == how:
            return one
    raise UnknownName("missing", how, HOWS)


def without(
    table: FileTable,
    texts: Sequence[str],
    labels: Sequence[str],
    how: How,
    *,
    expected: str = "a label",
    optional: bool,
) -> tuple[FileTable, tuple[str, ...]]:
    """Return the table without rows in which a value is missing, and a note about these rows.

    Args:
        texts, labels: The columns that are read.
        expected: What a label's cell should hold, in words.
        optional: Whether a label's cell may be empty.

    Raises InvalidData that names the rows, unless `how` is "skip".
    """
    found: dict[int, tuple[str, str]] = {}
    for name in dict.fromkeys([*texts, *labels]):
        of_text = name in texts
        for row, value in enumerate(table.columns[name]):
            if is_empty(value):
                if of_text or not optional:
                    found.setdefault(row, (name, "a text" if of_text else expected))
            elif how != "keep" and means_missing(value):
                found.setdefault(row, (name, "a text" if of_text else expected))
    if not found:
        return table, ()
    rows = sorted(found)
    if how != "skip":
        _refuse(table, rows, *found[rows[0]])
    kept = [row for row in range(len(table.places)) if row not in found]
    if not kept:
        raise InvalidData(
            f"{table.path}: a value is missing in each of the {len(rows):,} rows. Give complete rows.",
            code="data.value-missing",
            path=table.path,
            rows=len(rows),
        )
    left = replace(
        table,
        columns={name: [values[row] for row in kept] for name, values in table.columns.items()},
        places=[table.places[row] for row in kept],
    )
    number = f"{len(rows):,} rows are" if len(rows) > 1 else "1 row is"
    return left, (f"{table.path}: {number} left out because a value is missing ({rows_in_words(table, rows)}).",)


def _refuse(table: FileTable, rows: Sequence[int], name: str, expected: str) -> None:
    value = table.columns[name][rows[0]]
    more = f" Values are missing in {len(rows):,} rows: {rows_in_words(table, rows)}." if len(rows) > 1 else ""
    where = f"{table.where(rows[0])}: column {name!r}"
    mend = "Fill it in, remove the row, or leave such rows out with `missing` skip."
    if is_empty(value) and table.path.suffix.lower() in WORKBOOKS:
        mend += " For a formula, the value that the workbook saved is read."
    if is_empty(value):
        raise InvalidData(
            f"{where} is empty. Expected {expected}. {mend}{more}",
            code="data.value-missing",
            where=where,
            expected=expected,
        )
    raise InvalidData(
        f"{where} holds {value.strip()!r}, a word for a missing value. Expected {expected}. {mend}{more} "
        f"If it is {expected}, set `missing` keep.",
        code="data.value-missing",
        where=where,
        found=value.strip(),
        expected=expected,
    )


def rows_in_words(table: FileTable, rows: Sequence[int]) -> str:
    """Return the places of rows, such as `lines 3, 7 and 12`; at most SHOWN."""
    places = [f"{table.places[row]:,}" for row in rows[:SHOWN]]
    unit = table.unit if len(rows) == 1 else f"{table.unit}s"
    return f"{unit} {', '.join(places)}{', ...' if len(rows) > SHOWN else ''}"
