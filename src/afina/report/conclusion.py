"""Conclusion: what a study comes to, in a few sentences: what is best, what is as good and cheaper, what is open.

Knows arms and their verdicts; says nothing that no verdict says. "As good" needs the verdict equivalent; what is
undecided is called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING

from afina.report.arms import Arm, is_curve
from afina.report.formatting import count, listed, metric_name, percent, share, size, span
from afina.report.verdicts import Verdicts, alike, in_one_sentence, learning_curve_sentences
from afina.stats.metrics import METRICS

if TYPE_CHECKING:  # they load scipy
    from afina.stats.comparison import Comparison
    from afina.studies.results import Failure

MOST = 3
"""Undecided pairs that are spelled out; the verdicts have all."""


def sentences(arms: Sequence[Arm], found: Verdicts, failed: Sequence[Failure] = (), waiting: int = 0) -> list[str]:
    """The conclusion; `failed` and `waiting` are runs of the study that are in no arm."""
    if not arms:
        return []
    ground = max(alike(arms), key=_weight)
    leader = max(ground, key=lambda arm: (arm.gain, -arm.record.trainable))
    if isnan(leader.headline):
        metric = METRICS[leader.record.metric]
        return [f"Which is best cannot be said: {metric.words} is undefined, it needs {metric.needs}."]
    field = _Field(leader, tuple(arm for arm in ground if arm is not leader), found)
    settle = field.settle()
    curve = is_curve(arms)
    said = [field.best(), field.cheaper(), settle, *learning_curve_sentences(arms, found)]
    said.append(_absent(arms, arms if curve else ground, failed, waiting))
    return [sentence for sentence in said if sentence]


def _weight(group: Sequence[Arm]) -> tuple[bool, int, int, int]:
    """How much is said by comparing the arms of a group."""
    return not isnan(group[0].headline), sum(arm.trained for arm in group), len(group), group[0].size


def leader(arms: Sequence[Arm]) -> Arm:
    """The arm with the best headline metric of those that may be compared with most others; of equals, the one that
    trains the fewest parameters, which may be none.
    """
    return max(_ground(arms), key=lambda arm: (round(arm.gain, 4), -arm.record.trainable, arm.gain))


def _ground(arms: Sequence[Arm]) -> Sequence[Arm]:
    return max(alike(arms), key=lambda group: (sum(arm.trained for arm in group), len(group), group[0].size))


@dataclass(frozen=True, eq=False)
class _Field:
    """The arm with the best headline metric, and those that may be compared with it."""

    leader: Arm
    others: tuple[Arm, ...]
    found: Verdicts

    def best(self) -> str:
        """Which is best, if that can be said."""
        arm, better, level, open_ = self.leader, self.of("better"), self.of("equivalent"), self.of("undecided")
        metric = metric_name(arm.record.metric)
        best = "lowest" if METRICS[arm.record.metric].lower else "highest"
        seeds = f" (mean of {len(arm.seeds)} seeds)" if len(arm.seeds) > 1 else ""
        figure = f"{share(arm.headline)} on {count(arm.record.examples)} evaluation texts{seeds}"
        if not self.others:
            found = arm.interval(arm.record.metric)
            interval = span(found) if found else ""
            return f"{arm.label} has {metric} {figure} (95 % interval {interval}); there is nothing to compare it with."
        if len(better) == len(self.others):
            return f"{arm.label} is best: {metric} {figure}, better than {_named(better)}."
        tied = [one for one in self.others if self._is_tied(one)]
        apart = [one for one in open_ if one not in tied]
        than = f"better than {_named(better)}" if better else ""
        if tied:
            top = f", the {best}" if len(tied) < len(self.others) else ""
            leads = f"{listed([arm.label, *(one.label for one in tied)])} have the same {metric}{top}, {figure}"
            leads += f"; {arm.label} is {than}" if better else ""
        else:
            leads = f"{arm.label} has the {best} {metric}, {figure}{f', {than}' if better else ''}"
        if level:
            leads += f"; {_named(level)} {'is' if len(level) == 1 else 'are'} as good, equivalent within {self.margin}"
        if not open_:
            return f"{leads}."
        which = arm.label if tied else "it"
        shown = f"; that {which} is better than {_named(apart, 'or')} is not shown" if apart else ""
        return f"Which is best is undecided: {leads}{shown}."

    def _is_tied(self, arm: Arm) -> bool:
        """Whether its figure reads as the leader's does, and it is not shown to be worse."""
        return share(arm.headline) == share(self.leader.headline) and arm not in self.of("better")

    def cheaper(self) -> str:
        """What is as good as the leader and costs less, or else may be, or is hardly worse."""
        better = self.of("better")
        for those, good in (
            (self.of("equivalent"), "is as good"),
            (self.of("undecided"), "may be as good or not"),
            ([arm for arm in better if self._against[arm.label].small], f"is worse, but by less than {self.margin}"),
        ):
            saving = [arm for arm in those if _costs_less(arm, self.leader)]
            if saving:
                arm = min(saving, key=lambda one: (one.record.trainable, -one.gain))
                return f"{arm.label} {good}, and costs less: {_costs(arm, self.leader)}."
        dearer = [arm for arm in better if arm.trained and _costs_less(arm, self.leader)]
        return "Nothing that costs less is as good." if dearer else ""

    def settle(self) -> str:
        """What is open between the leader and others, and what would settle it."""
        open_ = self.of("undecided")
        said = in_one_sentence([self._against[arm.label] for arm in open_[:MOST]], one_seed=len(self.leader.seeds) == 1)
        more = len(open_) - MOST
        return (
            f"{said} {_counted(more, 'more pair')} with it {'is' if more == 1 else 'are'} open." if more > 0 else said
        )

    def of(self, verdict: str) -> list[Arm]:
        """Those against which the leader is that, the best first."""
        there = [arm for arm in self.others if self._against[arm.label].seen_from(self.leader.label) == verdict]
        return sorted(there, key=lambda arm: -arm.gain)

    @property
    def margin(self) -> str:
        """Within which two are equivalent."""
        return next((one.margin_in_words for one in self._against.values()), "")

    @cached_property
    def _against(self) -> dict[str, Comparison]:
        pairs = {arm.label: self.found.between(self.leader.label, arm.label) for arm in self.others}
        return {name: pair[0] for name, pair in pairs.items() if pair is not None}


