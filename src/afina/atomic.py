"""Files and directories that appear whole or not at all.

Write to a temporary sibling, fsync, rename. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; after the block it is synced and takes `path`'s place.

    Works for a file or a directory. When the block raises, the temporary is removed and `path` is
    as it was. A directory already at `path` is moved aside first and removed last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    try:
        fresh = holder / path.name
        yield fresh
        for item in [*fresh.rglob("*"), fresh]:
            _sync(item)
        previous = holder / "previous"
        if path.is_dir() and not path.is_symlink():
            path.rename(previous)
        try:
            fresh.replace(path)
        except OSError:
            if previous.exists():
                previous.rename(path)
            raise
        _sync(path.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` with `text`, in UTF-8."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def sweep(directory: Path) -> None:
    """Remove what a killed process left half-written directly inside `directory`."""
    for leftover in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
