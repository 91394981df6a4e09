"""Records -> plots: accuracy, differences, costs, losses, confusion. What each shows is in docs/figures.md.

Every plot has a caption and a text for those who do not see it. A method has one colour and one marker in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from afina.report import svg
from afina.report.drawing import WIDTH, Plot, Point, brief, canvas, finish, legend, points, rows_of, scatter
from afina.report.tables import measured_on_gpu
from afina.report.verdicts import Verdicts
from afina.studies.record import Record

if TYPE_CHECKING:
    import numpy as np

MOST_CLASSES = 30
PHASES = ("load", "encode", "train", "evaluate", "save")
HATCHES = ("", "////", "", "\\\\\\\\", "xxxx")


def accuracy(records: Sequence[Record]) -> Plot:
    """Accuracy of every setting with its 95 % interval."""
    from afina.report.tables import interval_of

    shown = points(records)
    figure, axes = canvas(0.9 + 0.36 * len(shown))
    said = []
    for row, point in enumerate(shown):
        low, high = interval_of(point.records)
        axes.plot([low, high], [row, row], color=svg.colour(point.index), linewidth=2)
        axes.plot([point.accuracy], [row], svg.marker(point.index), color=svg.colour(point.index), markersize=7)
        said.append(f"{point.label} {point.accuracy:.4f} ({low:.4f} to {high:.4f})")
    rows_of(axes, [point.label for point in shown])
    axes.set_xlabel("Accuracy on the evaluation texts")
    return finish(
        figure,
        "accuracy",
        "Accuracy",
        said,
        "Mean over the seeds; the lines are 95 % intervals. Whether two methods differ is in the verdicts: "
        "intervals that overlap do not decide it.",
    )


def differences(records: Sequence[Record], found: Verdicts) -> Plot | None:
    """The difference of every compared pair, with its interval, beside the margin of equivalence."""
    if not found.compared:
        return None
    untrained = {brief(point.label) for point in points(records) if not point.records[0].steps}
    pairs = [one for one in found.compared if not {brief(one.first), brief(one.second)} & untrained]
    left_out = 0 < len(pairs) < len(found.compared)
    pairs = pairs or list(found.compared)
    margin = 100 * pairs[0].margin
    figure, axes = canvas(1.0 + 0.5 * len(pairs))
    axes.axvspan(-margin, margin, facecolor=svg.INK, alpha=0.1, edgecolor="none")
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    colours = {point.label: point for point in points(records)}
    said = []
    for row, one in enumerate(pairs):
        low, high = 100 * one.interval.low, 100 * one.interval.high
        first = colours[brief(one.first)]
        axes.plot([low, high], [row, row], color=svg.colour(first.index), linewidth=2)
        axes.plot([100 * one.difference], [row], svg.marker(first.index), color=svg.colour(first.index), markersize=7)
        axes.annotate(one.verdict, ((low + high) / 2, row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        said.append(
            f"{one.first} minus {one.second} {100 * one.difference:+.2f} points "
            f"({low:+.2f} to {high:+.2f}), {one.verdict}"
        )
    rows_of(axes, [f"{brief(one.first, 24)}\n− {brief(one.second, 24)}" for one in pairs])
    axes.set_xlabel("Difference in accuracy (percentage points)")
    return finish(
        figure,
        "differences",
        "Paired differences",
        said,
        f"First method minus second, on the same texts and seeds. The lines are {100 * pairs[0].level:g} % intervals; "
        f"the grey band is the margin of ±{margin:g} percentage points within which two methods count as equivalent."
        + (" Pairs with a method that trains nothing are in the table only." if left_out else ""),
    )


def against_parameters(records: Sequence[Record]) -> Plot:
    """Accuracy against trainable parameters, on a logarithmic scale with a place for none."""
    import math

    shown = points(records)
    counts = [point.records[0].trainable for point in shown]
    least = min([count for count in counts if count], default=1)
    zero = 10 ** (math.floor(math.log10(least)) - 1)
    figure, axes = canvas(3.0 + 0.17 * len(shown))
    scatter(axes, shown, [count or zero for count in counts])
    axes.set_xscale("log")
    if 0 in counts:
        from matplotlib.ticker import FuncFormatter

        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "none" if x <= zero else f"{x:,.0f}"))
    else:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=7.5, labelrotation=20)
    axes.set_xlabel("Trainable parameters (logarithmic)")
    said = [f"{point.label} {count:,}, {point.accuracy:.4f}" for point, count in zip(shown, counts, strict=True)]
    return finish(figure, "parameters", "Accuracy against trainable parameters", said, "Means over the seeds.")


def against_time(records: Sequence[Record]) -> Plot | None:
    """Accuracy against training time, with the Pareto front."""
    return _front(
        records,
        "time",
        "Accuracy against training time",
        "Training time (s)",
        lambda record: record.seconds.train if record.steps else 0.0,
        "{:,.1f} s",
    )


def against_memory(records: Sequence[Record]) -> Plot | None:
    """Accuracy against peak memory, with the Pareto front."""
    on_gpu = all(measured_on_gpu(record) for record in records)
    return _front(
        records,
        "memory",
        "Accuracy against peak memory",
        "GPU memory allocated, peak (GiB)" if on_gpu else "Main memory of the process, peak (GiB)",
        lambda record: _gib(record.memory.allocated_peak if on_gpu else record.memory.rss_peak),
        "{:.2f} GiB",
    )


def front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Places of the points that no other beats or equals in both and beats in one; by rising cost."""
    both = list(zip(costs, accuracies, strict=True))
    kept = [
        place
        for place, (cost, value) in enumerate(both)
        if not any(c <= cost and v >= value and (c < cost or v > value) for c, v in both)
    ]
    return sorted(kept, key=lambda place: both[place])


