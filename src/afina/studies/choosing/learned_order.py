"""The order of candidates that was learned from recorded learning curves, and how good each candidate was there.

Curves of both packaged backbones are recorded: `embedded`, a causal language model, and `minilm`, an encoder. The order
for a set of kinds of backbone was learned from the curves of these kinds together (benchmarks/choose.py,
docs/background/choose.md). Starts without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BackboneKind = Literal["causal", "encoder"]

Setting = tuple[BackboneKind, str, float]
"""The kind of the backbone, a method, and a factor of the method's default learning rate."""


@dataclass(frozen=True)
class LearnedOrder:
    """What the recorded curves say of candidates on backbones of certain kinds.

    Attributes:
        order: The settings, in the order in which they are trained.
        ahead: Held-out accuracy on the recorded curves minus the mean of all settings there, averaged over tasks and
            sizes.
        counts: The number of texts that are worth as much evidence as `ahead`: the variance of a setting's answer on
            one text, divided by the variance of its advantage between tasks.
    """

    order: tuple[Setting, ...]
    ahead: Mapping[Setting, float]
    counts: int


_CAUSAL = LearnedOrder(
    (
        ("causal", "linear_probe", 1.0),
        ("causal", "full", 1.0),
        ("causal", "full", 3.0),
        ("causal", "full", 1 / 3),
        ("causal", "lora", 1.0),
        ("causal", "ia3", 1.0),
        ("causal", "lora", 1 / 3),
        ("causal", "head", 1.0),
        ("causal", "lora", 3.0),
    ),
    {
        ("causal", "full", 1.0): 0.023,
        ("causal", "full", 3.0): 0.005,
        ("causal", "full", 1 / 3): 0.012,
        ("causal", "lora", 1.0): 0.006,
        ("causal", "ia3", 1.0): 0.008,
        ("causal", "lora", 1 / 3): -0.012,
        ("causal", "head", 1.0): -0.043,
        ("causal", "lora", 3.0): 0.001,
    },
    370,
)

LEARNED: Mapping[frozenset[BackboneKind], LearnedOrder] = {frozenset({"causal"}): _CAUSAL}
"""Learned orders by the kinds of the backbones that are compared."""

RECORDED: frozenset[str] = frozenset({"classes"})
"""Kinds of the tasks whose learning curves were recorded. For other kinds, `ahead` is unknown and the order a guess."""

RECORDED_ON: Mapping[BackboneKind, str] = {"causal": "embedded", "encoder": "minilm"}
"""The backbone of the recorded curves, by the kind of the backbone."""


def of_kinds(kinds: frozenset[BackboneKind]) -> LearnedOrder:
    """Return the order that was learned for backbones of these kinds."""
    if kinds in LEARNED:
        return LEARNED[kinds]
    order = tuple((kind, method, factor) for _, method, factor in _CAUSAL.order for kind in sorted(kinds))
    return LearnedOrder(order, {}, 0)
