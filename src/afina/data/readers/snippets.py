"""Tasks from the `snippets` asset: sentences of four domains, each with the mean of its raters' sentiment marks.

C.J. Hutto and E. Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM
2014; the files of vaderSentiment 3.3.2 (MIT). Each sentence has marks from -4 to 4 by 15 or more raters. The module
`afina.assets` fetches the files.

A hash of the normalised text decides the split, so a sentence is in the same split of every task in this module. The
ceiling of a task is how well one human predicts what other humans say: the j-th mark of every text is compared with the
mean of the text's other marks. The metric is the mean over all j for which every text has a mark. The raters' marks are
whole numbers, in an array float [N, J] with NaN where a text has fewer raters. The files do not name raters, so the
j-th marks of two texts can be by different raters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afina import assets
from afina.data.kinds import CLASSES, NUMBER, Kind
from afina.data.readers.label_column import Label
from afina.data.readers.splitting import LabelledRows, TaskData, identity, rank, sides, trains
from afina.data.readers.target_kinds import TARGETS
from afina.data.split import Example, FileRows, key


def of_numbers(marks: np.ndarray) -> dict[str, float]:
    """Return the human ceiling, by metric, of a task whose target is the mean mark of a text's raters."""
    return _mean(
        {
            "pearson": float(np.corrcoef(one, others)[0, 1]),
            "spearman": float(np.corrcoef(_ranks(one), _ranks(others))[0, 1]),
            "rmse": float(np.sqrt(np.mean((one - others) ** 2))),
            "mae": float(np.mean(np.abs(one - others))),
        }
        for one, others in _against(marks)
    )


def of_signs(marks: np.ndarray) -> dict[str, float]:
    """Return the human ceiling of a task whose label is the sign of the mean mark; a mark of 0 is half correct."""
    return _mean({"accuracy": _signs(one, others)} for one, others in _against(marks))


def of_pairs(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Return the human ceiling of a task whose label is the text of a pair with the higher mean mark."""
    both = zip(_against(first), _against(second), strict=False)
    return _mean({"accuracy": _signs(one - two, others - rest)} for (one, others), (two, rest) in both)


def of_classes(marks: np.ndarray, classes: int, class_of: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """Return the human ceiling of a task whose classes `class_of` returns for (mean) marks, float [N]."""

    def figures(said: np.ndarray, true: np.ndarray) -> dict[str, float]:
        table = np.zeros((classes, classes))
        np.add.at(table, (true, said), 1)
        right, both = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
        return {"accuracy": float(np.mean(said == true)), "f1": float(np.mean(2 * right / np.maximum(both, 1)))}

    return _mean(figures(class_of(one), class_of(others)) for one, others in _against(marks))


def _against(marks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each j that all texts have: the j-th mark of each text and the mean of its other marks, float [N]."""
    count, total = np.sum(~np.isnan(marks), axis=1), np.nansum(marks, axis=1)
    for j in range(int(count.min())):
        yield marks[:, j], (total - marks[:, j]) / (count - 1)


def _signs(said: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean((1 + np.sign(said) * np.sign(true)) / 2))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, 1 for the lowest; equal values have the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _mean(figures: Iterator[dict[str, float]]) -> dict[str, float]:
    each = list(figures)
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]} if each else {}


NEUTRAL = 0.5
"""A text whose mean mark is closer to zero than NEUTRAL is neutral, because raters did not agree on the sign."""

APART = 1.0
"""The smallest difference between the mean marks of two texts at which raters agree which text is more positive."""

DOMAINS = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}

SIGNS, THREE, ORDER = ("negative", "positive"), ("negative", "neutral", "positive"), ("first", "second")

EXACT = 1e-6
"""The tolerance between a text's mean mark in the files, which has at least six digits, and the mean of its marks."""


class Snippet(NamedTuple):
    """A sentence with its mean mark (`rating`) and its line number, from a line of a file of the `snippets` asset."""

    domain: str
    number: str
    rating: float
    text: str
    line: int

    @property
    def example(self) -> Example:
        return Example(self.text, 0)

    @property
    def file(self) -> str:
        return f"{DOMAINS[self.domain]}_GroundTruth.txt"

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