def losses(records: Sequence[Record]) -> Plot | None:
    """The training loss of every run: pale as recorded, and its running mean."""
    import numpy as np

    shown = [point for point in points(records) if any(record.losses for record in point.records if record.steps)]
    if not shown:
        return None
    figure, axes = canvas(3.0 + 0.17 * len(shown))
    said = []
    for point in shown:
        for record in point.records:
            steps, values = map(np.array, zip(*record.losses, strict=True))
            smooth = _running(values, max(1, len(values) // 15))
            tone = svg.colour(point.index)
            axes.plot(steps, values, color=tone, linewidth=0.7, alpha=0.25)
            marks = {"marker": svg.marker(point.index), "markevery": max(1, len(steps) // 6), "markersize": 5}
            axes.plot(steps, smooth, color=tone, linewidth=1.6, **marks)
        ends = [record.losses[-1][1] for record in point.records]
        said.append(f"{point.label} ends at {sum(ends) / len(ends):.3f}")
    legend(axes, shown)
    axes.set_xlabel("Step")
    axes.set_ylabel("Training loss")
    axes.set_ylim(bottom=0)
    return finish(
        figure,
        "losses",
        "Training loss",
        said,
        "Pale: mean loss between two recorded steps. Strong: running mean of a fifteenth of the run. A line a seed.",
    )


def phases(records: Sequence[Record]) -> Plot:
    """Seconds of every setting by phase."""
    from matplotlib.patches import Patch

    shown = points(records)
    figure, axes = canvas(1.4 + 0.36 * len(shown))
    said = []
    for row, point in enumerate(shown):
        start, parts = 0.0, []
        for number, phase in enumerate(PHASES):
            taken = sum(getattr(record.seconds, phase) for record in point.records) / len(point.records)
            axes.barh(row, taken, left=start, height=0.6, **_fill(number, svg.colour(point.index)))
            start += taken
            parts.append(f"{phase} {taken:.1f}")
        said.append(f"{point.label}: {', '.join(parts)} seconds")
    rows_of(axes, [point.label for point in shown])
    axes.grid(False, axis="y")
    axes.set_xlabel("Seconds")
    patches = [Patch(label=phase, **_fill(number, svg.INK)) for number, phase in enumerate(PHASES)]
    figure.legend(handles=patches, loc="outside lower left", ncols=5, handlelength=1.2, columnspacing=0.9)
    return finish(figure, "phases", "Time by phase", said, "Means over the seeds.")


def confusion(records: Sequence[Record]) -> list[Plot]:
    """A matrix per setting, seeds added up; none where there are too many labels to tell apart."""
    import numpy as np

    made = []
    for point in points(records):
        names = [brief(name, 18) for name in point.records[0].label_names]
        if len(names) > MOST_CLASSES:
            continue
        counts = np.zeros((len(names), len(names)), dtype=int)
        for record in point.records:
            np.add.at(counts, (np.array(record.gold), np.array(record.predicted)), 1)
        made.append(_matrix(point, names, counts))
    return made


def _matrix(point: Point, names: Sequence[str], counts: np.ndarray) -> Plot:
    from matplotlib.patches import Rectangle

    size = len(names)
    figure, axes = canvas(min(4.4, 1.6 + 0.42 * size), width=min(WIDTH, 2.9 + 0.42 * max(0, size - 2)))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    numbers = size <= 8
    for gold in range(size):
        for answer in range(size):
            tone = svg.colour(point.index)
            # Never so strong that the number on it cannot be read.
            alpha = (0.5 if numbers else 1.0) * shares[gold, answer]
            axes.add_patch(Rectangle((answer - 0.5, gold - 0.5), 1, 1, facecolor=tone, alpha=alpha, linewidth=0))
            if numbers:
                axes.text(answer, gold, f"{counts[gold, answer]:,}", ha="center", va="center")
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xticks(range(size), names, rotation=0 if size <= 3 else 60, ha="center" if size <= 3 else "right")
    axes.set_yticks(range(size), names)
    axes.tick_params(labelsize=8 if numbers else 6)
    axes.grid(False)
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_xlabel("Answered")
    axes.set_ylabel("Right")
    wrong = [
        (counts[gold, answer], f"{names[gold]} taken for {names[answer]} {counts[gold, answer]:,} times")
        for gold in range(size)
        for answer in range(size)
        if gold != answer and counts[gold, answer]
    ]
    said = [words for _, words in sorted(wrong, key=lambda one: -one[0])[:6]] or ["no text was labelled wrongly"]
    caption = "Evaluation texts by their right label (rows) and the answer (columns)"
    caption += f", {len(point.records)} seeds added up." if len(point.records) > 1 else "."
    return finish(figure, f"confusion-{point.index}", point.label, said, caption)


def _front(
    records: Sequence[Record],
    name: str,
    title: str,
    axis: str,
    value: Callable[[Record], float | None],
    form: str,
) -> Plot | None:
    known = [(point, cost) for point in points(records) if (cost := point.mean(value)) is not None]
    if not known:
        return None
    shown, costs = [point for point, _ in known], [cost for _, cost in known]
    best = front(costs, [point.accuracy for point in shown])
    figure, axes = canvas(3.0 + 0.17 * (len(shown) + 1))
    axes.plot(
        [costs[place] for place in best],
        [shown[place].accuracy for place in best],
        color=svg.INK,
        linewidth=1,
        linestyle="--",
        drawstyle="steps-post",
        zorder=1,
    )
    for place in best:
        axes.plot(
            [costs[place]], [shown[place].accuracy], "o", color=svg.INK, fillstyle="none", markersize=14, clip_on=False
        )
    scatter(axes, shown, costs, front=True)
    axes.set_xlim(left=0)
    axes.set_xlabel(axis)
    said = [f"{point.label} {form.format(cost)}, {point.accuracy:.4f}" for point, cost in known]
    on_front = ", ".join(shown[place].label for place in best)
    caption = (
        "Ringed and joined: the Pareto front, the methods that no other beats in one without losing in the other: "
        f"{on_front}. It takes the means as they are; whether they differ is in the verdicts."
    )
    return finish(figure, name, title, [*said, f"on the Pareto front: {on_front}"], caption)


def _fill(number: int, tone: str) -> dict[str, Any]:
    """A phase's filling: training solid, the others pale and hatched, each in its own way."""
    from matplotlib.colors import to_rgba

    return {
        "facecolor": to_rgba(tone, (0.15, 0.3, 1.0, 0.3, 0.15)[number]),
        "hatch": HATCHES[number],
        "edgecolor": svg.INK,
        "linewidth": 0.5,
    }


def _running(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of up to `width` values before and after each."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    means: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return means


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30
