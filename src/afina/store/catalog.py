"""Reading a store's database: names, versions, history. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.engine import Row

from afina.errors import NotFound
from afina.store import clients, log
from afina.store.clients import Place
from afina.store.database.tables import ALIASES, BLOBS, CLIENTS, LIVE, LOG, NAMES, PARTS, SAID, VERSIONS
from afina.store.names import Name, Reference
from afina.store.version import Blob, Happened, Listed, Version

CHECKED = ("passed", "difference", "tolerance")
"""What an entry of a check has of its outcome; its problem, if any, is why it did not pass."""


def listed(connection: Connection, client: str | None = None) -> list[Listed]:
    """The names that have a version, in alphabetical order."""
    named = select(NAMES.c.id, CLIENTS.c.name.label("client"), NAMES.c.task).join(CLIENTS)
    named = named.where(CLIENTS.c.state == LIVE)
    if client is not None:
        named = named.where(CLIENTS.c.name == client)
    names = {row.id: f"{_text(row.client)}/{_text(row.task)}" for row in connection.execute(named)}
    newest = (
        select(VERSIONS.c.name, func.max(VERSIONS.c.number).label("number"), func.count().label("versions"))
        .where(VERSIONS.c.state == LIVE)
        .group_by(VERSIONS.c.name)
        .subquery()
    )
    columns = (VERSIONS.c.name, VERSIONS.c.number, VERSIONS.c.digest, VERSIONS.c.method, VERSIONS.c.created)
    asked = select(*columns, newest.c.versions).join(
        newest, (VERSIONS.c.name == newest.c.name) & (VERSIONS.c.number == newest.c.number)
    )
    aliases: dict[int, dict[str, int]] = {}
    for row in connection.execute(select(ALIASES).order_by(ALIASES.c.alias)):
        aliases.setdefault(row.name, {})[_text(row.alias)] = _whole(row.number)
    made = [
        Listed(
            names[row.name],
            row.versions,
            _whole(row.number),
            _text(row.digest),
            _words(row.method),
            _text(row.created),
            aliases.get(row.name, {}),
        )
        for row in connection.execute(asked)
        if row.name in names
    ]
    return sorted(made, key=lambda one: one.name)


def resolve(connection: Connection, reference: Reference) -> tuple[Place, int]:
    """The name's row, and the number of the version that is meant. Raises NotFound, which says what there is."""
    place = clients.find(connection, reference.name)
    mine, live = VERSIONS.c.name == place.id, VERSIONS.c.state == LIVE
    number = reference.number
    if reference.alias is not None:
        pointing = aliases_of(connection, place)
        if reference.alias not in pointing:
            raise NotFound(
                f"{reference}: no such alias. {_there('alias', pointing)}",
                code="alias.missing",
                reference=str(reference),
                known=pointing,
            )
        number = pointing[reference.alias]
    elif number is None:
        number = connection.execute(select(func.max(VERSIONS.c.number)).where(mine, live)).scalar()
        if number is None:
            raise NotFound(
                f"{reference}: all its versions were deleted. Publish another.",
                code="version.missing",
                reference=str(reference),
            )
    state = connection.execute(select(VERSIONS.c.state).where(mine, VERSIONS.c.number == number)).scalar()
    if state != LIVE:
        why = "is not there" if state is None else "was deleted"
        newest = select(VERSIONS.c.number).where(mine, live).order_by(VERSIONS.c.number.desc()).limit(20)
        there = sorted(connection.execute(newest).scalars())
        raise NotFound(
            f"{reference}: version {number} {why}. {_there('version', map(str, there))}",
            code="version.missing",
            reference=str(reference),
            version=number,
            known=there,
        )
    return place, number


def _there(what: str, found: Iterable[str]) -> str:
    known = ", ".join(found)
    return f"There is {known}." if known else f"There is no {what} yet."


def aliases_of(connection: Connection, place: Place) -> dict[str, int]:
    """By alias, the version that it points to."""
    rows = connection.execute(select(ALIASES).where(ALIASES.c.name == place.id).order_by(ALIASES.c.alias))
    return {_text(row.alias): _whole(row.number) for row in rows}


def _text(value: object) -> str:
    """SQLite keeps anything in any column; what is no text there was not written by a store."""
    if not isinstance(value, str):
        raise TypeError(f"found {value!r:.40}, expected text")
    return value


def _words(value: object) -> str | None:
    return None if value is None else _text(value)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"found {value!r:.40}, expected a whole number")
    return value


