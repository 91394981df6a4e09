"""The rows of a sheet of an xlsx file, as openpyxl reads them. Knows cells; does not know which column is the text."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

from afina.errors import InvalidData, NotFound

SUFFIXES = (".xlsx", ".xlsm")

_DAMAGED = (zipfile.BadZipFile, zlib.error, ParseError, OSError, EOFError, LookupError, ValueError, TypeError)


def rows(stream: BinaryIO, path: Path, sheet: str | None) -> tuple[str, Iterator[tuple[int, Sequence[Any]]]]:
    """The sheet's name, and (row number, cells) of each of its rows that holds something; a formula by its last value.

    sheet  None: the only one that holds something
    Raises InvalidData where the file is damaged, has no such sheet, or where several hold something and none is named.
    """
    with _telling(path):
        book = _book(stream)
        names = [one.title for one in book.worksheets]
        if sheet is not None and sheet not in names:
            found = ", ".join(names)
            raise InvalidData(
                f"{path}: no sheet {sheet!r}. Found: {found}. Name the right one with `sheet`.",
                code="data.sheet-missing",
                path=path,
                sheet=sheet,
            )
        filled = names if sheet is not None else [one.title for one in book.worksheets if next(_filled(one), None)]
    if sheet is None and len(filled) > 1:
        raise InvalidData(
            f"{path}: {len(filled)} sheets hold something: {', '.join(filled)}. Name the one to read with `sheet`.",
            code="data.sheet-missing",
            path=path,
            found=filled,
        )
    chosen = sheet if sheet is not None else (filled or names)[0]

    def filled_rows() -> Iterator[tuple[int, Sequence[Any]]]:
        with _telling(path):
            yield from _filled(book[chosen])

    return chosen, filled_rows()


def has(path: Path, sheet: str | None) -> bool:
    """Whether a file is a workbook with a sheet of that name."""
    if sheet is None or path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with path.open("rb") as stream, _telling(path):
            return sheet in [one.title for one in _book(stream).worksheets]
    except (OSError, InvalidData):  # which is told where the file is read
        return False


def _filled(sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
    sheet.reset_dimensions()  # what a file says of them is sometimes wrong
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        if any(cell is not None and cell != "" for cell in cells):
            yield number, cells


def _book(stream: BinaryIO) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise NotFound(
            "an xlsx file is read by openpyxl, which is not installed: pip install openpyxl.",
            code="extra.missing",
            package="openpyxl",
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and validations, which are no matter here
        return openpyxl.load_workbook(stream, read_only=True, data_only=True)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise InvalidData(
            f"{path}: not an xlsx file that can be read ({error}). Save it again without a password, or as csv "
            "in UTF-8.",
            code="data.file-damaged",
            path=path,
        ) from None
