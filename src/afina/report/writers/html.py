"""Sections -> `report.html`, one file that needs nothing else, to be read on a phone, a screen or paper; or -> a
fragment that stands inside another page.

Knows HTML by way of `report.html.j2`; what is said comes from `sections`. Whatever stands in a record or a text is
escaped by jinja2; only the plots, which matplotlib wrote, are markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from afina import digest
from afina.report.plots import svg
from afina.report.plots.svg import Plot
from afina.report.sections import Block, Section
from afina.report.tables import EACH_SEED


def page(heading: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page. `lead` are the lines under its heading."""
    return _render("report.html.j2", "", heading, lead, sections)


def fragment(heading: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The same for a notebook's output, in the colours of what is around it."""
    content = repr([heading, lead, sections])
    prefix = f"afina-{digest.of_strings([content]).removeprefix(digest.PREFIX)[:8]}-"  # ids are one page's
    return _render("inline.html.j2", prefix, heading, lead, sections)


def _render(name: str, prefix: str, heading: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    return (
        _environment()
        .get_template(name)
        .render(
            heading=heading.replace("`", ""),
            lead=lead,
            sections=sections,
            prefix=prefix,
            light=svg.LIGHT,
            dark=svg.DARK,
            each_seed=EACH_SEED,
        )
    )


@cache
def _environment() -> Environment:
    loader = FunctionLoader(lambda name: (files("afina.report.writers") / name).read_text(encoding="utf-8"))
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"inline": _inline, "kind": _kind, "anchor": _anchor, "runs": _runs, "drawn": _drawn}
    made.filters |= {"markup": Markup}
    return made


def _drawn(drawing: str, prefix: str) -> Markup:
    """A plot whose names for its parts begin with `prefix`, so that no other plot of a page has them."""
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[0]}{prefix}", drawing))


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
