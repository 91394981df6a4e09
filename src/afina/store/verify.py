"""Verify a store: hash the audit log and every stored file again, and compare the database with the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.engine import Row

from afina import digest
from afina.blobs import Blobs
from afina.errors import AfinaError, CorruptAdapter, CorruptStore, NotFound
from afina.store import api_keys, audit_log, catalog, publishing
from afina.store.audit_log import LogEntry
from afina.store.database import Database
from afina.store.database.tables import (
    ALIASES,
    BLOBS,
    CLIENTS,
    DELETED,
    ERASED,
    ERASING,
    LIVE,
    LOG,
    NAMES,
    PARTS,
    SAID,
    STORE,
    VERSIONS,
)
from afina.store.versions import Damage


def _of_version(kind: str, version: str, problem: str) -> Damage:
    return Damage(kind, version, (version,), problem)


_LOST = "the database has no row of this {}, but the audit log records it"


@dataclass
class _Expected:
    """The statements of the audit log about one name."""

    published: dict[int, LogEntry] = field(default_factory=dict)  # by version number
    deleted: set[int] = field(default_factory=set)
    aliases: dict[str, int] = field(default_factory=dict)  # the version number of each alias


def verify(database: Database, blobs: Blobs, last: str | None = None) -> list[Damage]:
    """Return all damage of a store; `last` is the hash of an entry that the audit log must have. Raises NotFound."""
    database.demand()
    shown = database.address.shown
    damage = []
    try:
        damage += [Damage("database", shown, (), problem) for problem in database.damage()]
        with database.reading() as connection:
            entries, damaged = _read_log(connection)
            damage += damaged
            if last is not None and last not in [entry.hash for entry in entries]:
                lost = "no entry of the audit log has this hash: the log was changed or shortened"
                damage.append(Damage("log", last[:80], (), lost))
            damage += _place(connection, entries, shown)
            damage += _tables(connection, _replayed(entries))
            damage += _keys(connection, entries)
            damage += _plain_texts(connection, entries)
            held = catalog.versions_by_blob(connection)
            rows = {row.digest: row for row in connection.execute(select(BLOBS))}
    except CorruptStore as error:
        return [*damage, Damage("database", shown, (), str(error))]
    for blob in sorted(held, key=str):
        problem = _of_blob(blobs, rows[blob]) if blob in rows else "the database has no row of this blob"
        if problem and _is_still_there(database, blob, rows[blob].place if blob in rows else None):
            damage.append(Damage("blob", str(blob), tuple(held[blob]), problem))
    return damage


def _place(connection: Connection, entries: list[LogEntry], shown: str) -> Iterator[Damage]:
    """Yield damage if the audit log and the database disagree on whether the blobs are beside the database.

    The audit log records no URL of the blobs, because a URL may be secret.
    """
    address = connection.execute(select(STORE.c.blobs)).scalar()
    where = "elsewhere" if address else "beside"
    begins = (audit_log.CREATED, audit_log.RECOVERED)
    logged = [entry.payload.get("blobs") for entry in entries if entry.event in begins]
    if logged and logged[-1] != where:
        problem = f"the place of the blobs is {where!r} in the database, but {logged[-1]!r} in the audit log"
        yield Damage("database", shown, (), problem)


def _is_still_there(database: Database, blob: str, place: str | None) -> bool:
    """Return whether no other process has removed or replaced a blob during the verification."""
    with database.reading() as connection:
        held = connection.execute(select(PARTS.c.digest).where(PARTS.c.digest == blob)).first()
        there = connection.execute(select(BLOBS.c.place).where(BLOBS.c.digest == blob)).scalar()
    return held is not None and there == place


def _of_blob(blobs: Blobs, row: Row[Any]) -> str | None:
    if not publishing.is_blob_place(row.place, row.digest):
        return f"the database names the file {row.place!r:.80}, which is not a file of this blob"
    try:
        size = blobs.size(row.place)
        if size is None:
            return f"the file {row.place} is missing"
        if size != row.size:
            return f"the file {row.place} has {size:,} bytes, but the database says {row.size}"
        with blobs.file(row.place) as path:
            found = digest.of_file(path)
    except NotFound:  # the service does not respond, so the blob's state is unknown
        raise
    except (AfinaError, OSError) as error:
        return f"the file {row.place} cannot be read ({error})"
    return None if found == row.digest else f"the file {row.place} was changed: its digest is {found[:19]}"


def _read_log(connection: Connection) -> tuple[list[LogEntry], list[Damage]]:
    entries: list[LogEntry] = []
    damaged = []

    def wrong(seq: object, problem: str, payload: Mapping[str, Any] | None = None) -> None:
        about = (f"version {payload['version']}",) if isinstance(payload, dict) and "version" in payload else ()
        damaged.append(Damage("log", str(seq), about, problem))

    before, expected = audit_log.FIRST, 1
    for row in connection.execute(select(LOG).order_by(LOG.c.seq)):
        payload = None
        try:
            entry = audit_log.entry_of(row)
            payload = entry.payload
            computed, about = entry.computed(), audit_log.subject_of(payload)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            wrong(row.seq, f"the entry cannot be read ({error})", payload)
        else:
            if computed != entry.hash:
                wrong(row.seq, f"the content has hash {computed[:19]}, but the entry states {entry.hash[:19]}", payload)
            elif about != row.subject:
                wrong(row.seq, "the column `subject` differs from the subject in the content", payload)
            else:
                entries.append(entry)
        if row.seq != expected:
            wrong(row.seq, f"entry {expected} is missing before this entry")
        if row.previous != before:
            wrong(row.seq, f"the stated previous hash is {row.previous[:19]}, but the previous entry has {before[:19]}")
        before, expected = row.hash, (row.seq if isinstance(row.seq, int) else expected) + 1
    last = connection.execute(select(STORE.c.last, STORE.c.hash)).one_or_none()
    if last is None or (last.last, last.hash) != (expected - 1, before):
        stated = f"entry {last.last} with hash {str(last.hash)[:19]}" if last else "no entry"
        wrong("end", f"the last entry is {expected - 1} with hash {str(before)[:19]}, but the database states {stated}")
    return entries, damaged


def _replayed(entries: list[LogEntry]) -> dict[str, _Expected]:
    """Replay the audit log: return the versions and aliases that each name should have now, by the name's subject."""
    names: dict[str, _Expected] = {}
    for entry in entries:
        payload = entry.payload
        if entry.event == "erase":
            for task in payload["tasks"]:
                names.pop(audit_log.subject(payload["client"], task), None)
        subject = audit_log.subject_of(payload)
        if subject is None:
            continue
        about = names.setdefault(subject, _Expected())
        if entry.event == "publish":
            about.published[payload["version"]] = entry
        elif entry.event == "delete":
            about.deleted.add(payload["version"])
        elif entry.event in ("alias", "rollback"):
            about.aliases[payload["alias"]] = payload["to"]
        elif entry.event == "unalias":
            about.aliases.pop(payload["alias"], None)
    return names


