"""How well every arm does, and how far apart two are, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from afina.report import metrics
from afina.report.arms import Arm
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish, rows_of
from afina.report.verdicts import Verdicts
from afina.report.words import brief, share


def headline(arms: Sequence[Arm]) -> Plot:
    """The headline metric of every arm with its 95 % interval."""
    metric = arms[0].record.metric
    figure, axes = canvas(0.9 + 0.36 * len(arms))
    said = []
    for row, arm in enumerate(arms):
        low, high = arm.interval(metric) or (arm.headline, arm.headline)
        axes.plot([low, high], [row, row], color=svg.colour(arm.place), linewidth=2)
        axes.plot([arm.headline], [row], svg.marker(arm.place), color=svg.colour(arm.place), markersize=7)
        said.append(f"{brief(arm.label)} {share(arm.headline)} ({share(low)} to {share(high)})")
    rows_of(axes, [brief(arm.label) for arm in arms])
    axes.set_xlabel(f"{metrics.heading(metric)} on the evaluation texts")
    return finish(
        figure,
        metric,
        metrics.heading(metric),
        said,
        "Mean over the seeds; the lines are 95 % intervals. Whether two methods differ is in the verdicts: "
        "intervals that overlap do not decide it.",
    )


def differences(arms: Sequence[Arm], found: Verdicts) -> Plot | None:
    """The difference of every compared pair, with its interval, beside the margin of equivalence."""
    if not found.compared:
        return None
    by_label = {arm.label: arm for arm in arms}
    pairs = [one for one in found.compared if by_label[one.first].trained and by_label[one.second].trained]
    left_out = 0 < len(pairs) < len(found.compared)
    pairs = pairs or list(found.compared)
    metric = metrics.metric_of(pairs[0].metric)
    unit = 100 if metric.points else 1
    margin = unit * pairs[0].margin
    figure, axes = canvas(1.0 + 0.5 * len(pairs))
    axes.axvspan(-margin, margin, facecolor=svg.INK, alpha=0.1, edgecolor="none")
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    said, digits = [], ".2f" if metric.points else ".4f"
    for row, one in enumerate(pairs):
        low, high = unit * one.interval.low, unit * one.interval.high
        place = by_label[one.first].place
        axes.plot([low, high], [row, row], color=svg.colour(place), linewidth=2)
        axes.plot([unit * one.difference], [row], svg.marker(place), color=svg.colour(place), markersize=7)
        axes.annotate(one.verdict, ((low + high) / 2, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        said.append(
            f"{one.first} minus {one.second} {unit * one.difference:+{digits}}{' points' * metric.points} "
            f"({low:+{digits}} to {high:+{digits}}), {one.verdict}"
        )
    rows_of(axes, [f"{brief(one.first, 24)}\n− {brief(one.second, 24)}" for one in pairs])
    axes.set_xlabel(f"Difference in {metric.words}{' (percentage points)' * metric.points}")
    return finish(
        figure,
        "differences",
        "Paired differences",
        said,
        f"First method minus second, on the same texts and seeds. The lines are {100 * pairs[0].level:g} % intervals; "
        f"the grey band is the margin of ±{margin:.3g}{' percentage points' * metric.points} within which two methods "
        "count as equivalent."
        + (" Less is better." if metric.lower else "")
        + (" Pairs with a method that trains nothing are in the table only." if left_out else ""),
    )
