"""Intake: strict inspection of an adapter's files before any other library reads them.

This module defines the limits on sizes and the allowed file names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Self

from afina.errors import UnknownName
from afina.schema import read_size
from afina.store import problems

_LETTERS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,118}[A-Za-z0-9_]", re.ASCII)

TENSORS = ".safetensors"

SUFFIXES = (TENSORS, ".json", ".txt", ".model", ".jinja", ".md")
"""Suffixes of files that contain no code."""


def is_plain_name(name: str) -> bool:
    """Return whether a file name is allowed: only ASCII letters, digits, . _ -, not hidden, one of SUFFIXES."""
    return bool(_LETTERS.fullmatch(name)) and name.endswith(SUFFIXES)


@dataclass(frozen=True)
class IntakeLimits:
    """Limits on the files of one adapter.

    Attributes:
        header_bytes: most bytes of the tensor file's header.
        tensors: largest number of tensors.
        dimensions: most dimensions of a tensor.
        bytes: most bytes of all files together.
        files: largest number of files, without hidden files.
        file_bytes: most bytes of each file except the tensor file.
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
                raise problems.LIMIT_INVALID(option=field.name, found=value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse limits such as "tensors=100,bytes=1GiB".

        Limits that `text` does not name keep their defaults. Raises InvalidStudy, UnknownName.
        """
        given: dict[str, int] = {}
        for part in text.split(",") if text.strip() else ():
            key, equals, value = (word.strip() for word in part.partition("="))
            known = [field.name for field in fields(cls)]
            if not equals:
                raise problems.LIMIT_UNKNOWN(given=text[:80], option="limits", found=part[:40], known=known)
            if key not in known:
                raise UnknownName("limit", key[:40], known, f"limits {text[:80]!r}")
            if key in given:
                raise problems.LIMIT_TWICE(given=text[:80], option=key)
            given[key] = read_size(value, f"limit {key}") if "bytes" in key else _number(key, value)
        return cls(**given)


def _number(key: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 19 and int(value)):
        raise problems.LIMIT_INVALID(option=key, found=value[:40])
    return int(value)
