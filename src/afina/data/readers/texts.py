"""Texts without labels, of a file or of standard input, some at a time: however many there are, few are in memory.

Knows lines and JSON lines; knows no task and no model.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from afina.errors import InvalidData, NotFound

STANDARD_INPUT = "-"

FIRST, GROWTH, MOST = 16, 4, 4096
"""Texts of the first chunk, how many times more each further one has, and the most: the first answers come at once, the
later ones of texts that were sorted by length among many."""

MOST_BYTES = 1 << 24
"""A chunk ends here too, so that long texts do not fill the memory."""


@dataclass(frozen=True)
class Chunk:
    """Texts that follow one another.

    pairs   the second text of each, where the file has them
    before  how many texts of the file came earlier
    share   of the file that has been read with this chunk; None where its size is not known
    """

    texts: list[str]
    pairs: list[str] | None = None
    before: int = 0
    share: float | None = None


@contextmanager
def chunks(file: Path) -> Iterator[Iterator[Chunk]]:
    """The texts of a file: one a line, or of a .jsonl file `text` and, in all lines or none, `text_pair`.

    Raises NotFound at once; reading on raises InvalidData that names the line.
    """
    try:
        opened = nullcontext(sys.stdin.buffer) if str(file) == STANDARD_INPUT else file.open("rb")
    except OSError as error:
        raise NotFound(f"`file` {file}: cannot be read ({error.strerror}).") from None
    with opened as stream:
        yield _chunks(stream, file)


def _chunks(stream: BinaryIO, file: Path) -> Iterator[Chunk]:
    status = os.fstat(stream.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    rows = _rows(stream, file)
    before, most, done = 0, FIRST, 0
    ends = False
    while not ends:
        texts, pairs, read = [], [], 0
        for text, pair, length in rows:
            texts.append(text)
            pairs.append(pair)
            read += length
            if len(texts) == most or read >= MOST_BYTES:
                break
        else:
            ends = True
        if texts:
            done += read
            paired = [pair for pair in pairs if pair is not None]
            yield Chunk(texts, paired or None, before, done / size if size else None)
        before, most = before + len(texts), min(most * GROWTH, MOST)


def _rows(stream: BinaryIO, file: Path) -> Iterator[tuple[str, str | None, int]]:
    """Text, second text, and bytes of each line."""
    objects = file.suffix in {".jsonl", ".ndjson"}
    paired: bool | None = None
    start = 0
    for number, line in enumerate(stream, start=1):
        text, pair = _decoded(line, file, start), None
        if objects:
            text, pair = _object(text, f"`file` {file}, line {number}")
            if paired not in (None, pair is not None):
                raise InvalidData(
                    f'`file` {file}, line {number}: some lines have "text_pair" and some have not. '
                    "Give it in all of them or in none."
                )
            paired = pair is not None
        yield text, pair, len(line)
        start += len(line)


def _decoded(line: bytes, file: Path, start: int) -> str:
    if start == 0 and line.startswith(codecs.BOM_UTF8):
        line, start = line.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InvalidData(f"`file` {file}: not UTF-8 text (byte {start + error.start}). Save it as UTF-8.") from None


def _object(line: str, where: str) -> tuple[str, str | None]:
    try:
        row = json.loads(line)
        text, pair = str(row["text"]), row.get("text_pair")
    except (ValueError, KeyError, TypeError):
        raise InvalidData(f'{where}: expected an object with "text".') from None
    return text, None if pair is None else str(pair)
