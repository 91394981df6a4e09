"""Convert a FileTable to LabelledRows: read texts and targets from given columns, and treat missing values.

Other modules choose the columns, read the file formats and order the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from afina.data import problems
from afina.data.kinds import HOWS, How
from afina.data.readers.columns import ColumnNames
from afina.data.readers.formats import WORKBOOKS, FileTable
from afina.data.readers.label_column import LabelFormat, surrogate
from afina.data.readers.missing_values import is_empty, means_missing
from afina.data.readers.number_notation import is_date, plain_number
from afina.data.readers.source import is_whole
from afina.data.readers.splitting import LabelledRows
from afina.data.readers.target_kinds import TARGETS
from afina.errors import UnknownName
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
        optional = kind.optional(form, columns.labels)
        table, left_out = without(
            table, columns.texts, columns.labels, how, expected=kind.expected, optional=optional, empty=kind.empty
        )
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


def text_of(value: Any, name: str, where: Callable[[], str]) -> str | None:
    """Return a cell of a text column as a string; None if the cell is empty.

    A number becomes a string. Raises InvalidData for a cell that is neither a string nor a number, such as a list.
    """
    if is_empty(value):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    if not isinstance(value, str):
        raise problems.TEXT_OF_OTHER_TYPE(where=where(), column=name, found=type(value).__name__)
    if not is_whole(value):
        raise surrogate(where(), name)
    return value


SHOWN = 10
"""The largest number of rows that an error message or note names."""


def check_how(how: str) -> How:
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
    empty: Callable[[Any], bool] | None = None,
) -> tuple[FileTable, tuple[str, ...]]:
    """Return the table without the rows in which a text or label is missing, and a note about these rows.

    A label may be missing if it is `optional`. Raises InvalidData, which names the rows, if `how` is not "skip".
    """
    found: dict[int, tuple[str, str]] = {}
    for name in dict.fromkeys([*texts, *labels]):
        of_text = name in texts
        lacks = is_empty if of_text or empty is None else empty
        for row, value in enumerate(table.columns[name]):
            if lacks(value):
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
