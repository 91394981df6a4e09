"""Verify: is every byte as it was left? The log is hashed again, tables are held to it, and every blob is hashed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.engine import Row

from afina import digest
from afina.errors import AfinaError, CorruptStore
from afina.store import catalog, log
from afina.store.blobs import Blobs
from afina.store.database import Database
from afina.store.log import Entry
from afina.store.tables import ALIASES, BLOBS, CLIENTS, LIVE, LOG, NAMES, PARTS, SAID, STORE, VERSIONS
from afina.store.version import Damage

_LOST = "there is no {} of it, and the log says that there is one"


@dataclass
class _Expected:
    """What the log says of one name: entries of publishing by version, deleted versions, and aliases."""

    published: dict[int, Entry] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    aliases: dict[str, int] = field(default_factory=dict)


def verify(database: Database, blobs: Blobs) -> list[Damage]:
    """All that is damaged; nothing where all is as it was left. Raises NotFound where there is no store."""
    database.demand()
    shown = database.address.shown
    found = []
    try:
        found += [Damage("database", shown, (), problem) for problem in database.damage()]
        with database.reading() as connection:
            entries, damaged = _read_log(connection)
            found += damaged
            expected = _replayed(entries)
            found += _tables(connection, expected)
            found += _said(connection, entries)
            held = catalog.held(connection)
            rows = connection.execute(select(BLOBS).order_by(BLOBS.c.digest)).all()
    except CorruptStore as error:
        return [*found, Damage("database", shown, (), str(error))]
    for row in rows:
        if row.digest in held:
            problem = _of_blob(blobs, row)
            if problem and _is_still_there(database, row):
                found.append(Damage("blob", row.digest, tuple(held[row.digest]), problem))
    return found


def _is_still_there(database: Database, row: Row[Any]) -> bool:
    """A version may have been deleted, and its blobs removed, since they were looked at; and published again since."""
    held = BLOBS.c.digest.in_(select(PARTS.c.digest))
    with database.reading() as connection:
        there = select(BLOBS.c.place).where(BLOBS.c.digest == row.digest, held)
        return bool(connection.execute(there).scalar() == row.place)


def _of_blob(blobs: Blobs, row: Row[Any]) -> str | None:
    size = blobs.size(row.place)
    if size is None:
        return f"its file {row.place} is missing"
    if size != row.size:
        return f"its file {row.place} has {size:,} bytes, expected {row.size:,}"
    try:
        with blobs.file(row.place) as path:
            found = digest.of_file(path)
    except (AfinaError, OSError) as error:
        return f"its file {row.place} cannot be read ({error})"
    return None if found == row.digest else f"its file {row.place} has digest {found[:19]}: it was changed"


def _read_log(connection: Connection) -> tuple[list[Entry], list[Damage]]:
    entries: list[Entry] = []
    damaged = []

    def wrong(seq: object, problem: str, payload: Mapping[str, Any] | None = None) -> None:
        about = (f"version {payload['version']}",) if payload and "version" in payload else ()
        damaged.append(Damage("log", str(seq), about, problem))

    before, expected = log.FIRST, 1
    for row in connection.execute(select(LOG).order_by(LOG.c.seq)):
        try:
            payload = json.loads(row.payload)
            entry = Entry(row.seq, row.time, row.event, payload, row.previous, row.hash)
            computed = entry.computed()
        except (ValueError, TypeError) as error:
            wrong(row.seq, f"its payload is not readable as JSON ({error})")
        else:
            if computed != entry.hash:
                wrong(row.seq, f"its content has hash {computed[:19]}, it states {entry.hash[:19]}", payload)
            elif log.subject_of(payload) != row.subject:
                wrong(row.seq, "it is filed under another name than it is about", payload)
            else:
                entries.append(entry)
        if row.seq != expected:
            wrong(row.seq, f"entry {expected} is missing before it")
        if row.previous != before:
            wrong(row.seq, f"it follows {row.previous[:19]}, and the entry before it has {before[:19]}")
        before, expected = row.hash, row.seq + 1
    last = connection.execute(select(STORE.c.last, STORE.c.hash)).one_or_none()
    if last is None or (last.last, last.hash) != (expected - 1, before):
        wrong("end", f"it ends with entry {expected - 1}, the store says with {last.last if last else 'none'}")
    return entries, damaged


def _replayed(entries: list[Entry]) -> dict[str, _Expected]:
    """By subject, what has to be there after all that was done; a client that was erased has nothing."""
    made: dict[str, _Expected] = {}
    for entry in entries:
        payload = entry.payload
        if entry.event == "erase":
            for task in payload["tasks"]:
                made.pop(log.subject(payload["client"], task), None)
        subject = log.subject_of(payload)
        if subject is None:
            continue
        about = made.setdefault(subject, _Expected())
        if entry.event == "publish":
            about.published[payload["version"]] = entry
        elif entry.event == "delete":
            about.deleted.add(payload["version"])
        elif entry.event in ("alias", "rollback"):
            about.aliases[payload["alias"]] = payload["to"]
    return made


def _tables(connection: Connection, expected: dict[str, _Expected]) -> Iterator[Damage]:
    """Where the tables say something else than the log."""
    asked = select(NAMES, CLIENTS.c.name.label("owner"), CLIENTS.c.salt).join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
    seen = set()
    for row in connection.execute(asked.where(CLIENTS.c.state == LIVE)).all():
        name = f"{row.owner}/{row.task}"
        subject = log.subject(log.salted(row.salt or "", row.owner or ""), row.task)
        if subject not in expected:
            yield Damage("client", name, (), "no entry of the log is about a client and task of this name and salt")
            continue
        seen.add(subject)
        yield from _versions(connection, row, name, expected[subject])
        aliases = {one.alias: one.number for one in connection.execute(select(ALIASES).where(ALIASES.c.name == row.id))}
        wanted = expected[subject].aliases
        for alias in sorted(aliases.keys() | wanted.keys()):
            if aliases.get(alias) != wanted.get(alias):
                problem = f"points to {aliases.get(alias)}, the log says to {wanted.get(alias)}"
                yield Damage("alias", f"{name}@{alias}", (f"{name}@{wanted.get(alias)}",), problem)
    for subject in expected.keys() - seen:
        yield Damage("client", subject, (), _LOST.format("row"))


def _versions(connection: Connection, name: Row[Any], shown: str, expected: _Expected) -> Iterator[Damage]:
    rows = {row.number: row for row in connection.execute(select(VERSIONS).where(VERSIONS.c.name == name.id))}
    for number in sorted(rows.keys() | expected.published.keys()):
        version = f"{shown}@{number}"
        row, entry = rows.get(number), expected.published.get(number)
        if row is None or entry is None:
            problem = _LOST.format("row") if row is None else "no entry of the log says that it was published"
            yield Damage("version", version, (version,), problem)
            continue
        told = {"digest": entry.payload["digest"], "created": entry.time, "published": entry.seq}
        for key, value in told.items():
            if row._mapping[key] != value:
                yield Damage("version", version, (version,), f"its {key} is {row._mapping[key]}, the log says {value}")
        if (row.state == LIVE) == (number in expected.deleted):
            yield Damage("version", version, (version,), f"it is {row.state}, and the log says otherwise")
        elif row.state == LIVE:
            yield from _content(connection, row, entry, version, name.salt)


def _content(connection: Connection, row: Row[Any], entry: Entry, version: str, salt: str) -> Iterator[Damage]:
    text = row.manifest or ""
    if log.salted(salt, digest.of_bytes(text.encode())) != entry.payload["manifest"]:
        yield Damage("manifest", version, (version,), "it is not what was published: it was changed")
    elif json.loads(text).get("method") != row.method:
        yield Damage("version", version, (version,), f"its method is {row.method}, its manifest says otherwise")
    parts = {one.role: one.digest for one in connection.execute(select(PARTS).where(PARTS.c.version == row.id))}
    if parts != {role: part["digest"] for role, part in entry.payload["parts"].items()}:
        yield Damage("version", version, (version,), "it is made of other parts than the log says")


def _said(connection: Connection, entries: list[Entry]) -> Iterator[Damage]:
    """Where the words of who and why are not those that were hashed."""
    salts = {row.id: row.salt for row in connection.execute(select(CLIENTS))}
    words = {row.seq: row for row in connection.execute(select(SAID))}
    alive = {log.salted(row.salt, row.name) for row in connection.execute(select(CLIENTS)) if row.salt and row.name}
    for entry in entries:
        hashed = {key: entry.payload[key] for key in ("who", "why") if key in entry.payload}
        row = words.get(entry.seq)
        if row is None:
            if hashed and entry.payload.get("client") in alive:
                yield Damage("log", str(entry.seq), (), "the words of who and why are missing")
            continue
        found = log.Said(row.client, salts.get(row.client) or "", row.who, row.why).hashed()
        if found != hashed:
            yield Damage("log", str(entry.seq), (), "the words of who or why were changed")
