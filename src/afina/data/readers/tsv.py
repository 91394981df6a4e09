"""Is a tsv quoted? GLUE's are not, those of pandas and of spreadsheets are, and nothing in a file says which it is.

Knows quotation marks; knows no column.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

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
