"""Which of two methods is better, how sure that is, and what it would take to know.

Pure functions of arrays and numbers. Every pair is compared on the same examples and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Literal

import numpy as np
from scipy.special import ndtr

from afina.stats.intervals import Interval, above, discordant, holm, mcnemar, tango
from afina.stats.random_effects import Crossed

Verdict = Literal["better", "worse", "equivalent", "undecided"]

CHANCE = 0.8
"""How likely the additional seeds or examples named settle an undecided pair, were the difference as observed."""

MOST_SEEDS, MOST_EXAMPLES = 1_000, 1_000_000
"""More than these are not proposed."""


@dataclass(frozen=True)
class Comparison:
    """`first` with `second`, on the same examples and seeds. Shares, not points: 0.01 is one point.

    - `difference`: accuracy of the first less that of the second; `interval`: where the true one may lie.
    - `p`: two-sided, of no difference; below 1 - level exactly where the interval excludes 0. `adjusted`: after Holm
      over the pairs that `compare` counts together. `mcnemar`: exact p of each seed by itself, in order.
    - `equivalence`: p of two one-sided tests (TOST) against a difference of `margin` or more either way.
      `noninferiority`: p against the first being worse by `margin` or more.
    - `verdict`: better or worse where `adjusted` is below 1 - level; else equivalent where `equivalence` is; else
      undecided.
    - `more_seeds`, `more_examples`: for an undecided pair, how many additional ones alone would settle it, two digits,
      rounded up; None where no number would, because the other source of chance stays.

    With several seeds everything but `mcnemar` is by `random_effects.py`, and about the methods. One seed cannot tell
    how far another would have led: then all is about this pair of trained models on other examples. The p is exact
    McNemar's, the interval Tango's; where his excludes 0 and the exact test does not reject, the interval is extended
    to 0.
    Coverage by simulation: 0.95 of 200 or 1,000 examples, 0.98 of 20. The same is done for several seeds whose
    differences are the same in every one.
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

    @property
    def words(self) -> str:
        """The verdict in one plain sentence, and a second where there is but one seed."""
        one_seed = " (One seed: this says nothing of other seeds.)" if len(self.mcnemar) == 1 else ""
        return f"{self.sentence}.{one_seed}"

    @property
    def sentence(self) -> str:
        """The verdict alone, without a full stop, to stand beside others."""
        if self.verdict in ("better", "worse"):
            sign = 1 if self.verdict == "better" else -1
            small = f", within the margin of {_margin(self.margin)}" if self.small else ""
            by = f"by {_number(sign * self.difference)} points {self._range(sign)}{small}"
            return f"{self.first} is {self.verdict} than {self.second} {by}"
        seen = f"difference {_number(self.difference)} points {self._range(1)}"
        if self.verdict == "equivalent":
            return f"{self.first} and {self.second} are equivalent within {_margin(self.margin)}: {seen}"
        many = "" if self.interval.contains(0) else ", not sure enough for one of several pairs"
        return f"Undecided between {self.first} and {self.second}: {seen}{many}; {self._need()}"

    @property
    def small(self) -> bool:
        """Whether the difference, if there is one, is surely smaller than the margin."""
        return self.equivalence < 1 - self.level

    @property
    def margin_in_words(self) -> str:
        """`1 point`."""
        return _margin(self.margin)

    def seen_from(self, name: str) -> Verdict:
        """What the method `name`, one of the two, is against the other."""
        turned: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        return self.verdict if name == self.first else turned.get(self.verdict, self.verdict)

    def _range(self, sign: int) -> str:
        low, high = sorted((sign * self.interval.low, sign * self.interval.high))
        return f"({100 * self.level:g} % interval {_number(low)} to {_number(high)})"

    def _need(self) -> str:
        one_seed = len(self.mcnemar) == 1
        examples = f"about {self.more_examples:,} more examples" if self.more_examples else ""
        seeds = f"{self.more_seeds:,} more seed{'s' * (self.more_seeds > 1)}" if self.more_seeds else ""
        if examples and seeds:
            return f"{examples} or {seeds} would probably settle it"
        if examples:
            return f"{examples} would probably settle it" + ("" if one_seed else " (more seeds alone would not)")
        if seeds:
            return f"{seeds} would probably settle it (more examples alone would not)"
        if one_seed:
            return f"it would take more than {MOST_EXAMPLES:,} examples to settle it"
        return "it takes both more seeds and more examples to settle it"


