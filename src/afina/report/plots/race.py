"""Plots of trainings in order of time: of those that have ended so far, and of all trainings of a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from typing import Any, Literal

from afina.report.formatting import brief, metric_heading, share
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish
from afina.report.recommendation import title
from afina.stats.metrics import METRICS
from afina.studies.choosing.recommendation import Recommendation


@dataclass(frozen=True)
class EndedTraining:
    """A training that has ended.

    Attributes:
        minutes: When it ended, from the start.
        value: The headline metric on the validation texts; on the held-out texts if none were set aside.
    """

    title: str
    minutes: float
    value: float
    interval: tuple[float, float] | None = None


def race(ended: Sequence[EndedTraining], metric: str) -> Plot | None:
    """Return a plot of each training at the minute of its end, with its interval; None without trainings."""
    if not ended:
        return None
    with svg.drawing():
        figure, axes = canvas(3.0)
        _in_time(axes, [one.minutes for one in ended], [one.value for one in ended], metric)
        titles = list(dict.fromkeys(one.title for one in ended))
        said = []
        for one in ended:
            place = titles.index(one.title)
            low, high = one.interval or (one.value, one.value)
            axes.errorbar(
                [one.minutes],
                [one.value],
                yerr=[[one.value - low], [high - one.value]],
                fmt=svg.marker(place),
                color=svg.colour(place),
                markersize=7,
                label=brief(one.title) if one is next(each for each in ended if each.title == one.title) else None,
            )
            within = f" (95 % interval {share(low)} to {share(high)})" if one.interval else ""
            said.append(f"{brief(one.title)} after {one.minutes:.1f} minutes: {share(one.value)}{within}")
        axes.set_xlim(left=0)
        axes.legend(loc="best")
        caption = "Each training at the minute of its end, with its 95 % interval. Solid line: the best figure so far."
        return finish(figure, "race-so-far", "Trainings so far", said, caption)


def _in_time(axes: Any, minutes: Sequence[float], values: Sequence[float], metric: str) -> None:
    """Draw the best value so far as a line over the minutes."""
    best = accumulate(values, min if METRICS[metric].lower else max)
    axes.step(minutes, [*best], where="post", color=svg.INK, linewidth=1)
    axes.set_xlabel("Minutes from the start")
    axes.set_ylabel(metric_heading(metric))
    axes.margins(0.12)


def trainings_in_time(made: Recommendation) -> Plot | None:
    """Return a plot of trainings by the time of their end: filled on validation texts, hollow on held-out texts."""
    shown = [one for one in made.contenders if one.ended is not None and one.validation is not None]
    if not shown:
        return None
    figure, axes = canvas(3.2 + 0.17 * (len(shown) + 4))
    ends = [(one.ended or 0.0) / 60 for one in shown]
    aside = [one.validation or 0.0 for one in shown]
    said = []
    _in_time(axes, ends, aside, made.metric)
    for place, (one, end, value) in enumerate(zip(shown, ends, aside, strict=True)):
        style: dict[str, Any] = {"color": svg.colour(place), "markersize": 7, "clip_on": False}
        axes.plot([end], [value], svg.marker(place), **style)
        axes.plot([end], [one.metrics[made.metric]], svg.marker(place), fillstyle="none", **style)
        said.append(
            f"{brief(title(one.name))} after {end:.1f} minutes: {share(value)} on validation texts, "
            f"{share(one.metrics[made.metric])} on held-out texts"
        )
    simple = [one for one in made.contenders if not one.trained and one.metrics]
    for one, dashes in zip(simple, cycle(DASHES), strict=False):
        axes.axhline(one.metrics[made.metric], color=svg.INK, linewidth=0.8, linestyle=dashes)
        said.append(f"{brief(title(one.name))}: {share(one.metrics[made.metric])} on held-out texts")
    axes.set_xlim(left=0)
    _race_legend(figure, [title(one.name) for one in shown], [title(one.name) for one in simple])
    caption = (
        "Each training at the minute of its end. Filled markers: validation texts, on which a setting is selected. "
        "Hollow markers: held-out texts. Solid line: the best figure on validation texts so far. Broken lines: methods "
        "without training, on held-out texts."
    )
    return finish(figure, "race", "Trainings in order of time", said, caption)


DASHES: tuple[Literal["--", ":", "-."], ...] = ("--", ":", "-.")


def _race_legend(figure: Any, names: list[str], simple: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], color=svg.colour(place), marker=svg.marker(place), linestyle="none")
        for place in range(len(names))
    ]
    hollow: dict[str, Any] = {"color": svg.INK, "marker": "o", "fillstyle": "none", "linestyle": "none"}
    handles += [Line2D([], [], **hollow), Line2D([], [], **hollow | {"fillstyle": "full"})]
    handles += [
        Line2D([], [], color=svg.INK, linewidth=0.8, linestyle=dashes)
        for _, dashes in zip(simple, cycle(DASHES), strict=False)
    ]
    words = [*map(brief, names), "held-out texts", "validation texts", *map(brief, simple)]
    figure.legend(handles, words, loc="outside lower left", ncols=2)
