"""Read and write the database rows of clients, adapters' names and versions, within a transaction.

The audit log has a salted hash of a client's name; the client's database row has the salt.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, func, insert, select, tuple_
from sqlalchemy.engine import Row

from afina import digest
from afina.errors import nearest
from afina.store import audit_log, problems
from afina.store.audit_log import Attribution
from afina.store.database.tables import ALIASES, BLOBS, CLIENTS, LIVE, LOG, NAMES, PARTS, SAID, VERSIONS
from afina.store.versions import Blob, HistoryEntry, Name, NameSummary, Reference, Version

CHECKED = ("passed", "difference", "tolerance")
"""The fields of the outcome of a golden test in a log entry; a problem is stored in the table of reasons instead."""


def summaries(connection: Connection, client: str | None = None) -> list[NameSummary]:
    """Return the adapters' names that have a version, each with its newest version, in alphabetical order."""
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
    found = []
    for row in connection.execute(asked):
        if row.name in names:
            facts = (_whole(row.number), _text(row.digest), _words(row.method), _text(row.created))
            found.append(NameSummary(names[row.name], row.versions, *facts, aliases.get(row.name, {})))
    return sorted(found, key=lambda summary: summary.name)


def served_manifests(connection: Connection, client: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the manifests of all versions that have an alias or are the newest of their name, by `client/task@3`.

    Requests can reach these versions without a version number.
    """
    of_live = VERSIONS.c.state == LIVE
    newest = select(VERSIONS.c.name, func.max(VERSIONS.c.number)).where(of_live).group_by(VERSIONS.c.name)
    numbered = tuple_(VERSIONS.c.name, VERSIONS.c.number)
    served = numbered.in_(newest) | numbered.in_(select(ALIASES.c.name, ALIASES.c.number))
    asked = (
        select(VERSIONS.c.manifest, VERSIONS.c.number, NAMES.c.task, CLIENTS.c.name.label("client"))
        .join(NAMES, NAMES.c.id == VERSIONS.c.name)
        .join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
        .where(of_live, served, VERSIONS.c.manifest.is_not(None), CLIENTS.c.state == LIVE)
    )
    if client is not None:
        asked = asked.where(CLIENTS.c.name == client)
    return {
        f"{row.client}/{row.task}@{row.number}": dict(json.loads(row.manifest)) for row in connection.execute(asked)
    }


def resolve(connection: Connection, reference: Reference) -> tuple[NameRow, int]:
    """Return the row of a reference's name, and the number of its version. Raises NotFound with what exists instead."""
    named = find_name(connection, reference.name)
    mine, live = VERSIONS.c.name == named.id, VERSIONS.c.state == LIVE
    number = reference.number
    if reference.alias is not None:
        pointing = aliases_of(connection, named)
        if reference.alias not in pointing:
            raise problems.ALIAS_MISSING(
                _there=_existing("alias", "aliases", pointing), reference=str(reference), known=pointing
            )
        number = pointing[reference.alias]
    elif number is None:
        number = connection.execute(select(func.max(VERSIONS.c.number)).where(mine, live)).scalar()
        if number is None:
            raise problems.NO_VERSION(reference=str(reference))
    state = connection.execute(select(VERSIONS.c.state).where(mine, VERSIONS.c.number == number)).scalar()
    if state != LIVE:
        why = "does not exist" if state is None else "was deleted"
        newest = select(VERSIONS.c.number).where(mine, live).order_by(VERSIONS.c.number.desc()).limit(20)
        there = sorted(connection.execute(newest).scalars())
        raise problems.VERSION_MISSING(
            reason=why,
            _there=_existing("version", "versions", map(str, there)),
            reference=str(reference),
            version=number,
            known=there,
        )
    return named, number


def _existing(noun: str, plural: str, found: Iterable[str]) -> str:
    known = ", ".join(found)
    return f"Existing {plural}: {known}." if known else f"The name has no {noun} yet."


def aliases_of(connection: Connection, named: NameRow) -> dict[str, int]:
    """Return the version number of each alias of a name."""
    rows = connection.execute(select(ALIASES).where(ALIASES.c.name == named.id).order_by(ALIASES.c.alias))
    return {_text(row.alias): _whole(row.number) for row in rows}


def _text(value: object) -> str:
    """Return the value of a text column. Raises TypeError for a manipulated row: SQLite stores any type anywhere."""
    if not isinstance(value, str):
        raise TypeError(f"found {value!r:.40}, expected text")
    return value


def _words(value: object) -> str | None:
    return None if value is None else _text(value)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"found {value!r:.40}, expected a whole number")
    return value


