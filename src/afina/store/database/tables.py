"""The tables of a store's database, and the migration of earlier formats. Knows no address and no version.

To add a column or table: declare it here, raise FORMAT, and add it in `migrate` where it is missing.
"""

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
    inspect,
    select,
    text,
    update,
)
from sqlalchemy import UniqueConstraint as Unique

from afina.errors import CorruptStore

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
"""States of a version. Clients are LIVE too."""

ERASING, ERASED = "erasing", "erased"
"""States of a client: metadata erased and files being removed; name erased, until no database page contains it."""

FORMAT = "0004"
"""Format of these tables.

Format 0001 had no keys, format 0002 had keys without name and expiry, and format 0003 had keys without text_tokens.
"""

FORMATS = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
"""A table with one row, the format. It has the name and form of Alembic's version table."""

_WORDY = {
    CLIENTS: ("name", "salt"),
    NAMES: ("task",),
    VERSIONS: ("method", "manifest"),
    ALIASES: ("alias",),
    SAID: ("who", "why", "source"),
    LEASES: ("client",),
    KEYS: ("name",),
}
"""Columns for which PostgreSQL must not keep statistics: these contain samples, which an erasure could not remove."""


def migrate(connection: Connection) -> None:
    """Make the tables, or update those of an earlier format, within the connection's transaction.

    Raises:
        CorruptStore: the format is not one of afina.
    """
    FORMATS.create(connection, checkfirst=True)
    found = connection.execute(select(FORMATS.c.version_num)).scalar()
    if found == FORMAT:
        return
    if found not in (None, "0001", "0002", "0003"):
        raise CorruptStore(
            f"the store's database has an unknown format ({found}). Restore the database from a backup.",
            code="store.database-damaged",
        )
    metadata.create_all(connection)
    present = {column["name"] for column in inspect(connection).get_columns(KEYS.name)}
    for column in (KEYS.c.name, KEYS.c.expires, KEYS.c.text_tokens):
        if column.name not in present:
            connection.execute(text(f"ALTER TABLE keys ADD COLUMN {column.name} {column.type}"))
    if connection.dialect.name == "postgresql":
        for table, columns in _WORDY.items():
            for name in columns:
                connection.execute(text(f"ALTER TABLE {table.name} ALTER COLUMN {name} SET STATISTICS 0"))
    connection.execute(insert(FORMATS) if found is None else update(FORMATS), {"version_num": FORMAT})
