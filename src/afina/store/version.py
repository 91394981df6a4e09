"""What a store says of a version, of a name, and of what was done: facts, and the same as JSON. Knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from afina.repr_html import ReprCard


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
class Published:
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
class Moved:
    """An alias that was moved; `before` is None where it was not there yet, `after` where it is not there any more."""

    name: str
    alias: str
    before: int | None
    after: int | None

    def as_json(self) -> dict[str, Any]:
        """What a program needs of it."""
        return {"name": self.name, "alias": self.alias, "from": self.before, "to": self.after}


@dataclass(frozen=True)
class Listed:
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
class Happened:
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
class Removed:
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
