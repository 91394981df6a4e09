"""Write what `words.py` measured: the tables of docs/background/words.md, docs/words.svg, and the records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from afina.data.label_words import Cost
from afina.report.plots.svg import LIGHT, MARKERS
from afina.stats import intervals
from afina.stats.intervals import Estimate
from words import CHOSEN_AT, HEADS, RATES, SEEDS, SIZES, TASKS, Cell, Records, line_of, rate_of, read, unpacked

DOCS = Path(__file__).resolve().parents[1] / "docs"
NAMES = {"lora": "LoRA", "full": "full"}
TITLES = {"movies": "movie sentences", "products": "product reviews", "domains": "which of four domains"}


def found(records: Records, task: str, labels: int, method: str, head: str) -> Estimate | None:
    """Accuracy over the seeds that are measured, at the arm's rate; None where none is."""
    rate = rate_of(records, task, method, head) if method in RATES else 0.0
    cells = [Cell(task, labels, method, head, rate or 0.0, seed) for seed in SEEDS]
    made = [unpacked(records[cell]["right"]) for cell in cells if cell in records]
    return intervals.accuracy_estimate(np.array(made)) if made else None


def seeds(records: Records, task: str, labels: int, method: str, head: str) -> int:
    """The number of seeds that are measured."""
    rate = rate_of(records, task, method, head)
    return sum(Cell(task, labels, method, head, rate or 0.0, seed) in records for seed in SEEDS)


def tables(records: Records) -> str:
    """One table a task, in Markdown."""
    made = []
    for task in TASKS:
        untrained = found(records, task, 0, "zero-shot", "words")
        lines = [["untrained, asked", "", *([cell(untrained)] * len(SIZES))]]
        for method, head, name in arms():
            rate = rate_of(records, task, method, head) if method in RATES else None
            each = [found(records, task, labels, method, head) for labels in SIZES]
            stars = [method in RATES and seeds(records, task, labels, method, head) < len(SEEDS) for labels in SIZES]
            figures = [cell(one) + ("*" if few and one else "") for one, few in zip(each, stars, strict=True)]
            lines.append([name, f"{rate:g}" if rate else "", *figures])
        heading = ["", "rate", *(f"{labels:,} labels" for labels in SIZES)]
        made.append(f"### {TITLES[task].capitalize()}\n\n{grid(heading, lines)}")
    return "\n".join([*made, cost_table(records)])


def costs(records: Records) -> dict[int, Cost]:
    """By the number of texts: the points that a random head loses to one of words, over all tasks and methods."""
    made = {}
    for size in SIZES:
        both = [
            [found(records, task, size, method, head) for head in ("words", "random")]
            for task in TASKS
            for method in RATES
        ]
        lost = [100 * (words.mean - random.mean) for words, random in both if words and random]
        if lost:
            made[size] = Cost(*(round(float(one), 1) for one in (np.mean(lost), min(lost), max(lost))))
    return made


def cost_table(records: Records) -> str:
    """The costs, in Markdown."""
    lines = [[f"{size:,}", f"{one.mean:g}", f"{one.least:g} to {one.most:g}"] for size, one in costs(records).items()]
    heading = ["labels", "points of accuracy, mean", "least to most"]
    return f"### What labels without words cost\n\n{grid(heading, lines)}"


def arms() -> list[tuple[str, str, str]]:
    """(method, head, name) of what is trained, in the order of the tables."""
    return [
        ("tfidf", "", "TF-IDF"),
        *((method, head, f"{NAMES[method]}, {head}") for method in RATES for head in HEADS),
    ]


def cell(one: Estimate | None) -> str:
    """0.861 (0.83 to 0.89)."""
    return "–" if one is None else f"{one.mean:.3f} ({one.interval.low:.2f} to {one.interval.high:.2f})"


def grid(heading: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    align = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heading, align, *lines]) + "\n"


def plot(records: Records, path: Path) -> None:
    """Accuracy by labels, a panel a task and method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(len(RATES), len(TASKS), sharex=True, sharey="col")
    for row, method in enumerate(RATES):
        for column, task in enumerate(TASKS):
            panel(panels[row][column], records, task, method)
            panels[0][column].set_title(TITLES[task], fontsize=10)
            panels[-1][column].set_xlabel("labels")
        panels[row][0].set_ylabel(f"accuracy, {NAMES[method]}")
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def panel(axes: Any, records: Records, task: str, method: str) -> None:
    """A line a head, with its intervals; TF-IDF; and the untrained answer."""
    for place, (kind, head) in enumerate([*((method, head) for head in HEADS), ("tfidf", "")]):
        points = [(labels, one) for labels in SIZES if (one := found(records, task, labels, kind, head))]
        if not points:
            continue
        x = np.array([labels for labels, _ in points]) * 1.06 ** (place - 1.5)  # so that intervals stand side by side
        y = np.array([one.mean for _, one in points])
        ends = np.array([[one.interval.low, one.interval.high] for _, one in points])
        style = {"color": LIGHT[place], "marker": MARKERS[place], "linewidth": 1.4, "capsize": 2, "markersize": 5}
        axes.errorbar(x, y, [y - ends[:, 0], ends[:, 1] - y], label=head or "TF-IDF", **style)
    untrained = found(records, task, 0, "zero-shot", "words")
    if untrained:
        axes.axhspan(untrained.interval.low, untrained.interval.high, color="#777777", alpha=0.15, linewidth=0)
        axes.axhline(untrained.mean, color="#777777", linestyle="--", linewidth=1, label="untrained, asked")
    axes.set_xscale("log", base=4)
    axes.set_xticks(list(SIZES), [f"{labels:,}" for labels in SIZES])
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write(records: Records) -> None:
    """All three; the tables replace those between the page's marks."""
    lines = [line_of(cell, figures) for cell, figures in records.items()]
    (DOCS / "words.jsonl").write_text("".join(sorted(lines)), "utf-8")
    plot(records, DOCS / "words.svg")
    page = DOCS / "background" / "words.md"
    marks = ("<!-- begin: benchmarks/words.py -->\n", "<!-- end -->")
    between = re.escape(marks[0]) + ".*?" + re.escape(marks[1])
    text, count = re.subn(
        between, lambda _: marks[0] + "\n" + tables(records) + "\n" + marks[1], page.read_text("utf-8"), flags=re.DOTALL
    )
    assert count == 1, "the page has no place for the tables"
    page.write_text(text, "utf-8")
    print(f"{len(records)} measurements; the rates are chosen on {CHOSEN_AT} labels")


if __name__ == "__main__":
    write(read())
