"""`DOUBTFUL_KINDS`: by kind of task, which of its labels are doubtful, and which labels are wrong on purpose.

A kind of task whose labels cannot be called doubtful has no entry. The module can be imported without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from afina.data.entities import Entity, as_entities, corrected, numbered, tags_of
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.stats import label_issues
from afina.stats.label_issues import LabelIssues
from afina.studies import problems


class DoubtfulKind(ABC):
    """How doubtful labels of a kind of task are found, given predictions of models that did not learn these labels."""

    @abstractmethod
    def issues(self, objective: Any, predictions: Predictions) -> LabelIssues:
        """Return which targets are doubtful. Raises NotFound without the extra `doubts`."""

    @abstractmethod
    def flipped(self, objective: Any, predictions: Predictions, random: np.random.Generator) -> np.ndarray:
        """Return a wrong target for each text, in the form of the targets."""

    def differ(self, objective: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return whether two targets of the same text contradict each other, for N pairs of targets, bool [N]."""
        unequal: np.ndarray = (first != second).reshape(len(first), -1).any(axis=1)
        return unequal

    def confused(self, objective: Any, predictions: Predictions) -> np.ndarray | None:
        """Return how many texts of each label were answered with each label, int64 [width, width]; None: no classes."""
        return None


class _Classes(DoubtfulKind):
    def issues(self, objective: Any, predictions: Predictions) -> LabelIssues:
        return label_issues.of_classes(predictions.right, objective.probabilities(predictions))

    def flipped(self, objective: Any, predictions: Predictions, random: np.random.Generator) -> np.ndarray:
        return label_issues.flipped_classes(predictions.right, objective.width, random)

    def confused(self, objective: Any, predictions: Predictions) -> np.ndarray | None:
        return label_issues.confused_classes(predictions.right, objective.decode(predictions), objective.width)


class _Number(DoubtfulKind):
    def issues(self, objective: Any, predictions: Predictions) -> LabelIssues:
        return label_issues.of_numbers(predictions.right, objective.decode(predictions))

    def flipped(self, objective: Any, predictions: Predictions, random: np.random.Generator) -> np.ndarray:
        """Each text has the number of another text."""
        return random.permutation(predictions.right)

    def differ(self, objective: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """By more than the standard deviation of the training numbers."""
        return np.asarray(np.abs(first - second) > objective.scale, dtype=bool)


class _Labels(DoubtfulKind):
    def issues(self, objective: Any, predictions: Predictions) -> LabelIssues:
        return label_issues.of_labels(predictions.right, objective.probabilities(predictions))

    def flipped(self, objective: Any, predictions: Predictions, random: np.random.Generator) -> np.ndarray:
        return label_issues.flipped_labels(predictions.right, random)


class _Entities(DoubtfulKind):
    def issues(self, objective: Any, predictions: Predictions) -> LabelIssues:
        """Return the texts with doubtful words, the text of the most doubtful word first.

        The suggested entities are the given entities without a doubtful word, and the predicted entities with one. A
        text is not doubtful if its suggested entities are the given ones.
        """
        words, given = predictions.extras["words"], predictions.right
        tags = [tags_of(*pair) for pair in zip(words, numbered(given, objective.label_names), strict=True)]
        found = label_issues.of_words(tags, objective.tag_probabilities(predictions))
        spans = (each[one.places] for each, one in zip(words, found, strict=True))
        parts = zip(given, objective.decode(predictions), spans, strict=True)
        suggested = np.fromiter((corrected(*part) for part in parts), dtype=object)
        suspicions = np.array([one.suspicion for one in found])
        probabilities = np.array([one.probabilities.max(initial=0.0) for one in found])
        places = np.flatnonzero(self.differ(objective, suggested, given))
        places = places[np.argsort(-suspicions[places], kind="stable")]
        return LabelIssues(places, suggested[places], probabilities[places], suspicions)

    def flipped(self, objective: Any, predictions: Predictions, random: np.random.Generator) -> np.ndarray:
        """An entity of each text is left out or gets another label. A text without entities gets one of one word."""
        pairs = zip(predictions.right, predictions.extras["words"], strict=True)
        names = objective.label_names
        return as_entities(_with_mistake(names, entities, words, random) for entities, words in pairs)

    def differ(self, objective: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.array([one != other for one, other in zip(first, second, strict=True)], dtype=bool)


def _with_mistake(
    names: Sequence[str], entities: Sequence[Entity], words: np.ndarray, random: np.random.Generator
) -> tuple[Entity, ...]:
    if not entities:
        if not len(words):
            return ()
        start, end = words[random.integers(len(words))].tolist()
        return (Entity(start, end, str(random.choice(names))),)
    chosen = int(random.integers(len(entities)))
    others = [name for name in names if name != entities[chosen].label]
    changed = [entities[chosen]._replace(label=str(random.choice(others)))] if others and random.random() < 0.5 else []
    return (*entities[:chosen], *changed, *entities[chosen + 1 :])


DOUBTFUL_KINDS: Mapping[str, DoubtfulKind] = {
    CLASSES: _Classes(),
    NUMBER: _Number(),
    LABELS: _Labels(),
    ENTITIES: _Entities(),
}


def doubtful_kind(objective: Objective) -> DoubtfulKind:
    """Return the entry of an objective's kind of task. Raises InvalidStudy if its labels cannot be called doubtful."""
    if objective.kind not in DOUBTFUL_KINDS:
        raise problems.DOUBTS_INAPPLICABLE(kind=objective.kind)
    return DOUBTFUL_KINDS[objective.kind]
