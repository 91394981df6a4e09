"""A baseline without a language model, and what a kind of task says of its baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from afina.data.split import Split
from afina.models.bag_of_words import BagOfWords
from afina.models.objectives import Objective, Predictions


@dataclass(frozen=True)
class Floor:
    """A fitted baseline.

    Attributes:
        outputs: Return the outputs for a split, in the form of the objective's outputs.
        examples: The number of training texts.
        setting: The setting that the training split decided, in words.
        hyperparameters: The same setting, by name.
        model: The model that can be saved as an adapter. None: the baseline cannot be saved (`FloorKind.unsaved`).
    """

    name: str
    objective: Objective
    outputs: Callable[[Split], np.ndarray]
    examples: int
    setting: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model: BagOfWords | None = None

    def predictions(self, split: Split) -> Predictions:
        """Return the predictions for a split, with its targets."""
        return Predictions(self.outputs(split), split.labels)

    def predict(self, split: Split) -> np.ndarray:
        """Return the answers for a split, in the form of targets."""
        return self.objective.decode(self.predictions(split))


class FloorKind(ABC):
    """The baselines of a kind of task.

    Attributes:
        constant: The name of the baseline whose answer is always the same.
        tfidf: The name of the baseline that compares texts by TF-IDF.
    """

    constant: ClassVar[str]
    tfidf: ClassVar[str]

    @abstractmethod
    def fit_constant(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline whose answer is always the same."""

    @abstractmethod
    def fit_tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline that compares texts by TF-IDF."""

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return all baselines that suit the training split, the constant one first."""
        return [self.fit_constant(train, objective), self.fit_tfidf(train, objective)]

    def unsaved(self, name: str) -> str:
        """Return why the baseline `name` has no adapter, if it has none, as a clause after "because"."""
        return "it always gives the same answer"
