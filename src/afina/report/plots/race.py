"""A plot of the trainings that have ended so far, while a study or a recommendation goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from afina.report.formatting import brief, metric_heading, share
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish
from afina.stats.metrics import METRICS


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
        best = accumulate((one.value for one in ended), min if METRICS[metric].lower else max)
        axes.step([one.minutes for one in ended], [*best], where="post", color=svg.INK, linewidth=1)
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
        axes.set_xlabel("Minutes from the start")
        axes.set_ylabel(metric_heading(metric))
        axes.margins(0.12)
        axes.set_xlim(left=0)
        axes.legend(loc="best")
        caption = "Each training at the minute of its end, with its 95 % interval. Solid line: the best figure so far."
        return finish(figure, "race-so-far", "Trainings so far", said, caption)
