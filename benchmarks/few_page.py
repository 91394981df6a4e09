"""Write the records of `few_labels.py` into docs/how-to/know-how-many-labels.md: a plot and tables.

    python benchmarks/few_page.py

The plot is docs/pictures/few-labels-light.svg and few-labels-dark.svg. A point is the mean accuracy over the three
tasks. A number of labels at which one of the tasks was not measured has no point. SST-2 and Banking77 have tables of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import few_labels
from afina.report.plots import svg
from afina.report.plots.svg import Plot, canvas, finish
from few_labels import SIZES, TASKS, TFIDF, WITH_SHOTS, ZERO, Arm, Cell
from learning_curves import ENCODER
from lessons import BACKBONES
from pictures import DOCS, THEMES, standalone

PAGE = DOCS / "how-to" / "know-how-many-labels.md"
MARKS = re.compile(r"(<!-- begin: benchmarks/few_page.py -->\n).*?(<!-- end -->)", re.DOTALL)
LINES: dict[str, Arm] = {
    "embedded: LoRA, asked in words": Arm("embedded", "lora"),
    "embedded: full fine-tuning, asked in words": Arm("embedded", "full"),
    "embedded: 16 shots, not trained": WITH_SHOTS,
    "embedded: zero-shot, not trained": ZERO,
    "embedded: linear probe": Arm("embedded", "linear_probe"),
    f"{ENCODER}: SetFit": few_labels.SETFIT,
    f"{ENCODER}: full fine-tuning": Arm(ENCODER, "full", 1.0),
    f"{ENCODER}: LoRA": Arm(ENCODER, "lora", 3.0),
    f"{ENCODER}: linear probe": Arm(ENCODER, "linear_probe"),
    "TF-IDF": TFIDF,
}
"""The arm of each line."""


class Point(NamedTuple):
    """The mean accuracy of the tasks, its 95 % interval about other held-out texts, and the fewest draws."""

    mean: float
    low: float
    high: float
    draws: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})" + ("" if self.draws == few_labels.DRAWS else "*")


Known = dict[Cell, dict[str, object]]


def point(known: Known, arm: Arm, labels: int, tasks: Sequence[str] = TASKS) -> Point | None:
    """The point of a line at a number of labels; None where one of the tasks was not measured."""
    made = [_of_task(known, task, arm, labels) for task in tasks]
    if any(each is None for each in made):
        return None
    right = [each for each in made if each is not None]
    mean = float(np.mean([each.mean() for each in right]))
    variance = sum(each.mean(axis=0).var(ddof=1) / each.shape[1] for each in right) / len(right) ** 2
    half = 1.96 * float(np.sqrt(variance))
    draws = few_labels.DRAWS if arm == ZERO else min(len(each) for each in right)
    return Point(mean, mean - half, min(1.0, mean + half), draws)


def _of_task(known: Known, task: str, arm: Arm, labels: int) -> np.ndarray | None:
    """Right answers of all draws that were measured, bool [draws, texts]."""
    at = {ZERO: 0, WITH_SHOTS: few_labels.SHOTS}.get(arm, labels)
    cells = [Cell(task, at, arm, seed) for seed in range(few_labels.DRAWS)]
    if arm in few_labels.ON_EMBEDDED:
        cells = [few_labels.of_best_rate(known, task, labels, arm, seed) for seed in range(few_labels.DRAWS)]
    found = [few_labels.right_of(known[cell], task) for cell in cells if cell in known]
    return np.array(found) if found else None


def plot(known: Known) -> Plot:
    """Accuracy by the number of labels, a line a method on a backbone."""
    figure, axes = canvas(5.4)
    said = []
    for number, (name, arm) in enumerate(LINES.items()):
        points = [(labels, one) for labels in SIZES if (one := point(known, arm, labels))]
        if not points:
            continue
        style = "--" if "not trained" in name else "-"
        axes.plot(
            [labels * 1.03 ** (number - 4.5) for labels, _ in points],
            [one.mean for _, one in points],
            color=svg.colour(number),
            marker=svg.marker(number),
            markersize=6,
            linewidth=1.4,
            linestyle=style,
            label=name,
        )
        said.append(f"{name} " + ", ".join(f"{one.mean:.2f} with {labels:,}" for labels, one in points))
    axes.set_xscale("log")
    axes.set_xticks(list(SIZES), [f"{labels:,}" for labels in SIZES])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("Labelled texts (logarithmic)")
    axes.set_ylabel("Accuracy, mean of three tasks")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    return finish(figure, "few-labels", "Accuracy by the number of labelled texts", said, "")


def tables(known: Known) -> str:
    """The table of all lines, and that of the best method by number of labels and backbone."""
    best = [[name, *(_best(known, backbones, labels) for labels in SIZES)] for name, backbones in _SETS.items()]
    made = [_grid(_heading("Best of", SIZES), best), _lines(known, "", SIZES, TASKS)]
    made += [_lines(known, NAMES[task], sizes, (task,)) for task, sizes in few_labels.SIZES_OF.items()]
    return "\n".join(made)


NAMES = {"sst2": "SST-2", "banking77": "Banking77"}


def _heading(name: str, sizes: Sequence[int]) -> list[str]:
    return [name, *(f"{labels:,} labels" for labels in sizes)]


def _lines(known: Known, name: str, sizes: Sequence[int], tasks: Sequence[str]) -> str:
    """The table of the lines that were measured on the tasks."""
    rows = {line: [point(known, arm, labels, tasks) for labels in sizes] for line, arm in LINES.items()}
    told = [[line, *(str(one or "–") for one in found)] for line, found in rows.items() if any(found)]
    return _grid(_heading(name, sizes), told)


_SETS = {**{f"`{name}`": (name,) for name in BACKBONES}, "both": BACKBONES}


def _best(known: Known, backbones: Sequence[str], labels: int) -> str:
    """The best line of the backbones; a sign where one of their trainings was not measured."""
    trained = [arm for arm in (*few_labels.ON_EMBEDDED, *few_labels.ON_ENCODER) if arm.backbone in backbones]
    if any(point(known, arm, labels) is None for arm in trained):
        return "–"
    found = {
        name.partition(": ")[2].partition(",")[0] + (f" on {name.partition(':')[0]}" if len(backbones) > 1 else ""): one
        for name, arm in LINES.items()
        if arm.backbone in backbones and (one := point(known, arm, labels))
    }
    name = max(found, key=lambda each: found[each].mean)
    return f"{name}: {found[name]}"


def _grid(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(heading) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (heading, marks, *lines))


def main() -> None:
    """Draw the plot, and put plot and tables into the page."""
    known = few_labels.of_words() | few_labels.read(few_labels.KEPT)
    with svg.drawing():
        made = plot(known)
    for theme in THEMES:
        (DOCS / "pictures" / f"few-labels-{theme}.svg").write_text(standalone(made, theme), encoding="utf-8")
    picture = (
        "<picture>\n"
        '  <source media="(prefers-color-scheme: dark)" srcset="../pictures/few-labels-dark.svg">\n'
        '  <source media="(prefers-color-scheme: light)" srcset="../pictures/few-labels-light.svg">\n'
        f'  <img alt="{made.text}" src="../pictures/few-labels-light.svg" width="640">\n'
        "</picture>\n"
    )
    text, count = MARKS.subn(
        lambda marks: f"{marks[1]}\n{picture}\n{tables(known)}\n{marks[2]}", PAGE.read_text(encoding="utf-8")
    )
    assert count == 1, "the page has no place for the tables"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
