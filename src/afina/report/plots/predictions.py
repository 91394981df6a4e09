"""Plots of predictions: confusion matrices, reliability, risk and coverage, F1 by label, residuals."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np

from afina.report.arms import Arm
from afina.report.entity_errors import mean_counts
from afina.report.formatting import UNDEFINED, brief
from afina.report.per_label import MOST, LabelFigures, confused
from afina.report.plots import svg
from afina.report.plots.svg import WIDTH, Plot, canvas, finish, legend, rows_of
from afina.stats import classification, entities, text


def confusion_matrices(arms: Sequence[Arm]) -> list[Plot]:
    """Return a plot of each method's confusion matrix, summed over the seeds; empty for more than MOST labels."""
    made = []
    for arm in arms:
        names = [brief(name, 18) for name in arm.record.label_names]
        if len(names) > MOST:
            continue
        made.append(_matrix(arm, names, confused(arm.targets, arm.answers, len(names))))
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
            # Paler if the cell has a number, so that the number can be read.
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


def of_probabilities(arms: Sequence[Arm]) -> list[Plot]:
    """Return the plots of the methods that give probabilities; empty if no method does."""
    sure = [arm for arm in arms if all(result.chances is not None for result in arm.results)]
    return [reliability(sure), risk_coverage(sure)] if sure else []


def reliability(arms: Sequence[Arm]) -> Plot:
    """Return a reliability diagram: the share of right predictions by predicted probability, in ten bins."""
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
        "Below the broken line a method is overconfident. The setting `temperature` calibrates probabilities on texts "
        "that are held back from training."
    )
    return finish(figure, "reliability", "Reliability", said, caption)


