"""Candidates of a recommendation: methods with learning rates on backbones, in the order in which they are trained.

The order was learned from recorded learning curves: each next candidate improves most on the candidates before it. The
expected accuracy of each candidate was learned too. It counts beside the few texts that are set aside for selecting
(`learned_order.py`). Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afina.errors import AfinaError
from afina.methods import is_fitted, make
from afina.studies.choosing import learned_order
from afina.studies.choosing.learned_order import RECORDED, BackboneKind, LearnedOrder, Setting
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Training

CHEAPEST = 0.2
"""The lowest share of the slowest method's step time that another method may take.

docs/learning-curves.jsonl has step times, docs/background/benchmarks.md has more.
"""

EPOCHS = 3
"""The largest number of epochs of a training."""

BATCH = Training().batch_size


@dataclass(frozen=True)
class Candidate:
    """A method with a learning rate on a backbone.

    Attributes:
        rate: The learning rate; None for a method that is fitted without gradient steps.
        name: The name of its run and of its table row (`ChoiceSetup.name`).
        ahead: The expected accuracy minus that of the mean candidate, before the task is known; 0 if nothing is
            recorded of the setting. None: nothing is recorded of the kind of task, or of such backbones.
        counts: The number of texts that are worth as much evidence as `ahead`.
    """

    way: Way
    rate: float | None
    name: str
    ahead: float | None = 0.0
    counts: int = 0

    def weighed(self, accuracy: float, examples: int) -> float | None:
        """Return the mean of `accuracy` on `examples` texts and the expected advantage, weighted by their evidence.

        The result ranks candidates. It is not an accuracy, since the mean candidate's expected value is 0. None:
        nothing is recorded of the kind of task, or of such backbones.
        """
        if self.ahead is None:
            return None
        return (examples * accuracy + self.counts * self.ahead) / (examples + self.counts)


def in_order(ways: Sequence[Way], kinds: Mapping[str, BackboneKind], setting: ChoiceSetup) -> list[Candidate]:
    """Return candidates of these ways: first the learned ones in their order, then others at their default rate.

    For a kind of task that is not recorded, every learned method comes at its default rate before any comes at another
    rate, so that a short time compares methods, and no candidate is expected to be better than another.

    Args:
        ways: Methods on backbones.
        kinds: The kind of each backbone, by address.
    """
    order = learned_order.of_kinds(frozenset(kinds[way.backbone] for way in ways))
    learned = [
        (way, one)
        for one in order.order
        for way in (Way(backbone, one[1]) for backbone in setting.backbones)
        if way in ways and kinds[way.backbone] == one[0]
    ]
    if setting.objective.kind not in RECORDED:
        learned.sort(key=lambda each: each[1][2] != 1)
    there = {way for way, _ in learned}
    others: list[tuple[Way, Setting]] = [
        (way, (kinds[way.backbone], way.method, 1.0)) for way in ways if way not in there
    ]
    return [_candidate(way, one, order, setting) for way, one in (*learned, *others)]


def _candidate(way: Way, one: Setting, order: LearnedOrder, setting: ChoiceSetup) -> Candidate:
    factor, rate = one[2], None
    if not is_fitted(way.method):
        rate = float(f"{factor * make(way.method).learning_rate:.3g}")
    name = setting.name(way, "" if factor == 1 else f"{rate:g}")
    recorded = setting.objective.kind in RECORDED
    return Candidate(way, rate, name, order.ahead.get(one, 0.0) if recorded else None, order.counts)


def reason(run: Run, error: AfinaError) -> str:
    """Return the error's message without the name of its run."""
    return str(error).removeprefix(f"run {run.title}: ")
