"""The headline metric against the number of training texts."""

from __future__ import annotations

from collections.abc import Sequence

from afina.report import metrics
from afina.report.arms import Arm
from afina.report.curves import by_method
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish, legend
from afina.report.words import brief, share


def curve(arms: Sequence[Arm]) -> Plot:
    """A line a method, with its 95 % intervals; sizes on a logarithmic scale."""
    methods = by_method(arms)
    figure, axes = canvas(3.2 + 0.17 * len(methods))
    said = []
    for number, (name, those) in enumerate(methods.items()):
        tone, shift = svg.colour(those[0].place), 1.03 ** (number - (len(methods) - 1) / 2)  # so that all are seen
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
    metric = metrics.heading(arms[0].record.metric)
    axes.set_xlabel("Training texts (logarithmic)")
    axes.set_ylabel(metric)
    legend(axes, [those[0] for those in methods.values()], names=list(methods))
    caption = "Means over the seeds; the lines are 95 % intervals. Whether two methods differ is in the verdicts."
    return finish(figure, "sizes", f"{metric} by the number of training texts", said, caption)
