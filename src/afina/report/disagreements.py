"""The evaluation texts on which the methods disagree most, ranked by votes (labels) or by distance (numbers).

Records hold no texts: `EvaluationTexts` reads the task again, or gives the reason why the texts are not shown. The
module uses no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afina.data.addresses import is_at_hand
from afina.errors import AfinaError
from afina.report.arms import Arm, measured_on
from afina.report.presentation import PRESENTATIONS
from afina.report.tables import Column, Table
from afina.studies.runs.inputs import evaluation_of
from afina.studies.runs.spec import Data

DISAGREEMENTS = "Where the methods disagree"
SHOWN = 20
LONGEST = 280
"""The most characters of a text that are shown."""


@dataclass(frozen=True)
class EvaluationTexts:
    """The texts of an evaluation split; the two texts of a pair are joined.

    Attributes:
        texts: N strings; None if the texts must not be shown or cannot be read.
        digest: The digest of the split. Texts are shown only if this digest equals the digest in the records.
        reason: Why `texts` is None.
    """

    texts: Sequence[str] | None = None
    digest: str = ""
    reason: str = ""

    @classmethod
    def read(cls, address: str, data: Data) -> EvaluationTexts:
        """Return the texts of the task at `address`, read with the settings of `data`.

        If reading fails or needs a network, return the reason instead of the texts.
        """
        if not is_at_hand(address):
            return cls(reason="the task is not on this machine, and a report uses no network")
        try:
            split = evaluation_of(address, data)
        except AfinaError:
            return cls(reason="the task could not be read again")
        pairs = split.pairs
        texts = split.texts if pairs is None else [f"{a} ⏎ {b}" for a, b in zip(split.texts, pairs, strict=True)]
        return cls(texts, split.digest)


WITHHELD = EvaluationTexts(reason="texts were left out on request")


@dataclass(frozen=True)
class Disagreement:
    """An evaluation text on which methods disagree.

    Attributes:
        index: Row in the evaluation split, from 0.
        right: The target in words.
        answers: For each method, the number of seeds by answer in words.
    """

    index: int
    right: str
    answers: tuple[Counter[str], ...]


def disagreements(arms: Sequence[Arm]) -> tuple[list[Arm], list[Disagreement]]:
    """Return the arms that are compared, and the texts on which these arms disagree most, in the order of rank.

    Methods without training are left out if two trained methods exist, because untrained answers are chance. Arms
    that were evaluated on other texts than the first arm are left out too.
    """
    trained = [arm for arm in arms if arm.trained]
    chosen = trained if len(trained) > 1 else list(arms)
    chosen = [arm for arm in chosen if measured_on(arm.results[0]) == measured_on(chosen[0].results[0])]
    if len(chosen) < 2:
        return chosen, []
    presentation, names = PRESENTATIONS[chosen[0].record.kind], chosen[0].record.label_names
    rank = _by_distance if presentation.by_distance else _by_votes
    found = rank(chosen, lambda answer: presentation.in_words(names, answer))
    return chosen, [one for _, one in sorted(found, key=lambda one: (one[0], one[1].index))[:SHOWN]]


def disagreement_table(arms: Sequence[Arm], evaluated: EvaluationTexts) -> Table | None:
    """Return a row per text with target and answers; None if no methods disagree or none can be compared."""
    compared, found = disagreements(arms)
    if not found:
        return None
    record = compared[0].record
    texts, reason = evaluated.texts, evaluated.reason
    if texts is not None and evaluated.digest != record.environment.evaluation_digest:
        texts, reason = None, "the task's evaluation texts are no longer those of these runs"
    rows = tuple(
        (
            str(one.index),
            *([] if texts is None else [_short(texts[one.index])]),
            one.right,
            *map(_answer, one.answers),
        )
        for one in found
    )
    presentation = PRESENTATIONS[record.kind]
    headings = ["Row", *([] if texts is None else ["Text"]), presentation.right, *(arm.label for arm in compared)]
    notes = [
        presentation.which_disagree(len(found), SHOWN),
        "Row: place in the evaluation split, the first is 0.",
        *([f"Row numbers only: {reason}."] if texts is None and reason else []),
    ]
    return Table(DISAGREEMENTS, tuple(Column(name, "left") for name in headings), rows, tuple(notes))


def _answer(counted: Counter[str]) -> str:
    if counted.total() == 1:
        return next(iter(counted))
    return ", ".join(f"{answer} ×{times}" for answer, times in sorted(counted.items()))


def _short(text: str) -> str:
    """Return the text on one line, cut after LONGEST characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"


def _by_votes(arms: Sequence[Arm], in_words: Callable[[Any], str]) -> list[tuple[float, Disagreement]]:
    """Return the texts on which methods differ, with the votes of the most frequent answer; a method has one vote."""
    answered = [arm.answers.swapaxes(0, 1).tolist() for arm in arms]  # nested lists: text, then seed
    found = []
    for index, (right, *given) in enumerate(zip(arms[0].targets.tolist(), *answered, strict=True)):
        answers = tuple(Counter(in_words(answer) for answer in seeds) for seeds in given)
        votes: dict[str, float] = {}
        for counted in answers:
            for answer, times in counted.items():
                votes[answer] = votes.get(answer, 0.0) + times / counted.total()
        if len({counted.most_common(1)[0][0] for counted in answers}) > 1:
            found.append((max(votes.values()), Disagreement(index, in_words(right), answers)))
    return found


def _by_distance(arms: Sequence[Arm], in_words: Callable[[Any], str]) -> list[tuple[float, Disagreement]]:
    """Return all texts, each with the range of the methods' numbers, negated so that the widest range sorts first."""
    means = [arm.answers.mean(axis=0) for arm in arms]
    found = []
    for index, right in enumerate(arms[0].targets.tolist()):
        given = [float(one[index]) for one in means]
        answers = tuple(Counter([in_words(value)]) for value in given)
        found.append((min(given) - max(given), Disagreement(index, in_words(right), answers)))
    return found
