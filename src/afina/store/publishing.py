"""Publish: parts of an adapter become a version of a name, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, insert, select

from afina import digest
from afina.blobs.blobs import Blobs
from afina.errors import Busy, CorruptStore, Refused
from afina.store import catalog, clients, leases, log, steps
from afina.store.database.database import Database
from afina.store.database.tables import BLOBS, LIVE, PARTS, VERSIONS
from afina.store.names import Name
from afina.store.version import Blob, Published

_TRIES = 5
"""Leases end after an hour; that they do so this often means that something else is wrong."""


class Parts(NamedTuple):
    """What a version is to be made of: the manifest with its digest, and by role a file of this machine."""

    manifest: Mapping[str, Any]
    files: Mapping[str, Path]
    blobs: Mapping[str, Blob]

    @property
    def digest(self) -> str:
        """The adapter's."""
        return str(self.manifest["digest"])


def _there(connection: Connection, name: Name, wanted: str) -> Published | None:
    """The version that a name has of that adapter already."""
    place = clients.look(connection, name)
    if place is None:
        return None
    same = select(VERSIONS.c.number).where(
        VERSIONS.c.name == place.id, VERSIONS.c.digest == wanted, VERSIONS.c.state == LIVE
    )
    number = connection.execute(same.order_by(VERSIONS.c.number)).scalar()
    return Published(catalog.version(connection, place, number), created=False) if number is not None else None


def publish(
    database: Database, blobs: Blobs, name: Name, parts: Parts, *, who: str | None, why: str, source: str | None = None
) -> Published:
    """Keep the parts and make the version. `source`: from where, if not from a run.

    Killed at any step, the store is as it was, or has the version. Of a version that is there already, blobs that are
    damaged are put again. Raises Busy where it took so long that `gc` removed what it was to be made of.
    """
    for _ in range(_TRIES):
        with database.writing() as connection:
            found = _there(connection, name, parts.digest)
            if found is not None:
                held = select(BLOBS).where(BLOBS.c.digest.in_([blob.digest for blob in parts.blobs.values()]))
                places = {row.digest: row.place for row in connection.execute(held)}
                break
            clients.refuse_erasing(connection, name.client)
            before = clients.identity(connection, name)
            holder, places = leases.acquire(connection, parts.blobs, name.client)
        with leases.given_back(database, holder):
            steps.reached("publish: leased")
            _put(blobs, parts, places)
            steps.reached("publish: put")
            with database.writing() as connection:
                if leases.release(connection, holder, places):
                    made = _make(connection, name, parts, who, why, source)
                    steps.reached("publish: in the transaction")
                else:
                    made = None
                    if before is not None and clients.identity(connection, name) != before:
                        raise Refused(
                            f"{name}: its client was erased while it was published.",
                            code="client.erased",
                            name=str(name),
                        )
        if made is not None:
            steps.reached("publish: committed")
            return made
    else:
        raise Busy(
            f"{name}: what it was to be made of was removed while it was published. Try again.",
            code="store.changed-meanwhile",
            name=str(name),
        )
    _put(blobs, parts, places)
    return found


def _put(blobs: Blobs, parts: Parts, places: Mapping[str, str]) -> None:
    for role, file in parts.files.items():
        blob = parts.blobs[role]
        place = places.get(blob.digest)  # files beside the tensors may be others than the version has
        if place is not None and not _is_kept(blobs, place, blob):
            blobs.put(place, file)
        if role == "body":
            steps.reached("publish: body put")


def _is_kept(blobs: Blobs, place: str, blob: Blob) -> bool:
    """Whether the bytes are there as they should be; what was damaged is put again."""
    if blobs.size(place) != blob.size:
        return False
    try:
        with blobs.file(place) as path:
            return digest.of_file(path) == blob.digest
    except CorruptStore:
        return False


def _make(connection: Connection, name: Name, parts: Parts, who: str | None, why: str, source: str | None) -> Published:
    place = clients.find_or_make(connection, name)
    found = _there(connection, name, parts.digest)  # another publisher may have been faster
    if found is not None:
        return found
    newest = connection.execute(select(func.max(VERSIONS.c.number)).where(VERSIONS.c.name == place.id)).scalar()
    number = (newest or 0) + 1
    text = json.dumps(parts.manifest, sort_keys=True, ensure_ascii=False, allow_nan=False)
    entry = log.append(
        connection,
        "publish",
        {
            **place.payload,
            "version": number,
            "digest": parts.digest,
            "manifest": place.hashed(digest.of_bytes(text.encode())),
            "parts": {role: blob._asdict() for role, blob in sorted(parts.blobs.items())},
        },
        place.said(who, why, source),
    )
    row = {
        "name": place.id,
        "number": number,
        "digest": parts.digest,
        "state": LIVE,
        "created": entry.time,
        "published": entry.seq,
        "method": parts.manifest.get("method"),
        "manifest": text,
    }
    version = clients.made_key(connection.execute(insert(VERSIONS), row))
    held = [{"version": version, "role": role, "digest": blob.digest} for role, blob in parts.blobs.items()]
    connection.execute(insert(PARTS), held)
    return Published(catalog.version(connection, place, number), created=True)