def risk_coverage(arms: Sequence[Arm]) -> Plot:
    """Return a risk-coverage plot: the accuracy if the least certain texts are left out, by their share."""
    figure, axes = canvas(3.2 + 0.17 * len(arms))
    said = []
    for arm in arms:
        coverage, accuracy = classification.risk_coverage(*_together(arm))
        step = max(1, len(coverage) // 200)
        first = min(len(coverage) - 1, len(coverage) // 20)  # below 5 % of the texts the curve is noise
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
    """Return the predicted probabilities and the targets of all seeds of a method, concatenated."""
    chances = [result.chances for result in arm.results if result.chances is not None]
    return np.concatenate(chances), np.tile(arm.targets, len(chances))


def f1_by_label(arms: Sequence[Arm], found: Sequence[Sequence[LabelFigures]]) -> Plot:
    """Return a bar plot of the F1 of the MOST most frequent labels; `found` has the figures of the labels by method."""
    shown = [one.name for one in sorted(found[0], key=lambda one: -one.support)[:MOST]]
    by_label = [{one.name: one.f1 for one in labels} for labels in found]
    figures = [[f1[name] for name in shown] for f1 in by_label]
    figure, axes = _bars(arms, figures, [brief(name, 24) for name in shown], "F1 of the label")
    axes.set_xlim(0, 1)
    said = []
    for arm, values in zip(arms, figures, strict=True):
        each = [f"{brief(name, 18)} {_formatted(value)}" for name, value in zip(shown, values, strict=True)]
        said.append(f"{brief(arm.label)} {', '.join(each)}")
    caption = "Means over the seeds."
    caption += f" The {MOST} most frequent of {len(arms[0].record.label_names)} labels." if len(shown) == MOST else ""
    return finish(figure, "labels", "F1 by label", said, caption)


def entity_errors(arms: Sequence[Arm]) -> Plot:
    counts = [mean_counts(arm.targets, arm.answers) for arm in arms]
    figure, axes = _bars(arms, [[*of_arm.values()] for of_arm in counts], entities.ERROR_KINDS, "Entities")
    axes.set_xlim(left=0)
    said = [
        f"{brief(arm.label)} " + ", ".join(f"{kind} {times:,.3g}" for kind, times in of_arm.items())
        for arm, of_arm in zip(arms, counts, strict=True)
    ]
    return finish(figure, "errors", "Errors by kind", said, "Means over the seeds.")


def _bars(arms: Sequence[Arm], values: Sequence[Sequence[float]], rows: Sequence[str], across: str) -> tuple[Any, Any]:
    """Return figure and axes with a bar for each row and method; `values` has those of the rows for each method."""
    height = 0.8 / len(arms)
    figure, axes = canvas(1.2 + len(rows) * (0.16 + 0.13 * len(arms)) + 0.17 * len(arms))
    for number, (arm, of_arm) in enumerate(zip(arms, values, strict=True)):
        places = [row - 0.4 + height * (number + 0.5) for row in range(len(rows))]
        axes.barh(places, of_arm, height=height, color=svg.colour(arm.place))
        axes.plot(of_arm, places, svg.marker(arm.place), color=svg.colour(arm.place))
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_xlabel(across)
    legend(axes, arms)
    return figure, axes


def _formatted(f1: float) -> str:
    return UNDEFINED if isnan(f1) else f"{f1:.3f}"


POINTS = 1500  # of a method in a scatter plot


def predicted_against_given(arms: Sequence[Arm]) -> list[Plot]:
    made = []
    for arm in arms:
        given, predicted = arm.targets, arm.answers.mean(axis=0)
        figure, axes = _a_point_a_text(arm, given, predicted, (float(given.min()), float(given.max())))
        axes.set_xlabel("Given")
        axes.set_ylabel("Predicted")
        spread = [
            f"{name} from {np.min(value):.3g} to {np.max(value):.3g}"
            for name, value in (("given", given), ("predicted", predicted))
        ]
        caption = "A point a text; on the broken line both are the same."
        caption += " Means over the seeds." if len(arm.results) > 1 else ""
        made.append(finish(figure, f"scatter-{arm.place}", brief(arm.label), spread, caption))
    return made


def _a_point_a_text(arm: Arm, across: np.ndarray, up: np.ndarray, ends: tuple[float, float]) -> tuple[Any, Any]:
    """Return figure and axes with a point per text, and a line between `ends` on which both numbers are equal."""
    step = -(-len(across) // POINTS)
    figure, axes = canvas(3.4)
    axes.plot(ends, ends, color=svg.INK, linewidth=0.8, linestyle="--", zorder=1)
    style = {"color": svg.colour(arm.place), "markersize": 3, "alpha": 0.45, "linestyle": "none"}
    axes.plot(across[::step], up[::step], svg.marker(arm.place), **style)
    return figure, axes


def residuals(arms: Sequence[Arm]) -> Plot:
    """Return a plot of each method's residuals: median, quartiles, and the quantiles of 5 % and 95 %."""
    figure, axes = canvas(1.0 + 0.36 * len(arms))
    said = []
    for row, arm in enumerate(arms):
        style = svg.colour(arm.place), svg.marker(arm.place)
        first, middle, third = _range(axes, row, arm.answers - arm.targets, *style)
        said.append(f"{brief(arm.label)} half of them from {first:.3g} to {third:.3g}, the middle {middle:.3g}")
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    rows_of(axes, [brief(arm.label) for arm in arms])
    axes.set_xlabel("Predicted minus given")
    return finish(figure, "residuals", "Residuals", said, _RANGE)


_RANGE = "Thick: the middle half of the texts. Thin: nine tenths. Marker: median."


def _range(axes: Any, row: int, values: np.ndarray, tone: str, marker: str) -> tuple[float, float, float]:
    """Draw the quantiles (5, 25, 50, 75, 95 %) of values in a row; return the first quartile, median and third."""
    low, first, middle, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([low, high], [row, row], color=tone, linewidth=1.2)
    axes.plot([first, third], [row, row], color=tone, linewidth=5, solid_capstyle="butt")
    axes.plot([middle], [row], marker, color=tone, markersize=7, markeredgecolor=svg.PAPER)
    return float(first), float(middle), float(third)


def answer_lengths(arms: Sequence[Arm]) -> list[Plot]:
    """Return a plot of the words of answers, and for each method a plot against the words of the reference."""
    counted = [[text.word_counts(result.answered) for result in arm.results] for arm in arms]
    made = [_lengths(arms, counted)]
    for arm, seeds in zip(arms, counted, strict=True):
        told, given = seeds[0]
        figure, axes = _a_point_a_text(arm, given, told, (0, max(1, int(given.max()), int(told.max()))))
        axes.set_xlabel("Words of the reference of the nearest length")
        axes.set_ylabel("Words of the answer")
        both = (("references", given), ("answers", told))
        said = [f"{name} of {np.min(one):,} to {np.max(one):,} words" for name, one in both]
        caption = "A point a text; on the broken line both have the same length."
        caption += f" Seed {arm.seeds[0]}." if len(arm.results) > 1 else ""
        made.append(finish(figure, f"lengths-{arm.place}", brief(arm.label), said, caption))
    return made


def _lengths(arms: Sequence[Arm], counted: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]) -> Plot:
    figure, axes = canvas(1.4 + 0.36 * len(arms))
    references = np.array([len(one.split()) for several in arms[0].targets for one in several])
    rows = [("references", svg.INK, "|", [references])]
    rows += [
        (brief(arm.label), svg.colour(arm.place), svg.marker(arm.place), [seed[0] for seed in seeds])
        for arm, seeds in zip(arms, counted, strict=True)
    ]
    said = []
    for row, (name, tone, marker, lengths) in enumerate(rows):
        first, middle, third = _range(axes, row, np.concatenate(lengths), tone, marker)
        said.append(f"{name} half of them from {first:.0f} to {third:.0f} words, the middle {middle:.0f}")
    rows_of(axes, [row[0] for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("Words")
    return finish(figure, "lengths", "Words of answers", said, f"{_RANGE} References: all of them.")
