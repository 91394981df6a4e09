"""What all plots share: the plot itself, the settings that it shows, and the parts of its axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afina.report import svg
from afina.report.rows import groups, labels
from afina.studies.record import Record

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


@dataclass(frozen=True)
class Point:
    """A setting and what was measured of it, over its seeds. `index` gives its colour and marker."""

    index: int
    label: str
    records: tuple[Record, ...]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return sum(record.accuracy for record in self.records) / len(self.records)

    def mean(self, value: Callable[[Record], float | None]) -> float | None:
        """Mean over the seeds; None where one has none."""
        found = [each for each in map(value, self.records) if each is not None]
        return sum(found) / len(found) if len(found) == len(self.records) else None


def points(records: Sequence[Record]) -> list[Point]:
    """One per setting, in the order of the tables."""
    grouped = groups(records)
    return [
        Point(index, brief(text), group)
        for index, (text, group) in enumerate(zip(labels(grouped), grouped, strict=True))
    ]


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


def scatter(axes: Any, shown: Sequence[Point], costs: Sequence[float], *, front: bool = False) -> None:
    """Accuracy against `costs`, one marker per setting."""
    for point, cost in zip(shown, costs, strict=True):
        style = {"color": svg.colour(point.index), "markersize": 7, "clip_on": False}
        axes.plot([cost], [point.accuracy], svg.marker(point.index), **style)
    axes.set_ylabel("Accuracy")
    axes.margins(0.12)
    legend(axes, shown, front=front)


def legend(axes: Any, shown: Sequence[Point], *, front: bool = False) -> None:
    """Below the axes, where it hides nothing."""
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=svg.colour(point.index), marker=svg.marker(point.index), linestyle="none")
        for point in shown
    ]
    names = [point.label for point in shown]
    if front:
        handles.append(
            Line2D([], [], color=svg.INK, marker="o", fillstyle="none", markersize=9, linestyle="--", linewidth=1)
        )
        names.append("Pareto front")
    axes.figure.legend(handles, names, loc="outside lower left")


def brief(text: str, longest: int = 40) -> str:
    """One printable line."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
