"""Candidates of a recommendation: methods with learning rates on backbones, in the order in which they are trained.

The order was learned from recorded learning curves: each next candidate improves most on the candidates before it. The
expected accuracy of each candidate was learned too. It counts beside the few texts that are set aside for selecting
(`learned_order.py`). Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afina.errors import AfinaError
from afina.methods import METHODS, is_fitted, make
from afina.studies.choosing import learned_order
from afina.studies.choosing.learned_order import (
    AHEAD,
    COUNTS,
    LEVEL_COUNTS,
    LEVELS,
    RECORDED,
    BackboneKind,
    Setting,
)
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.runs.run import Run


def takes_steps(method: str) -> bool:
    """Return whether a method is trained in gradient steps: neither fitted nor only asked in words."""
    return not is_fitted(method) and METHODS[method].head != "words"


@dataclass(frozen=True)
class Candidate:
    """A method with a learning rate on a backbone.

    Attributes:
        rate: The learning rate; None for a method that is fitted without gradient steps.
        name: The name of its run and of its table row (`ChoiceSetup.name`).
        ahead: The expected accuracy minus that of the mean candidate on the backbone, before the task is known; 0 if
            nothing is recorded of the setting. None: nothing is recorded of the kind of task.
        counts: The number of texts that are worth as much evidence as `ahead`.
        level: The expected accuracy of the mean candidate on the backbone, beside that on all backbones.
    """

    way: Way
    rate: float | None
    name: str
    ahead: float | None = 0.0
    counts: int = 0
    level: float = 0.0

    @property
    def is_trained(self) -> bool:
        """Whether the way is trained or fitted; else the model is only asked in words."""
        return METHODS[self.way.method].head != "words"

    def weighed(self, accuracy: float, examples: int, level: float = 0.0) -> float | None:
        """Return the mean of `accuracy` on `examples` texts and the expected accuracy, weighted by their evidence.

        The expected accuracy is `level` and the expected advantage. With a level of 0, the result ranks candidates on
        one backbone, and is not an accuracy. None: nothing is recorded of the kind of task.
        """
        if self.ahead is None:
            return None
        return (examples * accuracy + self.counts * (level + self.ahead)) / (examples + self.counts)


def backbone_levels(
    residuals: Mapping[str, Sequence[float]],
    counts: Mapping[str, float],
    expected: Mapping[str, float],
    level_counts: float,
    examples: int,
) -> dict[str, float]:
    """Return the accuracy of the mean setting of each backbone, given what was measured and what was expected.

    The estimates are the posterior means of a normal model in which a backbone's level is that of the task, the
    expected difference of the backbone, and a deviation. What a backbone's trainings tell of its level is worth at most
    `examples` texts, since they are scored on the same texts.

    Args:
        residuals: The measured accuracies minus the expected advantages of the settings, by backbone; at least one.
        counts: COUNTS of each backbone.
        expected: The expected level of each backbone beside that of the task.
        level_counts: The number of texts that are worth as much evidence as `expected`.
        examples: The number of texts of the measured accuracies.
    """
    weight, mean = {}, {}
    for name, values in residuals.items():
        one = examples * counts[name] / (examples + counts[name])
        weight[name], mean[name] = min(examples, len(values) * one), sum(values) / len(values)
    share = {name: each * level_counts / (each + level_counts) for name, each in weight.items()}
    task = sum(share[name] * (mean[name] - expected[name]) for name in mean) / sum(share.values())
    return {
        name: (weight[name] * mean[name] + level_counts * (task + expected[name])) / (weight[name] + level_counts)
        for name in mean
    }


def weighed(scored: Sequence[tuple[Candidate, float, int]], *, several: bool) -> dict[str, float]:
    """Return the weighed accuracy of candidates by name, which ranks them; empty if nothing is recorded.

    `scored` has candidates with their accuracy, and the number of its texts.
    """
    known = [(one, accuracy, examples, one.ahead) for one, accuracy, examples in scored if one.ahead is not None]
    levels: dict[str, float] = {}
    if several and known:
        residuals: dict[str, list[float]] = {}
        for one, accuracy, _, ahead in known:
            residuals.setdefault(one.way.backbone, []).append(accuracy - ahead)
        counts = {one.way.backbone: float(one.counts) for one, *_ in known}
        expected = {one.way.backbone: one.level for one, *_ in known}
        levels = backbone_levels(residuals, counts, expected, LEVEL_COUNTS, min(each[2] for each in known))
    made = ((one.name, one.weighed(accuracy, n, levels.get(one.way.backbone, 0.0))) for one, accuracy, n, _ in known)
    return {name: value for name, value in made if value is not None}


def in_order(ways: Sequence[Way], kinds: Mapping[str, BackboneKind], setting: ChoiceSetup) -> list[Candidate]:
    """Return candidates of these ways: first the learned ones in their order, then others at their default rate.

    For a kind of task that is not recorded, every way comes once before any comes at another rate, so that a short time
    compares methods, and no candidate is expected to be better than another.
    """
    order = learned_order.ORDERS[frozenset(kinds[way.backbone] for way in ways)] if ways else ()
    learned = [
        (way, one)
        for one in order
        for way in (Way(backbone, one[1]) for backbone in setting.backbones)
        if way in ways and kinds[way.backbone] == one[0]
    ]
    first: dict[Way, Setting] = {}
    for way, one in learned:
        first.setdefault(way, one)
    if setting.objective.kind not in RECORDED:
        learned.sort(key=lambda each: first[each[0]] != each[1])
    others: list[tuple[Way, Setting]] = [
        (way, (kinds[way.backbone], way.method, 1.0)) for way in ways if way not in first
    ]
    return [_candidate(way, one, setting) for way, one in (*learned, *others)]


def cheapest_first(trained: Sequence[Candidate], untrained: Sequence[Candidate]) -> list[Candidate]:
    """Return the fits, which are the cheapest, then the untrained models, and then the trainings in their order."""
    fits = [one for one in trained if is_fitted(one.way.method)]
    return [*fits, *untrained, *(one for one in trained if one not in fits)]


def _candidate(way: Way, one: Setting, setting: ChoiceSetup) -> Candidate:
    kind, _, factor = one
    rate = None if is_fitted(way.method) else float(f"{factor * make(way.method).learning_rate:.3g}")
    name = setting.name(way, "" if factor == 1 else f"{rate:g}")
    ahead = AHEAD.get(one, 0.0) if setting.objective.kind in RECORDED else None
    return Candidate(way, rate, name, ahead, COUNTS[kind], LEVELS[kind])


def reason(run: Run, error: AfinaError) -> str:
    """Return the error's message without the name of its run."""
    return str(error).removeprefix(f"run {run.title}: ")
