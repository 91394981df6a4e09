"""What accuracy costs: parameters, time, memory, and the front of what nothing beats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from afina.report import metrics
from afina.report.arms import Arm, Value
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish, scatter
from afina.report.tables import measured_on_gpu
from afina.report.words import brief, share


def against_parameters(arms: Sequence[Arm]) -> Plot:
    """Accuracy against trainable parameters, on a logarithmic scale with a place for none."""
    counts = [arm.record.trainable for arm in arms]
    least = min([count for count in counts if count], default=1)
    zero = 10 ** (math.floor(math.log10(least)) - 1)
    figure, axes = canvas(3.0 + 0.17 * len(arms))
    scatter(axes, arms, [count or zero for count in counts])
    axes.set_xscale("log")
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
    """Accuracy against training time, with the Pareto front."""
    return _front(
        arms,
        "time",
        f"{_headline(arms)} against training time",
        "Training time (s)",
        lambda record: record.seconds.train if record.steps else 0.0,
        "{:,.1f} s",
    )


def against_memory(arms: Sequence[Arm]) -> Plot | None:
    """Accuracy against peak memory, with the Pareto front."""
    on_gpu = all(measured_on_gpu(record) for arm in arms for record in arm.records)
    return _front(
        arms,
        "memory",
        f"{_headline(arms)} against peak memory",
        "GPU memory allocated, peak (GiB)" if on_gpu else "Main memory of the process, peak (GiB)",
        lambda record: _gib(record.memory.allocated_peak if on_gpu else record.memory.rss_peak),
        "{:.2f} GiB",
    )


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Places of the points that no other beats or equals in both and beats in one; by rising cost."""
    both = list(zip(costs, values, strict=True))
    kept = [
        place
        for place, (cost, value) in enumerate(both)
        if not any(c <= cost and v >= value and (c < cost or v > value) for c, v in both)
    ]
    return sorted(kept, key=lambda place: both[place])


def _front(
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
    best = front(costs, [arm.gain for arm in shown])
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
        "Ringed and joined: the Pareto front, the methods that no other beats in one without losing in the other: "
        f"{on_front}. It takes the means as they are; whether they differ is in the verdicts."
    )
    return finish(figure, name, title, [*said, f"on the Pareto front: {on_front}"], caption)


def _headline(arms: Sequence[Arm]) -> str:
    return metrics.heading(arms[0].record.metric)


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30
