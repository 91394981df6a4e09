"""ReprCard, a base class for a short repr (a line of text, or a small table in a notebook); hooks for showing results.

The HTML of the table has no colour, script or address, so it fits into light and dark pages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import isnan
from typing import Any

LONGEST, MOST = 60, 6
"""The largest number of characters of a value, and of items of a list, that a repr shows."""

TABLE = "border-collapse: collapse; font-size: .9em; margin: .3em 0"
CELL = "text-align: left; vertical-align: top; padding: .15em .8em .15em 0; border: 0; background: none"


class ReprCard:
    """Base class of objects whose repr shows a few facts about the object.

    The method `facts` of a subclass must read no file, load no library and quote no text of a task, because notebooks
    are shared with their output. A dataclass that inherits from ReprCard needs `repr=False`, because its own `__repr__`
    would replace that of ReprCard.
    """

    def facts(self) -> Mapping[str, object]:
        """Return the facts that the repr shows, by name, most important first; None and empty facts are left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {value}" for name, value in _shown_facts(self.facts()).items())
        return f"<{type(self).__name__} {shown}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self.facts())


def table(title: str, facts: Mapping[str, object]) -> str:
    """Return an HTML table with a title and a row for each fact; all texts are escaped."""
    rows = "".join(
        f'<tr style="background: none"><th scope="row" style="{CELL}; font-weight: 600">{escape(name)}</th>'
        f'<td style="{CELL}">{escape(value)}</td></tr>'
        for name, value in _shown_facts(facts).items()
    )
    return f'<div><strong>{escape(title)}</strong><table style="{TABLE}"><tbody>{rows}</tbody></table></div>'


def figure(value: float | None) -> str:
    """Format a metric's value with four decimals, such as `0.8571`; `undefined` for NaN and None."""
    return "undefined" if value is None or isnan(value) else f"{value:.4f}"


def listed(items: Sequence[object]) -> str:
    """Return the first items of a list as `a, b, c`, and the number of further items."""
    more = len(items) - MOST
    return ", ".join(_short(str(item)) for item in items[:MOST]) + (f" and {more:,} more" if more > 0 else "")


def _shown_facts(facts: Mapping[str, object]) -> dict[str, str]:
    texts = {
        name: listed(value) if isinstance(value, tuple) else _short(_in_words(value)) for name, value in facts.items()
    }
    return {name: text for name, text in texts.items() if text}


def _in_words(value: object) -> str:
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
    """Register the functions that show results, for modules that must not import `report` and `notebook`."""
    _registered.update(results_as_html=results_as_html, make_watcher=make_watcher)


def results_as_html(results: Any) -> str | None:
    """Return the results of a study as an HTML fragment; None if no function is registered."""
    return _registered["results_as_html"](results) if _registered else None


def make_watcher() -> Any:
    """Return an object that shows the progress of runs in a notebook; None outside a notebook."""
    return _registered["make_watcher"]() if _registered else None


# A warning of transformers' progress bars in a kernel without widgets. afina shows no such bars.
warnings.filterwarnings("ignore", message="IProgress not found")