def _tables(connection: Connection, expected: dict[str, _Expected]) -> Iterator[Damage]:
    """Yield damage for each difference between the database tables and the replayed audit log."""
    asked = select(NAMES, CLIENTS.c.name.label("owner"), CLIENTS.c.salt, CLIENTS.c.state).join(
        CLIENTS, CLIENTS.c.id == NAMES.c.client
    )
    seen = set()
    for row in connection.execute(select(CLIENTS)):
        if row.state not in (LIVE, ERASING, ERASED) or (row.state == LIVE) != (row.salt is not None):
            yield Damage("client", str(row.name), (), f"the state {row.state} does not match the salt")
    for row in connection.execute(asked).all():
        name = f"{row.owner}/{row.task}"
        if row.state != LIVE:
            yield Damage("client", name, (), f"the client is {row.state}, but this name still exists")
        subject = audit_log.subject(audit_log.salted(row.salt or "", row.owner or ""), row.task)
        if subject not in expected:
            problem = "the audit log has no entry about a client and task with this name and salt"
            yield Damage("client", name, (), problem)
            continue
        seen.add(subject)
        yield from _versions(connection, row, name, expected[subject])
        rows = connection.execute(select(ALIASES).where(ALIASES.c.name == row.id))
        aliases, wanted = {each.alias: each.number for each in rows}, expected[subject].aliases
        for alias in sorted(aliases.keys() | wanted.keys(), key=str):
            if aliases.get(alias) != wanted.get(alias):
                problem = f"points to version {aliases.get(alias)}, but the audit log says version {wanted.get(alias)}"
                yield Damage("alias", f"{name}@{alias}", (f"{name}@{wanted.get(alias)}",), problem)
    for subject in expected.keys() - seen:
        yield Damage("client", subject, (), _LOST.format("name"))


