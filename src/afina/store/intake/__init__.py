"""Intake: an adapter's files are inspected strictly before torch, safetensors or another library reads them.

This module defines the limits on the sizes of files and the allowed file names.
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
"""The allowed suffixes of an adapter's files; files with these suffixes contain no code."""


def is_plain_name(name: str) -> bool:
    """Return whether a file name is allowed in an adapter: not hidden, ASCII letters, digits, . _ -, a known suffix."""
    return bool(_LETTERS.fullmatch(name)) and name.endswith(SUFFIXES)


@dataclass(frozen=True)
class IntakeLimits:
    """Limits on the files of one adapter, each the largest allowed number."""

    header_bytes: int = 8 << 20  # of the tensor file
    tensors: int = 20_000
    dimensions: int = 8  # of a tensor
    bytes: int = 64 << 30  # of all files together
    files: int = 64  # that are not hidden
    file_bytes: int = 256 << 20  # of each file other than the tensor file

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(value := getattr(self, field.name)) is not int or value < 1:
                raise problems.LIMIT_INVALID(option=field.name, found=value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse limits such as "tensors=100,bytes=1GiB"; the others keep their default values."""
        limits: dict[str, int] = {}
        for part in text.split(",") if text.strip() else ():
            key, equals, value = (word.strip() for word in part.partition("="))
            known = [field.name for field in fields(cls)]
            if not equals:
                problem = f"{part[:40]!r} is not a limit"
                raise problems.LIMITS_MALFORMED(
                    given=text[:80], _problem=problem, known=known, option="limits", found=part[:40]
                )
            if key not in known:
                raise UnknownName("limit", key[:40], known, f"limits {text[:80]!r}")
            if key in limits:
                raise problems.LIMITS_MALFORMED(
                    given=text[:80], _problem=f"{key} occurs twice", known=known, option=key
                )
            limits[key] = read_size(value, f"limit {key}") if "bytes" in key else _number(key, value)
        return cls(**limits)


def _number(key: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 19 and int(value)):
        raise problems.LIMIT_INVALID(option=key, found=value[:40])
    return int(value)