def read(*domains: str) -> list[Snippet]:
    """Return all sentences of some domains (keys of DOMAINS), in the order of the files."""
    found = []
    for domain in domains:
        path = assets.fetch("snippets") / f"{DOMAINS[domain]}_GroundTruth.txt"
        # Not splitlines, which would split at U+0085 and others inside a text.
        for line, line_text in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
            number, rating, text = line_text.split("\t", 2)
            found.append(Snippet(domain, number, float(rating), text.strip(), line))
    return found


def rows(domain: str) -> LabelledRows:
    """Return all sentences of a domain that are not neutral, labelled `negative` or `positive`, in the file's order."""
    return _rows(_clear(read(domain)), _sign)


@dataclass(frozen=True)
class _Told:
    """A task about single sentences of the `snippets` asset; calling the object reads the task.

    `ceiling` returns the human ceiling, by metric, given the marks of the evaluation split. Without `names`, the
    targets are numbers.
    """

    domains: tuple[str, ...]
    kept: Callable[[list[Snippet]], list[Snippet]]
    label: Callable[[Snippet], Label]
    names: tuple[str, ...] = ()
    ceiling: Callable[[np.ndarray], Mapping[str, float]] | None = None
    metric: str | None = None

    def __call__(self, labels: Sequence[str] | None = None, *, offline: bool = False) -> TaskData:
        """Read the task; 80 % of the sentences are the training split and 20 % the evaluation split."""
        kept = self.kept(read(*self.domains))
        train, evaluation = _divided(kept)
        kind, column = (CLASSES, "label") if self.names else (NUMBER, "rating")
        found = TARGETS[kind].splits(
            _rows(train, self.label, kind, column),
            _rows(evaluation, self.label, kind, column),
            labels if labels is not None or not self.names else self._occurring(train),
        )
        ceiling: Mapping[str, float] = {}
        if self.ceiling is not None:
            given = marks(evaluation, offline=offline)
            known = given[~np.isnan(given[:, 0])]
            ceiling = self.ceiling(known) if len(known) else {}
        return replace(found, metric=self.metric, ceiling=ceiling)

    def _occurring(self, train: Iterable[Snippet]) -> list[str]:
        there = {self.label(snippet) for snippet in train}
        return [name for name in self.names if name in there]


def _clear(found: Iterable[Snippet]) -> list[Snippet]:
    return [snippet for snippet in found if abs(snippet.rating) >= NEUTRAL]


def _sign(snippet: Snippet) -> str:
    return SIGNS[snippet.rating > 0]


def _third(ratings: np.ndarray) -> np.ndarray:
    """Return the class of each mean mark, negative, neutral or positive, as an index into THREE, int64 [N]."""
    return np.where(np.abs(ratings) < NEUTRAL, 1, np.where(ratings > 0, 2, 0))


def _of_one_domain(found: list[Snippet]) -> list[Snippet]:
    """Leave out the 8 sentences that occur in two domains, such as `wow` and `that's it`; return the others."""
    domains: dict[str, set[str]] = {}
    same = [identity(snippet.example) for snippet in found]
    for snippet, name in zip(found, same, strict=True):
        domains.setdefault(name, set()).add(snippet.domain)
    return [snippet for snippet, name in zip(found, same, strict=True) if len(domains[name]) == 1]


def pairs(labels: Sequence[str] | None = None, *, offline: bool = False) -> TaskData:
    """Return the task of pairs of sentences: whether the first or the second sentence has the higher mean mark.

    The labels are equally frequent. The sentences of each domain and split are paired in the order of a hash. A
    sentence that occurs more than once, or that has no letter and no digit, is in no pair.
    """
    found = read(*DOMAINS)
    same = [key(snippet.example) for snippet in found]
    counts = Counter(same)
    single = [snippet for snippet, name in zip(found, same, strict=True) if name and counts[name] == 1]
    ranked = sorted((rank(snippet.example), snippet) for snippet in single)
    train, evaluation = (
        [
            couple
            for domain in DOMAINS
            for couple in _couples([one for place, one in ranked if trains(place) == side and one.domain == domain])
        ]
        for side in (True, False)
    )
    rows = _paired(train)
    made = TARGETS[rows.kind].splits(rows, _paired(evaluation), labels if labels is not None else ORDER)
    first, second = np.split(marks([pair[i] for i in (0, 1) for pair in evaluation], offline=offline), 2)
    known = ~(np.isnan(first[:, 0]) | np.isnan(second[:, 0]))
    return replace(made, ceiling=of_pairs(first[known], second[known]) if known.any() else {})


