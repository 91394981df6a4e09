"""Names of adapters, references to versions (`client/task@3`, `client/task@production`), and results of store methods.

The module `catalog.py` reads names and versions from the database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from afina.repr_html import ReprCard
from afina.store import problems

PREFIX = "store:"
"""The prefix of a reference to a version in a store, in arguments that may also be a directory."""

PRODUCTION, SHADOW, CANARY = "production", "shadow", "canary"
"""The aliases with a meaning for servers. PRODUCTION is the version that answers requests, SHADOW a version whose
predictions are compared with those of PRODUCTION, CANARY a version that answers a share of the requests for PRODUCTION.
"""

LONGEST_NAME = 64
"""The largest number of characters of a client's name, a task's name or an alias."""

WORD = rf"[a-z0-9](?:[a-z0-9._-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?"
_NAME = re.compile(rf"({WORD})/({WORD})", re.ASCII)
_CLIENT = re.compile(WORD, re.ASCII)
_ALIAS = re.compile(rf"[a-z](?:[a-z0-9._-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"v?([1-9][0-9]{0,8})", re.ASCII)

_EXPECTED = (
    f"lower-case letters, digits, and . _ - between them, at most {LONGEST_NAME}, as in acme/reviews, "
    "acme/reviews@3 or acme/reviews@production"
)


@dataclass(frozen=True, order=True)
class Name:
    """The name of an adapter in a store: `client/task`."""

    client: str
    task: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the name of an adapter, such as `client/task`. Raises InvalidName."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise problems.NAME_MALFORMED(expected=_EXPECTED, name=text[:80])
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.client}/{self.task}"


@dataclass(frozen=True)
class Reference:
    """A reference to a version of an adapter by its number or by an alias; with neither, to the newest version."""

    name: Name
    number: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference to a version, with or without the prefix `store:`. Raises InvalidName."""
        before, at, which = text.removeprefix(PREFIX).partition("@")
        name = Name.parse(before)
        if not at:
            return cls(name)
        number = _NUMBER.fullmatch(which)
        return cls(name, number=int(number[1])) if number else cls(name, alias=check_alias(which))

    def __str__(self) -> str:
        which = self.number if self.number is not None else self.alias
        return str(self.name) if which is None else f"{self.name}@{which}"


def check_alias(text: str) -> str:
    """Return `text` if it can be an alias. Raises InvalidName otherwise, as for `v3`, which is like a version."""
    if not _ALIAS.fullmatch(text) or _NUMBER.fullmatch(text):
        raise problems.ALIAS_MALFORMED(_letters=_EXPECTED.partition(",")[0], most=LONGEST_NAME, alias=text[:80])
    return text


def check_client(text: str) -> str:
    """Return `text` if it can be the name of a client. Raises InvalidName otherwise."""
    if not _CLIENT.fullmatch(text):
        raise problems.CLIENT_MALFORMED(expected=_EXPECTED, client=text[:80])
    return text


class Blob(NamedTuple):
    """The content of a file of a version."""

    digest: str  # sha256:...
    size: int  # in bytes


class PartFile(NamedTuple):
    """A part of a version that is not stored yet."""

    file: Path
    blob: Blob


@dataclass(frozen=True, repr=False)
class Version(ReprCard):
    """A version of an adapter in a store."""

    name: str  # client/task
    number: int  # numbers of deleted versions are not used again
    digest: str  # of the adapter
    created: str  # the time of the publication in UTC
    who: str | None  # published the version
    why: str | None  # the message of the publication
    manifest: Mapping[str, Any]  # as JSON; empty if the version is deleted
    parts: Mapping[str, Blob]  # by role: body, head, and names of other files
    aliases: tuple[str, ...] = ()
    checked: Mapping[str, Any] | None = None  # the outcome of the latest golden test
    deleted: bool = False

    def facts(self) -> dict[str, object]:
        shown = ("method", "task", "backbone", "metrics")
        return {
            "version": str(self),
            **{key: self.manifest.get(key) for key in shown},
            "created": self.created,
            "message": self.why,
            "bytes": self.size,
        }

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def size(self) -> int:
        """The size in bytes of all parts, also of those that other versions share."""
        return sum(part.size for part in self.parts.values())

    def as_json(self) -> dict[str, Any]:
        """Return the version's fields as JSON values, without the manifest."""
        return {
            "name": self.name,
            "version": self.number,
            "digest": self.digest,
            "created": self.created,
            "who": self.who,
            "message": self.why,
            "method": self.manifest.get("method"),
            "metrics": dict(self.manifest.get("metrics") or {}),
            "bytes": self.size,
            "parts": {role: part._asdict() for role, part in self.parts.items()},
            "aliases": list(self.aliases),
            "checked": dict(self.checked) if self.checked else None,
            "deleted": self.deleted,
        }


@dataclass(frozen=True)
class PublishOutcome:
    """The result of publishing an adapter."""

    version: Version
    created: bool  # False: the name already had a version with the same adapter

    def __str__(self) -> str:
        return str(self.version)

    def as_json(self) -> dict[str, Any]:
        version = self.version
        return {"name": version.name, "version": version.number, "digest": version.digest, "created": self.created}


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias from one version to another."""

    name: str
    alias: str
    before: int | None  # the number of a version; None: the alias is new
    after: int | None  # None: the alias was removed
    share: float | None = None  # of the alias `canary`: the percentage of the requests for production

    def as_json(self) -> dict[str, Any]:
        share = {} if self.share is None else {"share": self.share}
        return {"name": self.name, "alias": self.alias, "from": self.before, "to": self.after, **share}


@dataclass(frozen=True)
class Canary:
    """The canary version of a name: it answers a share, in percent, of the requests for `production`."""

    name: str
    number: int
    share: float

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class NameSummary:
    """An adapter's name with the number of its versions; `digest`, `method` and `created` are of the newest one."""

    name: str
    versions: int
    newest: int
    digest: str
    method: str | None
    created: str
    aliases: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "aliases": dict(self.aliases)}


@dataclass(frozen=True)
class HistoryEntry:
    """An entry of the audit log about an adapter's name; `who` and `why` are plain text, or None after an erasure."""

    seq: int
    time: str
    event: str
    details: Mapping[str, Any]
    who: str | None
    why: str | None

    @property
    def summary(self) -> str:
        """The event in a few words, such as `production: 1 -> 2` or `version 2 passed`."""
        done = self.details
        if self.event in ("alias", "rollback"):
            forced = ", forced" if done.get("forced") else ""
            share = f", {done['share']:g} % of requests" if "share" in done else ""
            return f"{done['alias']}: {done['from'] or 'new'} -> {done['to']}{share}{forced}"
        if self.event == "unalias":
            return f"{done['alias']}: {done['from']} -> none"
        outcome = {True: " passed", False: " failed"}.get(done.get("passed"), "")  # type: ignore[arg-type]
        return f"version {done.get('version')}{outcome}"

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "details": dict(self.details)}


@dataclass(frozen=True)
class Removal:
    """The numbers of stored files (blobs), bytes and versions that `gc` or `erase` has removed."""

    blobs: int
    bytes: int
    versions: int = 0

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Damage:
    """A damaged object of a store, such as a blob or a log entry."""

    kind: str  # blob, manifest, log, alias, version, client, key or database
    id: str  # such as a digest, a version or the number of a log entry
    versions: tuple[str, ...]  # that cannot be used because of the damage, such as client/task@3
    problem: str

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "versions": list(self.versions), "problem": self.problem}
