"""Names of keys, and when they expire."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add them; of keys that are there, none has a name and none expires."""
    op.add_column("keys", sa.Column("name", sa.Text))
    op.add_column("keys", sa.Column("expires", sa.String(40)))
    if op.get_context().dialect.name == "postgresql":  # which keeps samples that an erasure could not reach
        op.execute("ALTER TABLE keys ALTER COLUMN name SET STATISTICS 0")
