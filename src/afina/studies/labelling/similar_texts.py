"""`SimilarTexts`: the texts of a task that are equal or nearly equal, and those of them whose labels contradict.

A wrong label that stands at two copies of a text would confirm itself if a model learned from one copy and predicted
the other. Equal and nearly equal texts therefore belong to one fold of a cross-validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np

from afina.data.nearest_text import near_duplicates
from afina.data.readers.splitting import identity
from afina.data.split import Split
from afina.models.objective import Objective
from afina.studies.labelling.doubtful_kinds import doubtful_kind

MOST_IN_GROUP = 0.05
"""The largest share of texts in a group; a larger one, a long chain, is divided into equal texts."""


@dataclass(frozen=True)
class Contradiction:
    """A text whose label contradicts that of an equal or nearly equal text; both are indices.

    `similarity` is the cosine of the two texts; None: they are equal but for case, white space and punctuation.
    """

    place: int
    other: int
    similarity: float | None = None

    @property
    def state(self) -> Literal["equal", "near"]:
        return "equal" if self.similarity is None else "near"


@dataclass(frozen=True, eq=False)
class SimilarTexts:
    """Groups of equal and nearly equal texts among N texts.

    Attributes:
        equal: The number of the group of equal texts of each text, int64 [N].
        groups: The number of the group of equal and nearly equal texts of each text, int64 [N].
        near: Pairs of nearly equal texts, each of which stands for its equal texts: their indices, int64 [P, 2].
        similarities: The cosine similarities of these pairs, float32 [P].
        identical: The number of the group of texts that are equal character by character, of each text, int64 [N].
    """

    equal: np.ndarray
    groups: np.ndarray
    near: np.ndarray
    similarities: np.ndarray
    identical: np.ndarray

    @classmethod
    def of(cls, split: Split) -> SimilarTexts:
        """Return the groups of the texts of a split; pairs of texts are nearly equal only if they are equal."""
        alone = cls.of_equal(split)
        if split.pairs is not None:
            return alone
        equal = alone.equal
        _, firsts = np.unique(equal, return_index=True)
        found = [*near_duplicates([split.texts[place] for place in firsts.tolist()])]
        near = np.concatenate([np.stack(one[:2], axis=1) for one in found])
        similarities = np.concatenate([one[2] for one in found])
        return cls(equal, _joined(equal, near), firsts[near], similarities, alone.identical)

    @classmethod
    def of_equal(cls, split: Split) -> SimilarTexts:
        """Without looking for nearly equal texts."""
        equal = _numbered(identity(example) for example in split)
        identical = _numbered((example.text, example.text_pair) for example in split)
        return cls(equal, equal, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), identical)

    def contradictions(self, objective: Objective, targets: np.ndarray, suspicions: np.ndarray) -> list[Contradiction]:
        """Return the texts whose labels contradict those of an equal or nearly equal text.

        Of equal texts, the most frequent label counts as right, and of equally frequent labels the least suspicious
        one. Of two nearly equal texts, the label that is less suspicious counts as right. Labels of words have places
        in a text, so they are only compared in texts that are equal character by character.

        Args:
            targets: The targets of the texts, [N, ...].
            suspicions: How doubtful a model finds the label of each text, float64 [N].
        """
        found = [*self._of_equal(objective, targets, suspicions)]
        if len(self.near) and not objective.reads_words:
            differ = doubtful_kind(objective).differ(objective, targets[self.near[:, 0]], targets[self.near[:, 1]])
            known = {one.place for one in found}
            for place in np.flatnonzero(differ).tolist():
                other, doubted = sorted(self.near[place].tolist(), key=lambda one: suspicions[one])
                if doubted not in known:
                    known.add(doubted)
                    found.append(Contradiction(doubted, other, float(self.similarities[place])))
        return found

    def _of_equal(self, objective: Objective, targets: np.ndarray, suspicions: np.ndarray) -> Iterator[Contradiction]:
        for places in members(self.identical if objective.reads_words else self.equal):
            labels = Counter(_hashable(targets[place]) for place in places)
            if len(labels) > 1:
                right = min(places, key=lambda place: (-labels[_hashable(targets[place])], suspicions[place]))
                rights = np.repeat(targets[right : right + 1], len(places), axis=0)
                differ = doubtful_kind(objective).differ(objective, targets[places], rights)
                yield from (Contradiction(place, right) for place in np.array(places)[differ].tolist())


def _numbered(found: Iterable[Hashable]) -> np.ndarray:
    """The number of each value in the order of their first occurrence, int64 [N]."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(one, len(number)) for one in found], dtype=np.int64)


def _hashable(target: Any) -> Hashable:
    return target if isinstance(target, tuple) else target.tobytes()


def members(groups: np.ndarray) -> Iterator[list[int]]:
    """The indices of the members of each group of two or more."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    yield from (one.tolist() for one in np.split(order, ends) if len(one) > 1)


def _joined(equal: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The groups that nearly equal groups of equal texts form, without too large groups."""
    parents = list(range(int(equal.max(initial=-1)) + 1))

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    for first, second in near.tolist():
        parents[root(second)] = root(first)
    joined = np.array([root(one) for one in range(len(parents))], dtype=np.int64)[equal]
    sizes = np.bincount(joined, minlength=len(parents))
    large = sizes[joined] > max(2, MOST_IN_GROUP * len(equal))
    return np.where(large, equal + len(parents), joined)


def texts_in(groups: np.ndarray) -> int:
    """How many texts are in a group with another text."""
    return sum(map(len, members(groups)))


def labels_alike(names: Sequence[str], counts: Sequence[int]) -> list[tuple[str, str]]:
    """Return pairs (rare, frequent) of label names of which the rare one looks like a misspelling of the other.

    Both names have five letters or more, differ in one letter more, less or other, and the rare label has at most a
    twentieth of the texts of the frequent one.
    """
    found = []
    for name, count in zip(names, counts, strict=True):
        for other, others in zip(names, counts, strict=True):
            if 20 * count <= others and _one_letter_apart(name, other):
                found.append((name, other))
    return found


def _one_letter_apart(first: str, second: str) -> bool:
    """Both have five letters or more, and differ in one letter, or in two neighbouring swapped ones."""
    if min(len(first), len(second)) < 5 or abs(len(first) - len(second)) > 1:
        return False
    start = len(list(takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))))
    one, two = first[start:], second[start:]
    if any(character.isdigit() for character in one[:1] + two[:1]):
        return False
    swapped = one[:2] == two[1::-1] and len(two) > 1 and one[2:] == two[2:]
    return one[1:] == two[1:] or one[1:] == two or one == two[1:] or swapped
