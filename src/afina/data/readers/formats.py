"""Read all columns of a csv, tsv, jsonl, json, parquet, feather, xlsx or CoNLL file, as a stream or a FileTable."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

from afina import meter
from afina.data import problems
from afina.data.readers import arrow_files, conll, label_studio, source
from afina.data.readers.arrow_files import AT_ONCE, is_saved
from afina.data.readers.delimited import check_header, csv_rows, empty_file, tsv_rows
from afina.data.readers.source import RowStream, Source
from afina.data.split import FileRows
from afina.errors import InvalidData
from afina.events import Says, ShareSaid, silent


@dataclass(frozen=True)
class FileTable:
    """The rows of a file, by column.

    Attributes:
        places: The line or row number in the file of each row, from 1.
        unit: What `places` counts: "line", "row" or "item".
        classes: For each column of class indices, the class names of 0, 1, ..., if the file has them.
        answers: The columns of the answers of annotators, if the file says which columns these are. A row without an
            answer was not annotated.
    """

    path: Path
    columns: dict[str, list[Any]]
    places: Sequence[int]
    unit: str = "line"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        return f"{self.path}, {self.unit} {self.places[row]}"

    @property
    def rows(self) -> FileRows:
        return FileRows([str(self.path)] * len(self.places), self.places, self.unit)

    def take(self, rows: Sequence[int]) -> FileTable:
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, places=[self.places[row] for row in rows])


@contextmanager
def opened(path: str | Path, sheet: str | None = None, encoding: str | None = None) -> Iterator[RowStream]:
    """Open a file in one of the formats of READERS as a stream of rows.

    Without `sheet`, the only sheet of an xlsx file that is not empty is read. Raises NotFound when the file is opened,
    and InvalidData, which names the line, while rows are read.
    """
    path = Path(path)
    if is_saved(path):
        with arrow_files.saved_rows(path) as rows:
            yield rows
        return
    reader = READERS.get(source.kind(path)) or (conll.conll_rows if conll.is_conll(path, encoding) else None)
    if reader is None:
        raise problems.FORMAT_UNKNOWN(
            found=source.kind(path) or path.suffix or "a file without a suffix",
            expected=list(READERS),
            path=path,
            _compressed=", ".join(source.COMPRESSED),
        )
    if sheet is not None and source.kind(path) not in WORKBOOKS:
        raise problems.SHEET_OF_OTHER_FILE(sheet=sheet, path=path, option="sheet")
    if encoding is not None and reader in (arrow_files.parquet_rows, arrow_files.arrow_rows, _sheet):
        raise problems.ENCODING_INAPPLICABLE(path=path, encoding=encoding, option="encoding", _found="no text file")
    with source.opened(path, encoding) as found:
        yield conll.by_sentence(reader(found, path) if sheet is None else _sheet(found, path, sheet))


SAID_SECONDS = 1.0
"""Seconds between two lines about the progress of a file."""


def read(path: str | Path, sheet: str | None = None, says: Says = silent, *, encoding: str | None = None) -> FileTable:
    """Return the rows of a file as a table. Raises NotFound, or InvalidData, which names the line."""
    said = meter.now()
    with opened(path, sheet, encoding) as found:
        columns: dict[str, list[Any]] = {name: [] for name in found.names or ()}
        places: list[int] = []
        for place, row in found.rows:
            for name in row:
                if name not in columns:
                    columns[name] = [None] * len(places)
            for name, values in columns.items():
                values.append(row.get(name))
            places.append(place)
            if len(places) % AT_ONCE == 0 and meter.now() - said >= SAID_SECONDS:
                said, share = meter.now(), found.share()
                words = f"{Path(path).name}: {len(places):,} rows read"
                says(words if share is None else ShareSaid(f"{words}, {share:.0%}", share))
        if not columns:
            if source.kind(Path(path)) in conll.SUFFIXES:
                expected = "a word and its tag in each line"
                raise problems.FILE_EMPTY(path=path, _problem="the file has no words", _expected=expected)
            raise empty_file(path)
        if not all(map(source.is_whole, columns)):
            raise problems.SURROGATE(path=path, _place=f"{path}: a column name", _what="name")
        about = found.unit, found.classes, found.notes(), found.answers
        return FileTable(Path(path), columns, places, *about)


def named_file(option: str, file: str | os.PathLike[str]) -> Path:
    """Return the path of the file that a reading option names. Raises NotFound if the file does not exist."""
    path = Path(file).expanduser()
    if not os.path.isfile(path):
        if os.path.exists(path) and path.is_fifo():
            raise problems.FILE_IS_PIPE(path=file, field=option)
        more = ", or one with one text a line" if option == "unlabelled" else ""
        raise problems.FILE_MISSING(expected=list(READERS), path=file, field=option, _more=more)
    return path


def has_columns(path: Path, encoding: str | None = None) -> bool:
    """Return whether a file is read in columns: its suffix is in READERS, or a text file has CoNLL columns.

    A folder is read in columns if `save_to_disk` of the `datasets` library wrote it for one data set.
    """
    if path.is_dir():
        return is_saved(path)
    return source.kind(path) in READERS or conll.is_conll(path, encoding)


def joined(name: str, tables: Sequence[FileTable]) -> FileTable:
    """Concatenate tables and number their rows consecutively. Raises InvalidData if the columns differ."""
    columns: dict[str, list[Any]] = {column: [] for column in tables[0].columns}
    for part in tables:
        if part.columns.keys() != columns.keys():
            raise problems.COLUMNS_OF_PARTS_DIFFER(
                path=part.path, found=part.columns, expected=columns, _first=tables[0].path
            )
        for column, values in part.columns.items():
            columns[column] += values
    places = range(1, sum(len(part.places) for part in tables) + 1)
    return FileTable(Path(name), columns, places, "row", tables[0].classes)


def _jsonl(file: Source, path: Path) -> RowStream:
    return _of_objects(file, path, _objects(path, file.lines()))


def _of_objects(
    file: Source, path: Path, rows: Iterator[tuple[int, Mapping[str, Any]]], unit: str = "line"
) -> RowStream:
    return RowStream(str(path), None, rows, lambda: file.share, unit)


def _json(file: Source, path: Path) -> RowStream:
    """Return the rows of a JSON file: a list of objects, or one object a line."""
    lines, before = file.lines(), []  # JSON is UTF-8 by its standard
    for line in lines:
        before.append(line)
        if line.strip():
            break
    whole = chain(before, lines)
    if not "".join(before).lstrip().startswith("["):
        return _of_objects(file, path, _objects(path, whole))
    items = list(_items(path, "".join(whole)))
    objects = [item for _, item in items]
    if label_studio.is_tasks(objects):
        tasks = label_studio.LabelStudioTasks(path, objects)
        answers, rows = tuple(tasks.controls), tasks.rows()
        return RowStream(
            str(path), None, rows, lambda: file.share, label_studio.UNIT, answers=answers, notes=tasks.notes
        )
    plain = zip((number for number, _ in items), label_studio.without_wrappers(objects), strict=True)
    return _of_objects(file, path, plain, "item")


def _objects(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not split by str.splitlines: U+2028 and others may stand unescaped inside a JSON string.
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield number, _object(where, parsed(where, line, "one JSON object a line"), "one JSON object a line")


def _items(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, item in enumerate(parsed(str(path), text, "a list of JSON objects"), start=1):
        if _is_pair(item):
            yield number, {"text": item[0], **item[1]}
            continue
        yield number, _object(f"{path}, item {number}", item, "a list of JSON objects")


def _is_pair(item: Any) -> bool:
    """Return whether an item is a text and an object with its annotation, as spaCy's `[text, {"entities": [...]}]`."""
    pair = isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], dict)
    return pair and "text" not in item[1]