def version(connection: Connection, place: Place, number: int) -> Version:
    """One version of a name, deleted or not."""
    return versions(connection, place, VERSIONS.c.number == number)[0]


def versions(connection: Connection, place: Place, which: Any = True) -> list[Version]:
    """Versions of a name, in order."""
    asked = (
        select(VERSIONS, SAID.c.who, SAID.c.why)
        .outerjoin(SAID, SAID.c.seq == VERSIONS.c.published)
        .where(VERSIONS.c.name == place.id, which)
        .order_by(VERSIONS.c.number)
    )
    rows = connection.execute(asked).all()
    parts = _parts(connection, place, which)
    pointing: dict[int, list[str]] = {}
    for alias, number in aliases_of(connection, place).items():
        pointing.setdefault(number, []).append(alias)
    checked = checks(connection, place)
    return [_made(place, row, parts.get(row.id, {}), pointing, checked) for row in rows]


def _made(
    place: Place,
    row: Row[Any],
    parts: Mapping[str, Blob],
    pointing: Mapping[int, list[str]],
    checked: Mapping[int, dict[str, Any]],
) -> Version:
    return Version(
        name=str(place.name),
        number=_whole(row.number),
        digest=_text(row.digest),
        created=_text(row.created),
        who=_words(row.who),
        why=_words(row.why),
        manifest=dict(json.loads(row.manifest)) if row.manifest else {},
        parts=parts,
        aliases=tuple(pointing.get(row.number, ())),
        checked=checked.get(row.number),
        deleted=row.state != LIVE,
    )


def _parts(connection: Connection, place: Place, which: Any) -> dict[int, dict[str, Blob]]:
    asked = (
        select(PARTS, BLOBS.c.size)
        .join(BLOBS, BLOBS.c.digest == PARTS.c.digest)
        .join(VERSIONS, VERSIONS.c.id == PARTS.c.version)
        .where(VERSIONS.c.name == place.id, which)
        .order_by(PARTS.c.role)
    )
    found: dict[int, dict[str, Blob]] = {}
    for row in connection.execute(asked):
        found.setdefault(row.version, {})[_text(row.role)] = Blob(_text(row.digest), _whole(row.size))
    return found


def checks(connection: Connection, place: Place) -> dict[int, dict[str, Any]]:
    """By version, the outcome of its latest recorded check, and when that was."""
    said = _said(connection, place)
    found = {}
    for entry in log.entries(connection, ("check",), place.subject):
        outcome = {key: entry.payload[key] for key in CHECKED if key in entry.payload}
        problem = said[entry.seq].why if entry.seq in said else None
        found[entry.payload["version"]] = {**outcome, "problem": problem, "time": entry.time}
    return found


def _said(connection: Connection, place: Place) -> dict[int, Row[Any]]:
    asked = select(SAID).join(LOG, LOG.c.seq == SAID.c.seq).where(LOG.c.subject == place.subject)
    return {row.seq: row for row in connection.execute(asked)}


def happened(connection: Connection, place: Place, events: tuple[str, ...] = ()) -> list[Happened]:
    """All that was done about a name, in order."""
    said = _said(connection, place)
    hidden = {"client", "task", "who", "why", "source", "manifest"}
    made = []
    for entry in log.entries(connection, events, place.subject):
        row = said.get(entry.seq)
        words = (_words(row.who), _words(row.why)) if row else (None, None)
        shown = {key: value for key, value in entry.payload.items() if key not in hidden}
        if row and row.source is not None:
            shown["source"] = _text(row.source)
        one = Happened(entry.seq, entry.time, entry.event, shown, *words)
        made.append(one)
    return made


def held(connection: Connection) -> dict[str, list[str]]:
    """By digest of a blob, the versions that hold it."""
    asked = (
        select(PARTS.c.digest, CLIENTS.c.name, NAMES.c.task, VERSIONS.c.number)
        .join(VERSIONS, VERSIONS.c.id == PARTS.c.version)
        .join(NAMES, NAMES.c.id == VERSIONS.c.name)
        .join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
        .order_by(PARTS.c.digest, CLIENTS.c.name, NAMES.c.task, VERSIONS.c.number)
    )
    found: dict[str, list[str]] = {}
    for row in connection.execute(asked):
        found.setdefault(row.digest, []).append(f"{Name(row.name or '?', row.task)}@{row.number}")
    return found
