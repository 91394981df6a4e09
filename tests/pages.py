"""What stands in the documentation's blocks of code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: Path | str, language: str) -> list[str]:
    """Of a page, or of some text of one."""
    text = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: Path | str) -> Iterator[list[str]]:
    """The words of every line in a block of shell."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words
