"""Read a file or standard input as lines of text, and report which share of the file has been read."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import re
import stat
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from afina.data import problems
from afina.errors import InvalidData
from afina.sentence import Sentence

STANDARD_INPUT = "-"
ARCHIVE = ".zip"
_OPENERS: Mapping[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
COMPRESSED = (*_OPENERS, ARCHIVE)
"""Suffixes of compressed files; a zip archive must contain a single file."""

DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""The exceptions that reading a damaged compressed file can raise."""

EXPANDED, RATIO = 1 << 30, 200
"""A compressed file is refused if its content has more than EXPANDED bytes and more than RATIO times the file's size.
"""

_AT_ONCE = 1 << 24
"""The largest number of bytes that are decompressed at once, so that a long line is read in parts."""

_SELDOM = re.compile(
    "[^\x00-\x7f\xa0\xad\xb7‘’“”«»–—…•]{4,}"
    r"|(?<![^\W\d_])(?![äöüåæøßÄÖÜÅÆØ]+\b)[À-ÿŒœŠšŸŽžƒ]{3,}(?![^\W\d_])"
    "|[a-z][¹³¿¡¢¥¦§¬¾½¼±¶†‡ˆ‰‹›˜‚„][a-z]"
)
"""In text that is read as Windows-1252, what the languages of Western Europe hardly ever write: four characters with
accents or signs in a row, a word of accented letters alone, or a sign inside a word. Cyrillic, Greek, Chinese, Japanese
and Polish texts that are read as Windows-1252 are full of these."""

