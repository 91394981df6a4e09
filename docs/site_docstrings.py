"""Read and rewrite docstrings for the site: fields in two columns become sections of Google's style."""

from __future__ import annotations

import re

_COLUMNS = re.compile(r"(?P<names>\w+(?:, \w+)*) {2,}(?P<text>\S.*)")
_GOOGLE = re.compile(r"(?P<names>\w+(?:, \w+)*)(?: \([^)]*\))?: (?P<text>\S.*)")


def described_fields(docstring: str) -> dict[str, str]:
    """Return the meaning of each field that a docstring describes, by the field's name.

    The docstring describes fields in a section `Args:` or `Attributes:` of Google's style, or in two columns. If the
    meaning of a field has several lines, the further lines are indented deeper than the name.
    """
    found: dict[str, str] = {}
    names: list[str] = []
    at = 0
    for line in docstring.expandtabs().splitlines():
        inner = line.strip()
        indent = len(line) - len(line.lstrip())
        if names and inner and indent > at:
            for name in names:
                found[name] += f" {inner}"
            continue
        names = []
        if match := _COLUMNS.fullmatch(inner) or (_GOOGLE.fullmatch(inner) if indent > 4 else None):
            names, at = match["names"].split(", "), indent
            found.update(dict.fromkeys(names, match["text"]))
    return found


def as_google(docstring: str, section: str) -> str:
    """Return a docstring in which each block of fields in two columns has become a section of Google's style.

    Args:
        section: The section's name, such as `Args` or `Attributes`. An indented block is already in a section, and gets
            no name.
    """
    lines: list[str] = []
    within = False
    for line in docstring.splitlines():
        match = _COLUMNS.fullmatch(line.strip())
        indent = len(line) - len(line.lstrip())
        if match and not match["text"].startswith("#"):
            if indent == 0 and not within:
                lines += ["", f"{section}:"]
                within = True
            lines.append(f"{' ' * (indent or 4)}{match['names']}: {match['text']}")
        elif within and indent > 0:
            lines.append(f"        {line.strip()}")
        else:
            lines += ["", line] if within and line.strip() else [line]
            within = False
    return "\n".join(lines)
