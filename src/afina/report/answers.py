"""Where the answers of several arms to a text differ, by votes and by distance. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afina.report.arms import Arm


@dataclass(frozen=True)
class Disagreement:
    """One evaluation text.

    right    in words
    answers  a mapping per method: what was answered, in words, to the number of seeds that did
    """

    index: int
    right: str
    answers: tuple[Counter[str], ...]


Ranked = list[tuple[float, Disagreement]]
"""Texts, each with a number: the less it is, the more the methods disagree."""


def split(arms: Sequence[Arm], in_words: Callable[[Any], str]) -> Ranked:
    """Texts that are answered differently, with the votes of the answer that has most, each method having one."""
    answered = [arm.answers.swapaxes(0, 1).tolist() for arm in arms]  # by text, then by seed
    found = []
    for index, (right, *given) in enumerate(zip(arms[0].targets.tolist(), *answered, strict=True)):
        told = tuple(Counter(in_words(answer) for answer in seeds) for seeds in given)
        votes: dict[str, float] = {}
        for counted in told:
            for answer, times in counted.items():
                votes[answer] = votes.get(answer, 0.0) + times / counted.total()
        if len({counted.most_common(1)[0][0] for counted in told}) > 1:
            found.append((max(votes.values()), Disagreement(index, in_words(right), told)))
    return found


def apart(arms: Sequence[Arm], in_words: Callable[[Any], str]) -> Ranked:
    """All texts, with how far apart the methods' numbers are, as a negative number."""
    means = [arm.answers.mean(axis=0) for arm in arms]
    found = []
    for index, right in enumerate(arms[0].targets.tolist()):
        given = [float(one[index]) for one in means]
        told = tuple(Counter([in_words(value)]) for value in given)
        found.append((min(given) - max(given), Disagreement(index, in_words(right), told)))
    return found
