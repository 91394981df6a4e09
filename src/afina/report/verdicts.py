"""Verdicts: for each pair of methods, which is better, with a confidence interval; also the learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from math import isnan, nan

import numpy as np

from afina.report.arms import Arm, is_curve, measured_on
from afina.report.formatting import (
    ACCURACY,
    NOTHING,
    capitalised,
    count,
    difference_unit,
    interval_heading,
    listed,
    metric_difference,
    metric_heading,
    metric_name,
    metrics_of,
    p_value,
    seconds_in_words,
    share,
    span,
)
from afina.report.tables import Column, Table, columns_of
from afina.stats import intervals
from afina.stats.comparison import Comparison, compare
from afina.stats.metrics import METRICS
from afina.studies.baselines import MeasuredBaseline

VERDICTS, CURVES, BASELINES = "Verdicts", "How many labels", "Without a language model"

SIGNIFICANT = (
    "Better and worse mean a significant difference: p is below 0.05 after Holm's correction for the number of pairs."
)

MOST_NAMED = 3
"""The most methods that a headline or a note names of each group."""

ONE_SEED = "One seed was run, so the verdicts do not say how other seeds would do."


@dataclass(frozen=True)
class NotComparable:
    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on all pairs of a study's methods: the pairs that were compared, and the pairs that cannot be.

    Attributes:
        trained_on: The training texts by the label of a method, if compared methods have different numbers of them.
    """

    compared: tuple[Comparison, ...] = ()
    not_comparable: tuple[NotComparable, ...] = ()
    trained_on: Mapping[str, int] = field(default_factory=dict)

    def between(self, first: str, second: str) -> Comparison | None:
        """Return the comparison of two methods, in either order; None if they were not compared."""
        return next((one for one in self.compared if {one.first, one.second} == {first, second}), None)


def verdicts(arms: Sequence[Arm], *, one_study: bool = True) -> Verdicts:
    """Compare every pair of methods; a pair that cannot be compared has the reason, and untrained methods come last.

    Without `one_study`, methods with different numbers of training texts are compared: a study would compare sizes.
    """
    curve = one_study and is_curve(arms)
    apart = [
        NotComparable(first.label, second.label, reason)
        for first, second in combinations(arms, 2)
        if (reason := _why_apart(first, second)) and not (curve and first.size != second.size)
    ]
    groups = [found for found in alike(arms, curve=curve) if len(found) > 1]
    compared = [one for found in groups for one in _compare(found)]
    trained_on = {name: size for found in groups for name, size in unequal_sizes(found).items()}
    untrained = {arm.label for arm in arms if not arm.trained}
    compared.sort(key=lambda one: one.first in untrained or one.second in untrained)
    return Verdicts(tuple(compared), tuple(apart), trained_on)


def alike(arms: Sequence[Arm], *, curve: bool | None = None) -> list[list[Arm]]:
    """Return methods (arms) in groups, so that all methods of a group can be compared.

    With `curve`, they also have equally many training texts. None: if the methods are those of a learning curve.
    """
    groups: list[list[Arm]] = []
    curve = is_curve(arms) if curve is None else curve
    for arm in arms:
        for found in groups:
            if not any(_why_apart(one, arm) for one in found) and not (curve and found[0].size != arm.size):
                found.append(arm)
                break
        else:
            groups.append([arm])
    return groups


def _why_apart(first: Arm, second: Arm) -> str:
    """Return the reason why two methods cannot be compared; empty if the methods can be compared."""
    if len({measured_on(result) for result in (*first.results, *second.results)}) > 1:
        return "they were evaluated on different texts"
    if undefined := [arm.label for arm in (first, second) if isnan(arm.headline)]:
        metric = METRICS[first.record.metric]
        return f"{metric.words} is undefined for {listed(undefined)}: it needs {metric.needs}"
    if first.seeds != second.seeds and not (first.is_seedless or second.is_seedless):
        return "their seeds differ: " + " against ".join(", ".join(map(str, arm.seeds)) for arm in (first, second))
    return ""


def _compare(alike: Sequence[Arm]) -> list[Comparison]:
    references, metric = [arm.label for arm in alike if not arm.trained], METRICS[alike[0].record.metric]
    margin, scores = metric.margin(alike[0].targets), scores_by_seed(alike)
    unit = alike[0].results[0].answered.unit
    return compare(scores, metric=metric, margin=margin, references=references, unit=unit)


def undecided_clause(names: Sequence[str]) -> str:
    """Return the clause of a headline about methods that may be as good, with its comma. Empty: no such method."""
    return f", undecided against {_shortened(names)}" if names else ""


def _shortened(names: Sequence[str]) -> str:
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return listed([*names[:MOST_NAMED], *more])


