"""The order in which `afina choose` tries methods and learning rates, and the expected accuracy of each.

They come from recorded learning curves of the packaged backbones: `embedded`, a causal model, and `bge`, an encoder.
`MANY` is learned from 200 and 1,500 labelled texts (benchmarks/choose.py), `FEW` from 16 and 64
(benchmarks/few_lessons.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from afina.studies.choosing import floors

BackboneKind = Literal["causal", "encoder"]

Setting = tuple[BackboneKind, str, float]
"""A setting to try: the kind of the backbone, the method, and a factor of the method's default learning rate there."""

FEW_LABELS = 100
"""The number of training texts below which `choose` uses what was recorded with few labelled texts."""

_CAUSAL: tuple[Setting, ...] = (
    ("causal", "linear_probe", 1.0),
    ("causal", "full", 1.0),
    ("causal", "full", 3.0),
    ("causal", "full", 1 / 3),
    ("causal", "lora", 1.0),
    ("causal", "ia3", 1.0),
    ("causal", "lora", 1 / 3),
    ("causal", "head", 1.0),
    ("causal", "lora", 3.0),
)

_ENCODER: tuple[Setting, ...] = (
    ("encoder", "linear_probe", 1.0),
    ("encoder", "full", 1.0),
    ("encoder", "lora", 1.0),
    ("encoder", "full", 0.5),
    ("encoder", "full", 2.0),
    ("encoder", "full", 4.0),
    ("encoder", "lora", 1 / 3),
    ("encoder", "head", 1.0),
    ("encoder", "ia3", 1.0),
)

_BOTH: tuple[Setting, ...] = (
    *(_CAUSAL[0], _ENCODER[0]),
    *_ENCODER[1:],
    *_CAUSAL[1:],
)


@dataclass(frozen=True)
class Lessons:
    """The facts that recorded trainings with a similar number of labelled texts teach.

    Attributes:
        orders: The settings (methods with learning rates) in the order of training, by the kinds of the compared
            backbones. On one backbone, each next setting adds most accuracy to the settings before it. The order for a
            causal model and an encoder together merges the two orders: the next setting is the one that adds most
            accuracy per second. Linear probes come first.
        ahead: The expected advantage of each setting: its held-out accuracy minus the mean of all settings trained by
            gradient steps on the same backbone, averaged over tasks and numbers of training texts.
        counts: The number of validation texts that has the same weight as an advantage in `ahead`, by the kind of
            backbone. The number is the variance of right answers (0 or 1) over texts, divided by the variance of the
            setting's advantage over tasks.
        levels: The mean accuracy of the settings on the recorded backbone of each kind, minus the mean over both
            backbones.
        level_counts: In an estimate of a backbone's mean accuracy, a value of `levels` counts as much as this number of
            validation texts.
        asked: The expected advantage of the language model without training over the mean of the settings on its
            backbone, by the number of examples in its prompt. None: the held-out texts alone decide.
        baselines: The expected accuracy of each baseline minus the mean of the settings on both backbones, by the name
            of the baseline. Empty: the held-out texts alone decide.
        others: The assumed advantage of settings that were not recorded, by the kind of backbone: the least recorded
            advantage. A kind that is missing has 0, which is the advantage of the mean setting.
        further: The methods that are candidates only with this number of texts.
    """

    orders: Mapping[frozenset[BackboneKind], tuple[Setting, ...]]
    ahead: Mapping[Setting, float]
    counts: Mapping[BackboneKind, float]
    levels: Mapping[BackboneKind, float]
    level_counts: float
    asked: Mapping[int, float | None] = field(default_factory=lambda: {0: None})
    baselines: Mapping[str, float] = field(default_factory=dict)
    others: Mapping[BackboneKind, float] = field(default_factory=dict)
    further: frozenset[str] = frozenset()


MANY = Lessons(
    orders={
        frozenset({"causal"}): _CAUSAL,
        frozenset({"encoder"}): _ENCODER,
        frozenset({"causal", "encoder"}): _BOTH,
    },
    ahead={
        ("causal", "linear_probe", 1.0): -0.027,
        ("causal", "full", 1.0): 0.023,
        ("causal", "full", 3.0): 0.005,
        ("causal", "full", 1 / 3): 0.012,
        ("causal", "lora", 1.0): 0.006,
        ("causal", "ia3", 1.0): 0.008,
        ("causal", "lora", 1 / 3): -0.012,
        ("causal", "head", 1.0): -0.043,
        ("causal", "lora", 3.0): 0.001,
        ("encoder", "linear_probe", 1.0): -0.001,
        ("encoder", "full", 1.0): 0.018,
        ("encoder", "lora", 1.0): 0.011,
        ("encoder", "full", 0.5): -0.004,
        ("encoder", "full", 2.0): 0.002,
        ("encoder", "full", 4.0): 0.006,
        ("encoder", "lora", 1 / 3): -0.01,
        ("encoder", "head", 1.0): -0.024,
        ("encoder", "ia3", 1.0): 0.0,
    },
    counts={"causal": 370, "encoder": 50},
    levels={"causal": -0.008, "encoder": 0.008},
    level_counts=470,
)
"""The lessons of trainings on 200 and 1,500 texts, two tasks."""

