"""The writers of `report.html`, one file without links to other files, and of HTML for a notebook or another page.

The jinja2 templates beside this module have the HTML, and the module `sections` has the content. jinja2 escapes all
text from records and data; only the plots, which matplotlib wrote, are inserted as markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment
from markupsafe import Markup, escape

from afina import digest
from afina.pages.html import environment
from afina.report.examples.word_differences import Piece
from afina.report.headline import Headline
from afina.report.plots import svg
from afina.report.plots.svg import Plot
from afina.report.sections import Block, Section
from afina.report.tables import EACH_SEED
from afina.report.writers import terms


@dataclass(frozen=True)
class PageSection:
    """A section of a page as HTML, without script, style element and links to other pages; `id` is of its heading."""

    id: str
    title: str
    html: str


@dataclass(frozen=True)
class PageContent:
    """The content of `report.html`, without its frame and its style.

    Attributes:
        headline: The answer in one line; the heading if there is no answer yet.
        figures: Name, value and note; empty without finished runs.
        sections: The first has the answer, the last the terms.
    """

    heading: str
    headline: str
    lead: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]
    sections: tuple[PageSection, ...]

    @property
    def html(self) -> str:
        return "\n".join(one.html for one in self.sections)


def page(heading: str, lead: Sequence[str], sections: Sequence[Section], headline: Headline | None = None) -> str:
    """Return the whole HTML page of a report; without a headline, it begins with `heading`."""
    return terms.linked(_render("report.html.j2", "", heading, lead, sections, headline))


_STYLE_ELEMENT = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
"""The style element that matplotlib writes into each plot."""

_SECTION = re.compile(r"^<section\b.*?^</section>$", re.DOTALL | re.MULTILINE)
"""A section in the template's output; escaped texts have no such line."""


def content(
    heading: str, lead: Sequence[str], sections: Sequence[Section], headline: Headline | None = None
) -> PageContent:
    """Return the content of the page, for a page with a frame and a style of its own."""
    html = terms.linked(_render("content.html.j2", "", heading, lead, sections, headline))
    parts = _SECTION.findall(_STYLE_ELEMENT.sub("", html))
    titles = [*(one.title for one in sections), "Terms"]
    figures = headline.figures if headline else ()
    return PageContent(
        heading=heading.replace("`", ""),
        headline=headline.text if headline else heading.replace("`", ""),
        lead=tuple(lead),
        figures=tuple((one.name, one.value, one.note) for one in figures),
        sections=tuple(PageSection(_anchor(one), one, part) for one, part in zip(titles, parts, strict=True)),
    )


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
