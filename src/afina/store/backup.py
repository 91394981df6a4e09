"""Make a backup of a store, and recover a store from a backup. A backup is a directory that is itself a store.

A backup has the state of the store at one moment. Making a backup changes nothing in the store and waits for no writer.
Blobs (the files with adapters' bytes) never change, and the database is copied in one read transaction. If a blob is
removed from the store during the copy, the copy is repeated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, update

from afina import file_io
from afina.blobs import Blobs, LocalBlobs
from afina.blobs.remote import open_blobs
from afina.errors import CannotWrite, CorruptStore
from afina.store import audit_log, problems, publishing, verify
from afina.store.database import Database, engine
from afina.store.database.engine import Address
from afina.store.database.tables import BLOBS, GARBAGE, LEASES, LOG, PARTS, STORE, VERSIONS, metadata
from afina.store.versions import Damage

MARK = "backup.json"
"""The name of a file in every backup directory that describes the last complete backup; empty before the first one."""

_TRIES = 20
"""The largest number of attempts to copy a store. An attempt fails if a version's bytes are removed meanwhile."""


@dataclass(frozen=True)
class Backup:
    """A description of a backup."""

    place: str  # its directory
    entries: int  # in the audit log
    last: str  # the hash of the newest log entry, which users keep elsewhere to verify the log later
    versions: int
    blobs: int
    bytes: int  # of all blobs
    copied: int  # blobs that an earlier backup in this directory did not have

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def take(database: Database, blobs: Blobs, place: Path) -> Backup:
    """Copy the present state of a store into the directory `place`, and verify the copy.

    The copy contains all changes that were finished before this call. An earlier backup in `place` is updated: its
    blobs are not copied again, and the earlier backup stays valid until the new backup is verified.

    Raises:
        Refused: `place` contains other files or the backup of another store, or versions were removed during each of
            20 attempts.
        CorruptStore: the store is damaged.
        CannotWrite: nothing can be written to `place`.
    """
    place = place.expanduser().absolute()
    _check_free(database, place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / MARK).touch()
    except OSError as error:
        raise CannotWrite(place, file_io.reason(error)) from None
    with file_io.writing(place):
        kept = LocalBlobs(place / engine.BLOBS)
        with kept.scratch() as scratch:
            with database.reading() as connection:
                copied = _fetch(blobs, kept, _held(connection), scratch)[0]  # most blobs, before the database is copied
            for left in reversed(range(_TRIES)):
                fresh = scratch / f"{left}.db"
                _snapshot(database, fresh, str(place / engine.BLOBS))
                held = _held_in(fresh)
                more, gone = _fetch(blobs, kept, held, scratch)
                copied += more
                if not gone:
                    break
                if lost := _still_held(database, {digest: held[digest] for digest in gone}):
                    raise problems.BLOBS_UNREADABLE(blob=sorted(lost)[0], store=database.address.shown, blobs=len(lost))
                if not left:
                    raise problems.BLOBS_REMOVED_MEANWHILE(store=database.address.shown, tries=_TRIES)
            backup = _verified(place, fresh, kept, copied)
            with file_io.replacing(place / engine.DATABASE) as target:
                shutil.move(fresh, target)
                for suffix in ("-wal", "-shm"):  # left by readers of the earlier backup
                    Path(f"{place / engine.DATABASE}{suffix}").unlink(missing_ok=True)
        kept.sweep(publishing.LEASE_SECONDS)
        wanted = set(_held_in(place / engine.DATABASE).values())
        for each in list(kept.all()):
            if each.place not in wanted:
                kept.remove(each.place)  # of a version that was deleted or erased since the last backup
        file_io.write_text(place / MARK, f"{json.dumps({'taken': audit_log.now(), **backup.as_json()}, indent=2)}\n")
    return backup


def _check_free(database: Database, place: Path) -> None:
    here = database.address.directory
    if here is not None and place.resolve().is_relative_to(here.resolve()):
        raise problems.BACKUP_PLACE_UNUSABLE(path=place, reason="this directory is inside the store")
    try:
        there = any(place.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        reason = f"cannot be read as a directory ({file_io.reason(error)})"
        raise problems.BACKUP_PLACE_UNUSABLE(path=place, reason=reason) from None
    if there and not (place / MARK).is_file():
        reason = f"the directory has files that are not a backup (no {MARK})"
        raise problems.BACKUP_PLACE_UNUSABLE(path=place, reason=reason, expected=MARK)
    if (place / engine.DATABASE).is_file():
        with _opened(place / engine.DATABASE).reading() as earlier, database.reading() as connection:
            seq, last = earlier.execute(select(STORE.c.last, STORE.c.hash)).one()
            if connection.execute(select(LOG.c.hash).where(LOG.c.seq == seq)).scalar() != last:
                reason = "the directory has a backup of another store, or a backup that was changed later"
                raise problems.BACKUP_PLACE_UNUSABLE(path=place, reason=reason)


def _held(connection: Connection) -> dict[str, str]:
    """Return the storage keys of all blobs that belong to versions, by digest."""
    rows = connection.execute(select(BLOBS).where(BLOBS.c.digest.in_(select(PARTS.c.digest))))
    return {row.digest: row.place for row in rows}


def _held_in(file: Path) -> dict[str, str]:
    with _opened(file).reading() as connection:
        return _held(connection)


def _opened(file: Path) -> Database:
    return Database(Address(file.parent, str(file), str(file)))


def _fetch(source: Blobs, target: Blobs, held: Mapping[str, str], scratch: Path) -> tuple[int, set[str]]:
    """Copy the blobs that `target` lacks; return their number, and the digests of those that `source` no longer has."""
    copied, gone = 0, set()
    for digest, place in held.items():
        if not publishing.is_blob_place(place, digest):
            gone.add(digest)
        elif target.size(place) is None:
            try:
                with source.file(place) as file:
                    shutil.copyfile(file, scratch / "blob")  # no link: damage to one does not affect the other
            except (CorruptStore, FileNotFoundError):
                gone.add(digest)
                continue
            target.put(place, scratch / "blob")
            (scratch / "blob").unlink()
            copied += 1
    return copied, gone


def _still_held(database: Database, gone: Mapping[str, str]) -> set[str]:
    """Return the digests of `gone` whose bytes are lost: a blob that was published again has a new storage key."""
    with database.reading() as connection:
        return {digest for digest, place in _held(connection).items() if gone.get(digest) == place}


def _snapshot(database: Database, file: Path, blobs: str) -> None:
    """Copy the state of the database at one moment to a SQLite file, without rows that only writers need (leases)."""
    if database.address.directory is not None:
        database.copy_to(file)
    else:
        with database.reading() as source:
            _opened(file).begin(lambda target: _copy_rows(source, target))
    with _opened(file).writing() as connection:
        for table in (LEASES, GARBAGE):
            connection.execute(delete(table))
        connection.execute(delete(BLOBS).where(BLOBS.c.digest.not_in(select(PARTS.c.digest))))
        if connection.execute(select(STORE.c.blobs)).scalar():
            connection.execute(update(STORE).values(blobs=blobs))


def _copy_rows(source: Connection, target: Connection) -> None:
    for table in metadata.sorted_tables:
        rows = [dict(row._mapping) for row in source.execute(select(table))]
        if rows:
            target.execute(insert(table), rows)
        if target.dialect.name == "postgresql" and table.autoincrement_column is not None:
            highest = f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), max(id)) FROM {table.name}"
            target.execute(text(f"{highest} HAVING max(id) IS NOT NULL"))


