"""Write files atomically, and read untrusted JSON strictly.

A file is written completely or not at all: to a temporary file beside the target, then fsync, then rename.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, cast

from afina import problems
from afina.errors import CannotWrite

TEMPORARY = ".tmp-"

_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBADF}
"""Numbers of system errors that mean that a path cannot be written to: disk full, quota exceeded, read-only, no
permission, file closed."""


class _Messages(FileIO):
    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            return memoryview(content).nbytes


def drop_unwritable_messages() -> None:
    """Let standard error drop messages where nothing can be written, such as on a full disk: no result needs them."""
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, TextIOWrapper):
        raw = _Messages(sys.stderr.fileno(), "wb", closefd=False)
        sys.stderr = TextIOWrapper(cast(BinaryIO, raw), sys.stderr.encoding, sys.stderr.errors, write_through=True)


def sync(path: Path) -> None:
    """Make the content of a file durable with fsync; for a directory, the names of the files directly in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(place: object) -> Iterator[None]:
    """Turn an OSError into CannotWrite for `place`, if nothing can be written there."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        raise cannot_write(place, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file or directory atomically: yield a temporary path to write to. Raises CannotWrite.

    After the `with` block, the temporary file or directory is synced and renamed to `path`. If the block raises, the
    temporary is removed and `path` is unchanged. If `path` is an existing directory, this directory is first renamed,
    and removed at the end. If the process is killed, its temporary stays until `sweep_killed` removes it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder, lock = temporary(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        with writing(path):
            fresh = holder / path.name
            yield fresh
            _take_place(fresh, path, holder / "previous")
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        os.close(lock)


def temporary(path: Path) -> tuple[Path, int]:
    """Make a temporary directory beside `path`; return it with a file descriptor that locks it until this process ends.

    If the process is killed, `sweep_killed` removes the directory.
    """
    while True:
        directory = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
        try:
            lock = os.open(directory, os.O_RDONLY)
        except FileNotFoundError:  # another process removed it in `sweep_killed`
            continue
        with suppress(OSError):  # the file system may have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for a process that is about to remove it
        if directory.is_dir():
            return directory, lock
        os.close(lock)


def _is_free(descriptor: int) -> bool:
    """Try to lock a directory; return False if a living process has locked it, or if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sweep_killed(path: Path) -> None:
    """Remove the temporaries that killed processes have left beside `path`; those of living processes stay."""
    if not path.parent.is_dir():
        return
    _remove_killed(path.parent.glob(f"{TEMPORARY}{glob.escape(path.name)}-*"))


def _remove_killed(temporaries: Iterable[Path]) -> None:
    for leftover in list(temporaries):
        with suppress(OSError):
            lock = os.open(leftover, os.O_RDONLY)
            try:
                if _is_free(lock):
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(lock)


def trim(kept: Path, most: int) -> None:
    """Remove the least recently used files and directories beside `kept` until all together have at most `most` bytes.

    `kept` and the temporaries of living processes stay. The temporaries of killed processes are removed.
    """
    _remove_killed(kept.parent.glob(f"{TEMPORARY}*"))
    room = most - _size(kept)
    others = [each for each in kept.parent.iterdir() if each != kept and not each.name.startswith(TEMPORARY)]
    for each in sorted(others, key=lambda each: each.stat().st_mtime, reverse=True):
        room -= _size(each)
        if room < 0 and each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif room < 0:
            each.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())


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
    """Return the operating system's message for an error, beginning in lower case so that it fits into a sentence."""
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    message = error.strerror or str(error)
    return message[:1].lower() + message[1:]


def cannot_write(place: object, error: OSError) -> CannotWrite:
    return CannotWrite(place, reason(error), full=error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to the file `path` atomically. Raises CannotWrite, also if `path` is a directory."""
    if path.is_dir():
        raise CannotWrite(path, "it is a directory")
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def private(path: Path) -> Iterator[TextIO]:
    """Yield a new text file that only this user can read (mode 0600); it is removed if the `with` block raises.

    Raises Refused if the path exists already, and CannotWrite.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise problems.OUT_EXISTS(path=path) from None
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        with writing(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def take(source: Path, path: Path) -> None:
    """Move a file or directory to `path` atomically, even from another file system. Raises CannotWrite."""
    with replacing(path) as fresh:
        shutil.move(source, fresh)


def sweep(directory: Path) -> None:
    """Remove the temporary files and directories that killed processes have left directly in `directory`."""
    for leftover in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


MOST_BYTES = 8 << 20
"""The largest size in bytes of a JSON file, unless the caller allows more."""

DEEPEST = 32
"""The largest number of levels of nested objects and lists in a JSON file."""

LARGEST = 2**63
"""The limit of integers in a JSON file; no valid integer of afina, peft or torch is as large."""


def check_plain(path: Path) -> int:
    """Return the size of a file in bytes. Raises CorruptAdapter if it is missing or no regular file, such as a pipe.

    Links to regular files are accepted, because the Hub's cache consists of links.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise problems.FILE_MISSING(path=path) from None
    except (OSError, ValueError) as error:
        raise problems.FILE_UNREADABLE(reason=error, path=path) from None
    if not stat.S_ISREG(status.st_mode):
        found = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise problems.FILE_UNREADABLE(path=path, reason=f"it is {found}", found=found)
    return status.st_size


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Read a JSON file of at most `most` bytes, more strictly than Python's json module. Raises CorruptAdapter.

    Repeated keys, NaN, infinite numbers, integers of more than 64 bits, unpaired surrogates, and more than DEEPEST
    levels are refused.
    """
    size = check_plain(path)
    if size > most:
        reason = f"it has {size:,} bytes, more than the limit of {most:,}"
        raise problems.FILE_UNREADABLE(path=path, reason=reason, bytes=size, most=most)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise problems.FILE_UNREADABLE(reason=error, path=path) from None
    return parse_json(data, path)


def parse_json(data: bytes, where: object) -> Any:
    """Parse JSON in UTF-8 with the checks of `read_json`; `where` is a name for the JSON in error messages."""
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
        raise problems.FILE_MALFORMED(path=where, reason="not valid JSON (too many levels)") from None
    except ValueError as error:
        raise problems.FILE_MALFORMED(path=where, reason=f"not valid JSON ({error})") from None
    return value


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a file that contains a JSON object, with the checks of `read_json`."""
    content = read_json(path, most)
    if not isinstance(content, dict):
        raise problems.FILE_MALFORMED(path=path, reason="expected a JSON object, found another value")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return table


def _no_number(written: str) -> NoReturn:
    raise ValueError(f"{written} is not allowed")


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
    """Raise ValueError if a JSON value has too many levels, or a string with an unpaired surrogate."""
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
