"""API keys with which clients use a server; the store has only hashes of the keys.

A key is `afina_ID_SECRET`, where SECRET is 32 random bytes. Random bytes cannot be guessed at any hashing speed, so
SHA-256 is enough; slow hashes are for passwords that people choose. The audit log has the hash of each key too, so that
`verify` detects a replaced key.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from afina import digest
from afina.errors import UnknownName
from afina.store import audit_log, catalog, problems
from afina.store.catalog import ClientRow
from afina.store.database import Database
from afina.store.database.tables import CLIENTS, KEYS, LIVE, LOG, SAID

PREDICT, PUBLISH, METRICS, ADMIN = "predict", "publish", "metrics", "admin"
SCOPES = (PREDICT, PUBLISH, METRICS, ADMIN)
"""The scopes of API keys: get predictions, move aliases, read metrics, manage keys. No scope includes another, except
that ADMIN includes METRICS."""

CREATED, REVOKED = "key", "revoke"
"""Events of the audit log: an API key was created or revoked."""

_WRITTEN = re.compile(r"afina_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)

_PERIOD, _DATE = re.compile(r"([0-9]{1,6})([dh])", re.ASCII), re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}\+00:00", re.ASCII)
_UNITS = {"d": "days", "h": "hours"}

_LIMITS = {"rate": "tokens a minute", "text_tokens": "tokens a text"}
"""The limits of an API key and their units, by the name of the database column."""

_OF_NOBODY = digest.of_bytes(secrets.token_bytes(32))
"""The hash that an unknown API key is compared with, so that the comparison takes as long as for a known key."""


@dataclass(frozen=True)
class Key:
    """An API key without its secret; all times are UTC."""

    id: str
    client: str
    scopes: tuple[str, ...]
    rate: int | None  # tokens a minute; None: the server's default
    hash: str  # of the whole key
    created: str
    revoked: str | None = None
    who: str | None = None
    why: str | None = None
    problem: str | None = None  # damage to the database row, with which the key is not valid
    name: str | None = None
    expires: str | None = None  # None: never
    text_tokens: int | None = None  # the most tokens of a text or prompt; None: only the server's limits

    @property
    def is_valid(self) -> bool:
        """Whether the key is not revoked, not damaged and not expired."""
        ended = self.expires is not None and audit_log.now() >= self.expires
        return self.revoked is None and self.problem is None and not ended

    def as_json(self) -> dict[str, Any]:
        """Return the key's fields as JSON values, without the hash."""
        shown = ("id", "client", "name", "scopes", *_LIMITS, "created", "expires", "revoked", "who", "why", "problem")
        return {name: getattr(self, name) for name in shown} | {"scopes": [*self.scopes]}


@dataclass(frozen=True)
class MadeKey:
    """A new API key; the string `secret` is the whole key, which the store does not keep."""

    key: Key
    secret: str = field(repr=False)


