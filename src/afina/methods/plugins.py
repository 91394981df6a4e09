"""Methods that other packages bring: classes that they name as entry points of the group `afina.methods`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from afina.methods.method import STATED, Method

GROUP = "afina.methods"

_KEY = re.compile(r"[a-z][a-z0-9-]*")

_OF_A_PACKAGE = (AttributeError, ImportError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
"""What importing somebody's module raises, beside what should end the program."""


def found(known: Iterable[str]) -> tuple[dict[str, type[Method]], dict[str, str]]:
    """The classes that are of use, by key, and why others are not, by the names of their entry points.

    known  keys that are taken
    """
    methods: dict[str, type[Method]] = {}
    refused: dict[str, str] = {}
    taken = set(known)
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        why = _load(entry, taken, methods)
        if why:
            refused[entry.name] = f"{entry.value}: {why}"
    return methods, refused


def _load(entry: EntryPoint, taken: set[str], methods: dict[str, type[Method]]) -> str:
    """Put the class where it belongs; otherwise the reason."""
    try:
        kind = entry.load()
    except _OF_A_PACKAGE as error:
        return f"cannot be imported ({type(error).__name__}: {error})"
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        return "no subclass of afina.methods.method.Method"
    if getattr(kind, "__abstractmethods__", None):
        return f"lacks {', '.join(sorted(kind.__abstractmethods__))}"
    missing = [word for word in STATED if not isinstance(getattr(kind, word, None), str)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not _KEY.fullmatch(kind.name):
        return f"its name {kind.name!r} is no key: lower-case letters, digits and hyphens"
    if kind.name in taken:
        return f"there is a method {kind.name} already"
    taken.add(kind.name)
    methods[kind.name] = kind
    return ""
