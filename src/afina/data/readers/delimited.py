"""Read the rows of csv and tsv files: find the separator, and whether quotation marks quote fields or are text.

GLUE's tsv files are not quoted; tsv files written by pandas and spreadsheets are quoted. `is_quoted` recognises quoted
files.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.readers import source
from afina.data.readers.source import RowStream, Source
from afina.errors import InvalidData

_FIELD = re.compile(r'("(?:[^"]|"")*"|[^"\t]*)(\t|\Z)')
"""A field of a tsv row in a quoted file: quoted, with doubled quotation marks inside, or without quotation marks."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_NEEDING = re.compile(r'["\t\r\n]')
"""Characters that make every writer of tsv files quote the field: a quotation mark, a tab or a line end."""

LONGEST = 1 << 26
"""The largest number of characters of a row; in a longer row, a quotation mark was not closed."""


def is_quoted(lines: Iterable[str], name: str) -> bool:
    r"""Return whether the quotation marks of a tsv file quote fields; if not, they are part of the texts.

    The file is quoted if every field with a quotation mark is completely quoted, every row has as many fields as the
    first, and a known writer would have quoted exactly these fields. pandas quotes fields with a tab, a line end or a
    quotation mark inside. Spreadsheets also quote fields with a comma. R quotes whole columns or their headings. The
    quotation marks are part of the texts if some do not enclose a whole field, and splitting at every tab gives all
    lines the same number of fields. Raises InvalidData if the file fits both rules, or if only a few fields of a mostly
    quoted column are not quoted correctly. The lines are read once and not kept.
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
        raise problems.QUOTE_INSIDE_FIELD(path=name, line=plain.stray)
    if plain.fits and not (whole.fits and whole.convinces):
        raise problems.QUOTES_AMBIGUOUS(path=name, line=plain.marked)
    return whole.fits


class _Plain:
    """Statistics of the lines of a tsv file under the assumption that quotation marks are text.

    Attributes:
        fits: Whether each line has as many fields as the first line, if lines are split at every tab.
        marked: The number of the first line with a quotation mark. 0: no line has a quotation mark.
        stray: The number of the first line with a quotation mark in a field that is not completely quoted.
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
    """Statistics of the lines of a tsv file under the assumption that quotation marks quote fields."""

    def __init__(self) -> None:
        self._fits = True
        self.header: list[str] | None = None
        self.open: list[str] = []
        self.length = 0
        self.seen: Counter[tuple[int, str]] = Counter()

    @property
    def fits(self) -> bool:
        """Whether all lines so far can be read as rows with quoted fields; False while a quoted field is not closed."""
        return self._fits and not self.open

    def add(self, line: str, bare: str) -> None:
        if not self._fits or not (self.open or bare):
            return
        if (line.count('"') % 2 == 1) != bool(self.open):  # a field continues in the next line
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
        """Whether pandas, a spreadsheet or R would have quoted exactly the fields that are quoted in the file."""
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
    """Split a tsv row into its fields, with quotation marks; None if a field is only partly in quotation marks."""
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
    """Return whether the last field of a line begins with a quotation mark and continues in the next line."""
    place = 0
    while match := _FIELD.match(line, place):
        place = match.end()
    return line[place : place + 1] == '"'


def csv_rows(file: Source, path: Path) -> RowStream:
    lines = _with_returns(file.lines(western=True))
    first, number = next(lines, ""), 1
    said = _SAID.fullmatch(first)
    if said:
        first, number = next(lines, ""), 2
    separator = said[1] if said else _separator(first)
    hint = "Quote a field that contains the separator."
    return _delimited(file, path, _chain(first, lines), separator, hint, before=number - 1)


_SAID = re.compile(r"\"?sep=([,;|\t])\"?\s*", re.IGNORECASE)
"""A first line of a csv file, such as `sep=;`, that tells spreadsheets the separator."""


_ENDS = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def _with_returns(lines: Iterator[str]) -> Iterator[str]:
    r"""Split lines also at a `\r` without `\n`, the line end of old Macs."""
    for line in lines:
        yield from _ENDS.findall(line) if "\r" in line else (line,)


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _separator(header: str) -> str:
    """Return the most frequent separator in a csv header; of equally frequent ones: comma, semicolon, tab, bar.

    Spreadsheets write semicolons if the decimal mark is a comma, databases write bars, and some tsv files have the
    suffix .csv.
    """
    outside = re.sub(r'"[^"]*"', "", header)
    return max(",;\t|", key=outside.count)


def _delimited(
    file: Source, path: Path, lines: Iterator[str], separator: str, hint: str, *, before: int = 0
) -> RowStream:
    """Return the rows that Python's csv module reads from `lines`; `before` lines of the file come before them.

    The csv module's limit of 131,072 characters a field is global to the process, so this function only increases it.
    """
    if csv.field_size_limit() < LONGEST:
        csv.field_size_limit(LONGEST)
    reader = csv.reader(lines, delimiter=separator, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        start = before + 1
        try:
            for fields in reader:
                yield start, fields
                # A row with a quoted newline spans several lines; messages name its first line.
                start = before + reader.line_num + 1
        except csv.Error as error:
            found = "a quotation mark that is never closed" if "field larger" in str(error) else error
            kind = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}[separator]
            raise problems.NOT_DELIMITED(path=path, line=start, _problem=found, _mark=kind) from None

    return _of_fields(file, path, rows(), f" {hint}")


def tsv_rows(file: Source, path: Path) -> RowStream:
    if not file.can_be_read_again:
        raise problems.TSV_FROM_PIPE(path=path)
    with source.opened(path) as again:
        quoted = is_quoted(again.lines(western=True), str(path))
    hint = f"Quote every text that has a tab or a line end. {problems.SAVE_AS_CSV}"
    if quoted:
        return _delimited(file, path, file.lines(western=True), "\t", hint)
    # Not by the csv module: quotation marks belong to the text, as in GLUE.
    bare = (line.removesuffix("\n").removesuffix("\r") for line in file.lines(western=True))
    split = ((number, line.split("\t") if line else []) for number, line in enumerate(bare, start=1))
    return _of_fields(file, path, split, f" {hint}")


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
                    found=len(fields), expected=header, path=path, line=line, _count=len(header), _hint=hint
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
