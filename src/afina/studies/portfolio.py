"""Portfolio: the settings that a recommendation trains, one after the other. Starts without torch.

The order was learnt from recorded learning curves: each next setting is the one that adds most to those before it
(benchmarks/choose.py, docs/choose.md). Knows no task and no time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from afina.methods import make

LEARNT: tuple[tuple[str, float], ...] = (
    ("full", 1.0),
    ("full", 3.0),
    ("full", 1 / 3),
    ("lora", 1.0),
    ("ia3", 1.0),
    ("lora", 1 / 3),
    ("head", 1.0),
    ("lora", 3.0),
)
"""Methods, and multiples of their own learning rates."""


EPOCHS = 3
"""No candidate is trained more often on its texts."""


@dataclass(frozen=True)
class Candidate:
    """A method at a learning rate.

    name  what its run and its row are called: the method's key, with the rate where that is not its own
    """

    method: str
    rate: float
    name: str


def candidates(methods: Iterable[str]) -> list[Candidate]:
    """Of these methods: first those that were learnt, in their order, then the others, each at its own rate."""
    there = list(methods)
    learnt = [(method, factor) for method, factor in LEARNT if method in there]
    others = [(method, 1.0) for method in there if method not in {name for name, _ in learnt}]
    return [_candidate(method, factor) for method, factor in (*learnt, *others)]


def _candidate(method: str, factor: float) -> Candidate:
    rate = float(f"{factor * make(method).learning_rate:.3g}")
    return Candidate(method, rate, method if factor == 1 else f"{method}-{rate:g}")
