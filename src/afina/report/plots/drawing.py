"""What all plots share: the plot itself, the settings that it shows, and the parts of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afina.report import metrics
from afina.report.arms import Arm
from afina.report.plots import svg
from afina.report.words import brief

WIDTH = 4.6
"""Inches, at 9 points: still read when a phone shrinks it."""


@dataclass(frozen=True)
class Plot:
    """`svg` is markup for a page; `text` says in words what the plot shows."""

    name: str
    title: str
    svg: str
    text: str
    caption: str


def canvas(height: float, width: float = WIDTH) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, outside pyplot, so that nothing is kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def finish(figure: Any, name: str, title: str, said: Sequence[str], caption: str) -> Plot:
    """The plot that a figure makes. said: what it shows, in words."""
    text = f"{title}. {'; '.join(said)}."
    figure.set_layout_engine("constrained")
    return Plot(name, title, svg.inline(figure, name, text), text, caption)


def rows_of(axes: Any, names: Sequence[str]) -> None:
    """One line per name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def scatter(axes: Any, arms: Sequence[Arm], costs: Sequence[float], *, front: bool = False) -> None:
    """The headline metric against `costs`, a marker an arm."""
    for arm, cost in zip(arms, costs, strict=True):
        style = {"color": svg.colour(arm.place), "markersize": 7, "clip_on": False}
        axes.plot([cost], [arm.headline], svg.marker(arm.place), **style)
    axes.set_ylabel(metrics.heading(arms[0].record.metric))
    axes.margins(0.12)
    legend(axes, arms, front=front)


def legend(axes: Any, arms: Sequence[Arm], *, front: bool = False, names: Sequence[str] = ()) -> None:
    """Below the axes, where it hides nothing; names: what arms are called there, by default their labels."""
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=svg.colour(arm.place), marker=svg.marker(arm.place), linestyle="none") for arm in arms
    ]
    names = [brief(name) for name in names or [arm.label for arm in arms]]
    if front:
        handles.append(
            Line2D([], [], color=svg.INK, marker="o", fillstyle="none", markersize=9, linestyle="--", linewidth=1)
        )
        names.append("Pareto front")
    axes.figure.legend(handles, names, loc="outside lower left")
