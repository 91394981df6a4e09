"""How many labels a method needs: a study of several sizes, as a table and in sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from afina.report import metrics
from afina.report.arms import Arm, is_curve
from afina.report.tables import Column, Table
from afina.report.verdicts import Verdicts
from afina.report.words import NOTHING, count, listed, share, span

CURVES = "How many labels"


def by_method(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """The arms of each method, by rising size, under what the method is called whatever its size."""
    found: dict[str, list[Arm]] = {}
    for arm in sorted(arms, key=lambda one: one.size):
        found.setdefault(arm.whatever_size, []).append(arm)
    return found


def table(arms: Sequence[Arm]) -> Table | None:
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
        f"{metrics.heading(metric)} on the same evaluation texts, with its 95 % interval, by how many training texts "
        "there were. The smaller sets are parts of the greater."
        + (f" Every run took {count(steps[0])} steps." if len(steps) == 1 else ""),
    )
    return Table(CURVES, columns, tuple(rows), notes)


def sentences(arms: Sequence[Arm], found: Verdicts) -> list[str]:
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
