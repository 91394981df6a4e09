"""The pictures of the docs: plots that afina's report draws from the records in docs/*-report.

    python benchmarks/pictures.py

It writes docs/pictures/NAME-light.svg and docs/pictures/NAME-dark.svg. Each file has its own colours, since GitHub
shows an SVG as an image, which does not see the style of the page. `python benchmarks/pictures.py --alt` prints the
alternative text of each picture.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from pathlib import Path

from afina.report import conclusion
from afina.report.arms import Arm, arms
from afina.report.plots import comparison
from afina.report.plots.svg import DARK, LIGHT, Plot, drawing
from afina.report.verdicts import verdicts
from afina.studies.results import Results

DOCS = Path(__file__).resolve().parents[1] / "docs"
THEMES = {
    "light": ({"paper": "#ffffff", "ink": "#1c2024", "faint": "#d9dde1"}, LIGHT),
    "dark": ({"paper": "#0d1117", "ink": "#e8eaed", "faint": "#3a4047"}, DARK),
}
"""By theme: colours of the page, of text and of grid lines, and the colours of methods."""


def standalone(plot: Plot, theme: str) -> str:
    """Return the plot as an SVG file of its own, with the colours of one theme."""
    page, methods = THEMES[theme]
    values = page | {f"method-{number}": colour for number, colour in enumerate(methods)}
    style = " ".join(f"--{name}: {value};" for name, value in values.items())
    opening, rest = plot.svg.split(">", 1)
    title = f"<title>{html.escape(plot.title)}</title>"
    return f"{opening}>{title}<style>svg {{ {style} background: {page['paper']} }}</style>{rest}\n"


def _recorded(name: str) -> list[Arm]:
    return arms(Results.read(DOCS / f"{name}-report").results)


def _differences() -> Plot | None:
    """The differences of the method with the highest accuracy from the other methods."""
    compared, found = _recorded("example"), verdicts(_recorded("example"))
    _, (best, *_) = conclusion.leading(compared, found)
    return comparison.forest(best.label, found.compared, found.trained_on)


PICTURES: dict[str, Callable[[], Plot | None]] = {
    "accuracy-cost": lambda: comparison.against_time(_recorded("example")),
    "differences": _differences,
    "methods-cost": lambda: comparison.against_time(_recorded("methods")),
}
"""By name: the function that draws the picture."""


def plots() -> dict[str, Plot]:
    """By name, each picture as a plot in the placeholder colours."""
    with drawing():
        made = {name: draw() for name, draw in PICTURES.items()}
    return {name: plot for name, plot in made.items() if plot is not None}


def main() -> None:
    """Write every file, or print the alternative texts."""
    for name, plot in plots().items():
        if "--alt" in sys.argv:
            print(name, plot.text, sep=": ")
            continue
        for theme in THEMES:
            path = DOCS / "pictures" / f"{name}-{theme}.svg"
            path.write_text(standalone(plot, theme), encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