def version(connection: Connection, named: NameRow, number: int) -> Version:
    """Return the version `number` of a name, even if the version is deleted."""
    return versions(connection, named, VERSIONS.c.number == number)[0]


def versions(connection: Connection, named: NameRow, which: Any = True) -> list[Version]:
    """Return the versions of a name that fulfil the SQL condition `which`, by number."""
    asked = (
        select(VERSIONS, SAID.c.who, SAID.c.why)
        .outerjoin(SAID, SAID.c.seq == VERSIONS.c.published)
        .where(VERSIONS.c.name == named.id, which)
        .order_by(VERSIONS.c.number)
    )
    rows = connection.execute(asked).all()
    parts = _parts(connection, named, which)
    pointing: dict[int, list[str]] = {}
    for alias, number in aliases_of(connection, named).items():
        pointing.setdefault(number, []).append(alias)
    checked = checks(connection, named)
    return [_made(named, row, parts.get(row.id, {}), pointing, checked) for row in rows]


def _made(
    named: NameRow,
    row: Row[Any],
    parts: Mapping[str, Blob],
    pointing: Mapping[int, list[str]],
    checked: Mapping[int, dict[str, Any]],
) -> Version:
    return Version(
        name=str(named.name),
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


def _parts(connection: Connection, named: NameRow, which: Any) -> dict[int, dict[str, Blob]]:
    asked = (
        select(PARTS, BLOBS.c.size)
        .join(BLOBS, BLOBS.c.digest == PARTS.c.digest)
        .join(VERSIONS, VERSIONS.c.id == PARTS.c.version)
        .where(VERSIONS.c.name == named.id, which)
        .order_by(PARTS.c.role)
    )
    found: dict[int, dict[str, Blob]] = {}
    for row in connection.execute(asked):
        found.setdefault(row.version, {})[_text(row.role)] = Blob(_text(row.digest), _whole(row.size))
    return found


def checks(connection: Connection, named: NameRow) -> dict[int, dict[str, Any]]:
    """Return the outcome and time of the latest golden test of each version of a name, by number."""
    said = _said(connection, named)
    found = {}
    for entry in audit_log.entries(connection, ("check",), named.subject):
        outcome = {key: entry.payload[key] for key in CHECKED if key in entry.payload}
        problem = said[entry.seq].why if entry.seq in said else None
        found[entry.payload["version"]] = {**outcome, "problem": problem, "time": entry.time}
    return found


def _said(connection: Connection, named: NameRow) -> dict[int, Row[Any]]:
    asked = select(SAID).join(LOG, LOG.c.seq == SAID.c.seq).where(LOG.c.subject == named.subject)
    return {row.seq: row for row in connection.execute(asked)}


def history(connection: Connection, named: NameRow, events: tuple[str, ...] = ()) -> list[HistoryEntry]:
    """Return the entries of the audit log about a name, in order, optionally only entries of some events."""
    said = _said(connection, named)
    hidden = {"client", "task", "who", "why", "source", "manifest"}
    found = []
    for entry in audit_log.entries(connection, events, named.subject):
        row = said.get(entry.seq)
        words = (_words(row.who), _words(row.why)) if row else (None, None)
        shown = {key: value for key, value in entry.payload.items() if key not in hidden}
        if row and row.source is not None:
            shown["source"] = _text(row.source)
        found.append(HistoryEntry(entry.seq, entry.time, entry.event, shown, *words))
    return found


def versions_by_blob(connection: Connection) -> dict[str, list[str]]:
    """Return the versions that each blob belongs to, such as `client/task@3`, by digest."""
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


class ClientRow(NamedTuple):
    """The database row of a client, with the salt with which the audit log hashes the client's name."""

    name: str
    id: int
    salt: str

    @property
    def payload(self) -> dict[str, str]:
        """The field that each log entry about this client has: a salted hash of the name."""
        return {"client": audit_log.salted(self.salt, self.name)}

    def attribution(self, who: str | None, why: str | None = None, source: str | None = None) -> Attribution:
        return Attribution(self.id, self.salt, who, why, source)


class NameRow(NamedTuple):
    """The database row of an adapter's name, with the row of its client."""

    name: Name
    id: int
    client: ClientRow

    @property
    def payload(self) -> dict[str, str]:
        """The fields that each log entry about this name has."""
        return {**self.client.payload, "task": self.name.task}

    @property
    def subject(self) -> str:
        """The key by which log entries about this name are found."""
        return audit_log.subject(**self.payload)

    def attribution(self, who: str | None, why: str | None = None, source: str | None = None) -> Attribution:
        return self.client.attribution(who, why, source)

    def hashed(self, text: str) -> str:
        return audit_log.salted(self.client.salt, text)


def find_name(connection: Connection, name: Name) -> NameRow:
    """Return the database row of an adapter's name. Raises NotFound, whose message has the most similar name."""
    row = name_row(connection, name)
    if row is None:
        raise problems.NAME_MISSING(_there=_nearest(connection, name), name=str(name))
    return row


def name_row_or_made(connection: Connection, name: Name) -> NameRow:
    """Return the row of a name, which is inserted if it does not exist. Raises Refused for a client in erasure."""
    client = client_row_or_made(connection, name.client)
    row = name_row(connection, name)
    if row is not None:
        return row
    made = primary_key(connection.execute(insert(NAMES), {"client": client.id, "task": name.task}))
    return NameRow(name, made, client)


def client_row_or_made(connection: Connection, name: str) -> ClientRow:
    """Return the row of a client, which is inserted if it does not exist. Raises Refused if it is being erased."""
    refuse_erasing(connection, name)
    row = connection.execute(select(CLIENTS).where(CLIENTS.c.name == name)).one_or_none()
    if row is not None:
        return ClientRow(name, row.id, row.salt)
    fresh = {"name": name, "salt": secrets.token_hex(32), "state": LIVE}
    return ClientRow(name, primary_key(connection.execute(insert(CLIENTS), fresh)), fresh["salt"])


def veiled(client: str) -> str:
    """Return the placeholder for the name of a client that is being erased; no valid name has its form."""
    return f"#{digest.of_bytes(client.encode()).removeprefix(digest.PREFIX)[:60]}"


def client_id(connection: Connection, name: Name) -> int | None:
    """Return the id of a client's row, which is another one after an erasure; None if there is no row."""
    return connection.execute(select(CLIENTS.c.id).where(CLIENTS.c.name == name.client)).scalar()


def refuse_erasing(connection: Connection, client: str) -> None:
    called = CLIENTS.c.name.in_((client, veiled(client)))
    states = connection.execute(select(CLIENTS.c.state).where(called)).scalars()
    if any(state != LIVE for state in states):
        raise problems.CLIENT_BEING_ERASED(client=client)


def primary_key(inserted: CursorResult[Any]) -> int:
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])


def name_row(connection: Connection, name: Name) -> NameRow | None:
    """Return the database row of an adapter's name; None if the name does not exist."""
    asked = (
        select(NAMES.c.id, CLIENTS.c.id.label("client"), CLIENTS.c.salt)
        .join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
        .where(CLIENTS.c.name == name.client, CLIENTS.c.state == LIVE, NAMES.c.task == name.task)
    )
    row = connection.execute(asked).one_or_none()
    return NameRow(name, row.id, ClientRow(name.client, row.client, row.salt)) if row else None


def _nearest(connection: Connection, name: Name) -> str:
    asked = (
        select(CLIENTS.c.name, NAMES.c.task)
        .join(CLIENTS, CLIENTS.c.id == NAMES.c.client)
        .where(CLIENTS.c.state == LIVE)
        .limit(10_000)
    )
    there = [f"{client}/{task}" for client, task in connection.execute(asked)]
    near = nearest(str(name), there)
    return f" Did you mean {near}?" if near else " `afina store list` shows all names."
