"""What a version is called: `client/task@3`, `client/task@production`. Knows no store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from afina.errors import InvalidName

PREFIX = "store:"
"""What stands before a reference where a directory may stand too."""

PRODUCTION, SHADOW = "production", "shadow"
"""Aliases that a server knows: what it answers by, and what rides along to be compared."""

LONGEST = 64
"""Letters of a client, a task or an alias."""

_WORD = rf"[a-z0-9](?:[a-z0-9._-]{{0,{LONGEST - 2}}}[a-z0-9])?"
_NAME = re.compile(rf"({_WORD})/({_WORD})", re.ASCII)
_CLIENT = re.compile(_WORD, re.ASCII)
_ALIAS = re.compile(rf"[a-z](?:[a-z0-9._-]{{0,{LONGEST - 2}}}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"v?([1-9][0-9]{0,8})", re.ASCII)

_EXPECTED = (
    f"lower-case letters, digits, and . _ - between them, at most {LONGEST}, as in acme/reviews, acme/reviews@3 or "
    "acme/reviews@production"
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
            f"{LONGEST}; v3 is version 3.",
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
