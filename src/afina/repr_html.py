"""An object shown by a few facts: one line of text, or a small table in a notebook; and what shows results there.

The HTML has no colour, script or address of its own, so a light and a dark page both suit it. Knows no object.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import isnan
from typing import Any

LONGEST, MOST = 60, 6
"""Characters of a value, and items of a list, that are shown."""

TABLE = "border-collapse: collapse; font-size: .9em; margin: .3em 0"
CELL = "text-align: left; vertical-align: top; padding: .15em .8em .15em 0; border: 0; background: none"


class ReprCard:
    """An object that is shown by its facts. `facts` reads no file, loads no library and quotes no text of a task, since
    a notebook is passed on with what it shows.

    Of a dataclass give `repr=False`, which would otherwise take the place of this one.
    """

    def facts(self) -> Mapping[str, object]:
        """What it is, by name, the most telling first; what is None or empty is left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {value}" for name, value in _shown_facts(self.facts()).items())
        return f"<{type(self).__name__} {told}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self.facts())


def table(title: str, facts: Mapping[str, object]) -> str:
    """A title and a row for each fact, everything escaped."""
    rows = "".join(
        f'<tr style="background: none"><th scope="row" style="{CELL}; font-weight: 600">{escape(name)}</th>'
        f'<td style="{CELL}">{escape(value)}</td></tr>'
        for name, value in _shown_facts(facts).items()
    )
    return f'<div><strong>{escape(title)}</strong><table style="{TABLE}"><tbody>{rows}</tbody></table></div>'


def figure(value: float | None) -> str:
    """`0.8571`; `undefined` for NaN, which JSON has as null."""
    return "undefined" if value is None or isnan(value) else f"{value:.4f}"


def listed(items: Sequence[object]) -> str:
    """`a, b, c`, and how many more there are."""
    more = len(items) - MOST
    return ", ".join(_short(str(item)) for item in items[:MOST]) + (f" and {more:,} more" if more > 0 else "")


def _shown_facts(facts: Mapping[str, object]) -> dict[str, str]:
    told = {name: listed(value) if isinstance(value, tuple) else _short(_one(value)) for name, value in facts.items()}
    return {name: text for name, text in told.items() if text}


def _one(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return figure(value) if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…"


_registered: dict[str, Callable[..., Any]] = {}


def register(*, results_as_html: Callable[[Any], str], make_watcher: Callable[[], Any]) -> None:
    """Let a report and a notebook be used by modules that must not import them."""
    _registered.update(results_as_html=results_as_html, make_watcher=make_watcher)


def results_as_html(results: Any) -> str | None:
    """Results as a fragment of a page; None where nothing is registered."""
    return _registered["results_as_html"](results) if _registered else None


def make_watcher() -> Any:
    """A watcher that suits where this process shows things; None outside a notebook."""
    return _registered["make_watcher"]() if _registered else None


# What transformers' progress bars say in a kernel without widgets; afina shows none of them.
warnings.filterwarnings("ignore", message="IProgress not found")
