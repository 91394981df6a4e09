"""SQLite's file: how it is opened where it may be written to, where it may only be read, and whether it is there."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from afina import meter
from afina.store.database.address import BLOBS

_SETTINGS = (
    "synchronous = FULL",  # what is acknowledged is on the disk
    "foreign_keys = ON",
    "secure_delete = ON",  # what is erased is overwritten
)

_ALONE = ("locking_mode = EXCLUSIVE",)
"""Then SQLite needs no shared memory."""

_WITHOUT_LOCKS = "win32-none" if os.name == "nt" else "unix-none"
"""A lock for writing is nothing that a file gives which is opened to be read."""


def engine(path: Path, patience: float) -> Engine:
    """For connections to the file, each of its own, which wait so many seconds for others."""
    path = path.absolute()

    def connect() -> sqlite3.Connection:
        mode = _mode(path)  # looked at each time: others may begin to write
        opened = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}", uri=True, timeout=patience, isolation_level=None, check_same_thread=False
        )
        if mode == "mode=rw":
            write_ahead(opened, patience)
        settings = _SETTINGS if mode == "mode=rw" else _ALONE if _WITHOUT_LOCKS in mode else ()
        for setting in settings:
            opened.execute(f"PRAGMA {setting}")
        return opened

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def write_ahead(opened: sqlite3.Connection, patience: float) -> None:
    """Turn the write-ahead log on, so that readers and the writer do not wait for each other.

    Connections that turn it on for a new file at the same time are refused at once: the timeout does not apply.
    """
    until = meter.now() + patience
    while True:
        try:
            opened.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or meter.now() > until:
                raise
        threading.Event().wait(0.01)


def may_write(path: Path) -> bool:
    """Whether the place of the file takes what SQLite writes there."""
    return os.access(path.parent, os.W_OK) or not os.path.exists(path)


def is_there(path: Path) -> bool:
    """Whether the file is, and holds something: an empty one is of somebody who did not come to an end. Or OSError."""
    try:
        return os.stat(path).st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def bereft(path: Path) -> bool:
    """Whether there are blobs beside a file that is not there or empty: it was, then."""
    return next((path.parent / BLOBS).glob("??/sha256-*"), None) is not None


def _mode(path: Path) -> str:
    if may_write(path):
        return "mode=rw"
    if not _size(f"{path}-wal"):
        return "mode=ro&immutable=1"
    # SQLite reads a write-ahead log by an index in shared memory, a file that it cannot make where it may not write.
    # Where there is none, nobody writes either: then it keeps the index to itself (`_ALONE`), without locks.
    return "mode=ro" if os.path.exists(f"{path}-shm") else f"mode=ro&vfs={_WITHOUT_LOCKS}"


def _size(path: str) -> int:
    """Bytes of a file; 0 where none can be looked at."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
