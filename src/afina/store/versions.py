"""Names of adapters, references to versions (`client/task@3`, `client/task@production`), and results of store methods.

The module `catalog.py` reads names and versions from the database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
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
        """Parse the name of an adapter, such as `client/task`. Raises InvalidName."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise problems.NAME_MALFORMED(expected=_EXPECTED, name=text[:80])
        return cls(found[1], found[2])

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
    """Return `text` if it can be an alias. Raises InvalidName otherwise, as for `v3`, which is like a version."""
    if not _ALIAS.fullmatch(text) or _NUMBER.fullmatch(text):
        raise problems.ALIAS_MALFORMED(_letters=_EXPECTED.partition(",")[0], most=LONGEST_NAME, alias=text[:80])
    return text


def check_client(text: str) -> str:
    """Return `text` if it can be the name of a client. Raises InvalidName if it cannot."""
    if not _CLIENT.fullmatch(text):
        raise problems.CLIENT_MALFORMED(expected=_EXPECTED, client=text[:80])
    return text


class Blob(NamedTuple):
    """A stored file of a version: the file's digest and size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, repr=False)
class Version(ReprCard):
    """A version of an adapter in a store.

    Attributes:
        name: the adapter's name, `client/task`.
        number: the number of the version. Numbers of deleted versions are not used again.
        digest: the adapter's digest (`Adapter.digest`).
        created: the time of the publication in UTC.
        who: the user who published the version.
        why: the message of the publication.
        manifest: the adapter's manifest as JSON; empty if the version is deleted.
        parts: the stored file of each part, by role: `body`, `head`, and names of other files.
        aliases: the aliases that point to the version.
        checked: the outcome of the latest golden test. None: the version was not tested.
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
        """The size in bytes of all parts of the version, including parts that other versions share."""
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
    """The result of publishing an adapter: its version, and whether the version is new.

    `created` is False if the name already had a version with the same adapter.
    """

    version: Version
    created: bool

    def __str__(self) -> str:
        return str(self.version)

    def as_json(self) -> dict[str, Any]:
        """Return the name, version, digest and `created` of a publication as JSON values."""
        made = self.version
        return {"name": made.name, "version": made.number, "digest": made.digest, "created": self.created}


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias from one version to another.

    Attributes:
        name: the adapter's name, `client/task`.
        alias: the alias, such as `production`.
        before: the number of the version before the move. None: the alias is new.
        after: the number of the version after the move. None: the alias was removed.
        share: the percentage of the requests for `production` that the version answers. None: the alias is not
            `canary`.
    """

    name: str
    alias: str
    before: int | None
    after: int | None
    share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the move as JSON values; `before` is called "from" and `after` is called "to"."""
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
    """An adapter's name with the number of its versions and facts about its newest version.

    `method`, `digest` and `created` are those of the newest version.
    """

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
    """A damaged object of a store, such as a blob or a log entry.

    Attributes:
        kind: the kind of the damaged object: blob, manifest, log, alias, version, client, key or database.
        id: what identifies the damaged object, such as a digest, a version or the number of a log entry.
        versions: the versions that cannot be used because of the damage, such as `client/task@3`.
        problem: a description of the damage.
    """

    kind: str
    id: str
    versions: tuple[str, ...]
    problem: str

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "versions": list(self.versions), "problem": self.problem}
