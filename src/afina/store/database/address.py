"""A store's URL: a directory, or a PostgreSQL database. Knows no database."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from platformdirs import user_data_dir

from afina.errors import InvalidName

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
