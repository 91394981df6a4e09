"""The database of a store (SQLite in a file, or PostgreSQL): its transactions, and messages for its errors.

Only one writer at a time changes a store: from its first read to its commit, the writer holds SQLite's write lock, or
in PostgreSQL a lock on the row of the table `store`. Since writers take turns, version numbers have no gaps, the audit
log is one chain, and aliases are linearizable.
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
from afina.errors import AfinaError, CannotWrite
from afina.store import problems
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
    make_tables,
)

PATIENCE = 60
"""The number of seconds that a writer waits for other writers of the same store."""

_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""The statement that begins a write transaction in PostgreSQL, with an isolation level that does not depend on the
server's default. At READ COMMITTED, a writer that waited for the lock sees the changes of other writers.
"""

_ADVISORY = 0x6166696E61
"""The number of PostgreSQL's advisory lock under which the tables are created: `afina` in ASCII."""


class Database:
    """The database of one store, thread-safe and usable after a fork, because every use opens a connection."""

    def __init__(self, address: Address, *, patience: float = PATIENCE) -> None:
        self.address = address
        self.patience = patience
        self._engine = engine.engine_of(self.address, self.patience)
        self._ready = False
        self._kept = threading.local()

    @property
    def is_file(self) -> bool:
        """Whether the database is a SQLite file, not PostgreSQL."""
        return self.address.directory is not None

    @property
    def _read(self) -> str:
        return "BEGIN" if self.is_file else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def exists(self) -> bool:
        """Return whether the database contains a store. Raises NotFound if it does not respond, and CorruptStore."""
        if self._ready:
            return True
        if self.is_file and not self._is_there():
            return self._missing()
        with self._transaction(self._read) as connection:  # one snapshot: another process may be making the tables
            tables = inspect(connection)
            if not tables.has_table(FORMATS.name):
                if tables.has_table("store"):
                    raise engine.damaged(self.address, "its format is not stated")
                return self._missing()
            if not tables.has_table("store") and not self.is_file:
                raise engine.foreign(self.address)
            stated = connection.execute(select(FORMATS.c.version_num)).scalar()
        if not isinstance(stated, str) or not re.fullmatch("[0-9]{4}", stated, re.ASCII):
            raise engine.damaged(self.address, f"its format is {stated!r}, expected four digits", format=stated)
        if stated != FORMAT:
            shown = self.address.shown
            raise problems.FORMAT_UNKNOWN(store=shown, path=shown, found=stated, expected=FORMAT)
        self._ready = True
        return True

    def _is_there(self) -> bool:
        try:
            return engine.is_there(Path(self.address.url))
        except OSError as error:
            raise problems.STORE_UNREADABLE(reason=file_io.reason(error), store=self.address.shown) from None

    def _missing(self) -> bool:
        """Return False. Raises CorruptStore if blobs exist but the database file does not."""
        if self.is_file and engine.has_blobs_alone(Path(self.address.url)):
            raise engine.damaged(self.address, "the file is missing or empty, although there are blobs")
        return False

    def begin(self, first: Callable[[Connection], None]) -> bool:
        """Create the store's tables, and call `first` in the same transaction; False: another process was faster."""
        if self.address.directory is not None:
            path = Path(self.address.url)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o600)  # the file has labels, names and hashes of keys
            except OSError as error:
                raise CannotWrite(path, error.strerror or str(error)) from None
            self._engine = engine.engine_of(self.address, self.patience)
        begin = "BEGIN IMMEDIATE" if self.is_file else _WRITE
        lock = None if self.is_file else f"SELECT pg_advisory_xact_lock({_ADVISORY})"
        with self._transaction(begin, lock) as connection:
            there = inspect(connection).get_table_names()
            if there and FORMATS.name not in there:
                raise engine.foreign(self.address)
            made = FORMATS.name not in there
            if made:
                make_tables(connection)
                first(connection)
        self._ready = self.exists()
        return made

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin a read transaction, in which all queries see the same snapshot of the store. Raises NotFound."""
        self.demand()
        with self._transaction(self._read) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Begin the only write transaction of the store; the end of the block commits it, an error rolls it back.

        Raises NotFound, Busy if other processes did not finish in time, and CannotWrite.
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

    def has_room(self) -> bool:
        """Return whether the disk of a SQLite file has enough free space for changes; True for PostgreSQL."""
        return not self.is_file or engine.has_room(Path(self.address.url))

    def demand(self) -> None:
        """Raise NotFound if the database contains no store."""
        if not self.exists():
            how = "publish to create one" if self.is_file else "create one: afina store init --blobs URL"
            raise problems.NO_STORE(_how=how, store=self.address.shown)

    def scrub(self) -> None:
        """Overwrite deleted rows in all pages. Raises Busy if other processes read for too long.

        PostgreSQL's write-ahead log and backups contain the deleted data until they are removed.
        """
        with self._connected() as connection:
            if self.is_file:
                connection.execute(text("VACUUM"))
                # SQLite does not wait for another process that is checkpointing
                until = datetime.now(UTC) + timedelta(seconds=self.patience)
                while connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")).scalar():
                    if datetime.now(UTC) > until:
                        raise engine.busy(self.address, self.patience)
                    threading.Event().wait(0.02)
            else:
                self._rewrite(connection)

    def _rewrite(self, connection: Connection) -> None:
        """Rewrite PostgreSQL's tables that contain texts, because a plain VACUUM leaves deleted bytes in pages."""
        connection.execute(text(f"SET lock_timeout = '{self.patience:g}s'"))
        until = datetime.now(UTC) + timedelta(seconds=self.patience)
        began = connection.execute(text("SELECT clock_timestamp()")).scalar()
        # VACUUM FULL also copies deleted rows that an older transaction can still see
        while connection.execute(_OLDER, {"began": began}).scalar():
            if datetime.now(UTC) > until:
                raise engine.busy(self.address, self.patience)
            threading.Event().wait(0.05)
        wordy = [table.name for table in (CLIENTS, NAMES, VERSIONS, ALIASES, SAID, LEASES, KEYS)]
        files = text(f"SELECT {', '.join(f'pg_relation_filenode({name!r})' for name in wordy)}")
        before = connection.execute(files).one()
        connection.execute(text(f"VACUUM (FULL, ANALYZE) {', '.join(wordy)}"))
        if any(old == new for old, new in zip(before, connection.execute(files).one(), strict=True)):
            raise CannotWrite(self.address.shown, "erasing rewrites the tables, which only their owner may do")

    def copy_to(self, file: Path) -> None:
        """Copy the state of the SQLite database at one moment to a file, with SQLite's backup interface."""
        file.touch(0o600)
        with self._connected() as connection, closing(sqlite3.connect(file)) as target:
            source: Any = connection.connection.driver_connection
            try:
                source.backup(target)
            except sqlite3.Error as error:
                raise DBAPIError("backup", None, error) from None

    def damage(self) -> list[str]:
        """Return the problems that SQLite's integrity check finds; none for PostgreSQL, whose server checks pages."""
        if not self.is_file:
            return []
        with self._connected() as connection:
            pages = [" ".join(str(row[0]).split()) for row in connection.execute(text("PRAGMA integrity_check(20)"))]
            loose = [f"a row of {row[0]} refers to a missing row of {row[2]}" for row in connection.execute(_LOOSE)]
        return [problem for problem in pages if problem != "ok"] + loose

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
        """Let this thread use one connection in the block: connecting takes longer than a query."""
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
            problem = f"a row was changed: {type(error).__name__}, {' '.join(str(error).split())[:200]}"
            raise engine.damaged(self.address, problem, " `afina store verify` lists all damage.") from error

    def _answers(self, connection: Connection) -> bool:
        """Return whether a connection still works; a database server may close an idle connection."""
        if connection.in_transaction() and not connection.invalidated:
            connection.rollback()  # resets SQLAlchemy's state; the transactions themselves are begun and ended in SQL
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
"""The query that counts PostgreSQL's transactions that may still see deleted rows."""

_LOOSE = text("PRAGMA foreign_key_check")

_UNEXPECTED = (SQLAlchemyError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions that reading a row raises if the row has values that afina never writes."""
