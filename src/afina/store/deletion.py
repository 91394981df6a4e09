"""Delete versions, all data of a client (`erase`), and the stored bytes that no version uses (`gc`).

The number and the digests of a deleted version stay in the audit log.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select, update

from afina.blobs import Blobs
from afina.store import audit_log, catalog, problems, publishing
from afina.store.audit_log import Attribution
from afina.store.catalog import veiled
from afina.store.database import Database
from afina.store.database.tables import (
    ALIASES,
    BLOBS,
    CLIENTS,
    DELETED,
    ERASED,
    ERASING,
    GARBAGE,
    KEYS,
    LEASES,
    LIVE,
    NAMES,
    PARTS,
    SAID,
    VERSIONS,
)
from afina.store.versions import Reference, Removal, Version

_HALF_WRITTEN = 24 * publishing.LEASE_SECONDS
"""The number of seconds after which an incomplete file in a store counts as abandoned and is removed."""


def delete_version(database: Database, reference: Reference, *, who: str | None, why: str) -> Version:
    """Delete a version; the next `gc` removes the version's bytes. Raises Refused if an alias points to it.

    The version's number is not used again, and the audit log keeps the version's digests.
    """
    with database.writing() as connection:
        named, number = catalog.resolve(connection, reference)
        version = catalog.version(connection, named, number)
        if version.aliases:
            verb = "point" if version.aliases[1:] else "points"
            raise problems.VERSION_ALIASED(aliases=version.aliases, _verb=verb, version=str(version))
        row = (VERSIONS.c.name == named.id) & (VERSIONS.c.number == number)
        mine = connection.execute(select(VERSIONS.c.id).where(row)).scalar_one()
        connection.execute(delete(PARTS).where(PARTS.c.version == mine))
        connection.execute(update(VERSIONS).where(row).values(state=DELETED, manifest=None))
        parts = {role: part._asdict() for role, part in sorted(version.parts.items())}
        details = {"version": number, "digest": version.digest, "parts": parts}
        audit_log.append(connection, "delete", {**named.payload, **details}, named.attribution(who, why))
        deleted = catalog.version(connection, named, number)
        audit_log.crash_point("delete: in the transaction")
    audit_log.crash_point("delete: committed")
    return deleted


def collect_garbage(database: Database, blobs: Blobs) -> Removal:
    """Remove the blobs of no version and no publication in progress; complete a `gc` or `erase` that was killed."""
    with database.writing() as connection:
        publishing.expire_leases(connection)
        gone = _take_loose_blobs(connection)
        if gone:
            audit_log.append(connection, "gc", {"blobs": sorted(gone)})
        unfinished = _erasing(connection)
        audit_log.crash_point("gc: in the transaction")
    audit_log.crash_point("gc: condemned")
    _remove_garbage(database, blobs)
    audit_log.crash_point("gc: committed")
    _finish(database, unfinished)
    blobs.sweep(_HALF_WRITTEN)
    return Removal(len(gone), sum(gone.values()))


def erase(database: Database, blobs: Blobs, client: str, *, who: str | None, why: str) -> Removal:
    """Remove all data of a client from a store.

    The client's names, manifests and API keys are removed, the plain text of users and reasons, and the blobs that no
    other client uses. The audit log can still be verified: it has only salted hashes of the client, whose salt is
    removed too. If the process is killed, the same call, or `gc`, completes the erasure.

    Raises NotFound, and Busy if another process reads for so long that the deleted data cannot be overwritten.
    """
    removal = Removal(0, 0)
    with database.writing() as connection:
        called = CLIENTS.c.name.in_((client, veiled(client)))
        row = connection.execute(select(CLIENTS).where(called)).one_or_none()
        if row is None:
            raise problems.CLIENT_UNKNOWN(client=client, what="data")
        if row.state == LIVE:
            removal = _delete_rows(connection, row.id, Attribution(row.id, row.salt, who, why), client)
        audit_log.crash_point("erase: in the transaction")
    audit_log.crash_point("erase: forgotten")
    _remove_garbage(database, blobs)
    blobs.sweep(_HALF_WRITTEN)
    audit_log.crash_point("erase: removed")
    _finish(database, [row.id])
    return removal


def _erasing(connection: Connection) -> list[int]:
    return [*connection.execute(select(CLIENTS.c.id).where(CLIENTS.c.state.in_((ERASING, ERASED)))).scalars()]


def _finish(database: Database, unfinished: Collection[int]) -> None:
    """Complete the erasure of clients after their files are removed.

    A client's row, with a hash in place of the name, stays until the pages of deleted rows are overwritten: an erasure
    is continued after a crash, and nobody can use the client's name in the meantime.
    """
    if not unfinished:
        return
    theirs = CLIENTS.c.id.in_(unfinished)
    with database.writing() as connection:
        for row in connection.execute(select(CLIENTS).where(theirs & (CLIENTS.c.state == ERASING))).all():
            veil = {"name": veiled(row.name), "state": ERASED}
            connection.execute(update(CLIENTS).where(CLIENTS.c.id == row.id).values(veil))
    audit_log.crash_point("erase: committed")
    database.scrub()
    audit_log.crash_point("erase: scrubbed")
    with database.writing() as connection:
        connection.execute(delete(CLIENTS).where(theirs & (CLIENTS.c.state == ERASED)))
    audit_log.crash_point("erase: ended")


def _delete_rows(connection: Connection, client: int, said: Attribution, name: str) -> Removal:
    names = connection.execute(select(NAMES).where(NAMES.c.client == client)).all()
    mine = select(VERSIONS.c.id).where(VERSIONS.c.name.in_([row.id for row in names]))
    versions = connection.execute(mine).scalars().all()
    connection.execute(delete(PARTS).where(PARTS.c.version.in_(mine)))
    publishing.expire_leases(connection)
    connection.execute(delete(LEASES).where(LEASES.c.client == name))
    gone = _take_loose_blobs(connection)  # all unused blobs: some may be from deleted versions of the client
    # the user who erased appears only as a hash, whose salt is removed too
    payload = {
        "client": audit_log.salted(said.salt, name),
        "tasks": sorted(row.task for row in names),
        "versions": len(versions),
        "blobs": sorted(gone),
        **said.hashed(),
    }
    audit_log.append(connection, "erase", payload)
    ids = [row.id for row in names]
    connection.execute(delete(ALIASES).where(ALIASES.c.name.in_(ids)))
    connection.execute(delete(VERSIONS).where(VERSIONS.c.name.in_(ids)))
    connection.execute(delete(NAMES).where(NAMES.c.client == client))
    connection.execute(delete(SAID).where(SAID.c.client == client))
    connection.execute(delete(KEYS).where(KEYS.c.client == client))
    connection.execute(update(CLIENTS).where(CLIENTS.c.id == client).values(state=ERASING, salt=None))
    return Removal(len(gone), sum(gone.values()), len(versions))


def _take_loose_blobs(connection: Connection) -> dict[str, int]:
    """Remove the rows of unused blobs, record their files as garbage, and return their sizes in bytes, by digest."""
    loose = select(BLOBS).where(
        BLOBS.c.digest.not_in(select(PARTS.c.digest)), BLOBS.c.digest.not_in(select(LEASES.c.digest))
    )
    rows = connection.execute(loose).all()
    for row in rows:
        connection.execute(insert(GARBAGE), {"place": row.place, "digest": row.digest})
        connection.execute(delete(BLOBS).where(BLOBS.c.digest == row.digest))
    return {row.digest: row.size for row in rows}


def _remove_garbage(database: Database, blobs: Blobs) -> None:
    """Remove all files that are recorded as garbage, also by other processes."""
    with database.reading() as connection:
        held = select(BLOBS.c.place)
        rows = connection.execute(select(GARBAGE).where(GARBAGE.c.place.not_in(held))).all()
    places = [row.place for row in rows if publishing.is_blob_place(row.place, row.digest)]
    for place in places:
        blobs.remove(place)
        audit_log.crash_point("gc: one removed")
    audit_log.crash_point("gc: removed")
    if places:
        with database.writing() as connection:
            for place in places:
                connection.execute(delete(GARBAGE).where(GARBAGE.c.place == place))
