"""Read the rows of csv and tsv files: find the separator, and whether quotation marks quote fields or are text.

GLUE's tsv files are not quoted; tsv files written by pandas and spreadsheets are quoted.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.readers import source
from afina.data.readers.source import RowStream, Source
from afina.errors import InvalidData

_QUOTED = re.compile(r'(?<![^\t])"(?:[^"]|"")*+"(?![^\t])')
"""A whole field of a tsv row in quotation marks, with doubled quotation marks inside."""

_WRITERS = (
    {(True, "comma"), (True, "plain")},  # pandas quotes only fields with a tab, a line end or a quotation mark inside
    {(True, "plain"), (False, "comma")},  # spreadsheets also quote fields with a comma
    {(False, "comma"), (False, "plain")},  # R quotes whole columns
)
"""The fields that each writer of tsv files does not write: whether a field is quoted, and what it holds."""

_NAMED_SEPARATOR = re.compile(r"\"?sep=([,;|\t])\"?\s*", re.IGNORECASE)
"""A first line of a csv file, such as `sep=;`, that tells spreadsheets the separator."""

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

LONGEST = 1 << 26
"""The largest number of characters of a row; in a longer row, a quotation mark was not closed."""


def csv_rows(file: Source, path: Path) -> RowStream:
    lines = _with_returns(file.lines(western=True))
    first = next(lines, "")
    named = _NAMED_SEPARATOR.fullmatch(first)
    if named:
        first = next(lines, "")
    separator = named[1] if named else _separator(first)
    rows = _csv_rows(path, chain([first], lines), separator, before=1 if named else 0)
    return _of_fields(file, path, rows, " Quote a field that contains the separator.")


def _with_returns(lines: Iterator[str]) -> Iterator[str]:
    r"""Split lines also at a `\r` without `\n`, the line end of old Macs."""
    for line in lines:
        yield from _LINES.findall(line) if "\r" in line else (line,)


def _separator(header: str) -> str:
    """Return the most frequent separator in a csv header; of equally frequent ones, the first in _SEPARATORS.

    Spreadsheets write semicolons if the decimal mark is a comma, and databases write bars.
    """
    outside = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=outside.count)


def _csv_rows(path: Path, lines: Iterable[str], separator: str, *, before: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its first line; `before` lines of the file come before `lines`."""
    csv.field_size_limit(max(LONGEST, csv.field_size_limit()))  # the limit is global to the process
    reader = csv.reader(lines, delimiter=separator, strict=True)
    start = before + 1
    try:
        for fields in reader:
            yield start, fields
            start = before + reader.line_num + 1
    except csv.Error as error:
        problem = "a quotation mark that is never closed" if "field larger" in str(error) else error
        raise problems.NOT_DELIMITED(path=path, line=start, _problem=problem, _mark=_SEPARATORS[separator]) from None


def tsv_rows(file: Source, path: Path) -> RowStream:
    if not file.can_be_read_again:
        raise problems.TSV_FROM_PIPE(path=path)
    lines = file.lines(western=True)
    rows = _csv_rows(path, lines, "\t") if _is_quoted(path, file.encoding) else _unquoted_rows(lines)
    return _of_fields(file, path, rows, f" Quote every text that has a tab or a line end. {problems.SAVE_AS_CSV}")


def _is_quoted(path: Path, encoding: str | None) -> bool:
    """Return whether the quotation marks of a tsv file quote fields; if not, they are part of the texts.

    If splitting at every tab gives all lines the same number of fields, each quotation mark must belong to a quoted
    field, and a known writer would have quoted exactly these fields. Raises InvalidData if the file fits both rules, or
    if only a few fields of a mostly quoted column are not quoted correctly.
    """
    header: list[str] = []
    rows = marked = stray = 0  # the number of rows, and the first lines with a quotation mark, and with one in a text
    quoted: Counter[int] = Counter()
    seen: dict[int, set[tuple[bool, str]]] = {}
    with source.opened(path, encoding) as file:
        for number, line in enumerate(file.lines(western=True), start=1):
            fields = line.rstrip("\r\n").split("\t")
            if fields == [""]:
                continue
            header = header or fields
            if len(fields) != len(header):
                break
            rows += 1
            for column, field in enumerate(fields):
                whole = _QUOTED.fullmatch(field) is not None
                quoted[column] += whole
                marked = marked or number * ('"' in field)
                stray = stray or number * ('"' in field and not whole)
                if rows > 1 and field:
                    seen.setdefault(column, set()).add((whole, _content(field, whole)))
        else:
            if not marked or (stray and max(quoted.values()) <= rows / 2):
                return False
            if stray:
                raise problems.QUOTE_INSIDE_FIELD(path=path, line=stray)
            writes = (any(fields.isdisjoint(never) for never in _WRITERS) for fields in seen.values())
            if not any(name.startswith('"') for name in header) and not all(writes):
                raise problems.QUOTES_AMBIGUOUS(path=path, line=marked)
            return True
    with source.opened(path, encoding) as file:
        return _quotes_fields(file.lines(western=True))


def _content(field: str, whole: bool) -> str:
    if whole and ('"' in field[1:-1] or "\r" in field):
        return "mark"
    return "comma" if "," in field else "plain"


def _quotes_fields(lines: Iterable[str]) -> bool:
    """Return whether each quotation mark belongs to a quoted field, and each row then has as many fields as the first.

    Without quotation marks, False is returned.
    """
    tabs: int | None = None
    marked = is_open = False
    parts: list[str] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        marked = marked or '"' in line
        is_open ^= line.count('"') % 2 == 1
        if is_open and size <= LONGEST:
            continue
        row = "".join(parts).rstrip("\r\n")
        parts, size = [], 0
        outside = _QUOTED.sub("", row)
        if row and tabs is None:
            tabs = outside.count("\t")
        if '"' in outside or (row and outside.count("\t") != tabs):
            return False
    return marked and not is_open


def _unquoted_rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        bare = line.removesuffix("\n").removesuffix("\r")
        yield number, bare.split("\t") if bare else []


def _of_fields(file: Source, path: Path, lines: Iterator[tuple[int, list[str]]], hint: str) -> RowStream:
    """Return a RowStream from pairs (line number, fields); the first row names the columns, empty lines are skipped."""
    filled = (numbered for numbered in lines if numbered[1])
    _, header = next(filled, (0, []))
    if not header:
        raise empty_file(path)
    check_header(f"{path}, line 1", header)

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for line, fields in filled:
            if len(fields) != len(header):
                raise problems.FIELDS_MISCOUNTED(
                    found=len(fields),
                    expected=header,
                    path=path,
                    line=line,
                    _fields=source.counted(len(fields), "field"),
                    _row=fields[0],
                    _count=len(header),
                    _hint=hint,
                )
            yield line, dict(zip(header, fields, strict=True))

    return RowStream(str(path), header, rows(), lambda: file.share, notes=lambda: tuple(file.notes))


def empty_file(path: str | Path) -> InvalidData:
    expected = "names of columns and at least one example"
    return problems.FILE_EMPTY(path=path, _problem="the file is empty", _expected=expected)


def check_header(where: str, header: Sequence[str]) -> None:
    """Raise InvalidData if two columns of a file, or two keys of a JSON object, have the same name."""
    repeated = sorted(name for name, number in Counter(header).items() if name and number > 1)
    if repeated:
        raise problems.COLUMN_TWICE(where=where, column=repeated[0])
