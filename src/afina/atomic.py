"""Files and directories that appear whole or not at all.

Write to a temporary sibling, fsync, rename. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afina.errors import CannotWrite

TEMPORARY = ".tmp-"

_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""What writing comes to where a place takes no more, or never did."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_entries(directory: Path) -> None:
    """Make durable that what was made directly inside a directory is there."""
    _sync(directory)


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
        _sync(item)
    if path.is_dir() and not path.is_symlink():
        path.rename(previous)
    try:
        fresh.replace(path)
    except OSError:
        if previous.exists():
            previous.rename(path)
        raise
    _sync(path.parent)


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
