"""The rows of one file, as they come, or all of them as a Table: csv, tsv, jsonl, parquet and xlsx.

Knows how values are written down; does not know which column is the text.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from afina.data.readers import source, tsv, workbook
from afina.data.readers.source import Source
from afina.errors import InvalidData

AT_ONCE = 1024
"""Rows of a parquet file that are decoded together."""


@dataclass(frozen=True)
class Opened:
    """The rows of a file, one after another.

    name   what messages call the file
    names  its columns in order; None where each row names its own
    rows   (line or row number, from 1; values by column)
    share  tells how much of the file has been read; None where that is not known
    classes  by column, what 0, 1, ... stand for, where the file tells
    notes  in sentences, what was found so far that the user may not expect
    """

    name: str
    names: Sequence[str] | None
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    share: Callable[[], float | None]
    unit: str = "line"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Callable[[], tuple[str, ...]] = tuple

    def where(self, place: int) -> str:
        """The place of a row, for messages."""
        return f"{self.name}, {self.unit} {place}"


@dataclass(frozen=True)
class Table:
    """`columns[name][i]` is a value of the row that stands at `places[i]` (a line or a row number, from 1).

    classes  as of `Opened`
    notes    in sentences, what was found in the file that the user may not expect
    """

    path: Path
    columns: dict[str, list[Any]]
    places: Sequence[int]
    unit: str = "line"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return f"{self.path}, {self.unit} {self.places[row]}"


@contextmanager
def opened(path: str | Path, sheet: str | None = None) -> Iterator[Opened]:
    """The rows of a file of READERS. Raises NotFound at once; reading on raises InvalidData with the line.

    sheet  of an xlsx file; None: the only one that holds something
    """
    path = Path(path)
    reader = READERS.get(source.kind(path))
    if reader is None:
        raise InvalidData(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'}. Expected {', '.join(READERS)}.",
            code="data.format-unknown",
            path=path,
        )
    if sheet is not None and source.kind(path) not in workbook.SUFFIXES:
        raise InvalidData(
            f"`sheet` {sheet}: {path} is no xlsx file, so it has no sheets. Leave it out.",
            code="data.option-inapplicable",
            path=path,
        )
    with source.opened(path) as found:
        yield reader(found, path) if sheet is None else _sheet(found, path, sheet)


def read(path: str | Path, sheet: str | None = None) -> Table:
    """The file as a table; `sheet` as of `opened`. Raises NotFound, or InvalidData with the line."""
    with opened(path, sheet) as found:
        columns: dict[str, list[Any]] = {name: [] for name in found.names or ()}
        places: list[int] = []
        for place, row in found.rows:
            for name in row:
                if name not in columns:
                    columns[name] = [None] * len(places)
            for name, values in columns.items():
                values.append(row.get(name))
            places.append(place)
        if not all(map(source.is_whole, columns)):
            raise InvalidData(
                f"{path}: the name of a column holds half a surrogate pair. Repair the name.", code="data.surrogate"
            )
        return Table(Path(path), columns, places, found.unit, found.classes, found.notes())


def joined(name: str, tables: Sequence[Table]) -> Table:
    """The rows of several tables with the same columns, counted through. Raises InvalidData."""
    columns: dict[str, list[Any]] = {column: [] for column in tables[0].columns}
    for part in tables:
        if part.columns.keys() != columns.keys():
            raise InvalidData(
                f"{part.path}: its columns are {', '.join(part.columns)}; those of {tables[0].path} are "
                f"{', '.join(columns)}. Expected the same in both.",
                code="data.columns-differ",
                path=part.path,
                found=part.columns,
                expected=columns,
            )
        for column, values in part.columns.items():
            columns[column] += values
    places = range(1, sum(len(part.places) for part in tables) + 1)
    return Table(Path(name), columns, places, "row", tables[0].classes)


def _csv(file: Source, path: Path) -> Opened:
    lines = _with_returns(file.lines(western=True))
    first, number = next(lines, ""), 1
    said = _SAID.fullmatch(first)
    if said:
        first, number = next(lines, ""), 2
    separator = said[1] if said else _separator(first)
    hint = "Quote a field that contains the separator."
    return _delimited(file, path, _chain(first, lines), separator, hint, before=number - 1)


_SAID = re.compile(r"\"?sep=([,;|\t])\"?\s*", re.IGNORECASE)
"""A first line by which a spreadsheet is told the separator."""
_ENDS = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def _with_returns(lines: Iterator[str]) -> Iterator[str]:
    r"""Cut at a lone `\r` too, as old Macs end a line."""
    for line in lines:
        yield from _ENDS.findall(line) if "\r" in line else (line,)


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _separator(header: str) -> str:
    """The mark that the header has most of, and of as many the first: a spreadsheet writes semicolons where a comma is
    the decimal mark, a database bars, and a tsv is sometimes called csv."""
    outside = re.sub(r'"[^"]*"', "", header)
    return max(",;\t|", key=outside.count)


_LONGEST = tsv.LONGEST


def _delimited(file: Source, path: Path, lines: Iterator[str], separator: str, hint: str, *, before: int = 0) -> Opened:
    """Rows by the csv module, after so many lines `before`.

    Its limit of 131,072 characters a field is the process's, so it is only ever raised.
    """
    if csv.field_size_limit() < _LONGEST:
        csv.field_size_limit(_LONGEST)
    reader = csv.reader(lines, delimiter=separator, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        start = before + 1
        try:
            for fields in reader:
                yield start, fields
                # A quoted newline makes a row span lines; it is named by the first.
                start = before + reader.line_num + 1
        except csv.Error as error:
            found = "a quotation mark that is never closed" if "field larger" in str(error) else error
            kind = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}[separator]
            raise InvalidData(
                f"{path}, line {start}: {found}. Expected {kind}-separated values, quotes doubled.",
                code="data.row-malformed",
                path=path,
                line=start,
            ) from None

    return _of_fields(file, path, rows(), f" {hint}")


def _tsv(file: Source, path: Path) -> Opened:
    if not file.can_be_read_again:
        raise InvalidData(
            f"{path}: an empty file, or a pipe, which a tsv cannot be read from. Give a file.",
            code="data.no-rows",
            path=path,
        )
    with source.opened(path) as again:
        quoted = tsv.is_quoted(again.lines(western=True), str(path))
    hint = f"A tab or a line end in a text takes quotation marks around it, in the whole file alike. {tsv.ADVICE}"
    if quoted:
        return _delimited(file, path, file.lines(western=True), "\t", hint)
    # Not the csv module: a quotation mark is part of the text, as in GLUE.
    bare = (line.removesuffix("\n").removesuffix("\r") for line in file.lines(western=True))
    split = ((number, line.split("\t") if line else []) for number, line in enumerate(bare, start=1))
    return _of_fields(file, path, split, f" {hint}")


def _of_fields(file: Source, path: Path, lines: Iterator[tuple[int, list[str]]], hint: str) -> Opened:
    """Rows from (line number, fields); the first line names the columns. Empty lines are skipped."""
    filled = (numbered for numbered in lines if numbered[1])
    _, header = next(filled, (0, []))
    if not header:
        raise InvalidData(
            f"{path}: the file is empty. Expected a first line that names the columns.",
            code="data.no-rows",
            path=path,
        )
    _check_header(path, header, "line 1")

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for line, fields in filled:
            if len(fields) != len(header):
                raise InvalidData(
                    f"{path}, line {line}: found {len(fields)} fields, expected {len(header)} "
                    f"({', '.join(header)}).{hint}",
                    code="data.row-malformed",
                    path=path,
                    line=line,
                )
            yield line, dict(zip(header, fields, strict=True))

    return Opened(str(path), header, rows(), lambda: file.share, notes=lambda: tuple(file.notes))


def _check_header(path: Path, header: Sequence[str], where: str) -> None:
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise InvalidData(
            f"{path}, {where}: column {repeated[0]!r} occurs more than once. Rename one of them.",
            code="data.column-repeated",
            path=path,
            column=repeated[0],
        )


def _jsonl(file: Source, path: Path) -> Opened:
    return _of_objects(file, path, _objects(path, file.lines()))


def _of_objects(file: Source, path: Path, rows: Iterator[tuple[int, Mapping[str, Any]]], unit: str = "line") -> Opened:
    return Opened(str(path), None, rows, lambda: file.share, unit)


def _json(file: Source, path: Path) -> Opened:
    """One list of objects, as most programs write JSON, or an object a line."""
    lines, before = file.lines(), []  # JSON is UTF-8 by its standard
    for line in lines:
        before.append(line)
        if line.strip():
            break
    whole = chain(before, lines)
    if not "".join(before).lstrip().startswith("["):
        return _of_objects(file, path, _objects(path, whole))
    return _of_objects(file, path, _items(path, "".join(whole)), "item")


def _objects(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not cut as str.splitlines does: U+2028 and others may stand unescaped inside a JSON string.
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield number, _object(where, _parsed(where, line, "one JSON object a line"), "one JSON object a line")


def _items(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, item in enumerate(_parsed(str(path), text, "a list of JSON objects"), start=1):
        yield number, _object(f"{path}, item {number}", item, "a list of JSON objects")


def _parsed(where: str, text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, and nesting as deep
        why = error.msg if isinstance(error, json.JSONDecodeError) else "too long a number, or too deep"
        raise InvalidData(
            f"{where}: not JSON ({why}). Expected {expected}.", code="data.row-malformed", where=where
        ) from None


def _object(where: str, value: Any, expected: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidData(
            f"{where}: found a {type(value).__name__}, expected {expected}.", code="data.row-malformed", where=where
        )
    return value


def _xlsx(file: Source, path: Path) -> Opened:
    return _sheet(file, path, None)


def _sheet(file: Source, path: Path, sheet: str | None) -> Opened:
    name, found = workbook.rows(file.stream, path, sheet)
    note = f"{path}: the sheet {name!r} is read."
    _, header = next(found, (0, ()))
    names = ["" if cell is None else str(cell) for cell in header]
    _check_header(path, names, "row 1")
    if not any(names):
        raise InvalidData(
            f"{path}: the sheet {name!r} is empty. Expected a first row that names the columns.",
            code="data.no-rows",
            path=path,
        )

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, cells in found:
            for place, cell in enumerate(cells):
                if cell is not None and (place >= len(names) or not names[place]):
                    raise InvalidData(
                        f"{path}, row {number}: {str(cell)[:40]!r} stands in a column without a name. Name the columns "
                        "in the first row, and have nothing above or beside the table.",
                        code="data.header-malformed",
                        path=path,
                        row=number,
                    )
            yield number, {name: cell for name, cell in zip(names, cells, strict=False) if name}

    filled = [name for name in names if name]
    return Opened(str(path), filled, rows(), lambda: file.share, "row", notes=lambda: (note,))


def _parquet(file: Source, path: Path) -> Opened:
    import pyarrow
    from pyarrow import parquet

    done = 0
    damaged = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
    try:
        found = parquet.ParquetFile(file.stream)
        names = found.schema_arrow.names
    except damaged as error:
        raise InvalidData(
            f"{path}: not a parquet file ({str(error).splitlines()[0]}).", code="data.file-damaged", path=path
        ) from None
    count = found.metadata.num_rows

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        nonlocal done
        try:
            for batch in found.iter_batches(AT_ONCE):
                for row in batch.to_pylist():
                    done += 1
                    yield done, row
        except damaged as error:
            raise InvalidData(
                f"{path}, row {done + 1}: damaged ({str(error).splitlines()[0]}).",
                code="data.file-damaged",
                path=path,
                row=done + 1,
            ) from None

    classes = _classes((found.schema_arrow.metadata or {}).get(b"huggingface", b""))
    return Opened(str(path), names, rows(), lambda: done / count if count else None, "row", classes)


def _classes(metadata: bytes) -> dict[str, Sequence[str]]:
    """Of the columns that hold classes, or lists of them, the names: what the `datasets` library writes to a file."""
    try:
        features = json.loads(metadata)["info"]["features"]
        found: dict[str, Sequence[str]] = {}
        for column, feature in features.items():
            while isinstance(feature, list) or "feature" in feature:  # a list of it
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            if feature.get("_type") == "ClassLabel" and feature.get("names"):
                found[column] = [str(name) for name in feature["names"]]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):  # written by something else
        return {}
    return found


READERS: dict[str, Callable[[Source, Path], Opened]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".xlsx": _xlsx,
    ".xlsm": _xlsx,
}
