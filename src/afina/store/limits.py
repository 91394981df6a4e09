"""What a store takes in: how a file may be called, and how large it may be. Knows no adapter and opens nothing."""

from __future__ import annotations

import re

_LETTERS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,126}[A-Za-z0-9_]", re.ASCII)

TENSORS = ".safetensors"

SUFFIXES = (TENSORS, ".json", ".txt", ".model", ".jinja", ".md")
"""Of files that run nothing when they are read."""


def plain(name: str) -> bool:
    """Whether a file of that name may be kept: one word of ASCII, no folder, nothing hidden, one of SUFFIXES."""
    return bool(_LETTERS.fullmatch(name)) and name.endswith(SUFFIXES)


class Limits:  # stand-in
    """Stand-in."""
