"""Names, references and versions (`client/task@3`, `client/task@production`), and the results of store methods.

Names and versions are read from the database by `catalog.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from afina.repr_html import ReprCard
from afina.store import problems

PREFIX = "store:"
"""Prefix of a reference where a directory is allowed too."""

PRODUCTION, SHADOW, CANARY = "production", "shadow", "canary"
"""Aliases with a meaning for servers.

The version that answers; the version that is compared with it; the version that answers a share of its requests.
"""

LONGEST_NAME = 64
"""Largest number of characters of a client, task or alias."""

_WORD = rf"[a-z0-9](?:[a-z0-9._-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?"
_NAME = re.compile(rf"({_WORD})/({_WORD})", re.ASCII)
_CLIENT = re.compile(_WORD, re.ASCII)
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
        """Parse a name such as `client/task`. Raises InvalidName."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise problems.NAME_MALFORMED(expected=_EXPECTED, name=text[:80])
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{self.client}/{self.task}"


@dataclass(frozen=True)
class Reference:
    """A reference to a version of a name: by number, by alias, or neither, which means the newest version."""

    name: Name
    number: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference, with or without the prefix `store:`. Raises InvalidName."""
        name, at, which = text.removeprefix(PREFIX).partition("@")
        made = Name.parse(name)
        if not at:
            return cls(made)
        number = _NUMBER.fullmatch(which)
        return cls(made, number=int(number[1])) if number else cls(made, alias=check_alias(which))

    def __str__(self) -> str:
        which = self.number if self.number is not None else self.alias
        return str(self.name) if which is None else f"{self.name}@{which}"


def check_alias(text: str) -> str:
    """Return the alias. Raises InvalidName if it does not begin with a letter, or looks like a version (`v3`)."""
    if not _ALIAS.fullmatch(text) or _NUMBER.fullmatch(text):
        raise problems.ALIAS_MALFORMED(_letters=_EXPECTED.partition(",")[0], most=LONGEST_NAME, alias=text[:80])
    return text


def check_client(text: str) -> str:
    """Return the client's name. Raises InvalidName if the text cannot be the name of a client."""
    if not _CLIENT.fullmatch(text):
        raise problems.CLIENT_MALFORMED(expected=_EXPECTED, client=text[:80])
    return text


class Blob(NamedTuple):
    """A file of a version: its digest and its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, repr=False)
class Version(ReprCard):
    """One version of a name.

    Attributes:
        name: `client/task`.
        number: the version's number. Numbers of deleted versions are not used again.
        digest: the adapter's digest (`Adapter.digest`).
        created: time of publication in UTC.
        who: who published the version.
        why: the message of the publication.
        manifest: the adapter's manifest as JSON; empty if the version is deleted.
        parts: blobs by role: `body`, `head`, and names of other files.
        aliases: aliases that point to the version.
        checked: outcome of the latest check, or None.
        deleted: whether the version is deleted.
    """

    name: str
    number: int
    digest: str
    created: str
    who: str | None
    why: str | None
    manifest: Mapping[str, Any]
    parts: Mapping[str, Blob]
    aliases: tuple[str, ...] = ()
    checked: Mapping[str, Any] | None = None
    deleted: bool = False

    def facts(self) -> dict[str, object]:
        """Return the facts about the version that its `repr` shows."""
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
        """The bytes of all parts, including parts shared with other versions."""
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
    """The result of `publish`. `created` is False if the name had a version with this adapter already."""

    version: Version
    created: bool

    def __str__(self) -> str:
        return str(self.version)

    def as_json(self) -> dict[str, Any]:
        """Return name, version, digest and `created` as JSON values."""
        made = self.version
        return {"name": made.name, "version": made.number, "digest": made.digest, "created": self.created}


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias.

    Attributes:
        name: `client/task`.
        alias: the alias, such as `production`.
        before: number of the version before; None: the alias is new.
        after: number of the version now; None: the alias was removed.
        share: percentage of the requests for `production` that the version answers; None: the alias is not `canary`.
    """

    name: str
    alias: str
    before: int | None
    after: int | None
    share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values. `before` is called "from" and `after` is called "to"."""
        share = {} if self.share is None else {"share": self.share}
        return {"name": self.name, "alias": self.alias, "from": self.before, "to": self.after, **share}


@dataclass(frozen=True)
class Canary:
    """The version of a name that answers a share, in per cent, of the requests for `production`."""

    name: str
    number: int
    share: float

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class NameSummary:
    """A name and its newest version. `method`, `digest` and `created` are those of the newest version."""

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
    """A log entry about a name. `who` and `why` are plain text, or None after an erasure."""

    seq: int
    time: str
    event: str
    details: Mapping[str, Any]
    who: str | None
    why: str | None

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "details": dict(self.details)}


@dataclass(frozen=True)
class Removal:
    """The numbers of blobs, bytes and versions that `gc` or `erase` removed."""

    blobs: int
    bytes: int
    versions: int = 0

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Damage:
    """A damaged object of a store, such as a blob or a log entry.

    Attributes:
        kind: the kind of object: blob, manifest, log, alias, version, client, key or database.
        id: digest, version or number of a log entry that identifies the object.
        versions: versions that cannot be used because of the damage, as `client/task@3`.
        problem: the damage, in words.
    """

    kind: str
    id: str
    versions: tuple[str, ...]
    problem: str

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "versions": list(self.versions), "problem": self.problem}
