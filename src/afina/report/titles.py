"""What a method, a setting of it, or a floor is called in a report of a recommendation."""

from __future__ import annotations

from dataclasses import replace

from afina.methods import METHODS
from afina.stats.comparison import Comparison


def titled(one: Comparison) -> Comparison:
    """With titles in place of names."""
    return replace(one, first=title(one.first), second=title(one.second))


def title(name: str) -> str:
    """A method's, with the rate where that is not its own; a floor's name is its title."""
    if name in METHODS:
        return METHODS[name].title
    for method, kind in METHODS.items():
        rate = name.removeprefix(f"{method}-")
        if rate != name and rate[:1].isdigit():
            return f"{kind.title} at {rate}"
    return name
