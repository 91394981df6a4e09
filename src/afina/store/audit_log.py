"""The audit log of a store: an append-only hash chain of entries, one for each change of the store.

    {"seq": 7, "time": "...", "event": "alias", "payload": {...}, "previous": "sha256:..", "hash": "sha256:.."}

The field `hash` of an entry is the digest of the canonical JSON of the other fields (`afina.digest`). The client, user,
reason and source of a change appear in an entry as salted hashes; their plain text is in another table. When a client's
data are erased, the plain text and the salt are deleted.

Every change of a store has named crash points. A process may end between any two crash points without losing data.
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
"""The value of `previous` in the first entry of an audit log."""

CREATED, RECOVERED = "create", "recover"
"""Events of the audit log that state where the adapters' bytes are: the store was created or recovered."""

LONGEST = 10_000
"""The largest number of characters of the reason of a change."""


class LogEntry(NamedTuple):
    """An entry of the audit log, about one change of the store."""

    seq: int
    time: str
    event: str
    payload: dict[str, Any]
    previous: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        return self._asdict()

    def computed(self) -> str:
        """Return the hash that the entry must have."""
        return digest.of_json({key: value for key, value in self._asdict().items() if key != "hash"})


class Attribution(NamedTuple):
    """Who made a change of the store, why and from which source, in plain text."""

    client: int  # the id of the database row of the client whose data were changed
    salt: str  # with which the audit log hashes facts about this client
    who: str | None
    why: str | None = None
    source: str | None = None

    def hashed(self) -> dict[str, str]:
        """Return the salted hashes of user, reason and source, which are written to the audit log."""
        texts = {"who": self.who, "why": self.why, "source": self.source}
        return {key: salted(self.salt, text) for key, text in texts.items() if text is not None}


def salted(salt: str, text: str) -> str:
    return digest.of_bytes(f"{salt}\n{text}".encode())


def subject(client: str, task: str) -> str:
    """Return the key by which log entries about an adapter's name are found; `client` is a salted hash."""
    return f"{client.removeprefix(digest.PREFIX)}/{task}"


def subject_of(payload: Mapping[str, Any]) -> str | None:
    """Return the `subject` of a log entry; None if it is about no name."""
    client, task = payload.get("client"), payload.get("task")
    return subject(client, task) if isinstance(client, str) and isinstance(task, str) else None


def append(connection: Connection, event: str, payload: Mapping[str, Any], said: Attribution | None = None) -> LogEntry:
    """Append an entry to the audit log; the caller's transaction must hold the write lock."""
    last, previous = connection.execute(select(STORE.c.last, STORE.c.hash)).one()
    whole = {**payload, **(said.hashed() if said else {})}
    entry = LogEntry(last + 1, now(), event, whole, previous, "")
    entry = entry._replace(hash=entry.computed())
    row = {**entry.as_json(), "payload": digest.canonical_json(whole), "subject": subject_of(whole)}
    connection.execute(insert(LOG), row)
    connection.execute(update(STORE).values(last=entry.seq, hash=entry.hash))
    if said is not None:
        row = {"seq": entry.seq, "client": said.client, "who": said.who, "why": said.why, "source": said.source}
        connection.execute(insert(SAID), row)
    return entry


def entries(connection: Connection, events: tuple[str, ...] = (), about: str | None = None) -> Iterator[LogEntry]:
    """Yield the entries of the audit log in order, optionally only entries of some events or about one subject.

    Raises TypeError or ValueError for a damaged entry.
    """
    asked = select(LOG).order_by(LOG.c.seq)
    asked = asked.where(LOG.c.event.in_(events)) if events else asked
    asked = asked.where(LOG.c.subject == about) if about is not None else asked
    for row in connection.execute(asked):
        yield entry_of(row)


def entry_of(row: Row[Any]) -> LogEntry:
    """Return the log entry in a row of the table `log`. Raises TypeError or ValueError for a damaged row."""
    words = (row.time, row.event, row.payload, row.previous, row.hash)
    if not isinstance(row.seq, int) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"entry {row.seq!r} of the log has a field that is not text")
    payload = json.loads(row.payload)
    if not isinstance(payload, dict):
        raise TypeError(f"the payload of entry {row.seq} of the log is not a JSON object")
    return LogEntry(row.seq, row.time, row.event, payload, row.previous, row.hash)


def now() -> str:
    """Return the present time (UTC) in the format of log entries: ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def login() -> str | None:
    """Return the login name of the current user; None if the operating system has none."""
    try:
        return getpass.getuser().encode("utf-8", "replace").decode().replace("\0", "")
    except (KeyError, OSError, ImportError):
        return None


def check_words(text: str, field: str) -> str:
    """Return the text if every database can store it. Raises InvalidName."""
    try:
        text.encode()
    except UnicodeEncodeError:
        expected = "no lone surrogate (half a character)"
        raise problems.TEXT_NOT_STORABLE(field=field, found=ascii(text)[:80], expected=expected) from None
    if len(text) > LONGEST:
        length, expected = f"{len(text):,} characters", f"at most {LONGEST:,}"
        raise problems.TEXT_NOT_STORABLE(field=field, found=length, expected=expected, letters=len(text), most=LONGEST)
    if "\0" in text:
        raise problems.TEXT_NOT_STORABLE(field=field, found=ascii(text)[:80], expected="no zero character")
    return text


def check_reason(text: str, field: str) -> str:
    """Return the reason of a change without surrounding spaces. Raises InvalidName."""
    text = check_words(text, field).strip()
    if not text:
        expected = f"a reason in a few words, at most {LONGEST:,} characters"
        raise problems.TEXT_NOT_STORABLE(field=field, found="no text", expected=expected, most=LONGEST)
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
"""The crash points of every change of a store, in order: moments at which tests end the process."""


def crash_point(step: str) -> None:
    """Do nothing; changes call this function at each crash point, and tests replace it to end the process there."""
