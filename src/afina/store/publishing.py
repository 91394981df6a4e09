"""Publish an adapter: store its parts as a new version of a name, atomically, under leases on the blobs.

A blob is a stored file. The row of a blob in the table `blobs` is inserted before the file is written, and deleted
before the file is removed. A publisher leases the blobs that it needs, then writes the missing files, and then inserts
the version if it still has all leases. `gc` deletes the rows of blobs that have neither a version nor a lease, and then
their files. The lease of a killed process expires.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from afina import digest, meter
from afina.blobs import Blobs
from afina.errors import AfinaError, CorruptStore
from afina.store import audit_log, catalog, problems
from afina.store.database import Database
from afina.store.database.tables import BLOBS, GARBAGE, LEASES, LIVE, PARTS, VERSIONS
from afina.store.versions import Blob, Name, PartFile, PublishOutcome

_TRIES = 5
"""The largest number of attempts to publish. An attempt fails if a lease expires, which takes an hour."""


class NewVersion(NamedTuple):
    """The content of a new version; the manifest has the adapter's digest, and the parts are by role."""

    manifest: Mapping[str, Any]
    parts: Mapping[str, PartFile]

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])


def _there(connection: Connection, name: Name, wanted: str) -> PublishOutcome | None:
    """Return the version of a name that has the adapter's digest `wanted`; None if there is no such version."""
    named = catalog.name_row(connection, name)
    if named is None:
        return None
    same = select(VERSIONS.c.number).where(
        VERSIONS.c.name == named.id, VERSIONS.c.digest == wanted, VERSIONS.c.state == LIVE
    )
    number = connection.execute(same.order_by(VERSIONS.c.number)).scalar()
    return PublishOutcome(catalog.version(connection, named, number), created=False) if number is not None else None


def publish(
    database: Database,
    blobs: Blobs,
    name: Name,
    content: NewVersion,
    *,
    who: str | None,
    why: str,
    source: str | None = None,
) -> PublishOutcome:
    """Store the parts of an adapter, and insert the adapter's version.

    If the process is killed, the store either is unchanged or has the new version. If the name already has a version
    with the same adapter, damaged blobs of this version are written again.

    Raises:
        Busy: publishing took so long that the leases expired and `gc` removed the blobs.
        Refused: the client was erased during the publication.
    """
    for _ in range(_TRIES):
        with database.writing() as connection:
            same = _there(connection, name, content.digest)
            if same is not None:
                held = select(BLOBS).where(BLOBS.c.digest.in_([part.blob.digest for part in content.parts.values()]))
                places = {row.digest: row.place for row in connection.execute(held)}
                break
            catalog.refuse_erasing(connection, name.client)
            before = catalog.client_id(connection, name)
            holder, places = acquire_leases(connection, content.parts, name.client)
        with leasing(database, holder):
            audit_log.crash_point("publish: leased")
            _put(blobs, content, places)
            audit_log.crash_point("publish: put")
            with database.writing() as connection:
                if release_leases(connection, holder, places):
                    outcome = _insert(connection, name, content, who, why, source)
                    audit_log.crash_point("publish: in the transaction")
                else:
                    outcome = None
                    if before is not None and catalog.client_id(connection, name) != before:
                        raise problems.CLIENT_ERASED(name=str(name))
        if outcome is not None:
            audit_log.crash_point("publish: committed")
            return outcome
    else:
        raise problems.PARTS_REMOVED_MEANWHILE(name=str(name))
    _put(blobs, content, places)
    return same


def _put(blobs: Blobs, content: NewVersion, places: Mapping[str, str]) -> None:
    for role, (file, blob) in content.parts.items():
        place = places.get(blob.digest)  # files beside the tensors may differ from the version's
        if place is not None and not _is_kept(blobs, place, blob):
            blobs.put(place, file)
        if role == "body":
            audit_log.crash_point("publish: body put")


def _is_kept(blobs: Blobs, place: str, blob: Blob) -> bool:
    """Return whether a blob is stored and undamaged."""
    if blobs.size(place) != blob.size:
        return False
    try:
        with blobs.file(place) as path:
            return digest.of_file(path) == blob.digest
    except CorruptStore:
        return False