_FEW_CAUSAL: tuple[Setting, ...] = (
    ("causal", "linear_probe", 1.0),
    ("causal", "full", 1.0),
    ("causal", "lora", 1.0),
)

_FEW_ENCODER: tuple[Setting, ...] = (
    ("encoder", "linear_probe", 1.0),
    ("encoder", "setfit", 1.0),
    ("encoder", "lora", 1.0),
    ("encoder", "full", 1.0),
    ("encoder", "full", 2.0),
)

_FEW_BOTH: tuple[Setting, ...] = (
    ("causal", "linear_probe", 1.0),
    ("encoder", "linear_probe", 1.0),
    ("encoder", "setfit", 1.0),
    ("encoder", "lora", 1.0),
    ("encoder", "full", 1.0),
    ("causal", "full", 1.0),
    ("causal", "lora", 1.0),
    ("encoder", "full", 2.0),
)

FEW = Lessons(
    orders={
        frozenset({"causal"}): _FEW_CAUSAL,
        frozenset({"encoder"}): _FEW_ENCODER,
        frozenset({"causal", "encoder"}): _FEW_BOTH,
    },
    ahead={
        ("causal", "linear_probe", 1.0): -0.079,
        ("causal", "lora", 1.0): -0.008,
        ("causal", "full", 1.0): 0.008,
        ("encoder", "linear_probe", 1.0): -0.024,
        ("encoder", "setfit", 1.0): 0.021,
        ("encoder", "lora", 1.0): 0.008,
        ("encoder", "full", 1.0): 0.001,
        ("encoder", "full", 2.0): -0.031,
    },
    counts={"causal": 100, "encoder": 70},
    levels={"causal": -0.009, "encoder": 0.009},
    level_counts=1000,
    asked={0: -0.104, 16: -0.288},
    baselines={floors.MAJORITY: -0.395, floors.TFIDF: -0.277},
    others={"causal": -0.079, "encoder": -0.031},
    further=frozenset({"setfit"}),
)
"""The lessons of trainings on 16 and 64 texts, three tasks.

The settings are in the order of their expected accuracy, after the linear probes.
"""


def lessons(labels: int) -> Lessons:
    """Return what recorded trainings teach for this number of training texts."""
    return FEW if labels < FEW_LABELS else MANY


STEP_COSTS: Mapping[str, int] = {"full": 100, "lora": 70, "ia3": 63, "head": 21}
"""The time of a training step of each method, divided by the time of scoring one text in the same precision."""

RECORDED: frozenset[str] = frozenset({"classes"})
"""The kinds of tasks with recorded learning curves; for other kinds, the order of candidates is a guess."""

RECORDED_ON: Mapping[BackboneKind, str] = {"causal": "embedded", "encoder": "bge"}
"""The backbone of the recorded learning curves, by the kind of the backbone."""


@dataclass(frozen=True)
class Regret:
    """How much worse the recommended model is than the best, in points of held-out accuracy, with a 95 % interval.

    Values below zero are due to chance in the held-out texts.
    """

    mean: float
    low: float
    high: float


REGRETS: Mapping[frozenset[BackboneKind], Mapping[int, Regret]] = {
    frozenset({"causal"}): {5: Regret(2.2, 0.6, 3.9), 10: Regret(0.3, -1.0, 1.5), 30: Regret(0.0, -1.2, 1.2)},
    frozenset({"encoder"}): {5: Regret(0.2, -0.8, 1.3), 10: Regret(0.2, -0.8, 1.3), 30: Regret(0.2, -0.8, 1.3)},
    frozenset({"causal", "encoder"}): {
        5: Regret(0.1, -0.9, 1.0),
        10: Regret(0.3, -0.5, 1.1),
        30: Regret(0.4, -0.6, 1.4),
    },
}
"""The regret of `choose` by minutes and by the kinds of the backbones that are compared.

The policy was replayed on the recorded curves: two tasks of classes, 200 and 1,500 labelled texts, two cores
(docs/background/choose.md). The best method on one causal backbone is the best on that backbone; for the others, it is
the best on both recorded backbones, measured on faster cores.
"""
