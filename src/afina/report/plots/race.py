"""A recommendation's trainings in the order of time: how each did, and the best so far."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from afina.report import metrics
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish
from afina.report.titles import title
from afina.report.words import brief, share
from afina.studies.recommendation import Recommendation


def race(made: Recommendation) -> Plot | None:
    """A filled marker on what was set aside, a hollow one on held-out texts, dashed what trains nothing; None where
    nothing was trained.
    """
    shown = [one for one in made.contenders if one.ended is not None and one.validation is not None]
    if not shown:
        return None
    metric = metrics.metric_of(made.metric)
    figure, axes = canvas(3.2 + 0.17 * (len(shown) + 2))
    ends = [(one.ended or 0.0) / 60 for one in shown]
    aside = [one.validation or 0.0 for one in shown]
    said = []
    axes.step(ends, [*accumulate(aside, min if metric.lower else max)], where="post", color=svg.INK, linewidth=1)
    for place, (one, end, value) in enumerate(zip(shown, ends, aside, strict=True)):
        style: dict[str, Any] = {"color": svg.colour(place), "markersize": 7, "clip_on": False}
        axes.plot([end], [value], svg.marker(place), **style)
        axes.plot([end], [one.metrics[made.metric]], svg.marker(place), fillstyle="none", **style)
        said.append(
            f"{brief(title(one.name))} after {end:.1f} minutes: {share(value)} set aside, "
            f"{share(one.metrics[made.metric])} held out"
        )
    for one in made.contenders:
        if not one.trained and one.metrics:
            axes.axhline(one.metrics[made.metric], color=svg.INK, linewidth=0.8, linestyle="--")
            where: dict[str, Any] = {"xytext": (3, 2), "textcoords": "offset points", "color": svg.INK}
            axes.annotate(brief(title(one.name)), (0, one.metrics[made.metric]), **where)
            said.append(f"{brief(title(one.name))}: {share(one.metrics[made.metric])} held out")
    axes.set_xlabel("Minutes from the start")
    axes.set_ylabel(metrics.heading(made.metric))
    axes.margins(0.12)
    axes.set_xlim(left=0)
    _legend(figure, [title(one.name) for one in shown])
    caption = (
        "When each training ended, and how it did: filled on texts set aside, which select, hollow on held-out texts, "
        "which choose nothing; the line is the best so far by the former. Dashed: what trains nothing, on held-out "
        "texts."
    )
    return finish(figure, "race", "What was trained, in the order of time", said, caption)


def _legend(figure: Any, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=svg.colour(place), marker=svg.marker(place), linestyle="none")
        for place in range(len(names))
    ]
    hollow: dict[str, Any] = {"color": svg.INK, "marker": "o", "fillstyle": "none", "linestyle": "none"}
    handles += [Line2D([], [], **hollow), Line2D([], [], **hollow | {"fillstyle": "full"})]
    figure.legend(handles, [*map(brief, names), "held-out texts", "texts set aside"], loc="outside lower left", ncols=2)