def parsed(where: str, text: str | bytes, expected: str) -> Any:
    """Parse a JSON text. Raises InvalidData, which begins with `where`, also if a key occurs twice in an object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            check_header(where, [name for name, _ in pairs])
        return made

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep nesting
        why = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long, or nesting too deep"
        raise problems.NOT_JSON(expected=expected, where=where, _why=why) from None


def _object(where: str, value: Any, expected: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise problems.NOT_AN_OBJECT(found=type(value).__name__, expected=expected, where=where)
    return value


def _sheet(file: Source, path: Path, sheet: str | None = None) -> RowStream:
    name, found = sheet_rows(file.stream, path, sheet)
    note = f"{path}: the sheet {name!r} is read."
    _, header = next(found, (0, ()))
    names = ["" if cell is None else str(cell) for cell in header]
    check_header(f"{path}, row 1", names)
    if not any(names):
        expected = "a first row that names the columns"
        raise problems.FILE_EMPTY(sheet=name, path=path, _problem=f"the sheet {name!r} is empty", _expected=expected)

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, cells in found:
            for place, cell in enumerate(cells):
                if cell is not None and (place >= len(names) or not names[place]):
                    raise problems.CELL_WITHOUT_COLUMN(found=str(cell)[:40], path=path, row=number)
            yield number, {name: as_text(cell) for name, cell in zip(names, cells, strict=False) if name}

    filled = [name for name in names if name]
    return RowStream(str(path), filled, rows(), lambda: file.share, "row", notes=lambda: (note,))


def as_text(cell: Any) -> Any:
    """Return a date or a time as a string in ISO format; other cell values are returned unchanged."""
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    return str(cell) if isinstance(cell, date | time) else cell


READERS: dict[str, Callable[[Source, Path], RowStream]] = {
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": arrow_files.parquet_rows,
    ".feather": arrow_files.arrow_rows,
    ".arrow": arrow_files.arrow_rows,
    ".xlsx": _sheet,
    ".xlsm": _sheet,
    **dict.fromkeys(conll.SUFFIXES, conll.conll_rows),
}


WORKBOOKS = (".xlsx", ".xlsm")

_DAMAGED = (*source.DAMAGED, ParseError, LookupError, ValueError, TypeError)


def sheet_rows(stream: BinaryIO, path: Path, sheet: str | None) -> tuple[str, Iterator[tuple[int, Sequence[Any]]]]:
    """Return a sheet's name and an iterator of (row number, cells) over the sheet's non-empty rows.

    A cell with a formula has the value that the workbook saved. Without `sheet`, the only sheet that is not empty is
    read.
    """
    with _telling(path):
        book = _book(stream)
        names = [one.title for one in book.worksheets]
        if sheet is not None and sheet not in names:
            raise problems.SHEET_MISSING(found=names, path=path, sheet=sheet)
        filled = names if sheet is not None else [one.title for one in book.worksheets if next(_filled(one), None)]
    if sheet is None and len(filled) > 1:
        raise problems.SHEET_AMBIGUOUS(path=path, found=filled, _count=len(filled))
    chosen = sheet if sheet is not None else (filled or names)[0]

    def filled_rows() -> Iterator[tuple[int, Sequence[Any]]]:
        with _telling(path):
            yield from _filled(book[chosen])

    return chosen, filled_rows()


def has_sheet(path: Path, sheet: str | None) -> bool:
    return sheet is not None and sheet in sheet_names(path)


def sheet_names(path: Path) -> list[str]:
    """Return the names of a workbook's sheets; empty for another file, and for a workbook that cannot be read."""
    if path.suffix.lower() not in WORKBOOKS:
        return []
    try:
        with path.open("rb") as stream, _telling(path):
            return [one.title for one in _book(stream).worksheets]
    except (OSError, InvalidData):  # reading the file raises the same error
        return []


def _filled(sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
    sheet.reset_dimensions()  # the dimensions that a file states are sometimes wrong
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(cell is not None and cell != "" for cell in cells):
            yield number, cells


def _book(stream: BinaryIO) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise problems.OPENPYXL_MISSING(package="openpyxl") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and validations, which are not read
        return openpyxl.load_workbook(stream, read_only=True, data_only=True)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        advice = " Save it again without a password, or as csv in UTF-8."
        raise problems.NOT_READABLE(path=path, _kind="xlsx", _error=error, _advice=advice) from None
