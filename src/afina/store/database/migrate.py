"""Bring a store's tables up to this version. Owns Alembic, and is imported only where there is something to do."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from afina.errors import CorruptStore


def upgrade(connection: Connection) -> None:
    """Run what is missing of `migrations` within the connection's transaction."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    settings.attributes["connection"] = connection
    try:
        command.upgrade(settings, "head")
    except CommandError as error:
        raise CorruptStore(
            f"the store's database states a format that no afina has made ({error}).", code="store.database-damaged"
        ) from None
