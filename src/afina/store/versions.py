"""Names and versions: `client/task@3` and `client/task@production`, and what a store says of them, also as JSON.

Knows no database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from afina.errors import InvalidName
from afina.repr_html import ReprCard

PREFIX = "store:"
"""What stands before a reference where a directory may stand too."""

PRODUCTION, SHADOW = "production", "shadow"
"""Aliases that a server knows: what it answers by, and what rides along to be compared."""

LONGEST_NAME = 64
"""Letters of a client, a task or an alias."""

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
    """`client/task`: what versions are versions of."""

    client: str
    task: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidName."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise InvalidName(
                f"{text[:80]!r} is no name of an adapter. Expected client/task: {_EXPECTED}.",
                code="store.name-malformed",
                name=text[:80],
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{self.client}/{self.task}"


@dataclass(frozen=True)
class Reference:
    """A version of a name: the one of that number, or the one that an alias points to; the newest where neither is."""

    name: Name
    number: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """With or without `store:` before it. Raises InvalidName."""
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
    """The alias, once it is known to be one: it begins with a letter, and is not `v3`. Raises InvalidName."""
    if not _ALIAS.fullmatch(text) or _NUMBER.fullmatch(text):
        raise InvalidName(
            f"{text[:80]!r} is no alias. Expected a word such as production, or a version's number. "
            f"An alias begins with a letter, has {_EXPECTED.partition(',')[0]}, digits, and . _ - after it, at most "
            f"{LONGEST_NAME}; v3 is version 3.",
            code="alias.malformed",
            alias=text[:80],
        )
    return text


def check_client(text: str) -> str:
    """The client, once it is known to be one. Raises InvalidName."""
    if not _CLIENT.fullmatch(text):
        raise InvalidName(
            f"{text[:80]!r} is no client. Expected what stands before the / of a name: {_EXPECTED}.",
            code="client.malformed",
            client=text[:80],
        )
    return text


class Blob(NamedTuple):
    """A part of a version: what it hashes to, and its bytes."""

    digest: str
    size: int


@dataclass(frozen=True, repr=False)
class Version(ReprCard):
    """One version of a name.

    digest    the adapter's identity (`Adapter.digest`)
    created   when it was published, UTC
    who, why  who published it, and the message
    manifest  the adapter's, as JSON; empty once it is deleted
    parts     by role, `body`, `head` and the names of files beside them
    aliases   those that point to it
    checked   the latest recorded check, if any
    deleted   whether it is; its number is never given again
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
        """The facts that its repr shows."""
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
        """Bytes of all its parts, also of those that others share."""
        return sum(part.size for part in self.parts.values())

    def as_json(self) -> dict[str, Any]:
        """Without the manifest."""
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
    """What `publish` comes to; `created` is false where the name had that adapter already."""

    version: Version
    created: bool

    def __str__(self) -> str:
        return str(self.version)

    def as_json(self) -> dict[str, Any]:
        """What a program needs of it."""
        made = self.version
        return {"name": made.name, "version": made.number, "digest": made.digest, "created": self.created}


@dataclass(frozen=True)
class AliasMove:
    """An alias that was moved; `before` is None where it was not there yet, `after` where it is not there any more."""

    name: str
    alias: str
    before: int | None
    after: int | None

    def as_json(self) -> dict[str, Any]:
        """What a program needs of it."""
        return {"name": self.name, "alias": self.alias, "from": self.before, "to": self.after}


@dataclass(frozen=True)
class NameSummary:
    """A name, and where it stands; `method` and `created` are of its newest version."""

    name: str
    versions: int
    newest: int
    digest: str
    method: str | None
    created: str
    aliases: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**self.__dict__, "aliases": dict(self.aliases)}


@dataclass(frozen=True)
class HistoryEntry:
    """An entry of the log about a name, with who and why in clear where they were not erased."""

    seq: int
    time: str
    event: str
    details: Mapping[str, Any]
    who: str | None
    why: str | None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**self.__dict__, "details": dict(self.details)}


@dataclass(frozen=True)
class Removal:
    """What `gc` or `erase` removed."""

    blobs: int
    bytes: int
    versions: int = 0

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was left.

    kind      blob, manifest, log, alias, version, client or database
    id        a digest, a version, the number of an entry, ...
    versions  those that it makes useless, as `client/task@3`
    """

    kind: str
    id: str
    versions: tuple[str, ...]
    problem: str

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"kind": self.kind, "id": self.id, "versions": list(self.versions), "problem": self.problem}
