"""Source: one file, or standard input, opened: its lines of text, one at a time, and how far it has been read.

Knows encodings and compression; knows no format.
"""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from afina.errors import InvalidData, NotFound

STANDARD_INPUT = "-"
COMPRESSED = ".gz"

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def kind(path: Path) -> str:
    """The suffix that tells the format, in lower case: `.csv` of `more.CSV` and of `more.csv.gz`."""
    return (Path(path.stem) if path.suffix.lower() == COMPRESSED else path).suffix.lower()


def stem(path: Path) -> str:
    """The name without the suffixes that tell the format."""
    return Path(path.stem).stem if path.suffix.lower() == COMPRESSED else path.stem


class Source:
    """Made by `opened`.

    name    what messages call it
    stream  its bytes, decompressed
    """

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.name = "standard input" if str(path) == STANDARD_INPUT else str(path)
        self._raw = raw
        status = os.fstat(raw.fileno())
        self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        compressed = path.suffix.lower() == COMPRESSED
        self.stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw

    @property
    def share(self) -> float | None:
        """Of the file that has been read; None where its size is not known."""
        return min(1.0, self._raw.tell() / self._size) if self._size else None

    @property
    def can_be_read_again(self) -> bool:
        """Whether opening it anew begins at its beginning: a pipe does not."""
        return self._size > 0

    def lines(self) -> Iterator[str]:
        r"""Each line with its end, which is `\n`; UTF-8, or UTF-16 that says so. Raises InvalidData with the line."""
        number = 0
        try:
            first = self.stream.readline()
            if first.startswith(_UTF16):
                yield from self._utf16(first)
                return
            line = first.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise InvalidData(
                    f"{self.name}, line 1: a NUL character. If it is UTF-16 without a byte order mark, save it as "
                    "UTF-8; if it is no text, give a text file."
                )
            while line:
                number += 1
                yield line.decode("utf-8")
                line = self.stream.readline()
        except UnicodeDecodeError as error:
            raise InvalidData(
                f"{self.name}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x}). Save it as UTF-8."
            ) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidData(f"{self.name}: not a whole {COMPRESSED} file ({error}). Compress it again.") from None

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
            raise InvalidData(f"{self.name}, line {number}: not UTF-16. Save it as UTF-8.") from None
        if left:
            yield left


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The file at `path`, or standard input for `-`. Raises NotFound."""
    if str(path) == STANDARD_INPUT:
        yield Source(path, sys.stdin.buffer)
        return
    try:
        raw = path.open("rb")
    except OSError as error:
        raise NotFound(f"{path}: cannot be read ({error.strerror or error}).") from None
    with raw:
        yield Source(path, raw)
