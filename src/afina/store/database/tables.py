"""The tables of a store's database. Knows no database, and not how the tables came to be (`migrations`)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text
from sqlalchemy import UniqueConstraint as Unique

metadata = MetaData()

STORE = Table(
    "store",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row, which writers lock
    Column("blobs", Text, nullable=False),  # where the bytes are; empty: beside the database
    Column("last", BigInteger, nullable=False),  # of the log: its newest entry, so that a cut end is seen
    Column("hash", String(80), nullable=False),
)

CLIENTS = Table(
    "clients",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), unique=True),  # a hash of it while the last of its erasure is done
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
    Column("subject", String(150)),  # salted client and task, to find an entry by; it follows from the payload
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
    Column("client", String(64), nullable=False),  # whose version it is for, so that an erasure ends it
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
    Column("hash", String(80), nullable=False),  # of the whole key, which is kept nowhere
    Column("scopes", String(80), nullable=False),  # in alphabetical order, a space between them
    Column("rate", Integer),  # tokens a minute; NULL: what the server says
    Column("created", BigInteger, nullable=False),  # the log's entry
    Column("revoked", BigInteger),  # likewise
    Column("name", Text),  # what its owner calls it
    Column("expires", String(40)),  # from when on it is not valid, UTC, as the log writes times; NULL: never
    Index("keys_by_client", "client"),
)

LIVE, DELETED = "live", "deleted"
"""States of a version; a client is LIVE too."""

ERASING, ERASED = "erasing", "erased"
"""Of a client whose metadata are gone and whose files are going; of one whose name is gone, until it is in no page."""
