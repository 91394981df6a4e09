"""Numbers: what was answered against what was given, and how far off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.report.arms import Arm
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish, rows_of
from afina.report.words import brief

if TYPE_CHECKING:
    import numpy as np

MOST = 1500
"""Points of a setting that are drawn; evenly chosen of more."""


def scatter(arms: Sequence[Arm]) -> list[Plot]:
    """Of every setting, its numbers against those given, the mean over the seeds."""
    made = []
    for arm in arms:
        given, told, step = arm.targets, arm.answers.mean(axis=0), -(-len(arm.targets) // MOST)
        figure, axes = canvas(3.4)
        ends = [float(given.min()), float(given.max())]
        axes.plot(ends, ends, color=svg.INK, linewidth=0.8, linestyle="--", zorder=1)
        style = {"color": svg.colour(arm.place), "markersize": 3, "alpha": 0.45, "linestyle": "none"}
        axes.plot(given[::step], told[::step], svg.marker(arm.place), **style)
        axes.set_xlabel("Given")
        axes.set_ylabel("Predicted")
        spread = [f"{name} from {value.min():.3g} to {value.max():.3g}" for name, value in _both(given, told)]
        caption = "A point a text; on the broken line both are the same."
        caption += " Means over the seeds." if len(arm.results) > 1 else ""
        made.append(finish(figure, f"scatter-{arm.place}", brief(arm.label), spread, caption))
    return made


def residuals(arms: Sequence[Arm]) -> Plot:
    """Of every setting, how far its numbers are from those given: the middle half and nine tenths of them."""
    import numpy as np

    figure, axes = canvas(1.0 + 0.36 * len(arms))
    said = []
    for row, arm in enumerate(arms):
        low, first, middle, third, high = np.quantile(arm.answers - arm.targets, [0.05, 0.25, 0.5, 0.75, 0.95])
        tone = svg.colour(arm.place)
        axes.plot([low, high], [row, row], color=tone, linewidth=1.2)
        axes.plot([first, third], [row, row], color=tone, linewidth=5, solid_capstyle="butt")
        axes.plot([middle], [row], svg.marker(arm.place), color=tone, markersize=7, markeredgecolor=svg.PAPER)
        said.append(f"{brief(arm.label)} half of them from {first:.3g} to {third:.3g}, the middle {middle:.3g}")
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    rows_of(axes, [brief(arm.label) for arm in arms])
    axes.set_xlabel("Predicted minus given")
    return finish(
        figure,
        "residuals",
        "Residuals",
        said,
        "Thick: the middle half of the texts. Thin: nine tenths. Marker: median.",
    )


def _both(given: np.ndarray, told: np.ndarray) -> tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]:
    return ("given", given), ("predicted", told)
