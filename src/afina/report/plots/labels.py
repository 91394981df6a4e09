"""Several labels at once: how well each is found."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from afina.report.arms import Arm
from afina.report.per_label import MOST, Found
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish, legend
from afina.report.words import UNDEFINED, brief


def per_label(arms: Sequence[Arm], found: Sequence[Sequence[Found]]) -> Plot:
    """F1 of every label, a bar a setting, as `found` of each; the most frequent labels where there are many."""
    shown = [one.name for one in sorted(found[0], key=lambda one: -one.support)[:MOST]]
    figure, axes = canvas(1.2 + len(shown) * (0.16 + 0.13 * len(arms)) + 0.17 * len(arms))
    said, height = [], 0.8 / len(arms)
    for number, arm in enumerate(arms):
        by_name = {one.name: one.f1 for one in found[number]}
        places = [row - 0.4 + height * (number + 0.5) for row in range(len(shown))]
        axes.barh(places, [by_name[name] for name in shown], height=height, color=svg.colour(arm.place))
        axes.plot([by_name[name] for name in shown], places, svg.marker(arm.place), color=svg.colour(arm.place))
        said.append(f"{brief(arm.label)} " + ", ".join(f"{brief(name, 18)} {_told(by_name[name])}" for name in shown))
    axes.set_yticks(range(len(shown)), [brief(name, 24) for name in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.grid(False, axis="y")
    axes.set_xlabel("F1 of the label")
    legend(axes, arms)
    caption = "Means over the seeds."
    caption += f" The {MOST} most frequent of {len(arms[0].record.label_names)} labels." if len(shown) == MOST else ""
    return finish(figure, "labels", "F1 by label", said, caption)


def _told(f1: float) -> str:
    return UNDEFINED if isnan(f1) else f"{f1:.3f}"