def _verified(place: Path, file: Path, kept: Blobs, copied: int) -> Backup:
    database = _opened(file)
    if damaged := _damage(database, kept):
        raise problems.BACKUP_INCOMPLETE(damaged=_some(damaged), path=place)
    return _counted(database, str(place), copied)


def _damage(database: Database, kept: Blobs) -> list[Damage]:
    """Return all damage of a backup, and remove damaged blobs so that the next backup copies them again."""
    damaged = verify.verify(database, kept)
    for damage in damaged:
        if damage.kind == "blob":
            with database.reading() as connection:
                place = _held(connection).get(damage.id)
            if place is not None and publishing.is_blob_place(place, damage.id):
                kept.remove(place)
    return damaged


def _some(damaged: Collection[Damage]) -> str:
    first = next(iter(damaged))
    return f"{first.kind} {first.id}: {first.problem}{f' (and {len(damaged) - 1} more)' if len(damaged) > 1 else ''}"


def _counted(database: Database, place: str, copied: int) -> Backup:
    with database.reading() as connection:
        held = {row.digest: row.size for row in connection.execute(select(BLOBS))}
        versions = len(connection.execute(select(VERSIONS.c.id).where(VERSIONS.c.manifest.is_not(None))).all())
        last = connection.execute(select(STORE.c.last, STORE.c.hash)).one()
    return Backup(place, last.last, last.hash, versions, len(held), sum(held.values()), copied)


def _check_recoverable(database: Database, backup: Path) -> None:
    if not (backup / engine.DATABASE).is_file():
        raise problems.BACKUP_MISSING(expected=engine.DATABASE, path=backup)
    _opened(backup / engine.DATABASE).demand()
    here = database.address.directory
    if here is not None and here.resolve().is_relative_to(backup.resolve()):
        raise problems.STORE_IN_BACKUP(store=database.address.shown)
    if engine.is_there(Path(database.address.url)) if here is not None else database.exists():
        raise problems.STORE_EXISTS(store=database.address.shown)


def recover(database: Database, backup: Path, blobs: str) -> Backup:
    """Create a store from a backup, and verify the store.

    The audit log gets an entry about the recovery. If the process is killed, the same call can be repeated.

    Args:
        blobs: the directory or URL for the adapters' bytes; "" means beside the database.

    Raises:
        NotFound: there is no backup in the directory `backup`.
        Refused: the store exists already.
        CorruptStore: the backup is damaged.
    """
    backup = backup.expanduser().absolute()
    _check_recoverable(database, backup)
    here = database.address.directory
    source = LocalBlobs(backup / engine.BLOBS)
    target = open_blobs(blobs) if here is None or blobs else LocalBlobs(here / engine.BLOBS)
    with target.scratch() as scratch:
        fresh = scratch / "recovered.db"
        _opened(backup / engine.DATABASE).copy_to(fresh)
        copied, gone = _fetch(source, target, _held_in(fresh), scratch)
        if gone:
            lost = f"{len(gone)} blobs are missing, such as {sorted(gone)[0]}"
            raise problems.BACKUP_DAMAGED(damaged=lost, path=backup, blobs=len(gone), blob=sorted(gone)[0])
        with _opened(fresh).writing() as connection:
            connection.execute(update(STORE).values(blobs=blobs))
            audit_log.append(connection, audit_log.RECOVERED, {"blobs": "elsewhere" if blobs else "beside"})
        if damaged := _damage(_opened(fresh), target):
            raise problems.BACKUP_DAMAGED(damaged=_some(damaged), path=backup)
        if here is not None:
            with file_io.replacing(Path(database.address.url)) as whole:
                shutil.move(fresh, whole)
        else:
            with _opened(fresh).reading() as rows:
                if not database.begin(lambda connection: _copy_rows(rows, connection)):
                    raise problems.STORE_EXISTS(store=database.address.shown)
    return _counted(database, str(backup), copied)
