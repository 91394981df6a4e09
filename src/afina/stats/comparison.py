"""Paired comparison of two methods: which is better, how certain that is, and how much more data would settle it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import floor, inf, log10
from typing import Literal

import numpy as np

from afina.stats.answered import DOCUMENT
from afina.stats.intervals import Interval
from afina.stats.metrics import METRICS, Metric
from afina.stats.significance import MOST_EXAMPLES, Evidence, holm, mcnemar

FEWEST = 100
"""The smallest number of examples from which `more_seeds` and `more_examples` are computed, because their calculation
takes the observed difference for the true one. In simulations of two classifiers with a true difference of 2 points,
the numbers from 16 examples ranged from 42 to 19,000 (5th to 95th percentile), and so many more examples settled the
comparison in 0.49, 0.59, 0.69 and 0.78 of studies with 16, 64, 100 and 200 examples, in place of 0.8."""

Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """The comparison of two methods, `first` and `second`, on the same examples and seeds. 0.01 is one point.

    Attributes:
        difference: The metric of `first` minus the metric of `second`.
        interval: The confidence interval of the true difference.
        p: The two-sided p value of the hypothesis that the methods are equal; below 1 - level exactly if the interval
            excludes 0.
        adjusted: The p value `p` after Holm's correction for the number of pairs.
        mcnemar: The exact McNemar p value of each seed alone, in the order of the seeds; the p value of a paired t test
            for metrics that are not shares of right answers.
        equivalence: The p value, by two one-sided tests (TOST), of the hypothesis that the methods differ by `margin`
            or more.
        noninferiority: The one-sided p value of the hypothesis that `first` is worse than `second` by `margin` or more.
        metric: A key of METRICS; `margin` is in the metric's unit.
        verdict: "better" or "worse" if `adjusted` is below 1 - level, "equivalent" if `equivalence` is below 1 - level,
            else "undecided". For a loss, lower is better.
        more_seeds, more_examples: How many more seeds alone, or more examples alone, would probably change the verdict
            "undecided"; rounded up to two digits. None if more than MOST_SEEDS or MOST_EXAMPLES would be needed, or if
            there are fewer than FEWEST examples; `more_seeds` also if there is one seed.
        examples: The number of examples. None: unknown, in a comparison that an older version stored.
        unit: The word for an example, such as "document" if `examples` counts documents (`Answered.unit`).

    With several seeds, two methods are compared, and all figures except `mcnemar` are computed by `Crossed`. With one
    seed, only two trained models are compared; the p value of a share of right answers is then that of the exact
    McNemar test, and the interval is Tango's. If Tango's interval excludes 0 but the exact test does not reject, the
    interval is extended to 0. In simulations, the intervals contain the true difference in 0.95 of studies with 200 or
    1,000 examples, and in 0.98 with 20 examples. Several seeds whose per-example differences are all equal are treated
    like one seed.
    """

    first: str
    second: str
    difference: float
    interval: Interval
    p: float
    adjusted: float
    mcnemar: tuple[float, ...]
    equivalence: float
    noninferiority: float
    margin: float
    level: float
    verdict: Verdict
    more_seeds: int | None
    more_examples: int | None
    metric: str = "accuracy"
    examples: int | None = None
    unit: str = "example"

    @property
    def words(self) -> str:
        one_seed = " (One seed: this says nothing of other seeds.)" if len(self.mcnemar) == 1 else ""
        return f"{self.sentence}.{one_seed}"

    @property
    def sentence(self) -> str:
        """The verdict as a sentence without its full stop, so that a caller can add words."""
        metric, margin = METRICS[self.metric], self.margin_in_words
        if self.verdict in ("better", "worse"):
            by = f"{self._told(1 if self.difference > 0 else -1)}{f', within the margin of {margin}' * self.small}"
            less = "lower" if self.verdict == "better" else "higher"
            amount = f": {metric.words} {less} by {by}" if metric.lower else f" by {by}"
            return f"{self.first} is {self.verdict} than {self.second}{amount}"
        seen = f"difference{f' in {metric.words}' * metric.lower} {self._told(1)}"
        if self.verdict == "equivalent":
            return f"{self.first} and {self.second} are equivalent within {margin}: {seen}"
        many = "" if self.interval.contains(0) else ", not sure enough for one of several pairs"
        return f"Undecided between {self.first} and {self.second}: {seen}{many}; {self._need()}"

    @property
    def small(self) -> bool:
        return self.equivalence < 1 - self.level

    @property
    def margin_in_words(self) -> str:
        """The margin as text: `1 point`, or `0.01` for metrics that are not in percentage points."""
        if not METRICS[self.metric].points:
            return f"{self.margin:.3g}"
        return "1 point" if self.margin == 0.01 else f"{100 * self.margin:g} points"

    def seen_from(self, name: str) -> Verdict:
        """Return the verdict on the method `name` (`first` or `second`) against the other method."""
        turned: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        return self.verdict if name == self.first else turned.get(self.verdict, self.verdict)

    def _told(self, sign: int) -> str:
        return difference_text(sign * self.difference, self.interval, METRICS[self.metric], self.level, sign)

    def _need(self) -> str:
        if self.examples is not None and self.examples < FEWEST:
            few = f"{self.examples} {self.unit}{'s are' if self.examples > 1 else ' is'} too few"
            return f"{few} to estimate how many more would settle it"
        one_seed = len(self.mcnemar) == 1
        examples = f"about {self.more_examples:,} more {self.unit}s" if self.more_examples else ""
        seeds = f"{self.more_seeds:,} more seed{'s' * (self.more_seeds > 1)}" if self.more_seeds else ""
        if examples and seeds:
            return f"{examples} or {seeds} would probably settle it"
        if examples:
            return f"{examples} would probably settle it" + ("" if one_seed else " (more seeds alone would not)")
        if seeds:
            return f"{seeds} would probably settle it (more {self.unit}s alone would not)"
        if one_seed:
            return f"it would take more than {MOST_EXAMPLES:,} {self.unit}s to settle it"
        return f"it takes both more seeds and more {self.unit}s to settle it"


def compare(
    values: Mapping[str, np.ndarray],
    *,
    metric: Metric = METRICS["accuracy"],
    references: Collection[str] = (),
    margin: float | None = None,
    level: float = 0.95,
    unit: str = "example",
) -> list[Comparison]:
    """Compare every pair of methods. The result is deterministic.

    Args:
        values: The per-example values `metric.values` of each method, [S, N]: bool for accuracy and exact matches, else
            float. Row s of every array has the same seed, and column i the same example.
        references: Methods that are not candidates, such as an untrained model. Comparisons with a reference have a
            Holm correction of their own, so that they do not make the correction of the other comparisons larger.
        margin: The largest difference of two methods that does not matter. Default: `metric.small`; required for a
            metric in the unit of the targets, such as RMSE.

    Raises ValueError if shapes differ, there are no examples, the metric is UNDEFINED or cannot compare methods, or the
    margin or level is out of range.
    """
    margin = _checked(metric, margin)
    if not 0.5 < level < 1:
        raise ValueError(f"level: found {level}, expected a share between 0.5 and 1, such as 0.95")
    kind = bool if metric.counted else np.float64
    tables = {name: np.atleast_2d(table).astype(kind) for name, table in values.items()}
    shapes = {name: table.shape for name, table in tables.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {s[0]} seeds x {s[1]} examples" for name, s in shapes.items())
        raise ValueError(f"methods can be compared on the same seeds and examples only; found {found}")
    if any(table.ndim != 2 or 0 in table.shape for table in tables.values()):
        raise ValueError("expected arrays of seeds by examples, found one without any")
    if undefined := [name for name, table in tables.items() if np.isnan(table).any()]:
        raise ValueError(f"{metric.words} is undefined for {', '.join(undefined)}, so there is nothing to compare")
    pairs = list(combinations(tables, 2))
    few = unit == DOCUMENT
    evidence = [_evidence(tables[first], tables[second], metric, margin, level, few) for first, second in pairs]
    asked = [not {first, second}.intersection(references) for first, second in pairs]
    found_pairs = []
    for (first, second), each, (p, factor) in zip(pairs, evidence, _corrected(evidence, asked), strict=True):
        verdict = _verdict(each, p, level, metric)
        seeds, examples = (None, None)
        count = tables[first].shape[1]
        if verdict == "undecided" and count >= FEWEST:
            seeds, examples = each.needed(margin, level, factor)
        by_seed = zip(tables[first], tables[second], strict=True)
        found_pairs.append(
            Comparison(
                first=first, second=second, difference=each.difference, interval=each.interval, p=each.p, adjusted=p,
                mcnemar=tuple(_of_seed(a, b, metric, few) for a, b in by_seed),
                equivalence=each.equivalence, noninferiority=each.p_worse, margin=margin, level=level, verdict=verdict,
                more_seeds=seeds, more_examples=examples, metric=metric.name, examples=count, unit=unit,
            )
        )  # fmt: skip
    return found_pairs


def _corrected(evidence: Sequence[Evidence], asked: Sequence[bool]) -> list[tuple[float, int]]:
    """Return for each pair of methods Holm's adjusted p and its factor; `references` have a correction of their own."""
    made: list[tuple[float, int]] = [(0.0, 0)] * len(evidence)
    for kind in (True, False):
        places = [place for place, mine in enumerate(asked) if mine == kind]
        values = [evidence[place].p for place in places]
        ranks = np.argsort(np.argsort(values, kind="stable"))
        for place, p, rank in zip(places, holm(values), ranks, strict=True):
            made[place] = p, len(places) - int(rank)
    return made


