"""How far probabilities can be trusted: reliability, and what remains where the least sure are left to a human."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.report.arms import Arm
from afina.report.plots import svg
from afina.report.plots.drawing import Plot, canvas, finish, legend
from afina.report.words import brief

if TYPE_CHECKING:
    import numpy as np


def reliability(arms: Sequence[Arm]) -> Plot:
    """Share of right answers against how sure they were, in ten bins, all seeds together."""
    from afina.stats import classification

    figure, axes = canvas(3.2 + 0.17 * len(arms))
    axes.plot([0, 1], [0, 1], color=svg.INK, linewidth=0.8, linestyle="--", zorder=1)
    said = []
    for arm in arms:
        sure, right, counts = classification.reliability(*_together(arm))
        style = {"color": svg.colour(arm.place), "marker": svg.marker(arm.place), "markersize": 5, "linewidth": 1.2}
        axes.plot(sure, right, **style)
        off = float((counts * abs(sure - right)).sum() / counts.sum())
        said.append(
            f"{brief(arm.label)} is off by {off:.3f} in the mean, {100 * (counts @ (sure - right)) / sum(counts):+.1f}"
            " points too sure"
        )
    axes.set_xlim(min(1 / len(arms[0].record.label_names), 0.5), 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Probability of the answer")
    axes.set_ylabel("Share that is right")
    legend(axes, arms)
    caption = (
        "Below the broken line a method is surer than it is right. The setting temperature corrects that, on texts "
        "that are cut from training."
    )
    return finish(figure, "reliability", "Reliability", said, caption)


def risk(arms: Sequence[Arm]) -> Plot:
    """The accuracy that remains on the texts that a method is surest of."""
    from afina.stats import classification

    figure, axes = canvas(3.2 + 0.17 * len(arms))
    said = []
    for arm in arms:
        coverage, accuracy = classification.risk_coverage(*_together(arm))
        step = max(1, len(coverage) // 200)
        first = min(len(coverage) - 1, len(coverage) // 20)  # below a twentieth a curve is noise
        shown = slice(first, None, step)
        marks = {"marker": svg.marker(arm.place), "markevery": 0.15, "markersize": 5}
        axes.plot(100 * (1 - coverage[shown]), accuracy[shown], color=svg.colour(arm.place), linewidth=1.4, **marks)
        half = accuracy[max(0, len(accuracy) // 2 - 1)]
        said.append(f"{brief(arm.label)} {accuracy[-1]:.3f} of all, {half:.3f} of the surest half")
    axes.set_xlim(0, 95)
    axes.set_xlabel("Least sure texts left to a human (%)")
    axes.set_ylabel("Accuracy on the others")
    legend(axes, arms)
    return finish(figure, "risk", "What remains where the least sure are left to a human", said, "All seeds together.")


def _together(arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and what is right, seeds one after another."""
    import numpy as np

    chances = [result.chances for result in arm.results if result.chances is not None]
    return np.concatenate(chances), np.tile(arm.targets, len(chances))