def unequal_sizes(arms: Sequence[Arm]) -> dict[str, int]:
    """Return the training texts of each trained method; empty if all have as many, or if all labels say how many."""
    trained = [arm for arm in arms if arm.trained]
    sizes = {arm.label: arm.size for arm in trained}
    return {} if all(arm.whatever_size != arm.label for arm in trained) or len({*sizes.values()}) < 2 else sizes


def trained_on_sentence(sizes: Mapping[str, int]) -> str:
    """Return a sentence on methods that were trained on different numbers of texts; empty if the numbers are equal."""
    by_size: dict[int, list[str]] = {}
    for name, size in sizes.items():
        by_size.setdefault(size, []).append(name)
    groups = [f"{_shortened(by_size[size])} on {count(size)}" for size in sorted(by_size, reverse=True)]
    if len(groups) < 2:
        return ""
    return (
        f"Not all methods were trained on the same texts: {'; '.join(groups)} texts. A part of a difference may come "
        "from the number of texts."
    )


def scores_by_seed(alike: Sequence[Arm]) -> dict[str, np.ndarray]:
    """Return each arm's scores, [S, N], by label; the scores of an arm without seeds are repeated for each seed."""
    seeds = max(len(arm.seeds) for arm in alike)
    return {arm.label: np.tile(arm.scores, (seeds, 1)) if arm.is_seedless else arm.scores for arm in alike}


def baseline_table(baselines: Sequence[MeasuredBaseline], arms: Sequence[Arm]) -> Table | None:
    """Return a table of the baselines without a language model, and how they compare; None if there are none."""
    if not baselines or not arms:
        return None
    headline, baselines = arms[0].record.metric, [one.beside(arms[0].results[0]) for one in baselines]
    others = [
        name
        for name in metrics_of(arms[0].record)[1:]
        if any(not isnan(one.record.metrics.get(name, nan)) for one in baselines)
    ]
    rows = tuple(
        (
            one.record.name,
            one.record.setting or NOTHING,
            share(one.record.metrics[headline]),
            _interval(one, headline),
            *(share(one.record.metrics.get(name, nan)) for name in others),
        )
        for one in baselines
    )
    columns = (
        Column("Baseline", "left"),
        Column("Setting", "left", minor=True),
        Column(metric_heading(headline)),
        Column(interval_heading(headline)),
        *(Column(metric_heading(name), minor=not METRICS[name].main) for name in others),
    )
    compared = against(baselines, arms)
    notes = (
        f"Fitted on {count(max(one.record.train_examples for one in baselines))} training texts in "
        f"{seconds_in_words(sum(one.record.seconds for one in baselines))}, without the language model.",
        *_beaten(compared),
    )
    return Table(BASELINES, columns, rows, notes, details=tuple(f"{one.sentence}." for one in compared))


def _interval(one: MeasuredBaseline, metric: str) -> str:
    return span(intervals.estimate_of_answers([one.answered], METRICS[metric]).interval.ends)


def against(baselines: Sequence[MeasuredBaseline], arms: Sequence[Arm]) -> list[Comparison]:
    """Return the comparison of each method with the best baseline without a language model, on the same texts.

    The predictions of a baseline, which has no seeds, are compared with those of every seed.
    """
    if not arms:
        return []
    metric = METRICS[arms[0].record.metric]
    beside = [one.beside(arms[0].results[0]) for one in baselines]
    defined = [one for one in beside if not isnan(one.record.metrics[metric.name])]
    if not defined:
        return []
    best = max(defined, key=lambda one: (-1 if metric.lower else 1) * one.record.metrics[metric.name])
    compared = []
    for group in alike(arms):
        same = [arm for arm in group if not isnan(arm.headline)]
        if not same or measured_on(same[0].results[0]) != best.measured_on:
            continue
        scores = scores_by_seed(same)
        scores[best.record.name] = np.tile(best.values(metric.name), (max(len(arm.seeds) for arm in same), 1))
        margin, unit = metric.margin(same[0].targets), best.answered.unit
        found = compare(scores, metric=metric, margin=margin, references=[best.record.name], unit=unit)
        compared += [one for one in found if one.second == best.record.name]
    return compared


def _beaten(compared: Sequence[Comparison]) -> list[str]:
    if not compared:
        return []
    baseline = compared[0].second
    methods: dict[str, list[str]] = {verdict: [] for verdict in ("better", "equivalent", "undecided", "worse")}
    for comparison in compared:
        methods[comparison.verdict].append(comparison.first)
    said = [f"{verdict}: {listed(names)}" for verdict, names in methods.items() if names]
    return [f"Compared with {baseline}, in {metric_name(compared[0].metric)}: {'; '.join(said)}."]