_DISTINCT = 3
"""The smallest number of different characters in a match of _SELDOM, so that a repeated sign is no sign of another
encoding."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def is_blank(text: str) -> bool:
    """Return whether a string has no visible characters: only white space, control or format characters (U+200B)."""
    # The first test alone answers for most texts, and is fast.
    return not text[:1].isalnum() and all(one.isspace() or unicodedata.category(one) in ("Cf", "Cc") for one in text)


def kind(path: Path) -> str:
    """Return the suffix of a file's format in lower case, such as `.csv` for `more.CSV`, `more.csv.gz` and zip files.

    Raises InvalidData if a zip archive does not contain exactly one file.
    """
    if path.suffix.lower() == ARCHIVE and path.is_file():
        with opened(path) as found:
            return found.inner.suffix.lower()
    return (Path(path.stem) if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def names_in(directory: Path) -> str:
    return ", ".join(sorted(path.name for path in directory.iterdir())[:10]) or "nothing"


def stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem


def _only_file(path: Path, raw: BinaryIO) -> tuple[BinaryIO, zipfile.ZipInfo]:
    """Return the only file in a zip archive, without files that macOS adds."""
    try:
        archive = zipfile.ZipFile(raw)
        there = [one for one in archive.infolist() if not one.is_dir()]
        files = [
            one
            for one in there
            if not one.filename.startswith("__MACOSX/") and not Path(one.filename).name.startswith(".")
        ]
        if len(files) != 1:
            names = [one.filename for one in files]
            raise problems.ARCHIVE_NOT_ONE_FILE(
                files=len(files),
                path=path,
                found=names[:10],
                _colon=": " if files else "",
                _more=", ..." if len(files) > 10 else "",
            )
        return cast(BinaryIO, archive.open(files[0])), files[0]
    except (*DAMAGED, RuntimeError, NotImplementedError) as error:  # a password, or an unknown compression
        advice = " Unpack it, and give the file inside."
        raise problems.NOT_READABLE(path=path, _kind=".zip", _error=error, _advice=advice) from None


def _wrong_encoding(name: str, problem: str, line: int | None = None, **fields: object) -> InvalidData:
    numbered = {} if line is None else {"line": line}
    place = "" if line is None else f", line {line}"
    return problems.ENCODING_WRONG(path=name, **numbered, **fields, _place=place, _problem=problem)


class _Western:
    """The decoder of a file that is not UTF-8: it reads Windows-1252, which includes the letters of Latin-1."""

    def __init__(self, name: str) -> None:
        self.name, self.began = name, 0
        self.note = ""

    def decoded(self, line: bytes, number: int) -> str:
        """Decode a line. Raises InvalidData if it is not Windows-1252, or is UTF-8 although an earlier line is not."""
        try:
            text = line.decode("cp1252")
        except UnicodeDecodeError as error:
            problem = f"not UTF-8, and not Windows-1252 (byte {error.object[error.start]:#04x})"
            raise _wrong_encoding(self.name, problem, number) from None
        if self.began and not line.isascii():
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                pass
            else:
                problem = f"encoded as UTF-8, but line {self.began} is not"
                raise _wrong_encoding(self.name, problem, number, began=self.began)
        found = next((found[0] for found in _SELDOM.finditer(text) if len(set(found[0])) >= _DISTINCT), None)
        if found is not None:
            problem = f"not UTF-8, and as Windows-1252 it has {found[:20]!r}, so it may have another encoding"
            raise _wrong_encoding(self.name, problem, number, found=found[:20])
        if not self.began:
            self.began = number
            found = next(character for character in text if not character.isascii())
            self.note = Sentence.of(
                "{name} is not UTF-8 (line {number}); it is read as Windows-1252, in which that line has {found!r}. If "
                "that is wrong, name the file's encoding with `encoding`.",
                name=self.name,
                number=number,
                found=found,
            )
        return text


class Source:
    """An open file or standard input that is read as lines; `notes` are about the lines that were read so far.

    `inner` is the file's name without the suffix of compression; for a zip archive, the name of the file in it.
    """

    def __init__(self, path: Path, raw: BinaryIO, encoding: str | None = None) -> None:
        self.encoding = encoding
        self.name = "standard input" if str(path) == STANDARD_INPUT else str(path)
        self.notes: list[str] = []
        status = os.fstat(raw.fileno())
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        suffix = path.suffix.lower()
        self.inner = Path(path.stem) if suffix in COMPRESSED else path
        self.stream, self._expanded = raw, 0 if suffix in COMPRESSED else None
        self._told, self._length = raw, self._size
        if suffix == ARCHIVE:
            self.stream, about = _only_file(path, raw)
            self.inner = Path(about.filename)
            self._told, self._length = self.stream, about.file_size
        elif suffix in COMPRESSED:
            self.stream = cast(BinaryIO, _OPENERS[suffix](raw))

    @property
    def share(self) -> float | None:
        """The share of the file that was read so far, from 0 to 1; None if the file's size is unknown."""
        return min(1.0, self._told.tell() / self._length) if self._length else None

    @property
    def can_be_read_again(self) -> bool:
        return self._size > 0

    def lines(self, *, western: bool = False) -> Iterator[str]:
        """Yield the lines of a file in UTF-8, or in UTF-16 with a byte order mark; lines end in a line feed.

        A file that is not UTF-8 is read as Windows-1252 if `western` is true. If the file was opened with an encoding,
        it is read in this encoding. Raises InvalidData, which names the line.
        """
        try:
            first = self._line()
            if self.encoding is not None:
                yield from self._decoded(first, self.encoding)
                return
            if first.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
                raise _wrong_encoding(self.name, "UTF-32, which is not read")
            if first.startswith(_UTF16):
                yield from self._decoded(first, "UTF-16")
                return
            line = first.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise problems.NUL_CHARACTER(
                    path=self.name,
                    line=1,
                    _advice="If it is UTF-16 without a byte order mark, save it as UTF-8; if not, give a text file.",
                )
            yield from self._eight_bit(line, utf8=line != first, western=_Western(self.name) if western else None)
        except DAMAGED as error:
            if self._expanded is None:
                raise
            suffix = Path(self.name).suffix
            raise problems.NOT_READABLE(
                path=self.name, _kind=suffix, _error=error, _advice=" Compress it again."
            ) from None

    def _line(self) -> bytes:
        """Return the next line; raise InvalidData if a compressed file expands beyond EXPANDED and RATIO."""
        if self._expanded is None:
            return self.stream.readline()
        parts = []
        while part := self.stream.readline(_AT_ONCE):
            parts.append(part)
            self._expanded += len(part)
            if self._expanded > max(EXPANDED, RATIO * self._size):
                raise problems.FILE_EXPANDS(path=self.name, bytes=self._size, most=EXPANDED)
            if part.endswith(b"\n"):
                break
        return b"".join(parts)

    def _eight_bit(self, line: bytes, *, utf8: bool, western: _Western | None) -> Iterator[str]:
        """Yield the decoded lines of a file in UTF-8 (`utf8`: with its byte order mark), or else in Windows-1252."""
        number = 0
        while line:
            number += 1
            if b"\0" in line:
                raise problems.NUL_CHARACTER(path=self.name, line=number, _advice="Remove it, or give a text file.")
            if western and western.began:
                text = western.decoded(line, number)
            else:
                try:
                    text = line.decode("utf-8")
                    utf8 = utf8 or not line.isascii()
                except UnicodeDecodeError as error:
                    if western is None or utf8:
                        byte = f"{error.object[error.start]:#04x}"
                        after = ", although the lines before it are" if utf8 else ""
                        problem = f"not UTF-8 (byte {byte}){after}"
                        raise _wrong_encoding(self.name, problem, number, byte=byte) from None
                    text = western.decoded(line, number)
                    self.notes.append(western.note)
            yield text
            line = self._line()

    def _decoded(self, first: bytes, encoding: str) -> Iterator[str]:
        """Yield the lines of a file in an encoding. Raises InvalidData if the file has another, such as UTF-8."""
        decoder, left, number, data = codecs.getincrementaldecoder(encoding)(), "", 1, first
        utf8, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
        is_utf8 = not codecs.lookup(encoding).name.startswith("utf-8")  # whether it is UTF-8 and named otherwise
        try:
            while data:
                is_utf8, is_ascii = is_utf8 and _decodes(utf8, data), is_ascii and data.isascii()
                *whole, left = (left + decoder.decode(data)).split("\n")
                if number == 1 and whole:
                    whole[0] = whole[0].removeprefix("\ufeff")
                if any("\0" in line for line in (*whole, left)):
                    raise problems.NUL_CHARACTER(path=self.name, line=number, _advice=f"Is the file {encoding}?")
                number += len(whole)
                yield from (f"{line}\n" for line in whole)
                data = self._line()
            left += decoder.decode(b"", final=True)
        except UnicodeError:
            raise _wrong_encoding(self.name, f"not {encoding}", number) from None
        if is_utf8 and not is_ascii:
            raise problems.ENCODING_INAPPLICABLE(path=self.name, encoding=encoding, option="encoding", _found="UTF-8")
        if left:
            yield left


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes) -> bool:
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def opened(path: Path, encoding: str | None = None) -> Iterator[Source]:
    """Open the file at `path`, or standard input if `path` is `-`. Raises NotFound.

    Args:
        encoding: None: UTF-8, UTF-16 with a byte order mark, or Windows-1252.
    """
    if str(path) == STANDARD_INPUT:
        yield Source(path, sys.stdin.buffer, encoding)
        return
    try:
        raw = path.open("rb")
    except OSError as error:
        problem = "no such file or directory" if isinstance(error, FileNotFoundError) else "cannot be read"
        reason = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror or error})"
        raise problems.FILE_UNREADABLE(path=path, _problem=problem, _reason=reason) from None
    with raw:
        if _is_endless(raw):
            raise problems.FILE_ENDLESS(path=path)
        yield Source(path, raw, encoding)


def _is_endless(raw: BinaryIO) -> bool:
    """Return whether an open file is a device without an end, such as /dev/zero, not a terminal or the null device."""
    status = os.fstat(raw.fileno())
    if not stat.S_ISCHR(status.st_mode) or raw.isatty():
        return False
    return status.st_rdev != os.stat(os.devnull).st_rdev


@dataclass(frozen=True)
class RowStream:
    """The rows of a file as an iterator.

    Attributes:
        names: The column names in their order. None: each row has its own column names.
        rows: (line or row number from 1, the row's values by column).
        share: Returns the share of the file that was read so far; None if unknown.
        unit: What the numbers in `rows` count: "line", "row" or "item".
        classes: For each column of class indices, the class names of 0, 1, ..., if the file has them.
        notes: Returns sentences about the rows that were read so far.
        answers: The columns of the answers of annotators, if the file says which columns these are.
    """

    name: str
    names: Sequence[str] | None
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    share: Callable[[], float | None]
    unit: str = "line"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Callable[[], tuple[str, ...]] = tuple
    answers: tuple[str, ...] = ()

    def where(self, place: int) -> str:
        return f"{self.name}, {self.unit} {place}"
