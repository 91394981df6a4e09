"""A matplotlib figure -> SVG to stand inside a page and follow its colours. The palette of all plots.

Figures are drawn in placeholder colours, which become CSS variables: light and dark are the page's business.
matplotlib is imported on use, and never pyplot, which keeps state and may want a screen.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIGHT = ("#0072b2", "#c44e00", "#00795a", "#a8457a", "#7d6300", "#5b50c8", "#2d7f8f", "#8c3b2e")
DARK = ("#56b4e9", "#f2955a", "#3dcfa3", "#e79fc9", "#e6c34a", "#b3aaff", "#7fd4e0", "#e08f80")
"""Colours of methods on a light and on a dark page, in order; after Okabe and Ito, Color Universal Design (2008), with
a contrast of at least 3:1 with the page. Markers tell methods apart where colours do not."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<", ">")

INK, FAINT, PAPER = "#010101", "#010102", "#010103"
"""Placeholders: text and axes, grid lines, the page itself."""
_VARIABLES = {INK: "--ink", FAINT: "--faint", PAPER: "--paper"}
_METHOD = "#0202{:02x}"

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
    """The placeholder for the colour of method `index`."""
    return _METHOD.format(index % len(LIGHT))


def marker(index: int) -> str:
    """The marker of method `index`; with the colour it is told apart from 87 others."""
    return MARKERS[index % len(MARKERS)]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw inside this: our style, and whatever matplotlib configuration the user has out of the way."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # Letters that DejaVu lacks are drawn by the reader's browser; only their width is a guess.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def inline(figure: Figure, name: str, title: str) -> str:
    """The `<svg>` element: the same bytes for the same figure, ids that begin with `name`, `title` as its label."""
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
