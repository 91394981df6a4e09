"""The tables of a store's database, defined with SQLAlchemy."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    text,
)
from sqlalchemy import UniqueConstraint as Unique

metadata = MetaData()

STORE = Table(
    "store",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: writers lock the only row
    Column("blobs", Text, nullable=False),  # place of the blobs; empty: beside the database
    Column("last", BigInteger, nullable=False),  # number of the newest log entry, to detect a truncated log
    Column("hash", String(80), nullable=False),
)

CLIENTS = Table(
    "clients",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), unique=True),  # a hash of the name during the last steps of an erasure
    Column("salt", String(64)),
    Column("state", String(8), nullable=False),
)

NAMES = Table(
    "names",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("client", ForeignKey("clients.id"), nullable=False),
    Column("task", String(64), nullable=False),
    Unique("client", "task"),
)

VERSIONS = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", ForeignKey("names.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("state", String(8), nullable=False),
    Column("created", String(40), nullable=False),
    Column("published", BigInteger, nullable=False),  # the log's entry
    Column("method", Text),  # copied from the manifest, for lists
    Column("manifest", Text),  # JSON; NULL once it is deleted or erased
    Unique("name", "number"),
    Index("versions_by_digest", "name", "digest"),
)

BLOBS = Table(
    "blobs",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("place", String(120), nullable=False),
    Column("size", BigInteger, nullable=False),
)

PARTS = Table(
    "parts",
    metadata,
    Column("version", ForeignKey("versions.id"), primary_key=True),
    Column("role", String(120), primary_key=True),
    Column("digest", ForeignKey("blobs.digest"), nullable=False),
    Index("parts_by_digest", "digest"),
)

ALIASES = Table(
    "aliases",
    metadata,
    Column("name", ForeignKey("names.id"), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
)

LOG = Table(
    "log",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time", String(40), nullable=False),
    Column("event", String(16), nullable=False),
    Column("subject", String(150)),  # salted client and task, to find entries; derived from the payload
    Column("payload", Text, nullable=False),
    Column("previous", String(80), nullable=False),
    Column("hash", String(80), nullable=False),
    Index("log_by_subject", "subject", "event"),
)

SAID = Table(
    "said",
    metadata,
    Column("seq", ForeignKey("log.seq"), primary_key=True, autoincrement=False),
    Column("client", ForeignKey("clients.id"), nullable=False),
    Column("who", Text),
    Column("why", Text),
    Column("source", Text),
    Index("said_by_client", "client"),
)

LEASES = Table(
    "leases",
    metadata,
    Column("holder", String(40), primary_key=True),
    Column("digest", String(80), primary_key=True),
    Column("client", String(64), nullable=False),  # owner of the new version, so that an erasure ends the lease
    Column("until", Float, nullable=False),  # seconds since 1970
)

GARBAGE = Table(
    "garbage",
    metadata,
    Column("place", String(120), primary_key=True),  # a file that is to be removed
    Column("digest", String(80), nullable=False),
)

KEYS = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("client", ForeignKey("clients.id"), nullable=False),
    Column("hash", String(80), nullable=False),  # of the whole key, which is stored nowhere
    Column("scopes", String(80), nullable=False),  # in alphabetical order, a space between them
    Column("rate", Integer),  # tokens a minute; NULL: the server's default
    Column("created", BigInteger, nullable=False),  # entry of the log
    Column("revoked", BigInteger),  # entry of the log; NULL: not revoked
    Column("name", Text),  # the owner's name for the key
    Column("expires", String(40)),  # end of validity, UTC, in the log's format; NULL: never
    Column("text_tokens", Integer),  # most tokens of a text; NULL: the server's limits only
    Index("keys_by_client", "client"),
)

LIVE, DELETED = "live", "deleted"
"""The states of a version: LIVE or DELETED. LIVE is also the state of a client that is not being erased."""

ERASING, ERASED = "erasing", "erased"
"""The states of a client during its erasure. ERASING: the client's rows are deleted, and its files are being removed.
ERASED: a hash replaces the client's name, and pages that contain the name are being overwritten."""

FORMAT = "0004"
"""The format number of the tables, which must be raised when a table or column changes."""

FORMATS = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""The table with the format number as its only row; the table's name and form are those of Alembic's version table."""

_WORDY = {
    CLIENTS: ("name", "salt"),
    NAMES: ("task",),
    VERSIONS: ("method", "manifest"),
    ALIASES: ("alias",),
    SAID: ("who", "why", "source"),
    LEASES: ("client",),
    KEYS: ("name",),
}
"""Columns for which PostgreSQL must keep no statistics, because statistics contain samples of the values, which the
erasure of a client could not remove."""


def make_tables(connection: Connection) -> None:
    """Create the tables of a store within the connection's transaction."""
    FORMATS.create(connection)
    metadata.create_all(connection)
    if connection.dialect.name == "postgresql":
        for table, columns in _WORDY.items():
            for name in columns:
                connection.execute(text(f"ALTER TABLE {table.name} ALTER COLUMN {name} SET STATISTICS 0"))
    connection.execute(insert(FORMATS), {"version_num": FORMAT})
