"""News: what has changed since somebody looked, for whoever follows a store. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from afina.errors import NotFound
from afina.store import catalog, clients, log
from afina.store.database.tables import CLIENTS, LIVE, LOG, STORE
from afina.store.names import PRODUCTION, Name, Reference
from afina.store.version import Version


def since(connection: Connection, seq: int, names: Collection[Name]) -> tuple[int, Collection[Name]]:
    """The log's last entry, and the names about which there is one after `seq`, or whose client is gone."""
    last = connection.execute(select(STORE.c.last)).scalar_one()
    if last == seq:
        return last, ()
    subjects = set(connection.execute(select(LOG.c.subject).where(LOG.c.seq > seq)).scalars())
    asked = select(CLIENTS.c.name, CLIENTS.c.salt).where(CLIENTS.c.state == LIVE)
    hashes = {row.name: log.salted(row.salt, row.name) for row in connection.execute(asked)}

    def touched(name: Name) -> bool:
        return name.client not in hashes or log.subject(hashes[name.client], name.task) in subjects

    return last, {name for name in names if touched(name)}


def known(connection: Connection, reference: Reference) -> Version | None:
    """The version that is meant now, if there is one: of a name alone, what `production` points to, or else the newest.

    One query where there is nothing of that name.
    """
    found = clients.look(connection, reference.name)
    if found is None:
        return None
    if reference == Reference(reference.name) and PRODUCTION in catalog.aliases_of(connection, found):
        reference = Reference(reference.name, alias=PRODUCTION)
    try:
        place, number = catalog.resolve(connection, reference)
    except NotFound:
        return None
    return catalog.version(connection, place, number)