def _costs(arm: Arm, dear: Arm) -> str:
    """Both arms' costs, as far as both were measured on one machine."""
    if not arm.trained:
        return "it trains nothing"
    mine, yours = arm.record, dear.record
    said = [f"it trains {percent(100 * mine.trainable / mine.total)} % of the parameters against "
            f"{percent(100 * yours.trainable / yours.total)} %"]  # fmt: skip
    pairs = _measured(arm, dear)
    if "seconds" in pairs:
        said.append("in {:,.0f} s of training against {:,.0f} s".format(*pairs["seconds"]))
    if "memory" in pairs:
        said.append("with {} of memory against {}".format(*map(size, pairs["memory"])))
    return ", ".join(said)


def _costs_less(arm: Arm, dear: Arm) -> bool:
    """Whether it trains fewer parameters, and took neither more time nor more memory where that can be compared."""
    if not arm.trained:
        return dear.trained
    less = arm.record.trainable < dear.record.trainable
    return less and all(mine <= yours for mine, yours in _measured(arm, dear).values())


def _measured(arm: Arm, dear: Arm) -> dict[str, tuple[float, float]]:
    if len(arm.machines | dear.machines) > 1:
        return {}
    values = {
        name: (arm.mean(value), dear.mean(value))
        for name, value in (
            ("seconds", lambda record: record.seconds.train if record.steps else None),
            ("memory", lambda record: record.memory.rss_peak),
        )
    }
    return {name: (mine, yours) for name, (mine, yours) in values.items() if mine is not None and yours is not None}


def _absent(arms: Sequence[Arm], ground: Sequence[Arm], failed: Sequence[Failure], waiting: int) -> str:
    """What the other sentences say nothing of."""
    apart = [arm.label for arm in arms if arm not in ground]
    lost = [f"{one.name}, seed {one.seed}" for one in failed]
    parts = [f"{listed(apart)}, measured on other texts or seeds"] if apart else []
    parts += (
        [f"{_counted(len(lost), 'run')} that failed ({'; '.join(lost[:MOST])}{'; ...' * (len(lost) > MOST)})"]
        if lost
        else []
    )
    parts += [f"{_counted(waiting, 'run')} that {'has' if waiting == 1 else 'have'} not finished"] if waiting else []
    return f"Not in this: {'; '.join(parts)}." if parts else ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _named(arms: Sequence[Arm], last: str = "and") -> str:
    """`LoRA (0.8790) and PreLayer (0.8400)`."""
    return listed([f"{arm.label} ({share(arm.headline)})" for arm in arms], last)
