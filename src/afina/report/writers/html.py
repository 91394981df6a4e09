"""Sections -> `report.html`: one file that needs nothing else, to be read on a phone, a screen or paper.

Knows HTML by way of `report.html.j2`; what is said comes from `sections`. Whatever stands in a record or a text is
escaped by jinja2; only the plots, which matplotlib wrote, are markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from afina.report.plots import svg
from afina.report.plots.drawing import Plot
from afina.report.sections import Block, Section
from afina.report.tables import EACH_SEED


def page(heading: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page. `lead` are the lines under its heading."""
    return _template().render(
        heading=heading.replace("`", ""),
        lead=lead,
        sections=sections,
        light=svg.LIGHT,
        dark=svg.DARK,
        each_seed=EACH_SEED,
    )


@cache
def _template() -> Template:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"inline": _inline, "kind": _kind, "anchor": _anchor, "markup": Markup, "runs": _runs}
    return made.from_string((files("afina.report.writers") / "report.html.j2").read_text(encoding="utf-8"))


def _inline(text: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


def _runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks, with plots that follow each other taken together, so that they may stand side by side."""
    together: list[list[Block]] = []
    for block in blocks:
        if together and isinstance(block, Plot) and isinstance(together[-1][0], Plot):
            together[-1].append(block)
        else:
            together.append([block])
    return together


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
