"""Atomic writing and strict reading: a file appears whole or not at all, and JSON of unknown origin is checked first.

To write: a temporary sibling, fsync, rename. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from afina.errors import CannotWrite, CorruptAdapter

TEMPORARY = ".tmp-"

_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""What writing comes to where a place takes no more, or never did."""


def sync(path: Path) -> None:
    """fsync a file; of a directory, that what was made directly inside it is there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Raise CannotWrite of `place` where the system says in the block that it takes no more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        raise CannotWrite(place, reason(error)) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; after the block it is synced and takes `path`'s place.

    Works for a file or a directory. When the block raises, the temporary is removed and `path` is
    as it was. A directory already at `path` is moved aside first and removed last. Raises CannotWrite.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    except OSError as error:
        raise CannotWrite(path, reason(error)) from None
    try:
        with writing(path):
            fresh = holder / path.name
            yield fresh
            _take_place(fresh, path, holder / "previous")
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _take_place(fresh: Path, path: Path, previous: Path) -> None:
    for item in [*fresh.rglob("*"), fresh]:
        sync(item)
    if path.is_dir() and not path.is_symlink():
        path.rename(previous)
    try:
        fresh.replace(path)
    except OSError:
        if previous.exists():
            previous.rename(path)
        raise
    sync(path.parent)


def reason(error: OSError) -> str:
    """Why nothing can be written, in the system's words, in lower case to stand in a sentence."""
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    said = error.strerror or str(error)
    return said[:1].lower() + said[1:]


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` with `text`, in UTF-8. Raises CannotWrite where a directory is there."""
    if path.is_dir():
        raise CannotWrite(path, "it is a directory")
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def take(source: Path, path: Path) -> None:
    """Move a file or a directory to `path`, whole or not at all, also from another file system. Raises CannotWrite."""
    with replacing(path) as fresh:
        shutil.move(source, fresh)


def sweep(directory: Path) -> None:
    """Remove what a killed process left half-written directly inside `directory`."""
    for leftover in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


MOST_BYTES = 8 << 20
"""Of a file of settings, unless its reader allows more."""

DEEPEST = 32
"""Objects and lists within one another."""

LARGEST = 2**63
"""No whole number that is meant to be one of ours, peft's or torch's is as large."""

AGAIN = "Copy the adapter again, or train it again."


def check_plain(path: Path) -> int:
    """Bytes of a regular file; a link to one is one, since the Hub's cache is made of links.

    Raises CorruptAdapter for what is missing, and for what is no such file: opening a pipe would wait for ever.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise CorruptAdapter(f"{path}: the file is missing. {AGAIN}", code="adapter.file-missing", path=path) from None
    except (OSError, ValueError) as error:
        raise CorruptAdapter(
            f"{path}: cannot be read ({error}). {AGAIN}", code="adapter.file-unreadable", path=path
        ) from None
    if not stat.S_ISREG(status.st_mode):
        found = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise CorruptAdapter(
            f"{path}: expected a file, found {found}. {AGAIN}", code="adapter.file-unreadable", path=path, found=found
        )
    return status.st_size


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The JSON value in a file of at most so many bytes.

    Raises CorruptAdapter, also for what Python's reader accepts and others do not: keys that occur twice, numbers that
    are not finite or have more than 64 bits, halves of characters, more than DEEPEST levels.
    """
    size = check_plain(path)
    if size > most:
        raise CorruptAdapter(
            f"{path}: it has {size:,} bytes, at most {most:,} may be read. {AGAIN}",
            code="adapter.file-unreadable",
            path=path,
            bytes=size,
            most=most,
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptAdapter(
            f"{path}: cannot be read ({error}). {AGAIN}", code="adapter.file-unreadable", path=path
        ) from None
    return parse_json(data, path)


def parse_json(data: bytes, where: object) -> Any:
    """The JSON value in UTF-8 bytes, as strictly as `read_json`; `where` names them in messages."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_int,
        )
        _walk(value)
    except RecursionError:
        raise CorruptAdapter(
            f"{where}: not readable as JSON (too many levels). {AGAIN}", code="adapter.file-malformed", path=where
        ) from None
    except ValueError as error:
        raise CorruptAdapter(
            f"{where}: not readable as JSON ({error}). {AGAIN}", code="adapter.file-malformed", path=where
        ) from None
    return value


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file, as `read_json` reads it."""
    content = read_json(path, most)
    if not isinstance(content, dict):
        raise CorruptAdapter(f"{path}: expected a JSON object. {AGAIN}", code="adapter.file-malformed", path=path)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return made


def _no_number(written: str) -> NoReturn:
    raise ValueError(f"{written} is no number")


def _float(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"the number {written[:40]} is too large")
    return value


def _int(written: str) -> int:
    if len(written) > len(str(-LARGEST)) or not -LARGEST <= (value := int(written)) < LARGEST:
        raise ValueError(f"the number {written[:40]} is too large")
    return value


def _walk(value: Any) -> None:
    """Raise ValueError where it is too deep, or holds a string that UTF-8 cannot write."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str):
                each.encode()
            elif isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        if not inner:
            return
        level = inner
    raise ValueError("too many levels")
