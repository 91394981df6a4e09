"""The address of a store's database, the SQLAlchemy engine for it, and messages for the database's errors.

A SQLite file without write permission is opened read-only. Error messages show the address of a PostgreSQL database
without its password.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from platformdirs import user_data_dir
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from afina import meter
from afina.errors import AfinaError, Busy, CannotWrite, CorruptStore, Refused
from afina.store import problems

VARIABLE = "AFINA_STORE"
DATABASE = "store.db"
BLOBS = "blobs"

_POSTGRES = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def default() -> str:
    """Return the default address of a store: $AFINA_STORE, or a directory in the user's data folder."""
    return os.environ.get(VARIABLE) or str(Path(user_data_dir("afina", appauthor=False)) / "store")


@dataclass(frozen=True)
class Address:
    """The address of a store: a directory or a PostgreSQL URL."""

    directory: Path | None  # None: the store is in PostgreSQL
    url: str  # the path of the SQLite file, or SQLAlchemy's URL of the PostgreSQL database
    shown: str  # in error messages, without a password

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        written = str(text)
        if _POSTGRES.match(written):
            rest = written.partition("://")[2]
            return cls(None, f"postgresql+psycopg://{rest}", f"postgresql://{_without_password(rest)}")
        if _SCHEME.match(written) or not written.strip() or "\0" in written:
            raise problems.ADDRESS_MALFORMED(found=_without_password(written)[:80], reason="not the address of a store")
        try:
            path = Path(written).expanduser()
        except RuntimeError:
            raise problems.ADDRESS_MALFORMED(found=written[:80], reason="there is no user with this name") from None
        try:
            is_file = path.is_file()
        except OSError as error:  # such as a name that is too long
            raise problems.ADDRESS_MALFORMED(found=written[:80], reason=error.strerror, path=written[:80]) from None
        if is_file:
            raise problems.ADDRESS_MALFORMED(found=str(path), reason="is a file", path=path)
        return cls(path, str(path / DATABASE), str(path))


def _without_password(url: str) -> str:
    """Replace the passwords in a URL such as `user:secret@host/db?password=secret` by `***`."""
    hidden = re.sub(r"^((?:[^/@]*://)?[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(password|sslpassword)=[^&]*", r"\1=***", hidden, flags=re.IGNORECASE)


_SETTINGS = (
    "synchronous = FULL",  # a commit returns when it is on the disk
    "foreign_keys = ON",
    "secure_delete = ON",  # deleted rows are overwritten
)

_ALONE = ("locking_mode = EXCLUSIVE",)
"""A SQLite setting with which a connection needs no shared memory, and other connections have to wait for it."""

_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_SHM", "SQLITE_IOERR_WRITE")
"""Beginnings of the names of SQLite's errors if a full disk has no space for the shared memory of a connection."""

_WITHOUT_LOCKS = "win32-none" if os.name == "nt" else "unix-none"
"""The name of SQLite's VFS without locks, for a file that is opened read-only and cannot be locked for writing."""


