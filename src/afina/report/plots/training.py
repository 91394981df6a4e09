"""Plots of the trainings of a study: the training loss by step, and the seconds of each phase of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from afina.meter import PHASES
from afina.report.arms import Arm
from afina.report.formatting import brief
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish, legend, rows_of

HATCHES = ("", "////", "", "\\\\\\\\", "xxxx")
"""The hatch of each phase of a run in the plot `phases`, in the order of PHASES."""


def losses(arms: Sequence[Arm]) -> Plot | None:
    shown = [arm for arm in arms if any(record.losses for record in arm.records if record.steps)]
    if not shown:
        return None
    figure, axes = canvas(3.0 + 0.17 * len(shown))
    said = []
    for arm in shown:
        for record in arm.records:
            steps, values = map(np.array, zip(*record.losses, strict=True))
            smooth = _running(values, max(1, len(values) // 15))
            tone = svg.colour(arm.place)
            axes.plot(steps, values, color=tone, linewidth=0.7, alpha=0.25)
            marks = {"marker": svg.marker(arm.place), "markevery": max(1, len(steps) // 6), "markersize": 5}
            axes.plot(steps, smooth, color=tone, linewidth=1.6, **marks)
        ends = [record.losses[-1][1] for record in arm.records]
        said.append(f"{brief(arm.label)} ends at {sum(ends) / len(ends):.3f}")
    legend(axes, shown)
    axes.set_xlabel("Step")
    axes.set_ylabel("Training loss")
    axes.set_ylim(bottom=0)
    return finish(
        figure,
        "losses",
        "Training loss",
        said,
        "One line per seed. Pale: mean loss between two recorded steps. Strong: running mean over a fifteenth of the "
        "run.",
    )


def phases(arms: Sequence[Arm]) -> Plot:
    from matplotlib.patches import Patch

    figure, axes = canvas(1.4 + 0.36 * len(arms))
    said = []
    for row, arm in enumerate(arms):
        start, parts = 0.0, []
        for number, phase in enumerate(PHASES):
            taken = sum(getattr(record.seconds, phase) for record in arm.records) / len(arm.records)
            axes.barh(row, taken, left=start, height=0.6, **_fill(number, svg.colour(arm.place)))
            start += taken
            parts.append(f"{phase} {taken:.1f}")
        said.append(f"{brief(arm.label)}: {', '.join(parts)} seconds")
    rows_of(axes, [brief(arm.label) for arm in arms])
    axes.grid(False, axis="y")
    axes.set_xlabel("Seconds")
    patches = [Patch(label=phase, **_fill(number, svg.INK)) for number, phase in enumerate(PHASES)]
    figure.legend(handles=patches, loc="outside lower left", ncols=5, handlelength=1.2, columnspacing=0.9)
    return finish(figure, "phases", "Time by phase", said, "Means over the seeds.")


def _fill(number: int, tone: str) -> dict[str, Any]:
    from matplotlib.colors import to_rgba

    return {
        "facecolor": to_rgba(tone, (0.15, 0.3, 1.0, 0.3, 0.15)[number]),
        "hatch": HATCHES[number],
        "edgecolor": svg.INK,
        "linewidth": 0.5,
    }


def _running(values: np.ndarray, width: int) -> np.ndarray:
    """Return the running mean of the values over a centred window of about `width` values."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    means: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return means
