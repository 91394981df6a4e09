"""The environment in which jinja2 renders the HTML of afina, and the files that several pages share.

Values are escaped wherever a template inserts them. A template finds the files of its own folder by name, and those
of this package as `shared/NAME`. The module does not know what a page shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from afina.pages.marked_text import MarkedText

SHARED = "shared/"
"""The beginning of the name of a file that several pages share."""

Filter = Callable[..., Any]


@cache
def shared(name: str) -> str:
    return (files("afina.pages") / name).read_text(encoding="utf-8")


def environment(package: str, folder: str = "", **filters: Filter) -> Environment:
    """Return the environment of the templates in a folder of a package, or in the package's own folder."""

    def load(name: str) -> str:
        if name.startswith(SHARED):
            return shared(name.removeprefix(SHARED))
        return (files(package) / folder / name).read_text(encoding="utf-8")

    made = Environment(
        loader=FunctionLoader(load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"inline": inline, "spans": spans, **filters}
    return made


def inline(text: str) -> Markup:
    """Return the text escaped for HTML, with a `code` element for text between backquotes."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def spans(found: MarkedText) -> Markup:
    return Markup(found.html())
