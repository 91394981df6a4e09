"""Portfolio: the settings that a recommendation trains, one after the other. Starts without torch.

The order was learnt from recorded learning curves: each next setting is the one that adds most to those before it. So
was what to expect of each, which counts beside the few texts that are set aside to select by (benchmarks/choose.py,
docs/choose.md). Knows no task and no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

AHEAD: Mapping[tuple[str, float], float] = {
    ("full", 1.0): 0.023,
    ("full", 3.0): 0.005,
    ("full", 1 / 3): 0.012,
    ("lora", 1.0): 0.006,
    ("ia3", 1.0): 0.008,
    ("lora", 1 / 3): -0.012,
    ("head", 1.0): -0.043,
    ("lora", 3.0): 0.001,
}
"""Held-out accuracy on the recorded curves, less the mean of all settings there: a mean over tasks and sizes."""

COUNTS = 370
"""So many texts set aside tell as much as AHEAD does: the variance of a setting's answer on one text, by the variance
between tasks of how far it is ahead.
"""

DEAREST, CHEAPEST = "full", 0.2
"""The method whose steps take longest, so that its pace stands for that of a method which was not measured; and the
share of its steps' time that any method takes at least (docs/learning-curves.jsonl has paces, docs/benchmarks.md more).
"""

EPOCHS = 3
"""No candidate is trained more often on its texts."""


@dataclass(frozen=True)
class Candidate:
    """A method at a learning rate.

    name   what its run and its row are called: the method's key, with the rate where that is not its own
    ahead  of the mean setting, as an accuracy, before anything is known of the task; 0 where nothing is recorded
    """

    method: str
    rate: float
    name: str
    ahead: float = 0.0

    def weighed(self, accuracy: float, examples: int) -> float:
        """An accuracy on so many texts and what was to be expected, each by what it tells; a mean setting has 0 of the
        latter, so that it says who is better and not how good.
        """
        return (examples * accuracy + COUNTS * self.ahead) / (examples + COUNTS)


def candidates(methods: Iterable[str]) -> list[Candidate]:
    """Of these methods: first those that were learnt, in their order, then the others, each at its own rate."""
    there = list(methods)
    learnt = [(method, factor) for method, factor in LEARNT if method in there]
    others = [(method, 1.0) for method in there if method not in {name for name, _ in learnt}]
    return [_candidate(method, factor) for method, factor in (*learnt, *others)]


def _candidate(method: str, factor: float) -> Candidate:
    rate = float(f"{factor * make(method).learning_rate:.3g}")
    name = method if factor == 1 else f"{method}-{rate:g}"
    return Candidate(method, rate, name, AHEAD.get((method, factor), 0.0))
