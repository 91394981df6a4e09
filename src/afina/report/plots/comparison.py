"""Plots that compare methods: headline metric, differences, Pareto fronts, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from afina.report.answer_costs import milliseconds_a_text
from afina.report.arms import Arm, Value, records_of
from afina.report.details.retention import change_ends, figure_of, measured_arms
from afina.report.formatting import brief, metric_heading, share
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish, legend, rows_of, scatter
from afina.report.tables import measured_on_gpu
from afina.report.verdicts import by_method, trained_on_sentence, unequal_sizes
from afina.stats.comparison import Comparison
from afina.stats.metrics import METRICS


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
        f"equal: see Verdicts. {trained_on_sentence(unequal_sizes(arms))}".rstrip(),
    )


ROWS = 10  # of a forest plot: the smallest differences


def forest(name: str, compared: Sequence[Comparison], trained_on: Mapping[str, int]) -> Plot | None:
    """Return a forest plot of the differences of the method `name` from the others; None without comparisons of it.

    `trained_on`: the training texts of methods, said where they differ from those of `name`.
    """
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
    said, rows, digits, sizes = [], [], ".1f" if metric.points else ".4f", dict[str, int]()
    for row, one in enumerate(shown):
        sign, other = (1, one.second) if one.first == name else (-1, one.first)
        middle = unit * sign * one.difference
        low, high = sorted(unit * sign * end for end in one.interval.ends)
        verdict = one.seen_from(name)
        tone = svg.INK if verdict == "undecided" else svg.colour(0)
        axes.plot([low, high], [row, row], color=tone, linewidth=2)
        axes.plot([middle], [row], "s", color=tone, markersize=6)
        middle, low, high = (round(value, 4) + 0.0 for value in (middle, low, high))  # + 0.0 turns -0.0 into 0.0
        text = f"{middle:+{digits}} ({low:+{digits}} to {high:+{digits}}), {verdict}".replace("-", "−")
        size, own = trained_on.get(other), trained_on.get(name)
        texts = f", on {size:,} texts" if size is not None and own is not None and size != own else ""
        rows.append(f"{brief(other, 34)}{texts}\n{text}")
        sizes = {one: trained_on[one] for one in (*sizes, name, other) if one in trained_on}
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
        f"to {first.margin_in_words}, which count as equivalent.{more} {trained_on_sentence(sizes)}".rstrip(),
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
    on_gpu = all(map(measured_on_gpu, records_of(arms)))
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
