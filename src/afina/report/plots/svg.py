"""The common parts of all plots: `Plot`, axes, the palette, and SVG from a matplotlib figure.

Figures are drawn in placeholder colours, which are then replaced by CSS variables, so that the HTML page can set light
and dark colours. The functions import matplotlib when they are called. pyplot is not used, because pyplot has global
state and may need a display.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from afina.report.arms import Arm
from afina.report.formatting import brief, metric_heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LIGHT = ("#0072b2", "#c44e00", "#00795a", "#a8457a", "#7d6300", "#5b50c8", "#2d7f8f", "#8c3b2e")
DARK = ("#56b4e9", "#f2955a", "#3dcfa3", "#e79fc9", "#e6c34a", "#b3aaff", "#7fd4e0", "#e08f80")
"""The colours of methods on a light and on a dark page, in order, after Okabe and Ito, Color Universal Design (2008).

The contrast of each colour with the page is at least 3:1. Methods with the same colour have different markers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<", ">")

INK, FAINT, PAPER = "#010101", "#010102", "#010103"
"""The placeholder colours of text and axes, of grid lines, and of the page background."""
_VARIABLES = {INK: "--ink", FAINT: "--faint", PAPER: "--paper"}
_METHOD = "#0202{:02x}"

WIDTH = 4.6
"""The width of a plot in inches, at which text of 9 points is still readable on a phone's screen."""


@dataclass(frozen=True)
class Plot:
    """A plot of a report; `text` is its alternative text."""

    name: str
    title: str
    svg: str
    text: str
    caption: str


STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "hatch.color": INK,
    "hatch.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def colour(index: int) -> str:
    """Return the placeholder colour of the method with this index in the report."""
    return _METHOD.format(index % len(LIGHT))


def marker(index: int) -> str:
    """Return the marker of the method with this index; 8 colours and 11 markers give 88 combinations."""
    return MARKERS[index % len(MARKERS)]


@contextmanager
def drawing() -> Iterator[None]:
    """Set afina's plot style within the context, and ignore the user's matplotlib configuration."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # The browser draws letters that DejaVu lacks; matplotlib only guesses their width.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def inline(figure: Figure, name: str, title: str) -> str:
    """Return the `<svg>` element of a figure, the same bytes on every call; its ids begin with `name`."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r"(font: [^;\"]*?\d+(?:\.\d+)?px)[^;\"]*", r"\1 system-ui, sans-serif", text)
    text = re.sub(r"#0[12]0[12][0-9a-f]{2}", lambda found: f"var({_variable(found[0])})", text)
    view = re.search(r'viewBox="([^"]+)"', text)
    assert view is not None
    width = view[1].split()[2]
    opening = (
        f'<svg viewBox="{view[1]}" style="max-width: {float(width) * 1.5:.0f}px" role="img" '
        f'aria-label="{html.escape(title, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
    )
    return opening + text[text.index(">") + 1 :].strip()


def _variable(placeholder: str) -> str:
    return _VARIABLES.get(placeholder) or f"--method-{int(placeholder[-2:], 16)}"


def canvas(height: float, width: float = WIDTH) -> tuple[Any, Any]:
    """Return a new matplotlib figure of the given height and width in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def finish(figure: Any, name: str, title: str, said: Sequence[str], caption: str) -> Plot:
    """Return the `Plot` of a matplotlib figure; its alternative text is `title` and the phrases of `said`."""
    text = f"{title}. {'; '.join(said)}."
    figure.set_layout_engine("constrained")
    return Plot(name, title, inline(figure, name, text), text, caption)


def rows_of(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def scatter(axes: Any, arms: Sequence[Arm], costs: Sequence[float], *, front: bool = False) -> None:
    for arm, cost in zip(arms, costs, strict=True):
        style = {"color": colour(arm.place), "markersize": 7, "clip_on": False}
        axes.plot([cost], [arm.headline], marker(arm.place), **style)
    axes.set_ylabel(metric_heading(arms[0].record.metric))
    axes.margins(0.12)
    legend(axes, arms, front=front)


def legend(axes: Any, arms: Sequence[Arm], *, front: bool = False, names: Sequence[str] = ()) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=colour(arm.place), marker=marker(arm.place), linestyle="none") for arm in arms
    ]
    names = [brief(name) for name in names or [arm.label for arm in arms]]
    if front:
        handles.append(
            Line2D([], [], color=INK, marker="o", fillstyle="none", markersize=9, linestyle="--", linewidth=1)
        )
        names.append("Pareto front")
    axes.figure.legend(handles, names, loc="outside lower left")
