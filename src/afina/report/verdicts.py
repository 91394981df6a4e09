"""Arms -> verdicts: which method is better, pair by pair, and how sure that is.

Knows which arms may be compared; how they are compared is in `afina.stats`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isnan
from typing import TYPE_CHECKING

from afina.report import metrics
from afina.report.arms import Arm, is_curve, measured_on
from afina.report.tables import Column, Table
from afina.report.words import NOTHING, chance, listed

if TYPE_CHECKING:
    from afina.stats.comparison import Comparison

VERDICTS = "Verdicts"


@dataclass(frozen=True)
class Apart:
    """Two methods that were not measured on the same ground, and why."""

    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """Every pair of a study's methods, by the methods' labels: compared, or not comparable."""

    compared: tuple[Comparison, ...] = ()
    apart: tuple[Apart, ...] = ()

    def between(self, first: str, second: str) -> tuple[Comparison, bool] | None:
        """The comparison of the two, and whether it is of `second` with `first`; None where there is none."""
        for one in self.compared:
            if (one.first, one.second) == (first, second):
                return one, False
            if (one.first, one.second) == (second, first):
                return one, True
        return None


def verdicts(arms: Sequence[Arm]) -> Verdicts:
    """Compare every pair of arms that share evaluation texts, labels and seeds; name the others.

    Pairs with a method that trains nothing come last: they are the least of a question.
    """
    curve = is_curve(arms)
    apart = [
        Apart(first.label, second.label, reason)
        for first, second in combinations(arms, 2)
        if (reason := _why_apart(first, second)) and not (curve and first.size != second.size)
    ]
    compared = [one for found in alike(arms) if len(found) > 1 for one in _compare(found)]
    untrained = {arm.label for arm in arms if not arm.trained}
    compared.sort(key=lambda one: one.first in untrained or one.second in untrained)
    return Verdicts(tuple(compared), tuple(apart))


def alike(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms in groups, within which all may be compared; of several sizes, those of one."""
    groups: list[list[Arm]] = []
    curve = is_curve(arms)
    for arm in arms:
        for found in groups:
            if not _why_apart(found[0], arm) and not (curve and found[0].size != arm.size):
                found.append(arm)
                break
        else:
            groups.append([arm])
    return groups


def in_one(compared: Sequence[Comparison], *, one_seed: bool) -> str:
    """What comparisons say, as one sentence; that they are of one seed, where they are; empty where nothing is said."""
    parts = [one.sentence for one in compared] + ["one seed says nothing of other seeds"] * one_seed
    text = "; ".join(parts).replace("; Undecided", "; undecided")
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _why_apart(first: Arm, second: Arm) -> str:
    """Empty where the two may be compared."""
    if len({measured_on(result) for result in (*first.results, *second.results)}) > 1:
        return "they were evaluated on different texts"
    if undefined := [arm.label for arm in (first, second) if isnan(arm.headline)]:
        metric = metrics.metric_of(first.record.metric)
        return f"{metric.words} is undefined for {listed(undefined)}: it needs {metric.needs}"
    if first.seeds != second.seeds:
        return "their seeds differ: " + " against ".join(", ".join(map(str, arm.seeds)) for arm in (first, second))
    return ""


def _compare(alike: Sequence[Arm]) -> list[Comparison]:
    from afina.stats.comparison import compare

    references, metric = [arm.label for arm in alike if not arm.trained], metrics.metric_of(alike[0].record.metric)
    margin = metric.margin(alike[0].targets)
    return compare({arm.label: arm.scores for arm in alike}, metric=metric, margin=margin, references=references)


def verdict_table(found: Verdicts) -> Table | None:
    """A row per pair; the notes say what the verdicts mean and what would settle those that are open."""
    if not found.compared and not found.apart:
        return None
    rows: list[tuple[str, ...]] = [
        (
            one.first,
            one.second,
            one.verdict,
            metrics.difference(one.difference, one.metric),
            " to ".join(metrics.difference(end, one.metric) for end in (one.interval.low, one.interval.high)),
            chance(one.adjusted),
        )
        for one in found.compared
    ]
    rows += [(one.first, one.second, "not comparable", NOTHING, NOTHING, NOTHING) for one in found.apart]
    level, metric = (found.compared[0].level, found.compared[0].metric) if found.compared else (0.95, metrics.ACCURACY)
    columns = (
        *(Column(name, "left") for name in ("Method", "compared with", "is")),
        Column(f"Difference{metrics.unit(metric)}"),
        Column(f"{100 * level:g} % interval"),
        Column("p, adjusted", minor=True),
    )
    return Table(VERDICTS, columns, tuple(rows), tuple(_notes(found)))


def _notes(found: Verdicts) -> list[str]:
    notes = [one.words for one in found.compared if one.verdict == "undecided"]
    notes += [f"{one.first} and {one.second} cannot be compared: {one.reason}." for one in found.apart]
    if found.compared:
        one = found.compared[0]
        metric = metrics.metric_of(one.metric)
        notes.append(
            f"Differences in {metric.words}, on the same texts and seeds{', in percentage points' * metric.points}. "
            f"{'Less is better. ' * metric.lower}Better, worse: more than chance explains, after Holm's correction for "
            "the number of pairs, those with an untrained model counted apart. Equivalent: surely within "
            f"{one.margin_in_words} of each other. Undecided: none of these can be said yet."
        )
    return notes


def as_json(found: Verdicts) -> dict[str, object]:
    """`verdicts` and `not_comparable`, of plain values: for --json and tables.json."""
    return {
        "verdicts": [
            asdict(one) | {"interval": [one.interval.low, one.interval.high], "words": one.words}
            for one in found.compared
        ],
        "not_comparable": [asdict(one) for one in found.apart],
    }
