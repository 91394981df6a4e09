"""A file or standard input as lines of text, and how far it has been read.

The module knows encodings and compression. It does not know formats.
"""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from afina.errors import InvalidData, NotFound

STANDARD_INPUT = "-"
COMPRESSED = ".gz"

FEW_LETTERS, MOST_ACCENTED = 20, 0.3
"""A file with more accented letters than both limits, a number and a share, is not Windows-1252: Cyrillic and Greek,
read as Windows-1252, consist of accented letters."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_whole(text: str) -> bool:
    """Return whether a text has no half of a surrogate pair, which no encoding can write."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def is_blank(text: str) -> bool:
    """Return whether a text is empty, or has only white space and characters that are not shown, such as U+200B."""
    return all(one.isspace() or unicodedata.category(one) in ("Cf", "Cc") for one in text)


def kind(path: Path) -> str:
    """Return the suffix of the format, in lower case: `.csv` for `more.CSV` and for `more.csv.gz`."""
    return (Path(path.stem) if path.suffix.lower() == COMPRESSED else path).suffix.lower()


def stem(path: Path) -> str:
    """Return the name without the suffixes of format and compression."""
    return Path(path.stem).stem if path.suffix.lower() == COMPRESSED else path.stem


class _Western:
    """A file that is not UTF-8 and is read as Windows-1252, which includes the letters of Latin-1."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, 0
        self.note = ""
        self.ascii = self.accented = 0

    def decoded(self, line: bytes, number: int) -> str:
        """Return a decoded line. Raises InvalidData if the line is not Windows-1252."""
        try:
            text = line.decode("cp1252")
        except UnicodeDecodeError as error:
            problem = f"line {number}: not UTF-8, and not Windows-1252 (byte {error.object[error.start]:#04x})"
            raise InvalidData(
                f"{self.name}, {problem}. Save the file as UTF-8.", code="data.encoding-wrong", path=self.name
            ) from None
        if self.began and not line.isascii():
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                pass
            else:
                raise InvalidData(
                    f"{self.name}, line {number}: encoded as UTF-8, but line {self.began} is not. Save the whole "
                    "file as UTF-8.",
                    code="data.encoding-wrong",
                    path=self.name,
                    line=number,
                )
        if not self.began:
            self.began = number
            found = next(character for character in text if not character.isascii())
            self.note = (
                f"{self.name} is not UTF-8 (line {number}); it is read as Windows-1252, in which that line has "
                f"{found!r}. If that is wrong, save the file as UTF-8."
            )
        letters = sum(map(str.isalpha, text))
        plain = sum(character.isalpha() for character in text if character.isascii())
        self.ascii, self.accented = self.ascii + plain, self.accented + letters - plain
        return text

    def check(self) -> None:
        """Raise InvalidData if more letters are accented than in any language of Western Europe."""
        if self.accented > FEW_LETTERS and self.accented > MOST_ACCENTED * (self.ascii + self.accented):
            raise InvalidData(
                f"{self.name}, line {self.began}: not UTF-8, and as Windows-1252 it has more accented letters than any "
                "language of Western Europe. Save the file as UTF-8.",
                code="data.encoding-wrong",
                path=self.name,
                line=self.began,
            )


class Source:
    """An open file or standard input, made by `opened`.

    name    the name in messages
    stream  the decompressed bytes
    notes   sentences about unexpected findings so far
    """

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.name = "standard input" if str(path) == STANDARD_INPUT else str(path)
        self.notes: list[str] = []
        self._raw = raw
        status = os.fstat(raw.fileno())
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        compressed = path.suffix.lower() == COMPRESSED
        self.stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw

    @property
    def share(self) -> float | None:
        """The share of the file that was read; None if its size is unknown."""
        return min(1.0, self._raw.tell() / self._size) if self._size else None

    @property
    def can_be_read_again(self) -> bool:
        """Whether the source can be opened again and read from the beginning; False for a pipe."""
        return self._size > 0

    def lines(self, *, western: bool = False) -> Iterator[str]:
        r"""Yield each line of UTF-8, or of UTF-16 with a byte order mark. Lines end in `\n`.

        western  read other bytes as Windows-1252 if possible, with a sentence in `notes`
        Raises InvalidData with the line.
        """
        try:
            first = self.stream.readline()
            if first.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
                raise InvalidData(
                    f"{self.name}: UTF-32, which is not read. Save the file as UTF-8.",
                    code="data.encoding-wrong",
                    path=self.name,
                )
            if first.startswith(_UTF16):
                yield from self._utf16(first)
                return
            line = first.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise InvalidData(
                    f"{self.name}, line 1: a NUL character. If it is UTF-16 without a byte order mark, save it as "
                    "UTF-8; if it is no text, give a text file.",
                    code="data.encoding-wrong",
                    path=self.name,
                    line=1,
                )
            yield from self._eight_bit(line, utf8=line != first, western=_Western(self.name) if western else None)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidData(
                f"{self.name}: not a whole {COMPRESSED} file ({error}). Compress it again.",
                code="data.file-damaged",
                path=self.name,
            ) from None

    def _eight_bit(self, line: bytes, *, utf8: bool, western: _Western | None) -> Iterator[str]:
        """Yield the lines from `line`, the first, on. utf8: the file begins with the byte order mark of UTF-8."""
        number = 0
        while line:
            number += 1
            if b"\0" in line:
                raise InvalidData(
                    f"{self.name}, line {number}: a NUL character. Remove it, or give a text file.",
                    code="data.encoding-wrong",
                    path=self.name,
                    line=number,
                )
            if western and western.began:
                text = western.decoded(line, number)
            else:
                try:
                    text = line.decode("utf-8")
                    utf8 = utf8 or not line.isascii()
                except UnicodeDecodeError as error:
                    if western is None or utf8:
                        raise InvalidData(
                            f"{self.name}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x})"
                            f"{', although the lines before it are' if utf8 else ''}. Save the file as UTF-8.",
                            code="data.encoding-wrong",
                            path=self.name,
                            line=number,
                        ) from None
                    text = western.decoded(line, number)
                    self.notes.append(western.note)
            yield text
            line = self.stream.readline()
        if western:
            western.check()

    def _utf16(self, first: bytes) -> Iterator[str]:
        decoder, left, number, data = codecs.getincrementaldecoder("utf-16")(), "", 1, first
        try:
            while data:
                *whole, left = (left + decoder.decode(data)).split("\n")
                number += len(whole)
                yield from (f"{line}\n" for line in whole)
                data = self.stream.readline()
            left += decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise InvalidData(
                f"{self.name}, line {number}: not UTF-16. Save the file as UTF-8.",
                code="data.encoding-wrong",
                path=self.name,
                line=number,
            ) from None
        if left:
            yield left


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open the file at `path`, or standard input for `-`. Raises NotFound."""
    if str(path) == STANDARD_INPUT:
        yield Source(path, sys.stdin.buffer)
        return
    try:
        raw = path.open("rb")
    except OSError as error:
        problem = "no such file or directory" if isinstance(error, FileNotFoundError) else "cannot be read"
        reason = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror or error})"
        raise NotFound(f"{path}: {problem}{reason}.", code="file.unreadable", path=path) from None
    with raw:
        yield Source(path, raw)


@dataclass(frozen=True)
class RowStream:
    """The rows of a file, one after another.

    Attributes:
        name: The file's name in messages.
        names: The columns in order; None if each row names its own.
        rows: (line or row number, from 1; values by column).
        share: Return the share of the file that was read; None if unknown.
        classes: The names of 0, 1, ... by column, if the file has them.
        notes: Return sentences about unexpected findings so far.
    """

    name: str
    names: Sequence[str] | None
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    share: Callable[[], float | None]
    unit: str = "line"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Callable[[], tuple[str, ...]] = tuple

    def where(self, place: int) -> str:
        """Return the place of a row, for messages."""
        return f"{self.name}, {self.unit} {place}"