def verdict_table(found: Verdicts) -> Table | None:
    """Return a table with the verdict on each pair of methods; None if there are no pairs."""
    if not found.compared and not found.not_comparable:
        return None
    rows: list[tuple[str, ...]] = [
        (
            one.first,
            one.second,
            one.verdict,
            metric_difference(one.difference, one.metric),
            " to ".join(metric_difference(end, one.metric) for end in one.interval.ends),
            p_value(one.adjusted),
        )
        for one in found.compared
    ]
    rows += [(one.first, one.second, "not comparable", NOTHING, NOTHING, NOTHING) for one in found.not_comparable]
    level, metric = (found.compared[0].level, found.compared[0].metric) if found.compared else (0.95, ACCURACY)
    columns = (
        *columns_of(
            ["Method", "compared with", "is"], [f"Difference{difference_unit(metric)}", f"{100 * level:g} % interval"]
        ),
        Column("p, adjusted", minor=True),
    )
    return Table(VERDICTS, columns, tuple(rows), tuple(_notes(found)), details=tuple(_details(found)))


def _notes(found: Verdicts) -> list[str]:
    notes = [f"{one.first} and {one.second} cannot be compared: {one.reason}." for one in found.not_comparable]
    if not found.compared:
        return notes
    one = found.compared[0]
    metric = METRICS[one.metric]
    notes.append(
        f"Differences in {metric.words}, on the same texts and seeds{', in percentage points' * metric.points}. "
        f"{'Less is better. ' * metric.lower}{SIGNIFICANT} Pairs with an untrained model are counted separately. "
        f"Equivalent means that the difference is significantly smaller than {one.margin_in_words}. Undecided means "
        "that the results show none of these."
    )
    return [*notes, *filter(None, [trained_on_sentence(found.trained_on)])]


def _details(found: Verdicts) -> list[str]:
    notes = [f"{one.sentence}." for one in found.compared if one.verdict == "undecided"]
    return notes + ([ONE_SEED] if any(len(one.mcnemar) == 1 for one in found.compared) else [])


def verdicts_as_json(found: Verdicts) -> dict[str, object]:
    return {
        "verdicts": [
            {name: value for name, value in asdict(one).items() if name not in ("examples", "unit")}
            | {"interval": list(one.interval.ends), "words": one.words}
            for one in found.compared
        ],
        "not_comparable": [asdict(one) for one in found.not_comparable],
    }


def by_method(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Return the results (arms) of each method by rising number of training texts; a key is a method's label."""
    found: dict[str, list[Arm]] = {}
    for arm in sorted(arms, key=lambda one: one.size):
        found.setdefault(arm.whatever_size, []).append(arm)
    return found


def learning_curve_table(arms: Sequence[Arm]) -> Table | None:
    """Return each method's headline metric by number of training texts; None if all have one number."""
    if not is_curve(arms):
        return None
    sizes = sorted({arm.size for arm in arms})
    rows = []
    for name, those in by_method(arms).items():
        of_size = {arm.size: arm for arm in those}
        rows.append((name, *(_cell(of_size[size]) if size in of_size else NOTHING for size in sizes)))
    metric = arms[0].record.metric
    columns = columns_of(["Method"], [f"{count(size)} texts" for size in sizes])
    steps = sorted({arm.record.steps for arm in arms if arm.trained})
    notes = (
        f"{metric_heading(metric)} with its 95 % interval, on the same evaluation texts, by the number of training "
        "texts. Each smaller training set is a subset of the larger sets."
        + (f" Every run took {count(steps[0])} steps." if len(steps) == 1 else ""),
    )
    return Table(CURVES, columns, tuple(rows), notes)


def learning_curve_sentences(arms: Sequence[Arm], found: Verdicts) -> list[str]:
    """Return who is best at each number of training texts, and from which number on; empty for one number."""
    if not is_curve(arms):
        return []
    sizes = sorted({arm.size for arm in arms})
    ahead = []
    for size in sizes:
        best = max((arm for arm in arms if arm.size == size), key=lambda arm: arm.gain)
        ahead.append(f"{best.whatever_size} with {count(size)} texts ({share(best.headline)})")
    metric = METRICS[arms[0].record.metric]
    said = f"{'Lowest' if metric.lower else 'Highest'} {metric.words} by training texts: {listed(ahead)}."
    wins = [sentence for pair in combinations(by_method(arms).items(), 2) if (sentence := _wins(*pair, found))]
    more = "; ".join(wins) if wins else "with the most texts no method is significantly better than another"
    return [said, f"{capitalised(more)}."]


def _wins(first: tuple[str, list[Arm]], second: tuple[str, list[Arm]], found: Verdicts) -> str:
    """Return a clause on the number of texts from which on one method is better; empty if none is at the largest."""
    theirs = {arm.size: arm for arm in second[1]}
    seen = []
    for arm in first[1]:
        comparison = found.between(arm.label, theirs[arm.size].label) if arm.size in theirs else None
        if comparison is not None:
            seen.append((arm.size, comparison.seen_from(arm.label)))
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
