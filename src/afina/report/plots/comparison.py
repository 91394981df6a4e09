"""Plots that compare methods: headline metric, differences, Pareto fronts, order of trainings.

docs/reference/figures.md defines what each plot of a report shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, cycle
from typing import Any, Literal

from afina.report.answer_costs import milliseconds_a_text
from afina.report.arms import Arm, Value
from afina.report.details.retention import change_ends, figure_of, measured_arms
from afina.report.formatting import brief, metric_heading, share
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish, rows_of, scatter
from afina.report.recommendation import title
from afina.report.tables import measured_on_gpu
from afina.stats.comparison import Comparison
from afina.stats.metrics import METRICS
from afina.studies.choosing.recommendation import Recommendation


def headline(arms: Sequence[Arm]) -> Plot:
    metric = arms[0].record.metric
    figure, axes = canvas(0.9 + 0.36 * len(arms))
    said = []
    for row, arm in enumerate(arms):
        low, high = arm.interval(metric) or (arm.headline, arm.headline)
        axes.plot([low, high], [row, row], color=svg.colour(arm.place), linewidth=2)
        axes.plot([arm.headline], [row], svg.marker(arm.place), color=svg.colour(arm.place), markersize=7)
        said.append(f"{brief(arm.label)} {share(arm.headline)} ({share(low)} to {share(high)})")
    rows_of(axes, [brief(arm.label) for arm in arms])
    axes.set_xlabel(f"{metric_heading(metric)} on the evaluation texts")
    return finish(
        figure,
        metric,
        metric_heading(metric),
        said,
        "Mean over the seeds; the lines are 95 % intervals. Overlapping intervals do not show that two methods are "
        "equal: see Verdicts.",
    )


ROWS = 10
"""A forest plot has at most this number of rows, those with the smallest differences."""


def forest(name: str, compared: Sequence[Comparison]) -> Plot | None:
    """Return a forest plot of the differences of the method `name` from the others; None without comparisons of it."""
    mine = sorted((one for one in compared if name in (one.first, one.second)), key=lambda one: abs(one.difference))
    if not mine:
        return None
    shown, first = mine[:ROWS], mine[0]
    metric = METRICS[first.metric]
    unit = 100 if metric.points else 1
    margin = unit * first.margin
    figure, axes = canvas(0.9 + 0.42 * len(shown))
    axes.axvspan(-margin, margin, facecolor=svg.INK, alpha=0.1, edgecolor="none")
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    said, rows, digits = [], [], ".1f" if metric.points else ".4f"
    for row, one in enumerate(shown):
        sign, other = (1, one.second) if one.first == name else (-1, one.first)
        middle = unit * sign * one.difference
        low, high = sorted(unit * sign * end for end in (one.interval.low, one.interval.high))
        verdict = one.seen_from(name)
        tone = svg.INK if verdict == "undecided" else svg.colour(0)
        axes.plot([low, high], [row, row], color=tone, linewidth=2)
        axes.plot([middle], [row], "s", color=tone, markersize=6)
        middle, low, high = (round(value, 4) + 0.0 for value in (middle, low, high))  # + 0.0 turns -0.0 into 0.0
        text = f"{middle:+{digits}} ({low:+{digits}} to {high:+{digits}}), {verdict}".replace("-", "−")
        rows.append(f"{brief(other, 34)}\n{text}")
        said.append(f"{name} minus {other} {text}")
    rows_of(axes, rows)
    axes.set_xlabel(f"Difference{' (points)' * metric.points}")
    more = f" The {ROWS} closest of {len(mine)} comparisons." if len(mine) > ROWS else ""
    return finish(
        figure,
        "differences",
        f"{brief(name)} minus each other method",
        said,
        f"Difference in {metric.words}. Right of 0, {brief(name)} is {'worse' if metric.lower else 'better'}. "
        f"Lines: {100 * first.level:g} % intervals on the same texts and seeds. Grey band: differences up "
        f"to {first.margin_in_words}, which count as equivalent.{more}",
    )


def against_parameters(arms: Sequence[Arm]) -> Plot:
    """Return a plot of the headline metric against trainable parameters, on a logarithmic scale that includes 0."""
    counts = [arm.record.trainable for arm in arms]
    least = min([count for count in counts if count], default=1)
    zero = 10 ** (math.floor(math.log10(least)) - 1)
    figure, axes = canvas(3.0 + 0.17 * len(arms))
    places = [count or zero for count in counts]
    scatter(axes, arms, places)
    axes.set_xscale("log")
    first = math.floor(math.log10(min(places)))
    last = max(math.ceil(math.log10(max(places))), first + 2)  # one method has a scale too: three ticks or more
    axes.set_xticks([10.0**power for power in range(first, last + 1)])
    axes.set_xlim(10.0**first / 2, 2 * 10.0**last)
    if 0 in counts:
        from matplotlib.ticker import FuncFormatter

        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "none" if x <= zero else f"{x:,.0f}"))
    else:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=7.5, labelrotation=20)
    axes.set_xlabel("Trainable parameters (logarithmic)")
    said = [f"{brief(arm.label)} {count:,}, {share(arm.headline)}" for arm, count in zip(arms, counts, strict=True)]
    title = f"{_headline(arms)} against trainable parameters"
    return finish(figure, "parameters", title, said, "Means over the seeds.")


def against_time(arms: Sequence[Arm]) -> Plot | None:
    return _against_cost(
        arms,
        "time",
        f"{_headline(arms)} against training time",
        "Training time (s)",
        lambda record: record.seconds.train if record.steps else 0.0,
        "{:,.1f} s",
    )


def against_memory(arms: Sequence[Arm]) -> Plot | None:
    on_gpu = all(measured_on_gpu(record) for arm in arms for record in arm.records)
    return _against_cost(
        arms,
        "memory",
        f"{_headline(arms)} against peak memory",
        "GPU memory allocated, peak (GiB)" if on_gpu else "Main memory of the process, peak (GiB)",
        lambda record: _gib(record.memory.allocated_peak if on_gpu else record.memory.rss_peak),
        "{:.2f} GiB",
    )


def against_answers(arms: Sequence[Arm]) -> Plot | None:
    return _against_cost(
        arms,
        "answers",
        f"{_headline(arms)} against the time of an answer",
        "Milliseconds a text",
        milliseconds_a_text,
        "{:,.3g} ms",
    )


def against_retention(arms: Sequence[Arm]) -> Plot | None:
    """Return a plot against the change of the loss on neutral sentences; None if no run measured retention."""
    measured = measured_arms(arms)
    if not measured:
        return None
    figure, axes = canvas(3.0 + 0.17 * len(measured))
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    changes = [arm.mean(figure_of("change")) or 0.0 for arm in measured]
    for arm in measured:
        axes.plot(change_ends(arm), [arm.headline] * 2, color=svg.colour(arm.place), linewidth=1.2, alpha=0.6)
    scatter(axes, measured, changes)
    axes.set_xlabel("Change of the language-model loss (nats per token)")
    both = zip(measured, changes, strict=True)
    said = [f"{brief(arm.label)} {change:+.3f}, {share(arm.headline)}".replace("-", "−") for arm, change in both]
    return finish(
        figure,
        "retention",
        f"{_headline(measured)} against forgetting",
        said,
        "Means over the seeds; the lines are 95 % intervals of the change. Right of 0, the adapted model predicts "
        "neutral sentences worse than the backbone did.",
    )


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the indices of the points on the Pareto front (lower cost, higher value), by rising cost."""
    both = list(zip(costs, values, strict=True))
    kept = [
        place
        for place, (cost, value) in enumerate(both)
        if not any(c <= cost and v >= value and (c < cost or v > value) for c, v in both)
    ]
    return sorted(kept, key=lambda place: both[place])


