"""Rows of csv and tsv files: their separator, and whether quotation marks are a way of writing or part of the texts.

GLUE's tsv files are not quoted, those of pandas and of spreadsheets are, and nothing in a file says which it is. Knows
quotation marks and headers; does not know which column is the text.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.data.readers import source
from afina.data.readers.source import RowStream, Source
from afina.errors import InvalidData

ADVICE = "Save it as csv, or as jsonl, which leave no doubt."

_FIELD = re.compile(r'("(?:[^"]|"")*"|[^"\t]*)(\t|\Z)')
"""Of a quoted row: a field wholly in quotation marks, those inside doubled, or one that has none."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_NEEDING = re.compile(r'["\t\r\n]')
"""What every writer quotes a field for."""

LONGEST = 1 << 26
"""Characters of a row: beyond, a quotation mark was never closed."""


def is_quoted(lines: Iterable[str], name: str) -> bool:
    r"""Whether quotation marks are a tsv's way of writing, and no part of its texts. Reads all lines, keeps none.

    They are its way of writing where every field that has one is wholly quoted, every row then has as many fields as
    the first, and some writer would have quoted just these: those with a tab, a line end or a quotation mark inside
    (pandas), also all with a comma (spreadsheets), or a whole column or its heading (R). They are part of the texts
    where some stand elsewhere, and cutting at every tab gives all lines as many fields. Raises InvalidData where a file
    can be read both ways, or where it is quoted but for some fields.
    """
    whole, plain = _Quoted(), _Plain()
    for number, line in enumerate(lines, start=1):
        bare = line.rstrip("\n").removesuffix("\r")
        plain.add(number, bare)
        whole.add(line, bare)
    if not plain.marked:
        return False
    if plain.fits and plain.stray is not None:
        if not plain.mostly_quoted:
            return False
        raise InvalidData(
            f"{name}, line {plain.stray}: a quotation mark inside a field that is not quoted, or not doubled in one "
            f"that is, while most fields of that column are quoted. {ADVICE}",
            code="data.row-malformed",
            path=name,
            line=plain.stray,
        )
    if plain.fits and not (whole.fits and whole.convinces):
        raise InvalidData(
            f"{name}, line {plain.marked}: whether its quotation marks are part of the text cannot be told: fields "
            f"are wholly in quotation marks, and others like them are not. {ADVICE}",
            code="data.row-malformed",
            path=name,
            line=plain.marked,
        )
    return whole.fits


class _Plain:
    """A file cut at every tab.

    fits    whether each line has as many fields as the first
    marked  the first line with a quotation mark, 0 for none
    stray   the first with one in a field that is not wholly in quotation marks
    """

    def __init__(self) -> None:
        self.tabs: int | None = None
        self.fits = True
        self.marked = 0
        self.stray: int | None = None
        self.rows = 0
        self.quoted: Counter[int] = Counter()

    def add(self, number: int, line: str) -> None:
        if not line:
            return
        self.rows += 1
        self.tabs = line.count("\t") if self.tabs is None else self.tabs
        self.fits = self.fits and line.count("\t") == self.tabs
        if '"' not in line:
            return
        self.marked = self.marked or number
        for column, field in enumerate(line.split("\t")):
            if _QUOTED.fullmatch(field):
                self.quoted[column] += 1
            elif '"' in field and self.stray is None:
                self.stray = number

    @property
    def mostly_quoted(self) -> bool:
        return any(count > self.rows / 2 for count in self.quoted.values())