def create(
    database: Database,
    client: str,
    scopes: Collection[str],
    limits: Mapping[str, int | None],
    *,
    name: str | None,
    expires: str | None,
    who: str | None,
    why: str | None,
) -> MadeKey:
    """Create an API key for a client; the client need not have an adapter yet.

    Args:
        limits: the values of the fields `rate` and `text_tokens` of `Key`.
        expires: when the key expires, in a form that `expiry` parses, such as "90d". None: the key never expires.

    Raises:
        UnknownName: a scope does not exist.
        InvalidName: no scope is given, a limit is below 1 or too large, or the expiry is in the past.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise UnknownName("scope", scope, SCOPES)
    if not scopes:
        expected = f"one or more of {', '.join(SCOPES)}"
        raise problems.KEY_OPTION_INVALID(option="scope", found="no scope", expected=expected, known=list(SCOPES))
    for limit, value in limits.items():
        if value is not None and not 1 <= value < 1 << 31:
            most = (1 << 31) - 1
            expected = f"{_LIMITS[limit]}, from 1 to {most:,}"
            raise problems.KEY_OPTION_INVALID(option=limit, found=value, expected=expected, limit=limit, most=most)
    id = secrets.token_hex(8)
    secret = f"afina_{id}_{secrets.token_urlsafe(32)}"
    row = {"id": id, "hash": hashed(secret), "scopes": " ".join(sorted(set(scopes))), **limits}
    row |= {"name": name, "expires": None if expires is None else expiry(expires)}
    with database.writing() as connection:
        owner = catalog.client_row_or_made(connection, client)
        entry = audit_log.append(
            connection, CREATED, {**owner.payload, **_payload(row, owner.salt)}, owner.attribution(who, why)
        )
        connection.execute(insert(KEYS), {**row, "client": owner.id, "created": entry.seq})
        (key,) = _read(connection, KEYS.c.id == id)
    return MadeKey(key, secret)


def expiry(text: str) -> str:
    """Parse the expiry of an API key, and return the time in the format of the audit log. Raises InvalidName.

    Examples of an expiry: "90d", "12h", "2027-01-31" (the end of this day), "2027-01-31T12:00:00+01:00". A time without
    an offset is UTC.
    """
    now = datetime.now(UTC)
    try:
        if period := _PERIOD.fullmatch(text):
            moment = now + timedelta(**{_UNITS[period[2]]: int(period[1])})
        elif _DATE.fullmatch(text):
            moment = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        expected = "days or hours from now, such as 90d or 12h, or a date such as 2027-01-31"
        raise problems.KEY_OPTION_INVALID(option="expires", found=repr(text[:40]), expected=expected) from None
    if moment <= now:
        raise problems.KEY_OPTION_INVALID(option="expires", found=text[:40], expected="a time that is not in the past")
    return moment.isoformat(timespec="microseconds")


def revoke(database: Database, id: str, *, who: str | None, why: str | None) -> Key:
    """Revoke an API key for ever. Raises NotFound, and Refused if it was revoked already."""
    with database.writing() as connection:
        keys = _read(connection, KEYS.c.id == id)
        if not keys:
            raise problems.KEY_UNKNOWN(key=id[:40])
        if keys[0].revoked is not None:
            raise problems.KEY_REVOKED(revoked=keys[0].revoked, key=id)
        row = connection.execute(select(CLIENTS).join(KEYS).where(KEYS.c.id == id)).one()
        owner = ClientRow(row.name, row.id, row.salt)
        entry = audit_log.append(connection, REVOKED, {**owner.payload, "key": id}, owner.attribution(who, why))
        connection.execute(update(KEYS).where(KEYS.c.id == id).values(revoked=entry.seq))
        return _read(connection, KEYS.c.id == id)[0]


def listed(connection: Connection, client: str | None = None) -> Sequence[Key]:
    """Return the API keys of a client, or of all clients, in the order of their creation, including revoked keys."""
    return _read(connection, True if client is None else CLIENTS.c.name == client)


def _payload(row: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """Return the fields of the audit log's entry about a new API key; the name of the key is hashed.

    The fields `name`, `expires` and `text_tokens`, which earlier versions of afina did not have, appear only if set.
    """
    later = {"name": _veiled(row["name"], salt), "expires": row["expires"], "text_tokens": row["text_tokens"]}
    known = {name: value for name, value in later.items() if value is not None}
    return {"key": row["id"], **{name: row[name] for name in ("hash", "scopes", "rate")}, **known}


def _veiled(name: Any, salt: str) -> str | None:
    return None if name is None else audit_log.salted(salt, name)


def expected(entries: Collection[audit_log.LogEntry]) -> dict[str, dict[str, Any]]:
    """Return the row that each API key must have according to the audit log, by the key's id, without the client's."""
    keys: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.event == CREATED:
            names = ("hash", "scopes", *_LIMITS, "client", "name", "expires")
            row = {name: entry.payload.get(name) for name in names}
            keys[entry.payload["key"]] = row | {"created": entry.seq, "revoked": None}
        elif entry.event == REVOKED and entry.payload["key"] in keys:
            keys[entry.payload["key"]]["revoked"] = entry.seq
        elif entry.event == "erase":
            keys = {id: row for id, row in keys.items() if row["client"] != entry.payload["client"]}
    return keys


def rows(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return the row of each API key in the form that `expected` returns."""
    asked = select(KEYS, CLIENTS.c.name.label("owner"), CLIENTS.c.salt).join(CLIENTS, CLIENTS.c.id == KEYS.c.client)
    names = ("hash", "scopes", *_LIMITS, "created", "revoked", "expires")
    return {
        row.id: {name: row._mapping[name] for name in names}
        | {"client": audit_log.salted(row.salt or "", row.owner or ""), "name": _veiled(row.name, row.salt or "")}
        for row in connection.execute(asked)
    }


def _read(connection: Connection, which: Any) -> Sequence[Key]:
    ended = LOG.alias("ended")
    asked = (
        select(KEYS, CLIENTS.c.name.label("owner"), LOG.c.time, ended.c.time.label("ended"), SAID.c.who, SAID.c.why)
        .join(CLIENTS, CLIENTS.c.id == KEYS.c.client)
        .join(LOG, LOG.c.seq == KEYS.c.created)
        .outerjoin(ended, ended.c.seq == KEYS.c.revoked)
        .outerjoin(SAID, SAID.c.seq == KEYS.c.created)
        .where(which, CLIENTS.c.state == LIVE)
        .order_by(KEYS.c.created)
    )
    return [_key(row) for row in connection.execute(asked)]


def _key(row: Any) -> Key:
    problem, limits = None, {name: row._mapping[name] for name in _LIMITS}
    for name, value in limits.items():
        if value is not None and not (isinstance(value, int) and value >= 1):  # SQLite stores any type in any column
            problem = f"its {name} is {str(value)[:40]!r}, expected a whole number of {_LIMITS[name]}, at least 1"
            limits[name] = None
    if row.expires is not None and not _TIME.fullmatch(str(row.expires)):
        problem = f"its end is {str(row.expires)[:40]!r}, expected a time"
    scopes = tuple(row.scopes.split())
    said = (row.who, row.why, problem, row.name, row.expires)
    return Key(row.id, row.owner, scopes, limits["rate"], row.hash, row.time, row.ended, *said, limits["text_tokens"])


def hashed(secret: str) -> str:
    return digest.of_bytes(secret.encode())


def id_of(secret: str) -> str | None:
    """Return the id in an API key such as `afina_ID_SECRET`; None if the string cannot be an API key."""
    match = _WRITTEN.fullmatch(secret)
    return match[1] if match else None


def matches(secret: str, key: Key | None) -> bool:
    """Return whether `secret` is the API key `key` and that key is valid, in a time that is always the same."""
    kept = key.hash if key is not None and key.is_valid else _OF_NOBODY
    return hmac.compare_digest(hashed(secret), kept)