def compare(
    correct: Mapping[str, np.ndarray],
    *,
    references: Collection[str] = (),
    margin: float = 0.01,
    level: float = 0.95,
) -> list[Comparison]:
    """Compare every pair; for each method bool [S, N], row s of all with the same seed, column i the same example.

    references  what the others are held against and nobody means to choose, such as an untrained model: pairs with one
                of these are counted apart from the pairs without, so that their number makes no other answer less sure
    Deterministic. Raises ValueError where shapes differ, where there are no examples, and for a margin or level that
    means nothing.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin: found {margin}, expected a share between 0 and 1 (one point is 0.01)")
    if not 0.5 < level < 1:
        raise ValueError(f"level: found {level}, expected a share between 0.5 and 1, such as 0.95")
    tables = {name: np.atleast_2d(values).astype(bool) for name, values in correct.items()}
    shapes = {name: values.shape for name, values in tables.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {s[0]} seeds x {s[1]} examples" for name, s in shapes.items())
        raise ValueError(f"methods can be compared on the same seeds and examples only; found {found}")
    if any(values.ndim != 2 or 0 in values.shape for values in tables.values()):
        raise ValueError("expected arrays of seeds by examples, found one without any")
    pairs = list(combinations(tables, 2))
    evidence = [Evidence.of(tables[first], tables[second], margin, level) for first, second in pairs]
    asked = [not {first, second}.intersection(references) for first, second in pairs]
    found_pairs = []
    for (first, second), each, (p, factor) in zip(pairs, evidence, _corrected(evidence, asked), strict=True):
        verdict = _verdict(each, p, level)
        seeds, examples = (None, None)
        if verdict == "undecided":
            seeds, examples = each.needed(margin, level, factor)
        per_seed = tuple(mcnemar(a, b) for a, b in zip(tables[first], tables[second], strict=True))
        found_pairs.append(
            Comparison(
                first=first, second=second, difference=each.difference, interval=each.interval, p=each.p, adjusted=p,
                mcnemar=per_seed, equivalence=each.equivalence, noninferiority=each.p_worse,
                margin=margin, level=level, verdict=verdict, more_seeds=seeds, more_examples=examples,
            )
        )  # fmt: skip
    return found_pairs


def _corrected(evidence: Sequence[Evidence], asked: Sequence[bool]) -> list[tuple[float, int]]:
    """Of each pair, Holm's adjusted p and the factor that it is due to; pairs that are `asked` and others apart."""
    made: list[tuple[float, int]] = [(0.0, 0)] * len(evidence)
    for kind in (True, False):
        places = [place for place, mine in enumerate(asked) if mine == kind]
        values = [evidence[place].p for place in places]
        ranks = np.argsort(np.argsort(values, kind="stable"))
        for place, p, rank in zip(places, holm(values), ranks, strict=True):
            made[place] = p, len(places) - int(rank)
    return made


@dataclass(frozen=True)
class Evidence:
    """What one pair says by itself, before others are counted.

    `p_worse` and `p_better` are against the first being worse, better, by the margin or more. `model` holds the
    components that say what another number of seeds or examples would give.
    """

    difference: float
    interval: Interval
    p: float
    p_worse: float
    p_better: float
    model: Crossed

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, margin: float = 0.01, level: float = 0.95) -> Evidence:
        """Of two methods' right answers, bool [S, N] each."""
        values = first.astype(float) - second
        if (values == values[0]).all():
            return cls._of_one(first[0], second[0], margin, level)
        model, difference = Crossed.of(values, added=2), float(values.mean())
        centre = difference * values.shape[1] / model.examples
        width = model.width(level)
        interval = Interval(max(-1.0, centre - width), min(1.0, centre + width))
        p = min(1.0, 2 * model.tail(abs(centre)))
        return cls(difference, interval, p, model.tail(centre + margin), model.tail(margin - centre), model)

    @property
    def equivalence(self) -> float:
        """Of the two one-sided tests, the p that is higher."""
        return max(self.p_worse, self.p_better)

    @classmethod
    def _of_one(cls, first: np.ndarray, second: np.ndarray, margin: float, level: float) -> Evidence:
        b, c, n = *discordant(first, second), len(first)
        interval, p = tango(b, c, n, level), mcnemar(first, second)
        if p >= 1 - level:
            interval = Interval(min(interval.low, 0.0), max(interval.high, 0.0))
        model = Crossed.of((first.astype(float) - second)[None], added=2)
        return cls((b - c) / n, interval, p, above(b, c, n, -margin), above(c, b, n, -margin), model)

    def needed(self, margin: float, level: float, pairs: int) -> tuple[int | None, int | None]:
        """Additional seeds alone, additional examples alone; `pairs` is the factor that Holm applies to this p."""
        seeds, examples = self.model.seeds, self.model.examples

        def enough(model: Crossed) -> bool:
            return _chance(model, self.difference, margin, level, pairs) >= CHANCE

        by_examples = _smallest(lambda more: enough(self.model.at(seeds, examples + more)), MOST_EXAMPLES)
        if seeds == 1:
            return None, by_examples
        return _smallest(lambda more: enough(self.model.at(seeds + more, examples)), MOST_SEEDS), by_examples


def _verdict(evidence: Evidence, adjusted: float, level: float) -> Verdict:
    if adjusted < 1 - level:
        return "better" if evidence.difference > 0 else "worse"
    return "equivalent" if evidence.equivalence < 1 - level else "undecided"


def _chance(model: Crossed, difference: float, margin: float, level: float, pairs: int) -> float:
    """How likely a study of this size settles the pair, either way, if `difference` and the components are true."""
    deviation, size = sqrt(model.variance), abs(difference)
    needed = model.width(1 - (1 - level) / pairs)
    chance = ndtr((size - needed) / deviation) + ndtr((-size - needed) / deviation)
    room = margin - model.width(2 * level - 1)
    if room > 0:
        chance += ndtr((room - size) / deviation) - ndtr((-room - size) / deviation)
    return float(min(chance, 1.0))


def _smallest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest number that is enough, to two digits, rounded up; None where `most` is not."""
    if not enough(most):
        return None
    low, high = 0, 1
    while not enough(high):
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    unit = int(10 ** max(len(str(high)) - 2, 0))
    return -(-high // unit) * unit


def _number(share: float) -> str:
    """In points, one decimal, with a minus sign."""
    return f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", "−")


def _margin(share: float) -> str:
    return "1 point" if share == 0.01 else f"{100 * share:g} points"