class _Quoted:
    """A file whose quotation marks are its way of writing.

    fits  whether each field with one is wholly quoted, and each row has as many fields as the first
    """

    def __init__(self) -> None:
        self._fits = True
        self.header: list[str] | None = None
        self.open: list[str] = []
        self.length = 0
        self.seen: Counter[tuple[int, str]] = Counter()

    @property
    def fits(self) -> bool:
        """So far; a field that is still open does not."""
        return self._fits and not self.open

    def add(self, line: str, bare: str) -> None:
        if not self._fits or not (self.open or bare):
            return
        if (line.count('"') % 2 == 1) != bool(self.open):  # a field goes on in the next line
            self.length = len(line) + (self.length if self.open else 0)
            self._fits = self.length < LONGEST and (bool(self.open) or _begins_open(line))
            self.open.append(line)
            return
        row, self.open = "".join([*self.open, bare]), []
        fields = _cut(row)
        if fields is None or (self.header is not None and len(fields) != len(self.header)):
            self._fits = False
        elif self.header is None:
            self.header = fields
        else:
            for column, field in enumerate(fields):
                self._count(column, field)

    def _count(self, column: int, field: str) -> None:
        quoted = field.startswith('"')
        inside = field[1:-1] if quoted else field
        comma = "with comma" if "," in inside or _NEEDING.search(inside) else "other"
        self.seen[column, "quoted" if quoted else "bare"] += bool(field)
        self.seen[column, f"{'quoted' if quoted else 'bare'} {comma}"] += bool(field)
        self.seen[column, "needing"] += quoted and bool(_NEEDING.search(inside))

    @property
    def convinces(self) -> bool:
        """Whether some writer would have quoted just these fields, in each column that has any."""
        header, seen = self.header or [], self.seen
        if any(name.startswith('"') for name in header):
            return True
        return all(
            seen[column, "needing"] == seen[column, "quoted"]
            or (not seen[column, "quoted other"] and not seen[column, "bare with comma"])
            or not seen[column, "bare"]
            for column in range(len(header))
            if seen[column, "quoted"]
        )


def _cut(row: str) -> list[str] | None:
    """The fields as they stand in the row; None where one with a quotation mark is not wholly quoted."""
    if '"' not in row:
        return row.split("\t")
    fields, place = [], 0
    while match := _FIELD.match(row, place):
        fields.append(match[1])
        place = match.end()
        if not match[2]:
            return fields
    return None


def _begins_open(line: str) -> bool:
    """Whether what is not wholly quoted in a line begins with a quotation mark."""
    place = 0
    while match := _FIELD.match(line, place):
        place = match.end()
    return line[place : place + 1] == '"'


def csv_rows(file: Source, path: Path) -> RowStream:
    """The rows of a csv file; its separator is the one that its header has most of, or that its first line states."""
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


def _delimited(
    file: Source, path: Path, lines: Iterator[str], separator: str, hint: str, *, before: int = 0
) -> RowStream:
    """Rows by the csv module, after so many lines `before`.

    Its limit of 131,072 characters a field is the process's, so it is only ever raised.
    """
    if csv.field_size_limit() < LONGEST:
        csv.field_size_limit(LONGEST)
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


def tsv_rows(file: Source, path: Path) -> RowStream:
    """The rows of a tsv file, quoted or not. Raises InvalidData where that cannot be told."""
    if not file.can_be_read_again:
        raise InvalidData(
            f"{path}: an empty file, or a pipe, which a tsv cannot be read from. Give a file.",
            code="data.no-rows",
            path=path,
        )
    with source.opened(path) as again:
        quoted = is_quoted(again.lines(western=True), str(path))
    hint = f"A tab or a line end in a text takes quotation marks around it, in the whole file alike. {ADVICE}"
    if quoted:
        return _delimited(file, path, file.lines(western=True), "\t", hint)
    # Not the csv module: a quotation mark is part of the text, as in GLUE.
    bare = (line.removesuffix("\n").removesuffix("\r") for line in file.lines(western=True))
    split = ((number, line.split("\t") if line else []) for number, line in enumerate(bare, start=1))
    return _of_fields(file, path, split, f" {hint}")


def _of_fields(file: Source, path: Path, lines: Iterator[tuple[int, list[str]]], hint: str) -> RowStream:
    """Rows from (line number, fields); the first line names the columns. Empty lines are skipped."""
    filled = (numbered for numbered in lines if numbered[1])
    _, header = next(filled, (0, []))
    if not header:
        raise InvalidData(
            f"{path}: the file is empty. Expected a first line that names the columns.",
            code="data.no-rows",
            path=path,
        )
    check_header(path, header, "line 1")

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

    return RowStream(str(path), header, rows(), lambda: file.share, notes=lambda: tuple(file.notes))


def check_header(path: Path, header: Sequence[str], where: str) -> None:
    """Raise InvalidData where two columns have one name."""
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise InvalidData(
            f"{path}, {where}: column {repeated[0]!r} occurs more than once. Rename one of them.",
            code="data.column-repeated",
            path=path,
            column=repeated[0],
        )
