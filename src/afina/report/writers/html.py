"""The writer of `report.html`, one file without links to other files, and of HTML for a notebook's output.

The jinja2 templates beside this module have the HTML, and the module `sections` has the content. jinja2 escapes all
text from records and data; only the plots, which matplotlib wrote, are inserted as markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup, escape

from afina import digest
from afina.pages.html import environment
from afina.report.examples.word_differences import Piece
from afina.report.plots import svg
from afina.report.plots.svg import Plot
from afina.report.sections import Block, Section
from afina.report.tables import EACH_SEED
from afina.report.writers import terms

if TYPE_CHECKING:  # the import loads scipy
    from afina.report.conclusion import Headline


def page(heading: str, lead: Sequence[str], sections: Sequence[Section], headline: Headline | None = None) -> str:
    """Return the whole HTML page of a report.

    Args:
        heading: The title of the page, such as the name of the study.
        lead: The lines below the headline.
        sections: The content of the page.
        headline: The result in one line and its figures. None: the page begins with `heading`.
    """
    return terms.linked(_render("report.html.j2", "", heading, lead, sections, headline))


def fragment(heading: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a fragment of HTML for a notebook's output, which has the colours of the notebook."""
    content = repr([heading, lead, sections])
    prefix = f"afina-{digest.of_strings([content]).removeprefix(digest.PREFIX)[:8]}-"  # ids must be unique on a page
    return _render("inline.html.j2", prefix, heading, lead, sections)


def _render(
    name: str,
    prefix: str,
    heading: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    headline: Headline | None = None,
) -> str:
    return (
        _environment()
        .get_template(name)
        .render(
            heading=heading.replace("`", ""),
            lead=lead,
            sections=sections,
            headline=headline,
            prefix=prefix,
            light=svg.LIGHT,
            dark=svg.DARK,
            each_seed=EACH_SEED,
        )
    )


@cache
def _environment() -> Environment:
    return environment(
        "afina.report.writers",
        kind=_kind,
        anchor=_anchor,
        runs=_runs,
        drawn=_drawn,
        markup=Markup,
        marked=_marked,
    )


def _drawn(drawing: str, prefix: str) -> Markup:
    """Return a plot's SVG with `prefix` before each id, so that ids are unique in a notebook with several reports."""
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[0]}{prefix}", drawing))


def _marked(piece: Piece) -> Markup:
    """Return a piece of a comparison as HTML: `<ins>` if the reference lacks it, `<del>` if the answer lacks it."""
    words = piece.text.rstrip(" ")
    if piece.state == "same" or not words:
        return Markup(escape(piece.text))
    element = {"added": "ins", "missing": "del"}[piece.state]
    return Markup(f"<{element}>{escape(words)}</{element}>{piece.text[len(words) :]}")


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


def _runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return the blocks in groups; consecutive plots are one group, which the page shows side by side."""
    together: list[list[Block]] = []
    for block in blocks:
        if together and isinstance(block, Plot) and isinstance(together[-1][0], Plot):
            together[-1].append(block)
        else:
            together.append([block])
    return together


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