def _couples(ordered: Sequence[Snippet]) -> list[tuple[Snippet, Snippet]]:
    """Return pairs of consecutive sentences whose mean marks differ by at least APART.

    Every other pair has the higher first.
    """
    apart = [
        sorted(couple, key=lambda snippet: -snippet.rating)
        for couple in zip(ordered[::2], ordered[1::2], strict=False)
        if abs(couple[0].rating - couple[1].rating) >= APART - EXACT
    ]
    return [(high, low) if turn % 2 == 0 else (low, high) for turn, (high, low) in enumerate(apart)]


def _paired(couples: Sequence[tuple[Snippet, Snippet]]) -> LabelledRows:
    return LabelledRows(
        [one.text for one, _ in couples],
        [other.text for _, other in couples],
        [ORDER[one.rating < other.rating] for one, other in couples],
        lambda i: f"{couples[i][0].place} and {couples[i][1].place}",
    )


def _divided(found: Sequence[Snippet]) -> tuple[list[Snippet], list[Snippet]]:
    train, evaluation = sides(snippet.example for snippet in found)
    return [found[i] for i in train], [found[i] for i in evaluation]


def _rows(
    found: Sequence[Snippet], label: Callable[[Snippet], Label], kind: Kind = CLASSES, column: str = "label"
) -> LabelledRows:
    return LabelledRows(
        [snippet.text for snippet in found],
        None,
        [label(snippet) for snippet in found],
        lambda i: found[i].place,
        kind,
        column,
        rows=FileRows([snippet.file for snippet in found], [snippet.line for snippet in found]),
    )


def marks(found: Sequence[Snippet], *, offline: bool = False) -> np.ndarray:
    """Return the single raters' marks of sentences: float [N, J], NaN where a sentence has fewer raters.

    All marks of a sentence are NaN if their mean is not the sentence's mean mark (the files have wrong marks for 199
    tweets). The marks are in the asset `raters`; if this asset cannot be fetched, all marks are NaN.
    """
    folder = assets.fetch_if_possible("raters", offline=offline)
    labels = {domain: {} if folder is None else _given(folder, domain) for domain in {one.domain for one in found}}
    given = [json.loads(labels[one.domain].get(one.number, "[]")) for one in found]
    made = np.full((len(given), max([1, *map(len, given)])), np.nan)
    for row, (snippet, each) in enumerate(zip(found, given, strict=True)):
        if each and abs(sum(each) / len(each) - snippet.rating) < EXACT:
            made[row, : len(each)] = each
    return made


def _given(folder: Path, domain: str) -> dict[str, str]:
    path = folder / f"{DOMAINS[domain]}_anonDataRatings.txt"
    lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    return {number: marks for number, _, _, marks in (line.split("\t") for line in lines)}


LOADERS: dict[str, Callable[..., TaskData]] = {
    **{domain: _Told((domain,), _clear, _sign, SIGNS, of_signs) for domain in DOMAINS},
    "ratings": _Told(tuple(DOMAINS), list, lambda snippet: snippet.rating, ceiling=of_numbers),
    "domains": _Told(tuple(DOMAINS), _of_one_domain, lambda snippet: snippet.domain, tuple(DOMAINS)),
    "movies-3": _Told(
        ("movies",),
        list,
        lambda snippet: THREE[_third(np.array(snippet.rating))],
        THREE,
        partial(of_classes, classes=3, class_of=_third),
        "f1",
    ),
    "pairs": pairs,
}
"""The function that reads each task, by the task's name, given the label names in their order (or None) and `offline`.

The metric of the task `movies-3` is macro F1: one text in twenty is neutral, so accuracy hardly depends on this class.
"""
