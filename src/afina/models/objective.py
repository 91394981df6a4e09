"""Objective: what is asked of a text. Its loss, the width of its head, what outputs mean, how good they are.

Training, studies and the report ask it instead of assuming labels. Hands arrays to `afina.stats`, which knows no
objective; imports torch in `loss` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from afina.stats import classification

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(ABC):
    """One kind of task. Outputs are float32 [N, width]; what targets are is the kind's business.

    kind         key in OBJECTIVES
    metric       the headline: the key of `metrics` that comes first; the mean over examples of `score`
    label_names  name of each label
    """

    kind: ClassVar[str]
    metric: ClassVar[str]

    label_names: tuple[str, ...]

    @property
    @abstractmethod
    def width(self) -> int:
        """Outputs of the head."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean over a batch, a float32 scalar; outputs [B, width], targets [B].

        smoothing  share of each target that is spread over all of them, where the kind has such
        """

    @abstractmethod
    def mean_loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """The same of arrays, to choose by."""

    @abstractmethod
    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """What outputs say of each example, in the form of targets; [N]."""

    @abstractmethod
    def score(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """How good each output is, [N]; the mean is the headline metric."""

    @abstractmethod
    def metrics(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Every figure of docs/figures.md that this kind has, the headline first."""

    @abstractmethod
    def answers(self, outputs: np.ndarray) -> Iterator[dict[str, Any]]:
        """For each example what a user is told, as JSON values."""


@dataclass(frozen=True)
class Classes(Objective):
    """One label of several. Targets are int64 [N], indices into the label names."""

    kind: ClassVar[str] = "classes"
    metric: ClassVar[str] = "accuracy"

    @property
    def width(self) -> int:
        """One a label."""
        return len(self.label_names)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, perhaps with label smoothing (Szegedy et al. 2016)."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, label_smoothing=smoothing)

    def mean_loss(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Cross-entropy in nats."""
        return classification.log_loss(targets, outputs)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """The label of the largest output."""
        decoded: np.ndarray = outputs.argmax(axis=1)
        return decoded

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Whether the answer is right, bool [N]."""
        right: np.ndarray = self.decode(outputs) == targets
        return right

    def metrics(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Accuracy and F1."""
        answered = self.decode(outputs)
        return {
            "accuracy": classification.accuracy(targets, answered),
            "f1": classification.f1(targets, answered, len(self.label_names)),
        }

    def answers(self, outputs: np.ndarray) -> Iterator[dict[str, Any]]:
        """The label, and the probability of every label."""
        chances = classification.probabilities(outputs)
        for answer, row in zip(self.decode(outputs).tolist(), chances.tolist(), strict=True):
            yield {
                "label": self.label_names[answer],
                "probabilities": dict(zip(self.label_names, row, strict=True)),
            }


OBJECTIVES: dict[str, type[Objective]] = {kind.kind: kind for kind in (Classes,)}


def make(kind: str, label_names: Sequence[str]) -> Objective:
    """The objective of that kind. Raises KeyError for one that is not in OBJECTIVES."""
    return OBJECTIVES[kind](tuple(label_names))
