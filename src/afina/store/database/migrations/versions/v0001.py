"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Make them."""
    _make_the_store()
    _make_versions()
    _make_the_log()
    _make_the_housekeeping()
    _keep_words_out_of_statistics()
    op.create_index("versions_by_digest", "versions", ["name", "digest"])
    op.create_index("parts_by_digest", "parts", ["digest"])
    op.create_index("log_by_subject", "log", ["subject", "event"])
    op.create_index("said_by_client", "said", ["client"])


def _keep_words_out_of_statistics() -> None:
    """PostgreSQL keeps samples of what stands in a column, which an erasure could not reach."""
    if op.get_context().dialect.name != "postgresql":
        return
    wordy = {
        "clients": ("name", "salt"),
        "names": ("task",),
        "versions": ("method", "manifest"),
        "aliases": ("alias",),
        "said": ("who", "why", "source"),
        "leases": ("client",),
    }
    for table, columns in wordy.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")


def _make_the_store() -> None:
    op.create_table(
        "store",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("blobs", sa.Text, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(80), nullable=False),
    )
    op.create_table(
        "clients",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), unique=True),
        sa.Column("salt", sa.String(64)),
        sa.Column("state", sa.String(8), nullable=False),
    )
    op.create_table(
        "names",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("client", sa.Integer, sa.ForeignKey("clients.id"), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.UniqueConstraint("client", "task"),
    )


def _make_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Integer, sa.ForeignKey("names.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("created", sa.String(40), nullable=False),
        sa.Column("published", sa.BigInteger, nullable=False),
        sa.Column("method", sa.Text),
        sa.Column("manifest", sa.Text),
        sa.UniqueConstraint("name", "number"),
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("place", sa.String(120), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "parts",
        sa.Column("version", sa.Integer, sa.ForeignKey("versions.id"), primary_key=True),
        sa.Column("role", sa.String(120), primary_key=True),
        sa.Column("digest", sa.String(80), sa.ForeignKey("blobs.digest"), nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.Integer, sa.ForeignKey("names.id"), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )


def _make_the_log() -> None:
    op.create_table(
        "log",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(150)),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("previous", sa.String(80), nullable=False),
        sa.Column("hash", sa.String(80), nullable=False),
    )
    op.create_table(
        "said",
        sa.Column("seq", sa.BigInteger, sa.ForeignKey("log.seq"), primary_key=True, autoincrement=False),
        sa.Column("client", sa.Integer, sa.ForeignKey("clients.id"), nullable=False),
        sa.Column("who", sa.Text),
        sa.Column("why", sa.Text),
        sa.Column("source", sa.Text),
    )


def _make_the_housekeeping() -> None:
    op.create_table(
        "leases",
        sa.Column("holder", sa.String(40), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "garbage",
        sa.Column("place", sa.String(120), primary_key=True),
        sa.Column("digest", sa.String(80), nullable=False),
    )
