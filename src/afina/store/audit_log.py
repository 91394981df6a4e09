"""The audit log: a hash chain of entries that are only appended.

    {"seq": 7, "time": "...", "event": "alias", "payload": {...}, "previous": "sha256:..", "hash": "sha256:.."}

`hash` is the digest of the canonical JSON of the other fields (`afina.digest`). Client, user, reason and source appear
in an entry as salted hashes. Their plain text is in another table. An erasure deletes the plain text and the salt.

Every change has named crash points. A process may end between any two of them without losing data.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from afina import digest
from afina.store import problems
from afina.store.database.tables import LOG, SAID, STORE

FIRST = digest.of_bytes(b"")
"""`previous` of the first entry."""

CREATED, RECOVERED = "create", "recover"
"""Events that say where the bytes of a store are."""

LONGEST = 10_000
"""Largest number of characters of a reason."""


class LogEntry(NamedTuple):
    """An entry of the audit log."""

    seq: int
    time: str
    event: str
    payload: dict[str, Any]
    previous: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Return the entry in the form in which it is exported."""
        return self._asdict()

    def computed(self) -> str:
        """Return the hash that the entry must have, computed from its other fields."""
        return digest.of_json({key: value for key, value in self._asdict().items() if key != "hash"})


class Attribution(NamedTuple):
    """Who made a change, why and from where, in plain text, and the client whose data were changed, with the salt."""

    client: int
    salt: str
    who: str | None
    why: str | None = None
    source: str | None = None

    def hashed(self) -> dict[str, str]:
        """Return salted hashes of user, reason and source, as a log entry has them."""
        given = {"who": self.who, "why": self.why, "source": self.source}
        return {key: salted(self.salt, value) for key, value in given.items() if value is not None}


def salted(salt: str, text: str) -> str:
    """Return the sha256 of salt and text."""
    return digest.of_bytes(f"{salt}\n{text}".encode())


def subject(client: str, task: str) -> str:
    """Return the key by which entries about a name are found. `client`: the salted hash of the client."""
    return f"{client.removeprefix(digest.PREFIX)}/{task}"


def subject_of(payload: Mapping[str, Any]) -> str | None:
    """Return the subject of an entry, the key of the name that it is about; None if it is about no name."""
    client, task = payload.get("client"), payload.get("task")
    return subject(client, task) if isinstance(client, str) and isinstance(task, str) else None


def append(connection: Connection, event: str, payload: Mapping[str, Any], said: Attribution | None = None) -> LogEntry:
    """Append an entry to the log. The transaction must hold the write lock."""
    last, previous = connection.execute(select(STORE.c.last, STORE.c.hash)).one()
    whole = {**payload, **(said.hashed() if said else {})}
    entry = LogEntry(last + 1, now(), event, whole, previous, "")
    entry = entry._replace(hash=entry.computed())
    row = {**entry.as_json(), "payload": digest.canonical_json(whole), "subject": subject_of(whole)}
    connection.execute(insert(LOG), row)
    connection.execute(update(STORE).values(last=entry.seq, hash=entry.hash))
    if said is not None:
        given = {"client": said.client, "who": said.who, "why": said.why, "source": said.source}
        connection.execute(insert(SAID), {"seq": entry.seq, **given})
    return entry


def entries(connection: Connection, events: tuple[str, ...] = (), about: str | None = None) -> Iterator[LogEntry]:
    """Yield log entries in order, optionally only those of some events or of one subject.

    Raises:
        TypeError, ValueError: an entry is damaged.
    """
    asked = select(LOG).order_by(LOG.c.seq)
    asked = asked.where(LOG.c.event.in_(events)) if events else asked
    asked = asked.where(LOG.c.subject == about) if about is not None else asked
    for row in connection.execute(asked):
        yield entry_of(row)


def entry_of(row: Row[Any]) -> LogEntry:
    """Return the entry in a row of the table `log`.

    Raises:
        TypeError, ValueError: the row is damaged.
    """
    words = (row.time, row.event, row.payload, row.previous, row.hash)
    if not isinstance(row.seq, int) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"entry {row.seq!r} of the log has a field that is not text")
    payload = json.loads(row.payload)
    if not isinstance(payload, dict):
        raise TypeError(f"the payload of entry {row.seq} of the log is not a JSON object")
    return LogEntry(row.seq, row.time, row.event, payload, row.previous, row.hash)


def now() -> str:
    """Return the present time in the format of log entries: UTC, in microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def login() -> str | None:
    """Return the login name of this user; None if the system does not provide one."""
    try:
        return getpass.getuser().encode("utf-8", "replace").decode().replace("\0", "")
    except (KeyError, OSError, ImportError):
        return None


def check_words(text: str, field: str) -> str:
    """Return the text if every database can store it. Raises InvalidName for lone surrogates and zero characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        found = ascii(text)[:80]
        raise problems.LONE_SURROGATE(found=found, field=field) from None
    if len(text) > LONGEST:
        raise problems.TEXT_TOO_LONG(field=field, letters=len(text), most=LONGEST)
    if "\0" in text:
        raise problems.ZERO_CHARACTER(found=ascii(text)[:80], field=field)
    return text


def check_reason(text: str, field: str) -> str:
    """Return a reason without surrounding spaces. Raises InvalidName if it is blank or too long."""
    text = check_words(text, field).strip()
    if not text or len(text) > LONGEST:
        found = "no text" if not text else f"{len(text):,} characters"
        raise problems.REASON_INVALID(found=found, most=LONGEST, field=field)
    return text


CRASH_POINTS = (
    *("init: in the transaction", "init: committed"),
    *("publish: files made", "publish: leased", "publish: body put", "publish: put", "publish: in the transaction"),
    *("publish: committed",),
    *("alias: in the transaction", "alias: committed"),
    *("delete: in the transaction", "delete: committed"),
    *("gc: in the transaction", "gc: condemned", "gc: one removed", "gc: removed", "gc: committed"),
    *("erase: in the transaction", "erase: forgotten", "erase: removed", "erase: committed", "erase: scrubbed"),
    *("erase: ended",),
)
"""The crash points of every change, in order."""


def crash_point(step: str) -> None:
    """Do nothing. Called at each of CRASH_POINTS; tests replace it by a function that ends the process."""
