"""The candidates of a recommendation: methods with learning rates on backbones, in the order of training.

The order comes from recorded learning curves: each next candidate improves most on those before it. The expected
accuracy of a candidate, learned from these curves, is the prior of a Bayesian estimate from the accuracy on the small
validation set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afina.errors import AfinaError
from afina.methods import METHODS, is_fitted, make
from afina.studies.choosing.recommendation import SHOTS
from afina.studies.choosing.recorded_curves import RECORDED, BackboneKind, Setting
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.runs.run import Run


def takes_steps(method: str) -> bool:
    """Return whether a method is trained by gradient steps, not by scikit-learn or zero-shot."""
    return not is_fitted(method) and METHODS[method].head != "words"


@dataclass(frozen=True)
class Candidate:
    """A method with a learning rate on a backbone, and its expected accuracy from recorded trainings.

    Attributes:
        rate: None for a method that scikit-learn fits without gradient steps.
        ahead: The candidate's expected accuracy minus that of the mean candidate on the backbone, from recorded
            trainings on other tasks; 0 without recorded trainings. None: no task of this kind was recorded.
        counts: The number of validation texts that has the same weight as the expected accuracy.
        level: The expected mean accuracy of all candidates on the backbone, minus their mean accuracy on all backbones.
        shots: The number of examples in each prompt of a zero-shot model.
    """

    way: Way
    rate: float | None
    name: str
    ahead: float | None = 0.0
    counts: float = 0
    level: float = 0.0
    shots: int = 0

    @property
    def expected(self) -> float | None:
        """The expected accuracy minus the mean accuracy of all candidates on all backbones, if known."""
        return None if self.ahead is None else self.level + self.ahead

    @property
    def is_trained(self) -> bool:
        """Whether the candidate is trained or fitted, and not a language model that is evaluated zero-shot."""
        return METHODS[self.way.method].head != "words"

    def weighed(self, accuracy: float, examples: int, level: float = 0.0) -> float | None:
        """Return the mean of `accuracy`, measured on `examples` texts, and `level + ahead`, which weighs `counts`.

        If `level` is 0, the mean only ranks the candidates on one backbone. None: nothing was recorded for the kind.
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
    """Return the posterior mean of the accuracy of the mean candidate of each backbone, in a normal model.

    In the model, a backbone's mean accuracy is the sum of the task's mean accuracy, the expected difference of the
    backbone, and a random deviation. The trainings on a backbone together have at most the weight of `examples` texts,
    because all trainings are scored on the same texts.

    Args:
        residuals: The measured accuracies minus the candidates' expected advantage `ahead`, by backbone; at least one.
        counts: The weight COUNTS of each backbone.
        expected: The expected mean accuracy of each backbone, minus that of all backbones.
        level_counts: The number of validation texts that has the same weight as `expected`.
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


def weighed(scored: Sequence[tuple[Candidate, float, int]], *, several: bool, level_counts: float) -> dict[str, float]:
    """Return each candidate's measured accuracy, shrunk towards its expected accuracy, if there is one, by name.

    `scored` has each candidate with its accuracy and the number of texts. `several`: on several backbones.
    """
    known = [(one, accuracy, examples, one.ahead) for one, accuracy, examples in scored if one.ahead is not None]
    levels: dict[str, float] = {}
    if several and known:
        residuals: dict[str, list[float]] = {}
        for one, accuracy, _, ahead in known:
            residuals.setdefault(one.way.backbone, []).append(accuracy - ahead)
        counts = {one.way.backbone: float(one.counts) for one, *_ in known}
        expected = {one.way.backbone: one.level for one, *_ in known}
        levels = backbone_levels(residuals, counts, expected, level_counts, min(each[2] for each in known))
    made = ((one.name, one.weighed(accuracy, n, levels.get(one.way.backbone, 0.0))) for one, accuracy, n, _ in known)
    return {name: value for name, value in made if value is not None}


def in_order(ways: Sequence[Way], kinds: Mapping[str, BackboneKind], setting: ChoiceSetup) -> list[Candidate]:
    """Return the candidates in the order of training: recorded candidates in their learned order, then others.

    Methods without recorded trainings are tried with their default learning rate. For a kind of task without recorded
    trainings, every method is first tried with one learning rate, so that a short time is enough to compare methods.
    """
    order = setting.lessons.orders[frozenset(kinds[way.backbone] for way in ways)] if ways else ()
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


def zero_shot(ways: Sequence[Way], kinds: Mapping[str, BackboneKind], setting: ChoiceSetup) -> list[Candidate]:
    """Return the zero-shot models, for each recorded number of examples in the prompt that the training texts give."""
    learned = setting.lessons
    return [
        Candidate(
            way,
            None,
            setting.name(way, f"{shots}{SHOTS}" if shots else ""),
            ahead if setting.objective.kind in RECORDED else None,
            learned.counts[kinds[way.backbone]],
            learned.levels[kinds[way.backbone]],
            shots,
        )
        for way in ways
        for shots, ahead in learned.asked.items()
        if shots <= len(setting.task.train)
    ]


def cheapest_first(trained: Sequence[Candidate], untrained: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with linear probes (the cheapest) first, then zero-shot models, then other trainings."""
    fits = [one for one in trained if is_fitted(one.way.method)]
    return [*fits, *untrained, *(one for one in trained if one not in fits)]


def _candidate(way: Way, one: Setting, setting: ChoiceSetup) -> Candidate:
    kind, _, factor = one
    usual = make(way.method).rate_on(kind == "encoder")
    rate = None if is_fitted(way.method) else float(f"{factor * usual:.3g}")
    name = setting.name(way, "" if factor == 1 else f"{rate:g}")
    learned = setting.lessons
    assumed = learned.ahead.get(one, learned.others.get(kind, 0.0))
    ahead = assumed if setting.objective.kind in RECORDED else None
    return Candidate(way, rate, name, ahead, learned.counts[kind], learned.levels[kind])


def reason(run: Run, error: AfinaError) -> str:
    """Return the message of a run's error without its beginning, which is the name of the run."""
    return str(error).removeprefix(f"run {run.title}: ")
