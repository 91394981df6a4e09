"""Metrics of entities (labelled parts of texts), figures of each label, and the kinds of errors.

The targets and answers of N texts are object arrays [N] of tuples of entities (start, end, label), sorted by their
starts, without overlaps; `end` is exclusive. An answer is right if its borders and its label are those of a target
("strict"). The strict metrics, the metrics of a label and token accuracy are seqeval's in strict mode (IOB2) for valid
tags, and `partial_f1` is the F1 of nervaluate's "partial". For a metric such as `entity_f1`, `entity_f1_values` returns
values whose mean is the metric (answered.py): one value for each text, or one for each group if texts belong to groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from afina.stats.answered import UNDEFINED, Answered, mean_of_defined, of_ratio
from afina.stats.entity_alignment import Change, Entity, changed_entities

EntitiesOfTexts = Sequence[Sequence[Entity]] | np.ndarray
"""The entities of N texts."""

# Errors

ErrorKind = Literal["missed", "spurious", "wrong label", "wrong border", "wrong label and border"]

MISSED: ErrorKind = "missed"
SPURIOUS: ErrorKind = "spurious"
WRONG_LABEL: ErrorKind = "wrong label"
WRONG_BORDER: ErrorKind = "wrong border"
WRONG_BOTH: ErrorKind = "wrong label and border"

_AS_ERROR: Mapping[Change, ErrorKind] = {
    "removed": MISSED,
    "added": SPURIOUS,
    "relabelled": WRONG_LABEL,
    "moved": WRONG_BORDER,
    "replaced": WRONG_BOTH,
}
"""The kind of an error by how the entity changes from the target to the answer."""

ERROR_KINDS: tuple[ErrorKind, ...] = tuple(_AS_ERROR.values())


class EntityError(NamedTuple):
    """A wrong answer, a missed target, or a target and the answer that was given in its place.

    Attributes:
        text: The index of the text.
        kind: MISSED: the target has no answer. SPURIOUS: the answer has no target. WRONG_LABEL: only the borders are
            right. WRONG_BORDER: only the label is right, and target and answer overlap. WRONG_BOTH: target and answer
            overlap, and neither borders nor label are right.
        target: The right entity; None if the answer is spurious.
        answer: The entity that was answered; None if the target was missed.
    """

    text: int
    kind: ErrorKind
    target: Entity | None
    answer: Entity | None


def errors(targets: EntitiesOfTexts, answers: EntitiesOfTexts) -> list[EntityError]:
    """Return the errors of the answers to N texts, by text and position; right answers are left out.

    `changed_entities` pairs targets with answers. A target without a pair is MISSED, and an answer without a pair is
    SPURIOUS, even if they overlap an entity of another pair.
    """
    return [
        EntityError(text, _AS_ERROR[one.change], one.before, one.after)
        for text, (right, given) in enumerate(zip(targets, answers, strict=True))
        if tuple(right) != tuple(given)
        for one in changed_entities(right, given)
    ]


# Counts


@dataclass(frozen=True, eq=False)
class FlatEntities:
    """The M entities of N texts, by text and start: the index of the text, start and end are int64 [M]."""

    texts: int
    text: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, found: EntitiesOfTexts) -> FlatEntities:
        """Return the entities of N texts. Raises ValueError if entities are empty, overlap or are not sorted."""
        text = np.repeat(np.arange(len(found)), [len(one) for one in found])
        flat = [entity for one in found for entity in one]
        start, end = (np.fromiter((entity[side] for entity in flat), np.int64, len(flat)) for side in (0, 1))
        label = np.fromiter((entity[2] for entity in flat), dtype=object, count=len(flat))
        wrong = start >= end
        wrong[1:] |= (text[1:] == text[:-1]) & (start[1:] < end[:-1])
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"text {text[place]}: found the entity {tuple(flat[place])} in {list(map(tuple, found[text[place]]))}, "
                "expected entities with a character or more, sorted by their starts, without overlaps"
            )
        return cls(len(found), text, start, end, label)

    @property
    def counts(self) -> np.ndarray:
        return self.per_text(np.ones(len(self.text)))

    def per_text(self, weights: np.ndarray) -> np.ndarray:
        return np.bincount(self.text, weights, self.texts).astype(
            np.float64
        )  # without entities, bincount is of integers


@dataclass(frozen=True, eq=False)
class EntityPairs:
    """The targets and the answered entities of N texts, and which of them are equal."""

    targets: FlatEntities
    answers: FlatEntities

    @classmethod
    def of(cls, answered: Answered) -> EntityPairs:
        return answered.once(
            "entities", lambda: cls(FlatEntities.of(answered.targets), FlatEntities.of(answered.answers))
        )

    @cached_property
    def length(self) -> int:
        return 1 + int(max(self.targets.end.max(initial=0), self.answers.end.max(initial=0)))

    def _places(self, given: FlatEntities, where: np.ndarray) -> np.ndarray:
        """Return positions in all texts one after the other, in which different texts do not overlap."""
        placed: np.ndarray = given.text * self.length + where
        return placed

    @cached_property
    def same_borders(self) -> tuple[np.ndarray, np.ndarray]:
        """The indices of targets and answers with equal borders; no two targets begin at one place of a text."""
        starts, others = (self._places(one, one.start) for one in (self.targets, self.answers))
        _, first, second = np.intersect1d(starts, others, assume_unique=True, return_indices=True)
        same = self.targets.end[first] == self.answers.end[second]
        return first[same], second[same]

    @cached_property
    def right(self) -> np.ndarray:
        """The indices of the targets that were answered with their borders and their label."""
        first, second = self.same_borders
        right: np.ndarray = first[(self.targets.label[first] == self.answers.label[second]).astype(bool)]
        return right

    @cached_property
    def half_right(self) -> np.ndarray:
        """The text of each pair of a target and an answer that overlap but have other borders, int64 [P].

        Each target and each answer is in at most one pair, and there are as many pairs as possible: each answer, from
        left to right, has the first target that it overlaps and that has no pair.
        """
        first, second = self.same_borders
        targets = np.delete(np.arange(len(self.targets.text)), first)
        answers = np.delete(np.arange(len(self.answers.text)), second)
        starts, ends = (self._places(self.targets, where)[targets] for where in (self.targets.start, self.targets.end))
        lows = np.searchsorted(ends, self._places(self.answers, self.answers.start)[answers], side="right")
        highs = np.searchsorted(starts, self._places(self.answers, self.answers.end)[answers], side="left")
        free, paired = 0, []
        for place in np.flatnonzero(highs > lows).tolist():
            chosen = max(int(lows[place]), free)
            if chosen < highs[place]:
                paired.append(answers[place])
                free = chosen + 1
        return self.answers.text[np.array(paired, np.int64)]

    @cached_property
    def labels(self) -> list[str]:
        return sorted({*self.targets.label.tolist(), *self.answers.label.tolist()})

    @cached_property
    def per_text(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each text, the number of right answers, of targets, and of answers, float64 [N] each."""
        right = np.bincount(self.targets.text[self.right], minlength=self.targets.texts).astype(float)
        return right, self.targets.counts, self.answers.counts

    def per_text_of(self, label: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        is_target, is_answer = (self.targets.label == label).astype(float), (self.answers.label == label).astype(float)
        is_right = np.zeros_like(is_target)
        is_right[self.right] = is_target[self.right]
        return self.targets.per_text(is_right), self.targets.per_text(is_target), self.answers.per_text(is_answer)


class LabelCounts(NamedTuple):
    """The numbers of right answers, targets and answers of one label, or of all labels together.

    Precision is `right` / `answered`, recall is `right` / `support`, and F1 is 2 `right` / (`answered` + `support`);
    each is NaN for 0 / 0.
    """

    right: int
    support: int
    answered: int

    @property
    def precision(self) -> float:
        return self.right / self.answered if self.answered else UNDEFINED

    @property
    def recall(self) -> float:
        return self.right / self.support if self.support else UNDEFINED

    @property
    def f1(self) -> float:
        both = self.answered + self.support
        return 2 * self.right / both if both else UNDEFINED


def by_label(answered: Answered, names: Sequence[str] = ()) -> dict[str, LabelCounts]:
    """Return the counts of each label in `names`, in this order, then of further labels that occur."""
    paired = EntityPairs.of(answered)
    return {
        name: LabelCounts(*(int(one.sum()) for one in paired.per_text_of(name)))
        for name in dict.fromkeys([*names, *paired.labels])
    }


# Metrics


def _count(amounts: np.ndarray, answered: Answered) -> int:
    """Return the number of texts, or of groups of texts, with an amount above 0; `amounts` is [N]."""
    groups = np.arange(len(amounts)) if answered.groups is None else answered.groups
    return len(np.unique(groups[amounts > 0]))


def target_count(answered: Answered) -> int:
    return _count(EntityPairs.of(answered).per_text[1], answered)


def answered_count(answered: Answered) -> int:
    return _count(EntityPairs.of(answered).per_text[2], answered)


def either_count(answered: Answered) -> int:
    _, there, given = EntityPairs.of(answered).per_text
    return _count(there + given, answered)


def _values(above: np.ndarray, below: np.ndarray, answered: Answered) -> np.ndarray:
    return answered.by_group(of_ratio(above, below))


def entity_f1_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is the strict F1 of all entities, 2 right / (targets + answers)."""
    right, there, given = EntityPairs.of(answered).per_text
    return _values(2 * right, there + given, answered)


def entity_precision_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is the share of answered entities that are right."""
    right, _, given = EntityPairs.of(answered).per_text
    return _values(right, given, answered)


def entity_recall_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is the share of target entities that were answered right."""
    right, there, _ = EntityPairs.of(answered).per_text
    return _values(right, there, answered)


def macro_entity_f1_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is the unweighted mean of F1 over the labels in the targets or the answers."""
    paired, rows = EntityPairs.of(answered), []
    for label in paired.labels:
        right, there, given = paired.per_text_of(label)
        rows.append(of_ratio(2 * right, there + given))
    return answered.by_group(mean_of_defined(np.array(rows).reshape(len(rows), len(answered.targets))))


def partial_f1_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is F1 without regard to labels, in which an overlap with other borders counts 0.5.

    A pair with equal borders counts 1 (`same_borders`), and a pair of overlapping entities counts 0.5 (`half_right`).
    F1 is 2 (sum of the pairs) / (targets + answers), as nervaluate's "partial". nervaluate requires an overlap of 1 %
    of the target, so it may count less for a target of more than 100 characters or words.
    """
    paired = EntityPairs.of(answered)
    _, there, given = paired.per_text
    size = len(there)
    whole = np.bincount(paired.targets.text[paired.same_borders[0]], minlength=size)
    return _values(2.0 * whole + np.bincount(paired.half_right, minlength=size), there + given, answered)


def token_accuracy_values(answered: Answered) -> np.ndarray:
    """Return values whose mean is the share of words with the right tag (O, or B- or I- and the label of the entity).

    The words come from `answered.extras["words"]`; without it, all values are UNDEFINED.
    """
    words = answered.extras.get("words")
    if words is None:
        return answered.by_group(np.full(len(answered.targets), UNDEFINED))
    right, counts = answered.once("right words", lambda: _right_words(words, EntityPairs.of(answered)))
    return _values(right, counts, answered)


def _right_words(words: np.ndarray, paired: EntityPairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of words with the right tag and of all words of each text, float64 [N] each.

    A word is in an entity if they have a character in common.
    """
    counts = np.array([len(one) for one in words], np.int64)
    text, flat = np.repeat(np.arange(len(words)), counts), np.concatenate([np.zeros((0, 2), np.int64), *words])
    length = 1 + max(
        int(flat.max(initial=0)), *(int(one.end.max(initial=0)) for one in (paired.targets, paired.answers))
    )
    starts, ends = text * length + flat[:, 0], text * length + flat[:, 1]
    names = {name: 1 + 2 * place for place, name in enumerate(paired.labels)}
    tags = []
    for given in (paired.targets, paired.answers):
        first = np.searchsorted(ends, given.text * length + given.start, side="right")
        last = np.searchsorted(starts, given.text * length + given.end, side="left")
        sizes = np.maximum(last - first, 0)
        begin = np.array([names[one] for one in given.label.tolist()], np.int64)
        made = np.zeros(len(flat), np.int64)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        made[np.repeat(first, sizes) + within] = np.repeat(begin, sizes) + (within > 0)
        tags.append(made)
    right = np.bincount(text, tags[0] == tags[1], minlength=len(words))
    return right, counts.astype(float)