def _insert(
    connection: Connection, name: Name, content: NewVersion, who: str | None, why: str, source: str | None
) -> PublishOutcome:
    named = catalog.name_row_or_made(connection, name)
    same = _there(connection, name, content.digest)  # another publisher may have been faster
    if same is not None:
        return same
    newest = connection.execute(select(func.max(VERSIONS.c.number)).where(VERSIONS.c.name == named.id)).scalar()
    number = (newest or 0) + 1
    text = json.dumps(content.manifest, sort_keys=True, ensure_ascii=False, allow_nan=False)
    entry = audit_log.append(
        connection,
        "publish",
        {
            **named.payload,
            "version": number,
            "digest": content.digest,
            "manifest": named.hashed(digest.of_bytes(text.encode())),
            "parts": {role: part.blob._asdict() for role, part in sorted(content.parts.items())},
        },
        named.attribution(who, why, source),
    )
    row = {
        "name": named.id,
        "number": number,
        "digest": content.digest,
        "state": LIVE,
        "created": entry.time,
        "published": entry.seq,
        "method": content.manifest.get("method"),
        "manifest": text,
    }
    version = catalog.primary_key(connection.execute(insert(VERSIONS), row))
    parts = [{"version": version, "role": role, "digest": part.blob.digest} for role, part in content.parts.items()]
    connection.execute(insert(PARTS), parts)
    return PublishOutcome(catalog.version(connection, named, number), created=True)


LEASE_SECONDS = 3600.0
"""The duration of a lease on a blob in seconds, which is longer than any upload."""


def is_blob_place(place: object, of: str) -> bool:
    """Return whether a storage key belongs to the blob with the digest `of`; a manipulated row may have another key."""
    return isinstance(place, str) and bool(re.fullmatch(rf"{re.escape(_stem(of))}[0-9a-f]{{8}}", place, re.ASCII))


def _stem(of: str) -> str:
    return f"sha256-{of.removeprefix(digest.PREFIX)}-"


def acquire_leases(connection: Connection, parts: Mapping[str, PartFile], client: str) -> tuple[str, dict[str, str]]:
    """Lease the blobs of a new version; the caller must be in a write transaction.

    Returns:
        The id of the leases' holder, and the storage key of each blob, by digest.
    """
    holder = secrets.token_hex(16)
    places = {}
    for blob in dict.fromkeys(part.blob for part in parts.values()):
        row = connection.execute(select(BLOBS).where(BLOBS.c.digest == blob.digest)).one_or_none()
        if row is None:
            place = f"{_stem(blob.digest)}{secrets.token_hex(4)}"
            connection.execute(insert(BLOBS), {"digest": blob.digest, "place": place, "size": blob.size})
        else:
            place = row.place
        lease = {"holder": holder, "digest": blob.digest, "client": client, "until": meter.posix_time() + LEASE_SECONDS}
        connection.execute(insert(LEASES), lease)
        places[blob.digest] = place
    return holder, places


def release_leases(connection: Connection, holder: str, places: Mapping[str, str]) -> bool:
    """Release the leases of a publication; return False if a lease has expired, so that its blob may be removed.

    Files that were written but whose database rows have been deleted are recorded as garbage.
    """
    leased = {row.digest for row in connection.execute(select(LEASES).where(LEASES.c.holder == holder))}
    connection.execute(delete(LEASES).where(LEASES.c.holder == holder))
    rows = connection.execute(select(BLOBS.c.digest, BLOBS.c.place).where(BLOBS.c.digest.in_(places)))
    there = {row.digest: row.place for row in rows}
    noted = set(connection.execute(select(GARBAGE.c.place)).scalars())
    for of, place in places.items():
        if there.get(of) != place and place not in noted:
            connection.execute(insert(GARBAGE), {"place": place, "digest": of})
    return leased == places.keys() and there == dict(places)


@contextmanager
def leasing(database: Database, holder: str) -> Iterator[None]:
    """Return a context manager that releases a holder's leases if the block raises, so that `gc` removes the files."""
    try:
        yield
    except BaseException:
        with suppress(AfinaError), database.writing() as connection:
            connection.execute(delete(LEASES).where(LEASES.c.holder == holder))
        raise


def expire_leases(connection: Connection) -> None:
    """Remove the database rows of expired leases on blobs."""
    now = meter.posix_time()
    over = (LEASES.c.until < now) | (LEASES.c.until > now + 2 * LEASE_SECONDS)  # a later end than afina ever writes
    connection.execute(delete(LEASES).where(over))
