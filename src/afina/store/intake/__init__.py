"""What comes in and goes out: limits, a strict look at files before anything reads them, bundles. Knows no database.

Here are the limits, and which names a file may have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Self

from afina.errors import InvalidStudy, UnknownName
from afina.schema import read_size

_LETTERS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,118}[A-Za-z0-9_]", re.ASCII)

TENSORS = ".safetensors"

SUFFIXES = (TENSORS, ".json", ".txt", ".model", ".jinja", ".md")
"""Of files that run nothing when they are read."""


def is_plain_name(name: str) -> bool:
    """Whether a file of that name may be kept: one word of ASCII, no folder, nothing hidden, one of SUFFIXES."""
    return bool(_LETTERS.fullmatch(name)) and name.endswith(SUFFIXES)


@dataclass(frozen=True)
class IntakeLimits:
    """At most so much of one adapter.

    header_bytes  of the tensor file's header;  tensors  in it;  dimensions  of each
    bytes         of all its files together
    files         beside one another, hidden ones not counted;  file_bytes  of each but the tensor file
    """

    header_bytes: int = 8 << 20
    tensors: int = 20_000
    dimensions: int = 8
    bytes: int = 64 << 30
    files: int = 64
    file_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(value := getattr(self, field.name)) is not int or value < 1:
                raise InvalidStudy(
                    f"limit {field.name} = {value!r}: expected a whole number from 1 up.",
                    code="option.invalid",
                    option=field.name,
                    found=value,
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Those of "tensors=100,bytes=1GiB"; what is not named is as usual. Raises InvalidStudy, UnknownName."""
        given: dict[str, int] = {}
        for part in text.split(",") if text.strip() else ():
            key, equals, value = (word.strip() for word in part.partition("="))
            known = [field.name for field in fields(cls)]
            if not equals:
                raise InvalidStudy(
                    f"limits {text[:80]!r}: {part[:40]!r} is no limit, expected such as tensors=100,bytes=1GiB. "
                    f"Known: {', '.join(known)}.",
                    code="option.invalid",
                    option="limits",
                    found=part[:40],
                    known=known,
                )
            if key not in known:
                raise UnknownName("limit", key[:40], known, f"limits {text[:80]!r}")
            if key in given:
                raise InvalidStudy(
                    f"limits {text[:80]!r}: {key} twice. Leave one out.", code="option.invalid", option=key
                )
            given[key] = read_size(value, f"limit {key}") if "bytes" in key else _number(key, value)
        return cls(**given)


def _number(key: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 19 and int(value)):
        raise InvalidStudy(
            f"limit {key} = {value[:40]!r}: expected a whole number from 1 up.",
            code="option.invalid",
            option=key,
            found=value[:40],
        )
    return int(value)
