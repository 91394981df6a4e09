"""Clients and their names in the database: rows, and the salted hashes by which the log speaks of them."""

from __future__ import annotations

import difflib
import secrets
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, insert, select

from afina import digest
from afina.errors import NotFound, Refused
from afina.store import log
from afina.store.database.tables import CLIENTS, LIVE, NAMES
from afina.store.log import Said
from afina.store.names import Name


class Place(NamedTuple):
    """A name's row, and what the log says instead of it."""

    name: Name
    id: int
    client: int
    salt: str

    @property
    def payload(self) -> dict[str, str]:
        """How an entry begins that is about this name."""
        return {"client": log.salted(self.salt, self.name.client), "task": self.name.task}

    @property
    def subject(self) -> str:
        """What entries about this name are found by."""
        return log.subject(**self.payload)

    def said(self, who: str | None, why: str | None = None, source: str | None = None) -> Said:
        """Who does something about it, why, and from where."""
        return Said(self.client, self.salt, who, why, source)

    def hashed(self, text: str) -> str:
        """What the log says instead of a text."""
        return log.salted(self.salt, text)


def find(connection: Connection, name: Name) -> Place:
    """Raises NotFound, which names the nearest that there is."""
    found = look(connection, name)
    if found is None:
        raise NotFound(
            f"{name}: no adapter of that name in the store.{_nearest(connection, name)}",
            code="store.name-missing",
            name=str(name),
        )
    return found


def find_or_make(connection: Connection, name: Name) -> Place:
    """In a transaction of a writer. Raises Refused while the client is being erased."""
    client = find_or_make_client(connection, name.client)
    found = look(connection, name)
    if found is not None:
        return found
    made = made_key(connection.execute(insert(NAMES), {"client": client.id, "task": name.task}))
    return Place(name, made, client.id, client.salt)


class Client(NamedTuple):
    """A client's row."""

    name: str
    id: int
    salt: str

    @property
    def payload(self) -> dict[str, str]:
        """How an entry begins that is about this client, and none of its names."""
        return {"client": log.salted(self.salt, self.name)}

    def said(self, who: str | None, why: str | None = None) -> Said:
        """Who does something about it, and why."""
        return Said(self.id, self.salt, who, why)


def find_or_make_client(connection: Connection, name: str) -> Client:
    """In a transaction of a writer. Raises Refused while the client is being erased."""
    refuse_erasing(connection, name)
    row = connection.execute(select(CLIENTS).where(CLIENTS.c.name == name)).one_or_none()
    if row is not None:
        return Client(name, row.id, row.salt)
    fresh = {"name": name, "salt": secrets.token_hex(32), "state": LIVE}
    return Client(name, made_key(connection.execute(insert(CLIENTS), fresh)), fresh["salt"])


def veiled(client: str) -> str:
    """What stands instead of a client's name while the last of its erasure is done: no name looks like it."""
    return f"#{digest.of_bytes(client.encode()).removeprefix(digest.PREFIX)[:60]}"


def identity(connection: Connection, name: Name) -> int | None:
    """The row of the client, if there is one: another one once it was erased."""
    return connection.execute(select(CLIENTS.c.id).where(CLIENTS.c.name == name.client)).scalar()


def refuse_erasing(connection: Connection, client: str) -> None:
    """Raise Refused while the client is being erased: nothing of it may come in meanwhile."""
    called = CLIENTS.c.name.in_((client, veiled(client)))
    states = connection.execute(select(CLIENTS.c.state).where(called)).scalars()
    if any(state != LIVE for state in states):
        raise Refused(
            f"client {client}: is being erased. Finish that first: afina store erase {client}.",
            code="client.erased",
            client=client,
        )


def made_key(inserted: CursorResult[Any]) -> int:
    """The number that the database gave to a row."""
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])


def look(connection: Connection, name: Name) -> Place | None:
    """The name's row, if there is one."""
    asked = (
        select(NAMES.c.id, CLIENTS.c.id.label("client"), CLIENTS.c.salt)
        .join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
        .where(CLIENTS.c.name == name.client, CLIENTS.c.state == LIVE, NAMES.c.task == name.task)
    )
    row = connection.execute(asked).one_or_none()
    return Place(name, row.id, row.client, row.salt) if row else None


def _nearest(connection: Connection, name: Name) -> str:
    asked = (
        select(CLIENTS.c.name, NAMES.c.task)
        .join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
        .where(CLIENTS.c.state == LIVE)
        .limit(10_000)
    )
    there = [f"{client}/{task}" for client, task in connection.execute(asked)]
    near = difflib.get_close_matches(str(name), there, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else " `afina store list` shows what there is."
