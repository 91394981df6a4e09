"""Leases: what keeps a blob from being removed before the version that is to hold it is there. In the database.

A row of `blobs` comes before its file, and goes before it. A publisher leases the rows that it needs, then puts what
files are missing, then makes its version if all its leases are still there. `gc` takes rows that no version holds and
nobody leases, and their files last. A process that dies leaves a lease that ends by itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from afina import digest
from afina.errors import AfinaError
from afina.store.database.database import Database
from afina.store.database.tables import BLOBS, GARBAGE, LEASES
from afina.store.version import Blob

SECONDS = 3600.0
"""How long one lasts: longer than any upload may take."""


def is_place(place: object, of: str) -> bool:
    """Whether it is one that `acquire` gives to a blob of that digest: another would name some other file."""
    return isinstance(place, str) and bool(re.fullmatch(rf"{re.escape(_stem(of))}[0-9a-f]{{8}}", place, re.ASCII))


def _stem(of: str) -> str:
    return f"sha256-{of.removeprefix(digest.PREFIX)}-"


def time() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()


def acquire(connection: Connection, parts: Mapping[str, Blob], client: str) -> tuple[str, dict[str, str]]:
    """Lease the blobs of a version to be: the holder, and the place of each digest. In a writer's transaction."""
    holder = secrets.token_hex(16)
    places = {}
    for blob in {part.digest: part for part in parts.values()}.values():
        row = connection.execute(select(BLOBS).where(BLOBS.c.digest == blob.digest)).one_or_none()
        if row is None:
            place = f"{_stem(blob.digest)}{secrets.token_hex(4)}"
            connection.execute(insert(BLOBS), {"digest": blob.digest, "place": place, "size": blob.size})
        else:
            place = row.place
        lease = {"holder": holder, "digest": blob.digest, "client": client, "until": time() + SECONDS}
        connection.execute(insert(LEASES), lease)
        places[blob.digest] = place
    return holder, places


def release(connection: Connection, holder: str, places: Mapping[str, str]) -> bool:
    """Give the leases back; false where one of them ended, so that its blob may be gone.

    What was put where no row says any more that it is, is garbage then.
    """
    held = {row.digest for row in connection.execute(select(LEASES).where(LEASES.c.holder == holder))}
    connection.execute(delete(LEASES).where(LEASES.c.holder == holder))
    rows = connection.execute(select(BLOBS.c.digest, BLOBS.c.place).where(BLOBS.c.digest.in_(places)))
    there = {row.digest: row.place for row in rows}
    noted = set(connection.execute(select(GARBAGE.c.place)).scalars())
    for of, place in places.items():
        if there.get(of) != place and place not in noted:
            connection.execute(insert(GARBAGE), {"place": place, "digest": of})
    return held == places.keys() and there == dict(places)


@contextmanager
def given_back(database: Database, holder: str) -> Iterator[None]:
    """End a holder's leases where the block raises, so that the next `gc` frees what was put for nothing."""
    try:
        yield
    except BaseException:
        with suppress(AfinaError), database.writing() as connection:
            connection.execute(delete(LEASES).where(LEASES.c.holder == holder))
        raise


def expire(connection: Connection) -> None:
    """Forget those that ended."""
    now = time()
    over = (LEASES.c.until < now) | (LEASES.c.until > now + 2 * SECONDS)  # the latter was never written here
    connection.execute(delete(LEASES).where(over))
