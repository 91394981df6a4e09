"""The audit log: entries that are only added, each hashed over the one before. Knows no event.

    {"seq": 7, "time": "...", "event": "alias", "payload": {...}, "previous": "sha256:..", "hash": "sha256:.."}

`hash` is of the canonical JSON of the others (`afina.digest`). Of who did it, why, and for which client there are
hashes, salted by what an erasure destroys; the words are in another table, from which they can be erased.

Every change passes crash points, by name: between any two a process may end, and nothing is lost.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from afina import digest
from afina.errors import InvalidName
from afina.store.database.tables import LOG, SAID, STORE

FIRST = digest.of_bytes(b"")
"""What stands before the first entry."""

CREATED, RECOVERED = "create", "recover"
"""Events that say where the bytes of a store are."""

LONGEST = 10_000
"""Letters of a reason."""


class LogEntry(NamedTuple):
    """One line of the log."""

    seq: int
    time: str
    event: str
    payload: dict[str, Any]
    previous: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        """As it is exported."""
        return self._asdict()

    def computed(self) -> str:
        """What its hash has to be."""
        return digest.of_json({key: value for key, value in self._asdict().items() if key != "hash"})


class Attribution(NamedTuple):
    """Who did it, why and from where, in clear, and the client that it is about with the salt of its hashes."""

    client: int
    salt: str
    who: str | None
    why: str | None = None
    source: str | None = None

    def hashed(self) -> dict[str, str]:
        """For an entry: what there is, salted."""
        given = {"who": self.who, "why": self.why, "source": self.source}
        return {key: salted(self.salt, value) for key, value in given.items() if value is not None}


def salted(salt: str, text: str) -> str:
    """sha256 of the salt and the text."""
    return digest.of_bytes(f"{salt}\n{text}".encode())


def subject(client: str, task: str) -> str:
    """What entries about a name are found by; `client` is the hash that stands in them."""
    return f"{client.removeprefix(digest.PREFIX)}/{task}"


def subject_of(payload: Mapping[str, Any]) -> str | None:
    """That of an entry; None for one that is about no name."""
    client, task = payload.get("client"), payload.get("task")
    return subject(client, task) if isinstance(client, str) and isinstance(task, str) else None


def append(connection: Connection, event: str, payload: Mapping[str, Any], said: Attribution | None = None) -> LogEntry:
    """Add an entry, in a transaction that no other writer is beside."""
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
    """In order; those of some events, or about one `subject`. Raises TypeError, ValueError for one that is damaged."""
    asked = select(LOG).order_by(LOG.c.seq)
    asked = asked.where(LOG.c.event.in_(events)) if events else asked
    asked = asked.where(LOG.c.subject == about) if about is not None else asked
    for row in connection.execute(asked):
        words = (row.time, row.event, row.payload, row.previous, row.hash)
        if not isinstance(row.seq, int) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"entry {row.seq!r} of the log holds what is no text")
        payload = json.loads(row.payload)
        if not isinstance(payload, dict):
            raise TypeError(f"the payload of entry {row.seq} of the log is no object")
        yield LogEntry(row.seq, row.time, row.event, payload, row.previous, row.hash)


def now() -> str:
    """The time, as entries have it: UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def login() -> str | None:
    """Who uses this machine, as far as it tells."""
    try:
        return getpass.getuser().encode("utf-8", "replace").decode().replace("\0", "")
    except (KeyError, OSError, ImportError):
        return None


def check_words(text: str, field: str) -> str:
    """A text that every database takes. Raises InvalidName for halves of characters, and for what ends a text in C."""
    try:
        text.encode()
    except UnicodeEncodeError:
        found = ascii(text)[:80]
        raise InvalidName(
            f"`{field}`: found {found}, which holds half a character. Give it in UTF-8.",
            code="text.not-storable",
            field=field,
        ) from None
    if len(text) > LONGEST:
        raise InvalidName(
            f"`{field}`: found {len(text):,} letters, expected at most {LONGEST:,}.",
            code="text.not-storable",
            field=field,
            letters=len(text),
            most=LONGEST,
        )
    if "\0" in text:
        raise InvalidName(
            f"`{field}`: found a zero character in {ascii(text)[:80]}. Leave it out.",
            code="text.not-storable",
            field=field,
        )
    return text


def check_reason(text: str, field: str) -> str:
    """A reason in words, without space around it. Raises InvalidName for one that is blank or very long."""
    text = check_words(text, field).strip()
    if not text or len(text) > LONGEST:
        found = "nothing" if not text else f"{len(text):,} letters"
        raise InvalidName(
            f"`{field}`: found {found}, expected a reason in some words, at most {LONGEST:,} letters.",
            code="text.not-storable",
            field=field,
        )
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
"""Points of every change, in their order, between any two of which a process may end."""


def crash_point(step: str) -> None:
    """Called at each of CRASH_POINTS. Does nothing; a test puts a function in its place that ends the process."""
