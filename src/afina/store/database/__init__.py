"""The database of a store: SQLite in a file, or PostgreSQL. Transactions, and their errors in our words.

Writers of one store take turns: each holds SQLite's write lock, or the row of the table `store`, from its first read to
its commit. So version numbers have no gaps, the log is one chain, and aliases are linearizable. Knows no version.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from afina import file_io
from afina.errors import AfinaError, CannotWrite, NotFound, Refused
from afina.store.database import engine
from afina.store.database.engine import Address
from afina.store.database.tables import (
    ALIASES,
    CLIENTS,
    FORMAT,
    FORMATS,
    KEYS,
    LEASES,
    NAMES,
    SAID,
    STORE,
    VERSIONS,
    migrate,
)

PATIENCE = 60
"""Seconds that a writer waits for the others."""

_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Of PostgreSQL, whatever its default is: who has waited for the lock sees what the others have done."""

_ADVISORY = 0x6166696E61
"""Of PostgreSQL's advisory locks, the one that whoever makes the tables holds: `afina` in ASCII."""


class Database:
    """One store's. It may be shared by threads, and survives a fork: every use opens a connection of its own.

    `connected` is for what uses it several times in a row: to connect takes longer than what is then asked.
    """

    def __init__(self, address: Address, *, patience: float = PATIENCE) -> None:
        self.address = address
        self.patience = patience
        self._engine = engine.engine_of(self.address, self.patience)
        self._ready = False
        self._kept = threading.local()

    @property
    def is_file(self) -> bool:
        """Whether it is SQLite's."""
        return self.address.directory is not None

    @property
    def _read(self) -> str:
        return "BEGIN" if self.is_file else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def exists(self) -> bool:
        """Whether there is a store. Raises NotFound where nothing answers, CorruptStore."""
        if self._ready:
            return True
        if self.is_file and not self._is_there():
            return self._missing()
        with self._transaction(self._read) as connection:  # one state of it: others may be making the tables
            tables = inspect(connection)
            if not tables.has_table(FORMATS.name):
                if tables.has_table("store"):
                    raise engine.damaged(self.address, "its format is not stated")
                return self._missing()
            if not tables.has_table("store") and not self.is_file:
                raise engine.foreign(self.address)
            found = connection.execute(select(FORMATS.c.version_num)).scalar()
        if not isinstance(found, str) or not re.fullmatch("[0-9]{4}", found, re.ASCII):
            raise engine.damaged(self.address, f"its format is {found!r}, expected four digits", format=found)
        if found > FORMAT:
            raise Refused(
                f"store {self.address.shown}: made by a later afina (format {found}, this one knows {FORMAT}). "
                "Install that.",
                code="store.foreign",
                store=self.address.shown,
                found=found,
                known=FORMAT,
            )
        if found != FORMAT:
            self._migrate(lambda connection: None)
        self._ready = True
        return True

    def _is_there(self) -> bool:
        try:
            return engine.is_there(Path(self.address.url))
        except OSError as error:
            raise NotFound(
                f"store {self.address.shown}: cannot be looked at ({file_io.reason(error)}).",
                code="store.unreachable",
                store=self.address.shown,
            ) from None

    def _missing(self) -> bool:
        """False; or an error, where a file of a database is not there and blobs are."""
        if self.is_file and engine.has_blobs_alone(Path(self.address.url)):
            raise engine.damaged(self.address, "it is missing or empty, and there are blobs")
        return False

    def begin(self, first: Callable[[Connection], None]) -> bool:
        """Make the store, with what `first` puts there; false where another process was faster."""
        if self.address.directory is not None:
            path = Path(self.address.url)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o600)  # who may read it has labels, names and hashes of keys
            except OSError as error:
                raise CannotWrite(path, error.strerror or str(error)) from None
            self._engine = engine.engine_of(self.address, self.patience)
        return self._migrate(first)

    def _migrate(self, first: Callable[[Connection], None]) -> bool:
        """Bring the tables up to this version; by one process, while others wait."""
        begin = "BEGIN IMMEDIATE" if self.is_file else _WRITE
        lock = None if self.is_file else f"SELECT pg_advisory_xact_lock({_ADVISORY})"
        with self._transaction(begin, lock) as connection:
            there = inspect(connection).get_table_names()
            if there and FORMATS.name not in there:
                raise engine.foreign(self.address)
            migrate(connection)
            fresh = connection.execute(select(STORE.c.id)).scalar() is None
            if fresh:
                first(connection)
        self._ready = True
        return fresh

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store. Raises NotFound where there is none."""
        self.demand()
        with self._transaction(self._read) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer is beside; committed after the block, or undone where it raises.

        Raises NotFound where there is no store, Busy where others do not come to an end, CannotWrite.
        """
        self.demand()
        if self.is_file and not engine.may_write(Path(self.address.url)):
            raise CannotWrite(self.address.shown, "read-only file system or directory")
        begin = "BEGIN IMMEDIATE" if self.is_file else _WRITE
        with self._transaction(begin) as connection:
            if not self.is_file:
                connection.execute(text(f"SET LOCAL lock_timeout = '{self.patience:g}s'"))
                connection.execute(select(STORE.c.id).with_for_update())
            yield connection

    def demand(self) -> None:
        """Raise NotFound where there is no store."""
        if not self.exists():
            how = "publish to begin one" if self.is_file else "begin one: afina store init --blobs URL"
            raise NotFound(
                f"store {self.address.shown}: there is none. Give another with `store`, or {how}.",
                code="store.missing",
                store=self.address.shown,
            )

    def scrub(self) -> None:
        """Give up the pages that hold what was deleted, so that its bytes are in no table and index of the database.

        PostgreSQL's own write-ahead log and backups keep them for as long as they are kept. Raises Busy where others
        read for so long that it cannot be done.
        """
        with self._connected() as connection:
            if self.is_file:
                connection.execute(text("VACUUM"))
                # for another that moves the log's pages at this moment, SQLite itself does not wait
                until = datetime.now(UTC) + timedelta(seconds=self.patience)
                while connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).scalar():
                    if datetime.now(UTC) > until:
                        raise engine.busy(self.address, self.patience)
                    threading.Event().wait(0.02)
            else:
                self._rewrite(connection)

    def _rewrite(self, connection: Connection) -> None:
        """PostgreSQL's tables with words: a plain VACUUM leaves the bytes of deleted rows in their pages."""
        connection.execute(text(f"SET lock_timeout = '{self.patience:g}s'"))
        until = datetime.now(UTC) + timedelta(seconds=self.patience)
        began = connection.execute(text("SELECT clock_timestamp()")).scalar()
        # what a transaction that began before may still see is copied with what is live
        while connection.execute(_OLDER, {"began": began}).scalar():
            if datetime.now(UTC) > until:
                raise engine.busy(self.address, self.patience)
            threading.Event().wait(0.05)
        wordy = [table.name for table in (CLIENTS, NAMES, VERSIONS, ALIASES, SAID, LEASES, KEYS)]
        files = text(f"SELECT {', '.join(f'pg_relation_filenode({name!r})' for name in wordy)}")
        before = connection.execute(files).one()
        connection.execute(text(f"VACUUM (FULL, ANALYZE) {', '.join(wordy)}"))
        if any(one == other for one, other in zip(before, connection.execute(files).one(), strict=True)):
            raise CannotWrite(self.address.shown, "only the owner of its tables may rewrite them, which erasing takes")

    def copy_to(self, file: Path) -> None:
        """Write SQLite's file, of whatever format, as it is at one moment to another, by SQLite's backup interface."""
        file.touch(0o600)
        with self._connected() as connection, closing(sqlite3.connect(file)) as target:
            source: Any = connection.connection.driver_connection
            try:
                source.backup(target)
            except sqlite3.Error as error:
                raise DBAPIError("backup", None, error) from None

    def damage(self) -> list[str]:
        """What SQLite finds wrong with its file; PostgreSQL looks after its own."""
        if not self.is_file:
            return []
        with self._connected() as connection:
            found = [" ".join(str(row[0]).split()) for row in connection.execute(text("PRAGMA integrity_check(20)"))]
            loose = [f"a row of {row[0]} refers to none of {row[2]}" for row in connection.execute(_LOOSE)]
        return [problem for problem in found if problem != "ok"] + loose

    @contextmanager
    def _transaction(self, begin: str, lock: str | None = None) -> Iterator[Connection]:
        with self._connected() as connection:
            connection.exec_driver_sql(begin)
            try:
                if lock:
                    connection.exec_driver_sql(lock)
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Use one connection for all that this thread does within the block; another, where it is cut meanwhile."""
        if self._kept.__dict__.get("uses") is not None:
            yield
            return
        self._kept.uses = []
        try:
            yield
        finally:
            for connection in self._kept.uses:
                connection.close()
            self._kept.uses = None

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        uses: list[Connection] | None = self._kept.__dict__.get("uses")
        try:
            if uses is None:
                with self._engine.connect() as connection:
                    yield connection
                return
            if not uses or not self._answers(uses[-1]):
                uses.append(self._engine.connect())
            yield uses[-1]
        except DBAPIError as error:
            raise self._in_words(error) from None
        except _UNEXPECTED as error:
            problem = f"a row is not as it was written: {type(error).__name__}, {' '.join(str(error).split())[:200]}"
            raise engine.damaged(self.address, problem, " `afina store verify` says what it is about.") from error

    def _answers(self, connection: Connection) -> bool:
        """A file does; a server may have ended a connection on which nothing was said for long."""
        if connection.in_transaction() and not connection.invalidated:
            connection.rollback()  # SQLAlchemy's own account of it: each use begins and ends one in SQL
        if connection.invalidated or self.is_file:
            return not connection.invalidated
        try:
            connection.exec_driver_sql("SELECT 1")
        except DBAPIError:
            return False
        return True

    def _in_words(self, error: DBAPIError) -> AfinaError:
        return engine.error_of(error, self.address, self._engine.url.password, self.patience)


_OLDER = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_xmin IS NOT NULL AND xact_start < :began"
)
"""Transactions that may still see what was deleted."""

_LOOSE = text("PRAGMA foreign_key_check")

_UNEXPECTED = (SQLAlchemyError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a row comes to that holds something else than was ever written there."""
