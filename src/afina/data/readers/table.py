"""Table: the columns of one file, with the line of each row. csv, tsv, jsonl and parquet.

Knows how values are written down; does not know which column is the text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import InvalidData, NotFound


@dataclass(frozen=True)
class Table:
    """`columns[name][i]` is a value of the row that stands at `places[i]` (a line or a row number, from 1)."""

    path: Path
    columns: dict[str, list[Any]]
    places: Sequence[int]
    unit: str = "line"

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return f"{self.path}, {self.unit} {self.places[row]}"


def read(path: Path) -> Table:
    """The file as a table. Raises NotFound, or InvalidData with the line."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidData(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'}. Expected {', '.join(READERS)}."
        )
    try:
        return reader(path)
    except OSError as error:
        raise NotFound(f"{path}: cannot be read ({error.strerror or error}).") from error


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidData(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x}). Save it as UTF-8."
        ) from None


def _from_lines(path: Path, lines: Iterator[tuple[int, list[str]]], hint: str = "") -> Table:
    """A table from (line number, fields); the first line names the columns. Empty lines are skipped."""
    filled = (numbered for numbered in lines if numbered[1])
    _, header = next(filled, (0, []))
    if not header:
        raise InvalidData(f"{path}: the file is empty. Expected a first line that names the columns.")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise InvalidData(f"{path}, line 1: column {repeated[0]!r} occurs more than once. Rename one of them.")
    places, rows = [], []
    for line, fields in filled:
        if len(fields) != len(header):
            raise InvalidData(
                f"{path}, line {line}: found {len(fields)} fields, expected {len(header)} ({', '.join(header)}).{hint}"
            )
        places.append(line)
        rows.append(fields)
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return Table(path, {name: list(values) for name, values in zip(header, columns, strict=True)}, places)


def _csv(path: Path) -> Table:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        start = 1
        try:
            for fields in reader:
                yield start, fields
                # A quoted newline makes a row span lines; it is named by the first.
                start = reader.line_num + 1
        except csv.Error as error:
            raise InvalidData(
                f"{path}, line {start}: {error}. Expected comma-separated values, quotes doubled."
            ) from None

    return _from_lines(path, lines(), " Quote a field that contains a comma.")


def _tsv(path: Path) -> Table:
    # GLUE's tsv knows no quoting: a quotation mark is part of the text. So not the csv module.
    lines = (line.removesuffix("\r") for line in _text(path).split("\n"))
    split = ((number, line.split("\t") if line else []) for number, line in enumerate(lines, start=1))
    return _from_lines(path, split, " A tsv file has no quoting, as in GLUE; use csv for texts with tabs or newlines.")


def _jsonl(path: Path) -> Table:
    places, rows = [], []
    # Not splitlines: U+2028 and others may stand unescaped inside a JSON string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidData(
                f"{path}, line {number}: not JSON ({error.msg}). Expected one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise InvalidData(f"{path}, line {number}: found a {type(row).__name__}, expected one JSON object a line.")
        places.append(number)
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(path, {name: [row.get(name) for row in rows] for name in names}, places)


def _parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None)
    except pyarrow.ArrowInvalid as error:
        raise InvalidData(f"{path}: not a parquet file ({str(error).splitlines()[0]}).") from None
    return Table(path, table.to_pydict(), range(1, table.num_rows + 1), "row")


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".parquet": _parquet,
}
