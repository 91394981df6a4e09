"""The README's picture: accuracy against training time, drawn by afina's report from docs/example-report.

    python benchmarks/readme_picture.py

It writes docs/accuracy-cost-light.svg and docs/accuracy-cost-dark.svg. Each file has its own colours, since GitHub
shows an SVG as an image, which does not see the style of the page.
"""

from __future__ import annotations

import html
from pathlib import Path

from afina.report.arms import arms
from afina.report.plots import comparison
from afina.report.plots.svg import DARK, LIGHT, Plot, drawing
from afina.studies.results import Results

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {
    "light": ({"paper": "#ffffff", "ink": "#1c2024", "faint": "#d9dde1"}, LIGHT),
    "dark": ({"paper": "#0d1117", "ink": "#e8eaed", "faint": "#3a4047"}, DARK),
}
"""By theme: colours of the page, of text and of grid lines, and the colours of methods."""


def standalone(plot: Plot, theme: str) -> str:
    """Return the plot as an SVG file of its own, with the colours of one theme."""
    page, methods = PAGES[theme]
    values = page | {f"method-{number}": colour for number, colour in enumerate(methods)}
    style = " ".join(f"--{name}: {value};" for name, value in values.items())
    opening, rest = plot.svg.split(">", 1)
    title = f"<title>{html.escape(plot.title)}</title>"
    return f"{opening}>{title}<style>svg {{ {style} background: {page['paper']} }}</style>{rest}\n"


def pictures() -> dict[str, str]:
    """By file name, the picture in each theme."""
    results = Results.read(DOCS / "example-report")
    with drawing():
        plot = comparison.against_time(arms(results.results))
    assert plot is not None
    return {f"accuracy-cost-{theme}.svg": standalone(plot, theme) for theme in PAGES}


def main() -> None:
    """Write both files."""
    for name, text in pictures().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(DOCS / name)


if __name__ == "__main__":
    main()
