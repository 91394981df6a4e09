"""Arms -> verdicts: which method is better, pair by pair, how sure that is, and how many labels a method needs.

Knows which arms may be compared; how they are compared is in `afina.stats`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isnan
from typing import TYPE_CHECKING

from afina.report.arms import Arm, is_curve, measured_on
from afina.report.formatting import (
    ACCURACY,
    NOTHING,
    count,
    difference_unit,
    listed,
    metric_difference,
    metric_heading,
    p_value,
    share,
    span,
)
from afina.report.tables import Column, Table
from afina.stats.metrics import METRICS

if TYPE_CHECKING:  # it loads scipy
    from afina.stats.comparison import Comparison

VERDICTS, CURVES = "Verdicts", "How many labels"


@dataclass(frozen=True)
class NotComparable:
    """Two methods that were not measured on the same ground, and why."""

    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """Every pair of a study's methods, by the methods' labels: compared, or not comparable."""

    compared: tuple[Comparison, ...] = ()
    not_comparable: tuple[NotComparable, ...] = ()

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
        NotComparable(first.label, second.label, reason)
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


def in_one_sentence(compared: Sequence[Comparison], *, one_seed: bool) -> str:
    """What comparisons say, as one sentence; that they are of one seed, where they are; empty where nothing is said."""
    parts = [one.sentence for one in compared] + ["one seed says nothing of other seeds"] * one_seed
    text = "; ".join(parts).replace("; Undecided", "; undecided")
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _why_apart(first: Arm, second: Arm) -> str:
    """Empty where the two may be compared."""
    if len({measured_on(result) for result in (*first.results, *second.results)}) > 1:
        return "they were evaluated on different texts"
    if undefined := [arm.label for arm in (first, second) if isnan(arm.headline)]:
        metric = METRICS[first.record.metric]
        return f"{metric.words} is undefined for {listed(undefined)}: it needs {metric.needs}"
    if first.seeds != second.seeds:
        return "their seeds differ: " + " against ".join(", ".join(map(str, arm.seeds)) for arm in (first, second))
    return ""


def _compare(alike: Sequence[Arm]) -> list[Comparison]:
    from afina.stats.comparison import compare

    references, metric = [arm.label for arm in alike if not arm.trained], METRICS[alike[0].record.metric]
    margin = metric.margin(alike[0].targets)
    return compare({arm.label: arm.scores for arm in alike}, metric=metric, margin=margin, references=references)


def verdict_table(found: Verdicts) -> Table | None:
    """A row per pair; the notes say what the verdicts mean and what would settle those that are open."""
    if not found.compared and not found.not_comparable:
        return None
    rows: list[tuple[str, ...]] = [
        (
            one.first,
            one.second,
            one.verdict,
            metric_difference(one.difference, one.metric),
            " to ".join(metric_difference(end, one.metric) for end in (one.interval.low, one.interval.high)),
            p_value(one.adjusted),
        )
        for one in found.compared
    ]
    rows += [(one.first, one.second, "not comparable", NOTHING, NOTHING, NOTHING) for one in found.not_comparable]
    level, metric = (found.compared[0].level, found.compared[0].metric) if found.compared else (0.95, ACCURACY)
    columns = (
        *(Column(name, "left") for name in ("Method", "compared with", "is")),
        Column(f"Difference{difference_unit(metric)}"),
        Column(f"{100 * level:g} % interval"),
        Column("p, adjusted", minor=True),
    )
    return Table(VERDICTS, columns, tuple(rows), tuple(_notes(found)))


def _notes(found: Verdicts) -> list[str]:
    notes = [one.words for one in found.compared if one.verdict == "undecided"]
    notes += [f"{one.first} and {one.second} cannot be compared: {one.reason}." for one in found.not_comparable]
    if found.compared:
        one = found.compared[0]
        metric = METRICS[one.metric]
        notes.append(
            f"Differences in {metric.words}, on the same texts and seeds{', in percentage points' * metric.points}. "
            f"{'Less is better. ' * metric.lower}Better, worse: more than chance explains, after Holm's correction for "
            "the number of pairs, those with an untrained model counted apart. Equivalent: surely within "
            f"{one.margin_in_words} of each other. Undecided: none of these can be said yet."
        )
    return notes


def verdicts_as_json(found: Verdicts) -> dict[str, object]:
    """`verdicts` and `not_comparable`, of plain values: for --json and tables.json."""
    return {
        "verdicts": [
            asdict(one) | {"interval": [one.interval.low, one.interval.high], "words": one.words}
            for one in found.compared
        ],
        "not_comparable": [asdict(one) for one in found.not_comparable],
    }


def by_method(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """The arms of each method, by rising size, under what the method is called whatever its size."""
    found: dict[str, list[Arm]] = {}
    for arm in sorted(arms, key=lambda one: one.size):
        found.setdefault(arm.whatever_size, []).append(arm)
    return found


def learning_curve_table(arms: Sequence[Arm]) -> Table | None:
    """A row a method, a column a size: the headline metric and its interval; None where there is one size."""
    if not is_curve(arms):
        return None
    sizes = sorted({arm.size for arm in arms})
    rows = []
    for name, those in by_method(arms).items():
        of_size = {arm.size: arm for arm in those}
        rows.append((name, *(_cell(of_size[size]) if size in of_size else NOTHING for size in sizes)))
    metric = arms[0].record.metric
    columns = (Column("Method", "left"), *(Column(f"{count(size)} texts") for size in sizes))
    steps = sorted({arm.record.steps for arm in arms if arm.trained})
    notes = (
        f"{metric_heading(metric)} on the same evaluation texts, with its 95 % interval, by how many training texts "
        "there were. The smaller sets are parts of the greater."
        + (f" Every run took {count(steps[0])} steps." if len(steps) == 1 else ""),
    )
    return Table(CURVES, columns, tuple(rows), notes)


def learning_curve_sentences(arms: Sequence[Arm], found: Verdicts) -> list[str]:
    """Who is ahead at each size, and from which size on one method is better than another."""
    if not is_curve(arms):
        return []
    sizes = sorted({arm.size for arm in arms})
    ahead = []
    for size in sizes:
        best = max((arm for arm in arms if arm.size == size), key=lambda arm: arm.gain)
        ahead.append(f"with {count(size)} texts {best.whatever_size} ({share(best.headline)})")
    said = f"Ahead: {listed(ahead)}."
    wins = [sentence for pair in combinations(by_method(arms).items(), 2) if (sentence := _wins(*pair, found))]
    more = "; ".join(wins) if wins else "with the most texts no method is shown to be better than another"
    return [said, f"{more[0].upper()}{more[1:]}."]


def _wins(first: tuple[str, list[Arm]], second: tuple[str, list[Arm]], found: Verdicts) -> str:
    """From which size on, up to the greatest, one of the two is better; empty where neither is at the greatest."""
    theirs = {arm.size: arm for arm in second[1]}
    seen = []
    for arm in first[1]:
        between = found.between(arm.label, theirs[arm.size].label) if arm.size in theirs else None
        if between is None:
            continue
        seen.append((arm.size, between[0].seen_from(arm.label)))
    if not seen or seen[-1][1] not in ("better", "worse"):
        return ""
    start = len(seen)
    while start and seen[start - 1][1] == seen[-1][1]:
        start -= 1
    winner, other = (first[0], second[0]) if seen[-1][1] == "better" else (second[0], first[0])
    when = "at every size" if start == 0 else f"from {count(seen[start][0])} texts on"
    return f"{winner} is better than {other} {when}"


def _cell(arm: Arm) -> str:
    interval = arm.interval(arm.record.metric)
    return share(arm.headline) + (f" ({span(interval)})" if interval else "")