def _checked(metric: Metric, margin: float | None) -> float:
    if metric.values is None:
        raise ValueError(f"methods cannot be compared by {metric.words}: it is no mean over examples")
    if margin is None and metric.of_unit:
        raise ValueError(f"margin: {metric.words} has the unit of the targets, so it must be given")
    margin = metric.small if margin is None else margin
    if not 0 < margin < (1 if metric.points else inf):
        between = "a share between 0 and 1 (one point is 0.01)" if metric.points else "a number above 0"
        raise ValueError(f"margin: found {margin}, expected {between}")
    return margin


def _evidence(
    first: np.ndarray, second: np.ndarray, metric: Metric, margin: float, level: float, few: bool
) -> Evidence:
    if metric.counted:
        return Evidence.of(first, second, margin, level)
    return Evidence.linear(first, second, metric, margin, level, few=few)


def _of_seed(first: np.ndarray, second: np.ndarray, metric: Metric, few: bool) -> float:
    """Return the two-sided p value of the difference of two methods for one seed, from their values, [N] each."""
    if metric.counted:
        return mcnemar(first, second)
    return Evidence.linear(first[None], second[None], metric, 1.0, few=few).p


def _verdict(evidence: Evidence, adjusted: float, level: float, metric: Metric) -> Verdict:
    if adjusted < 1 - level:
        return "better" if (evidence.difference > 0) != metric.lower else "worse"
    return "equivalent" if evidence.equivalence < 1 - level else "undecided"


def number_text(value: float, metric: Metric, interval: Interval) -> str:
    """Return a number as text: points with one decimal; other units to the second digit of the interval's width."""
    if metric.points:
        text = f"{100 * value:.1f}"
    else:
        width = interval.high - interval.low
        digits = 1 - floor(log10(width)) if 0 < width < inf else 3
        text = f"{value:,.{min(max(digits, 0), 9)}f}"
    return f"−{text[1:]}" if text.startswith("-") and text.strip("-0.,") else text.lstrip("-")


def difference_text(value: float, interval: Interval, metric: Metric, level: float, sign: int = 1) -> str:
    """Return a text such as `4.0 points (95 % interval 2.1 to 5.9)`; if `sign` is -1, the interval is negated."""
    low, high = sorted((sign * interval.low, sign * interval.high))
    ends = f"{number_text(low, metric, interval)} to {number_text(high, metric, interval)}"
    unit = " points" if metric.points else ""
    return f"{number_text(value, metric, interval)}{unit} ({100 * level:g} % interval {ends})"
