"""Which labels are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.report.arms import Arm
from afina.report.plots import svg
from afina.report.plots.drawing import WIDTH, Plot, canvas, finish
from afina.report.words import brief

if TYPE_CHECKING:
    import numpy as np

from afina.report.per_label import MOST


def confusion(arms: Sequence[Arm]) -> list[Plot]:
    """A matrix per setting, seeds added up; none where there are too many labels to tell apart."""
    import numpy as np

    made = []
    for arm in arms:
        names = [brief(name, 18) for name in arm.record.label_names]
        if len(names) > MOST:
            continue
        counts = np.zeros((len(names), len(names)), dtype=int)
        for answers in arm.answers:
            np.add.at(counts, (arm.targets, answers), 1)
        made.append(_matrix(arm, names, counts))
    return made


def _matrix(arm: Arm, names: Sequence[str], counts: np.ndarray) -> Plot:
    from matplotlib.patches import Rectangle

    size = len(names)
    figure, axes = canvas(min(4.4, 1.6 + 0.42 * size), width=min(WIDTH, 2.9 + 0.42 * max(0, size - 2)))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    numbers = size <= 8
    for gold in range(size):
        for answer in range(size):
            tone = svg.colour(arm.place)
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
    caption += f", {len(arm.results)} seeds added up." if len(arm.results) > 1 else "."
    return finish(figure, f"confusion-{arm.place}", brief(arm.label), said, caption)
