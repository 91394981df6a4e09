"""The plot of learning curves: the headline metric of each method by its number of training texts."""

from __future__ import annotations

from collections.abc import Sequence

from afina.report.arms import Arm
from afina.report.formatting import brief, metric_heading, share
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish, legend
from afina.report.verdicts import by_method


def learning_curves(arms: Sequence[Arm]) -> Plot:
    """Return a plot of the learning curve of each method: headline metric with 95 % interval by training texts."""
    methods = by_method(arms)
    figure, axes = canvas(3.2 + 0.17 * len(methods))
    said = []
    for number, (name, those) in enumerate(methods.items()):
        # Methods are shifted along the axis, so that intervals do not hide each other.
        tone, shift = svg.colour(those[0].place), 1.03 ** (number - (len(methods) - 1) / 2)
        sizes, values = [arm.size * shift for arm in those], [arm.headline for arm in those]
        axes.plot(sizes, values, color=tone, marker=svg.marker(those[0].place), markersize=6, linewidth=1.4)
        for size, arm in zip(sizes, those, strict=True):
            low, high = arm.interval(arm.record.metric) or (arm.headline, arm.headline)
            axes.plot([size, size], [low, high], color=tone, linewidth=1.2, alpha=0.6)
        said.append(f"{brief(name)} " + ", ".join(f"{share(arm.headline)} with {arm.size:,}" for arm in those))
    sizes = sorted({arm.size for arm in arms})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    metric = metric_heading(arms[0].record.metric)
    axes.set_xlabel("Training texts (logarithmic)")
    axes.set_ylabel(metric)
    legend(axes, [those[0] for those in methods.values()], names=list(methods))
    caption = "Means over the seeds; the lines are 95 % intervals. Verdicts says which methods differ."
    return finish(figure, "sizes", f"{metric} by the number of training texts", said, caption)
