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
    """Return whether a file name is allowed in an adapter: ASCII letters, digits, . _ -, and a suffix in SUFFIXES.

    Names of hidden files are not allowed.
    """
    return bool(_LETTERS.fullmatch(name)) and name.endswith(SUFFIXES)


@dataclass(frozen=True)
class IntakeLimits:
    """Limits on the files of one adapter.

    Attributes:
        header_bytes: the largest size in bytes of the header of the tensor file.
        tensors: the largest number of tensors.
        dimensions: the largest number of dimensions of a tensor.
        bytes: the largest size in bytes of all files together.
        files: the largest number of files that are not hidden.
        file_bytes: the largest size in bytes of each file other than the tensor file.
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
        """Parse limits on an adapter's files, such as "tensors=100,bytes=1GiB".

        Limits that `text` does not name keep their default values. Raises InvalidStudy, UnknownName.
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