def _keys(connection: Connection, entries: list[LogEntry]) -> Iterator[Damage]:
    expected, found = api_keys.expected(entries), api_keys.rows(connection)
    for id in sorted(expected.keys() | found.keys(), key=str):
        if id not in found or id not in expected:
            problem = _LOST.format("key") if id not in found else "the audit log does not record this key"
            yield Damage("key", str(id), (), problem)
        elif found[id] != expected[id]:
            wrong = ", ".join(name for name, value in expected[id].items() if found[id][name] != value)
            yield Damage("key", str(id), (), f"differs from the audit log in: {wrong}")


def _versions(connection: Connection, name: Row[Any], shown: str, expected: _Expected) -> Iterator[Damage]:
    rows = {row.number: row for row in connection.execute(select(VERSIONS).where(VERSIONS.c.name == name.id))}
    for number in sorted(rows.keys() | expected.published.keys(), key=lambda number: f"{number!s:>12}"):
        version = f"{shown}@{number}"
        row, entry = rows.get(number), expected.published.get(number)
        if row is None or entry is None:
            problem = _LOST.format("version") if row is None else "the audit log does not record this version"
            yield _of_version("version", version, problem)
            continue
        logged = {"digest": entry.payload["digest"], "created": entry.time, "published": entry.seq}
        for key, value in logged.items():
            if row._mapping[key] != value:
                problem = f"`{key}` is {row._mapping[key]}, but the audit log says {value}"
                yield _of_version("version", version, problem)
        state = DELETED if number in expected.deleted else LIVE
        if row.state != state:
            yield _of_version("version", version, f"the state is {row.state}, but the audit log says {state}")
        elif state == LIVE:
            yield from _content(connection, row, entry, version, name.salt)
        elif row.manifest is not None:
            problem = "the manifest exists, but the audit log says that the version was deleted"
            yield _of_version("manifest", version, problem)
        elif connection.execute(select(PARTS.c.role).where(PARTS.c.version == row.id)).first():
            yield _of_version("version", version, "the version was deleted, but the database still lists its parts")


def _content(connection: Connection, row: Row[Any], entry: LogEntry, version: str, salt: str) -> Iterator[Damage]:
    text = row.manifest if isinstance(row.manifest, str) else ""
    if audit_log.salted(salt, digest.of_bytes(text.encode())) != entry.payload["manifest"]:
        yield _of_version("manifest", version, "the manifest was changed after publishing")
    elif json.loads(text).get("method") != row.method:
        problem = f"the method is {row.method} in the database, but another method in the manifest"
        yield _of_version("version", version, problem)
    else:
        yield from _claims(json.loads(text), version)
    parts = {part.role: part.digest for part in connection.execute(select(PARTS).where(PARTS.c.version == row.id))}
    if parts != {role: part["digest"] for role, part in entry.payload["parts"].items()}:
        yield _of_version("version", version, "the parts differ from the parts in the audit log")


def _claims(manifest: Mapping[str, Any], version: str) -> Iterator[Damage]:
    """Yield damage if the measured facts in a manifest do not match their digest (`claims_digest`)."""
    if manifest.get("claims_digest") is not None:
        from afina.models.manifest import checked  # which imports NumPy

        try:
            checked(manifest, "the manifest").check_claims("the manifest")
        except CorruptAdapter as error:
            yield _of_version("manifest", version, str(error))


def _plain_texts(connection: Connection, entries: list[LogEntry]) -> Iterator[Damage]:
    """Yield damage for plain texts that do not match their hashes in the audit log."""
    clients = connection.execute(select(CLIENTS)).all()
    salts = {row.id: row.salt for row in clients}
    alive = {audit_log.salted(row.salt, row.name) for row in clients if row.salt and row.name}
    texts = {row.seq: row for row in connection.execute(select(SAID))}
    for entry in entries:
        hashed = {key: entry.payload[key] for key in ("who", "why", "source") if key in entry.payload}
        row = texts.get(entry.seq)
        if row is None:
            if hashed and entry.payload.get("client") in alive:
                yield Damage("log", str(entry.seq), (), "the plain texts of this entry (who, why, source) are missing")
            continue
        texts_of_row = audit_log.Attribution(row.client, salts.get(row.client) or "", row.who, row.why, row.source)
        if texts_of_row.hashed() != hashed:
            yield Damage("log", str(entry.seq), (), "the plain texts of this entry (who, why, source) were changed")