def _against_cost(
    arms: Sequence[Arm],
    name: str,
    title: str,
    axis: str,
    value: Value,
    form: str,
) -> Plot | None:
    known = [(arm, cost) for arm in arms if (cost := arm.mean(value)) is not None]
    if not known:
        return None
    shown, costs = [arm for arm, _ in known], [cost for _, cost in known]
    best = pareto_front(costs, [arm.gain for arm in shown])
    figure, axes = canvas(3.0 + 0.17 * (len(shown) + 1))
    axes.plot(
        [costs[place] for place in best],
        [shown[place].headline for place in best],
        color=svg.INK,
        linewidth=1,
        linestyle="--",
        drawstyle="steps-post",
        zorder=1,
    )
    for place in best:
        axes.plot(
            [costs[place]], [shown[place].headline], "o", color=svg.INK, fillstyle="none", markersize=14, clip_on=False
        )
    scatter(axes, shown, costs, front=True)
    axes.set_xlim(left=0)
    axes.set_xlabel(axis)
    said = [f"{brief(arm.label)} {form.format(cost)}, {share(arm.headline)}" for arm, cost in known]
    on_front = ", ".join(brief(shown[place].label) for place in best)
    caption = (
        "Ringed and joined: the Pareto front, methods that no other method beats on one axis without losing on the "
        f"other: {on_front}. The front compares means; Verdicts says which methods differ."
    )
    return finish(figure, name, title, [*said, f"on the Pareto front: {on_front}"], caption)


def _headline(arms: Sequence[Arm]) -> str:
    return metric_heading(arms[0].record.metric)


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def trainings_in_time(made: Recommendation) -> Plot | None:
    """Return a plot of trainings by the time of their end: filled on validation texts, hollow on held-out texts."""
    shown = [one for one in made.contenders if one.ended is not None and one.validation is not None]
    if not shown:
        return None
    metric = METRICS[made.metric]
    figure, axes = canvas(3.2 + 0.17 * (len(shown) + 4))
    ends = [(one.ended or 0.0) / 60 for one in shown]
    aside = [one.validation or 0.0 for one in shown]
    said = []
    axes.step(ends, [*accumulate(aside, min if metric.lower else max)], where="post", color=svg.INK, linewidth=1)
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
    axes.set_xlabel("Minutes from the start")
    axes.set_ylabel(metric_heading(made.metric))
    axes.margins(0.12)
    axes.set_xlim(left=0)
    _race_legend(figure, [title(one.name) for one in shown], [title(one.name) for one in simple])
    caption = (
        "Each training at the minute of its end. Filled markers: validation texts, on which a setting is selected. "
        "Hollow markers: held-out texts. Solid line: the best figure on validation texts so far. Broken lines: methods "
        "without training, on held-out texts."
    )
    return finish(figure, "race", "Trainings in order of time", said, caption)


DASHES: tuple[Literal["--", ":", "-."], ...] = ("--", ":", "-.")
"""The line styles of methods without training in `trainings_in_time`."""


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
