"""How the database of a store is reached: its address, the engine of SQLAlchemy's for it, and its errors in our words.

SQLite's file is opened in one way where it may be written to, in others where it may only be read. Errors name a
PostgreSQL database without its password. Knows no table.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

from platformdirs import user_data_dir
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from afina import meter
from afina.errors import AfinaError, Busy, CannotWrite, CorruptStore, InvalidName, NotFound, Refused

VARIABLE = "AFINA_STORE"
DATABASE = "store.db"
BLOBS = "blobs"

_POSTGRES = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def default() -> str:
    """What AFINA_STORE says, or a directory in the user's data folder."""
    return os.environ.get(VARIABLE) or str(Path(user_data_dir("afina", appauthor=False)) / "store")


@dataclass(frozen=True)
class Address:
    """Where a store is.

    directory  of a store that has one
    url        of the database, as SQLAlchemy wants it
    shown      for messages: without a password
    """

    directory: Path | None
    url: str
    shown: str

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        """Raises InvalidName."""
        written = str(text)
        if _POSTGRES.match(written):
            rest = written.partition("://")[2]
            return cls(None, f"postgresql+psycopg://{rest}", f"postgresql://{_without_password(rest)}")
        if _SCHEME.match(written) or not written.strip() or "\0" in written:
            raise InvalidName(
                f"`store` {_without_password(written)[:80]!r}: no address of a store. Expected a directory, or "
                "postgresql://USER:PASSWORD@HOST/DATABASE.",
                code="store.address-malformed",
            )
        try:
            path = Path(written).expanduser()
        except RuntimeError:
            raise InvalidName(
                f"`store` {written[:80]!r}: there is no user of that name. Expected a directory.",
                code="store.address-malformed",
            ) from None
        if path.is_file():
            raise InvalidName(
                f"`store` {path}: is a file, expected a directory.", code="store.address-malformed", path=path
            )
        return cls(path, str(path / DATABASE), str(path))


def _without_password(url: str) -> str:
    """`user:secret@host/db?password=secret` without the secrets."""
    hidden = re.sub(r"^((?:[^/@]*://)?[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(password|sslpassword)=[^&]*", r"\1=***", hidden, flags=re.IGNORECASE)


_SETTINGS = (
    "synchronous = FULL",  # what is acknowledged is on the disk
    "foreign_keys = ON",
    "secure_delete = ON",  # what is erased is overwritten
)

_ALONE = ("locking_mode = EXCLUSIVE",)
"""Then SQLite needs no shared memory."""

_WITHOUT_LOCKS = "win32-none" if os.name == "nt" else "unix-none"
"""A lock for writing is nothing that a file gives which is opened to be read."""


def engine_of(address: Address, patience: float) -> Engine:
    """For connections, each of its own; those to a file wait so many seconds for others.

    Raises NotFound where psycopg is not installed, InvalidName.
    """
    if address.directory is not None:
        return _sqlite_engine(Path(address.url).absolute(), patience)
    try:
        options = {"connect_timeout": 10, "application_name": "afina"}
        return create_engine(address.url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
    except ModuleNotFoundError:
        raise NotFound(
            "PostgreSQL needs psycopg. Install it: pip install 'afina[store]'.",
            code="extra.missing",
            extra="store",
            package="psycopg",
        ) from None
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise InvalidName(
            f"store {address.shown}: not readable as an address. Expected postgresql://USER:PASSWORD@HOST/DATABASE.",
            code="store.address-malformed",
            store=address.shown,
        ) from None


def _sqlite_engine(path: Path, patience: float) -> Engine:

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


def has_blobs_alone(path: Path) -> bool:
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


# Of SQLite its names, of PostgreSQL its SQLSTATE, or how these begin.
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "40")  # lock not available, transaction rolled back
_CLOSED = (
    *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_NOLFS"),
    *("53", "25006", "42501", "58030"),  # insufficient resources, read only, no privilege, I/O error
)
_ABSENT = ("3D000", "42P01", "3F000")  # no such database, table, schema


def error_of(error: DBAPIError, address: Address, secret: object, patience: float) -> AfinaError:
    """The error of ours for one of the database's. patience: the seconds that were waited for others."""
    where, said = f"store {address.shown}", " ".join(str(error.orig).split())[:200]
    if secret:
        said = said.replace(str(secret), "***")
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
    if code.startswith(_BUSY):
        return busy(address, patience)
    if code.startswith(_CLOSED):
        return CannotWrite(where, said)
    if code.startswith("SQLITE_CANTOPEN"):
        return NotFound(
            f"{where}: {address.url} cannot be opened. It has to be a file that you may read.",
            code="store.unreachable",
            store=address.shown,
        )
    if address.directory is not None:
        return damaged(address, said)
    if code.startswith(_ABSENT):
        return NotFound(
            f"{where}: {said}. Begin one: afina store init --blobs URL.", code="store.missing", store=address.shown
        )
    return NotFound(
        f"{where}: the database does not answer as expected ({said}). Try again; if it was to be changed, look first "
        "whether it was.",
        code="store.unreachable",
        store=address.shown,
    )


def damaged(address: Address, problem: str, then: str = "", **fields: object) -> CorruptStore:
    """The error of a database that is not as it was left. then: what else to do."""
    where = address.url if address.directory is not None else "it"
    return CorruptStore(
        f"store {address.shown}: its database is damaged ({problem}). Restore {where} from a backup; the blobs are as "
        f"they were.{then}",
        code="store.database-damaged",
        store=address.shown,
        **fields,
    )


def foreign(address: Address) -> Refused:
    """The error of a database in which other tables are."""
    return Refused(
        f"store {address.shown}: holds tables of another program. Give an empty database, or another directory.",
        code="store.foreign",
        store=address.shown,
    )


def busy(address: Address, patience: float) -> Busy:
    """The error where others did not come to an end."""
    return Busy(
        f"store {address.shown}: others use it, and did not end within {patience:g} seconds. Try again.",
        code="store.busy",
        store=address.shown,
        seconds=patience,
    )
