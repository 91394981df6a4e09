"""`COUNTED_KINDS`: by kind of task, how answers are counted in an `AnswerProfile`.

A kind of task whose answers are not counted has no entry. The module does not import torch, and does not know models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from afina.data.kinds import CLASSES, LABELS, NUMBER
from afina.models.answer_profile import CONFIDENCE_EDGES, AnswerProfile, AnswerTally, token_groups
from afina.models.objective import Objective
from afina.models.predictions import Predictions


class CountedKind:
    """How answers of a kind of task with labels are counted: by their labels and their confidence."""

    score_name = "confidence"

    def score_of(self, answer: Mapping[str, Any]) -> float:
        """Return the number by which an answer of `Objective.answers` is counted: its largest probability."""
        largest: float = max(answer["probabilities"].values())
        return largest

    def labels_of(self, answer: Mapping[str, Any]) -> Sequence[str]:
        return (answer["label"],)

    def labels(self, objective: Any) -> tuple[str, ...]:
        """Return the labels by which answers are counted."""
        names: tuple[str, ...] = objective.label_names
        return names

    def edges(self, objective: Any, predictions: Predictions | None = None) -> tuple[float, ...]:
        """Return the edges of the bins of scores, for predictions that should be spread over all bins."""
        return CONFIDENCE_EDGES


class _Labels(CountedKind):
    def score_of(self, answer: Mapping[str, Any]) -> float:
        """Return the product of the probabilities that each label is decided rightly, as `Labels.confidence`."""
        present = {*answer["labels"]}
        chances: Mapping[str, float] = answer["probabilities"]
        return math.prod(chance if name in present else 1 - chance for name, chance in chances.items())

    def labels_of(self, answer: Mapping[str, Any]) -> Sequence[str]:
        labels: Sequence[str] = answer["labels"]
        return labels


NUMBER_BINS = 20
"""The number of bins in which predicted numbers are counted, each with the same number of evaluation texts."""


class _Number(CountedKind):
    score_name = "value"

    def score_of(self, answer: Mapping[str, Any]) -> float:
        number: float = answer["value"]
        return number

    def labels_of(self, answer: Mapping[str, Any]) -> Sequence[str]:
        return ()

    def labels(self, objective: Any) -> tuple[str, ...]:
        return ()

    def edges(self, objective: Any, predictions: Predictions | None = None) -> tuple[float, ...]:
        """Return quantiles of the predictions, or else steps of a tenth of the standard deviation of training numbers.

        A quantile is the middle between two predictions, so that rounding moves no prediction into another bin. Without
        predictions, the edges are at most two standard deviations from the mean of the training numbers.
        """
        if predictions is None or not len(predictions):
            return tuple((objective.mean + objective.scale * np.arange(-20, 21) / 10).tolist())
        numbers = objective.decode(predictions)
        different = np.unique(numbers)
        if len(different) == 1:
            return (float(different[0] + objective.scale / 10),)
        shares = np.arange(1, NUMBER_BINS) / NUMBER_BINS
        below = np.searchsorted(different, np.quantile(numbers, shares, method="inverted_cdf"))
        below = np.unique(below[below < len(different) - 1])
        return tuple(np.unique((different[below] + different[below + 1]) / 2).tolist())


COUNTED_KINDS: Mapping[str, CountedKind] = {CLASSES: CountedKind(), NUMBER: _Number(), LABELS: _Labels()}


def profile(
    objective: Objective,
    predictions: Predictions,
    tokens: Iterable[np.ndarray],
    edges: Sequence[float] | None = None,
) -> AnswerProfile | None:
    """Return the counts of predictions and of their texts' tokens; None if such answers are not counted.

    A text without tokens has an empty array. `edges` None: those of the kind of task for the predictions.
    """
    kind = COUNTED_KINDS.get(objective.kind)
    if kind is None or predictions.are_labels or not len(predictions):
        return None
    tally = AnswerTally(kind.edges(objective, predictions) if edges is None else edges)
    for answer, ids in zip(objective.answers(predictions), tokens, strict=True):
        tally.add(kind.score_of(answer), kind.labels_of(answer), token_groups(ids))
    return tally.profile(kind.labels(objective))