_POSTGRES_OPTIONS = {
    "connect_timeout": 10,
    "application_name": "afina",
    # A connection whose other end is gone without a word fails after about 11 seconds and not after two hours.
    **{"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 15_000},
}


def engine_of(address: Address, patience: float) -> Engine:
    """Return the SQLAlchemy engine for a store's address; SQLite connections wait `patience` seconds for locks.

    Raises NotFound without psycopg, and InvalidName for a malformed URL.
    """
    if address.directory is not None:
        return _sqlite_engine(Path(address.url).absolute(), patience)
    try:
        return create_engine(
            address.url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=_POSTGRES_OPTIONS
        )
    except ModuleNotFoundError:
        raise problems.PSYCOPG_MISSING(extra="store", package="psycopg") from None
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise problems.ADDRESS_MALFORMED(found=address.shown, reason="malformed URL", store=address.shown) from None


def _sqlite_engine(path: Path, patience: float) -> Engine:
    def connect() -> sqlite3.Connection:
        mode = _mode(path)  # for each connection: another process may begin to write
        settings: Sequence[str] = _SETTINGS if mode == "mode=rw" else _ALONE if _WITHOUT_LOCKS in mode else ()
        opened = _opened(path, mode, patience)
        if mode == "mode=rw":
            try:
                write_ahead(opened, patience)
            except sqlite3.OperationalError as error:
                opened.close()
                if not error.sqlite_errorname.startswith(_NO_ROOM):
                    raise
                opened = _opened_alone(path, patience)
        for setting in settings:
            opened.execute(f"PRAGMA {setting}")
        return opened

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def _opened(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?{mode}"
    return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


def _opened_alone(path: Path, patience: float) -> sqlite3.Connection:
    """Open a SQLite connection in exclusive mode, which needs no shared memory, when no other connection is open.

    A connection that waits for its lock keeps a read lock, on which another one would wait. So a connection that cannot
    get the exclusive lock is closed at once.
    """
    until = meter.now() + patience
    while True:
        opened = _opened(path, "mode=rw", 0.0)
        try:
            opened.execute(f"PRAGMA {_ALONE[0]}")
            opened.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the lock
            return opened
        except sqlite3.OperationalError as error:
            opened.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or meter.now() > until:
                raise
        threading.Event().wait(random.uniform(0.001, 0.02))


def write_ahead(opened: sqlite3.Connection, patience: float) -> None:
    """Turn on SQLite's write-ahead log, so that readers and the writer do not wait for each other.

    If several connections do so at the same time, SQLite refuses some without waiting for its timeout.
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
    """Return whether SQLite can write to the directory of a database file, or the file does not exist yet."""
    return os.access(path.parent, os.W_OK) or not os.path.exists(path)


ROOM = 1 << 20
"""The number of bytes of free disk space below which a change of a store may fail."""


def has_room(path: Path) -> bool:
    """Return whether the disk of a database file has at least `ROOM` bytes free; True if this is unknown."""
    try:
        return shutil.disk_usage(path.parent).free >= ROOM
    except OSError:
        return True


def is_there(path: Path) -> bool:
    """Return whether a database file exists and is not empty, as a killed process may leave it. Raises OSError."""
    try:
        return os.stat(path).st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def has_blobs_alone(path: Path) -> bool:
    """Return whether a store's directory contains blobs: without a database file, the file was lost."""
    return next((path.parent / BLOBS).glob("??/sha256-*"), None) is not None


def _mode(path: Path) -> str:
    if may_write(path):
        return "mode=rw"
    if not _size(f"{path}-wal"):
        return "mode=ro&immutable=1"
    # SQLite reads a write-ahead log with an index in shared memory, a file that it cannot make in a read-only
    # directory. If that file is missing, no process writes: then SQLite can keep the index in its own memory, without
    # locks.
    return "mode=ro" if os.path.exists(f"{path}-shm") else f"mode=ro&vfs={_WITHOUT_LOCKS}"


def _size(path: str) -> int:
    """Return the size of a file in bytes, or 0 if the file does not exist or cannot be read."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


# Beginnings of SQLite's error names and PostgreSQL's SQLSTATE codes.
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40")  # lock not available, transaction rolled back
_CLOSED = (
    *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_NOLFS"),
    *("53", "25006", "42501", "58030"),  # insufficient resources, read only, no privilege, I/O error
)
_FULL = ("SQLITE_FULL", "53100")
_ABSENT = ("3D000", "42P01", "3F000")  # no such database, table, schema


def error_of(error: DBAPIError, address: Address, secret: object, patience: float) -> AfinaError:
    """Return the exception of afina for an exception of the database driver, without the password `secret`."""
    where, reason = f"store {address.shown}", " ".join(str(error.orig).split())[:200]
    if secret:
        reason = reason.replace(str(secret), "***")
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
    if code.startswith(_BUSY):
        return busy(address, patience)
    if code.startswith(_CLOSED):
        return CannotWrite(where, reason, full=code.startswith(_FULL))
    if code.startswith("SQLITE_CANTOPEN"):
        return problems.STORE_UNREADABLE(reason=f"{address.url} cannot be opened", store=address.shown, url=address.url)
    if address.directory is not None:
        return damaged(address, reason)
    if code.startswith(_ABSENT):
        return problems.STORE_MISSING(where=where, reason=reason, store=address.shown)
    return problems.DATABASE_UNREACHABLE(where=where, reason=reason, store=address.shown)


def damaged(address: Address, problem: str, then: str = "", **fields: object) -> CorruptStore:
    """Return the exception for a damaged database; `then` is advice at the end of the message."""
    where = address.url if address.directory is not None else "the database"
    return problems.DATABASE_DAMAGED(reason=problem, where=where, _then=then, store=address.shown, **fields)


def foreign(address: Address) -> Refused:
    return problems.DATABASE_FOREIGN(store=address.shown)


def busy(address: Address, patience: float) -> Busy:
    return problems.STORE_BUSY(store=address.shown, seconds=patience)
