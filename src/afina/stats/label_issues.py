"""Labels that are probably wrong, by the predictions of a model that was not trained on the texts that it predicts.

For classes and for several labels, cleanlab's confident learning (Northcutt et al. 2021) says which labels are
doubtful; the package is the extra `doubts`. For numbers, a robust z-score of the residuals does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from afina.stats import problems
from afina.stats.intervals import exact_bounds

ROBUST = 3.5  # modified z-score above which a number is doubtful (Iglewicz and Hoaglin 1993)
NORMAL = 0.000465  # share of normally distributed residuals whose modified z-score is above ROBUST

_TO_DEVIATION = 1.4826  # a normal standard deviation, divided by its median absolute deviation

SHARES = tuple(tenth / 10 for tenth in range(1, 10))
"""The shares of the flipped labels at whose suspicions `wrong_share` compares flipped and given labels."""


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """The doubtful labels among those of N texts.

    Attributes:
        places: The indices of the n texts whose labels are doubtful, the most doubtful first, int64 [n].
        suggested: The targets that the model predicts for these texts, in the form of the targets, [n, ...].
        probabilities: The predicted probability of each suggested target, float64 [n]; of several labels, of the
            changed label of which the model is surest. NaN for numbers.
        suspicions: How doubtful the label of each text is, float64 [N]; higher is more doubtful.
        expected: For numbers, how many of them would be doubtful if residuals were normally distributed; else None.
    """

    places: np.ndarray
    suggested: np.ndarray
    probabilities: np.ndarray
    suspicions: np.ndarray
    expected: float | None = None

    def __len__(self) -> int:
        return len(self.places)

    def first(self, count: int) -> Self:
        kept = slice(count)
        return replace(
            self,
            places=self.places[kept],
            suggested=self.suggested[kept],
            probabilities=self.probabilities[kept],
        )


def of_classes(targets: np.ndarray, chances: np.ndarray) -> LabelIssues:
    """Return the doubtful classes of texts, int64 [N]: those that cleanlab finds, ordered by the normalised margin."""
    rows, best = np.arange(len(targets)), chances.argmax(axis=1)
    doubtful = _confident_learning(targets, chances) & (best != targets)
    others = chances.copy()
    others[rows, targets] = -1.0
    margins = others.max(axis=1) - chances[rows, targets]
    places = np.flatnonzero(doubtful)
    places = places[np.argsort(-margins[places], kind="stable")]
    return LabelIssues(places, best[places], chances[places, best[places]], margins)


def of_labels(targets: np.ndarray, chances: np.ndarray) -> LabelIssues:
    """Return the texts with a doubtful label: cleanlab looks at each label by itself, and orders the texts.

    A label that all texts have, or none, is not doubtful. `targets` is 0 or 1, and `chances` float, [N, labels] each.
    """
    doubtful = np.zeros(targets.shape, dtype=bool)
    for label in range(targets.shape[1]):
        given, chance = targets[:, label], chances[:, label]
        if len(np.unique(given)) == 2:
            found = _confident_learning(given, np.stack([1 - chance, chance], axis=1))
            doubtful[:, label] = found & ((chance > 0.5) != (given == 1))
    with _imported() as cleanlab:
        several = [np.flatnonzero(row).tolist() for row in targets]
        scores = cleanlab.multilabel_classification.get_label_quality_scores(several, chances)
    places = np.flatnonzero(doubtful.any(axis=1))
    places = places[np.argsort(scores[places], kind="stable")]
    suggested = np.where(doubtful[places], 1 - targets[places], targets[places])
    changed = np.where(suggested == 1, chances[places], 1 - chances[places])
    surest = np.where(doubtful[places], changed, -1.0).max(axis=1, initial=-1.0)
    return LabelIssues(places, suggested, surest, -scores)


def of_numbers(targets: np.ndarray, predicted: np.ndarray) -> LabelIssues:
    """Return the numbers that are far from the predicted numbers, float64 [N] each.

    A number is doubtful if its residual is more than ROBUST robust standard deviations (1.4826 times the median
    absolute deviation) from the median residual. No number is doubtful if that deviation is 0. Suggested numbers are
    rounded to about a hundredth of the deviation.
    """
    residuals = targets - predicted
    centred = residuals - np.median(residuals)
    deviation = _TO_DEVIATION * np.median(np.abs(centred))
    scores = np.abs(centred) / deviation if deviation > 0 else np.zeros(len(targets))
    places = np.flatnonzero(scores > ROBUST)
    places = places[np.argsort(-scores[places], kind="stable")]
    digits = 0 if deviation <= 0 else max(0, 2 - int(np.floor(np.log10(deviation))))
    probabilities, expected = np.full(len(places), np.nan), NORMAL * len(targets)
    return LabelIssues(places, predicted[places].round(digits), probabilities, scores, expected)


@dataclass(frozen=True, eq=False)
class DoubtfulWords:
    """The n words of a text whose tags are doubtful, with the most probable tag of each, and the largest suspicion."""

    places: np.ndarray
    suggested: np.ndarray
    probabilities: np.ndarray
    suspicion: float


def of_words(tags: Sequence[np.ndarray], chances: Sequence[np.ndarray]) -> list[DoubtfulWords]:
    """Return the words of each text whose tags are doubtful: `of_classes` looks at the words of all texts together.

    cleanlab's `token_classification.filter.find_label_issues` does the same with confident learning. `tags` are int
    [W], and `chances` float [W, tags], for each text.
    """
    issues = of_classes(np.concatenate([*tags]), np.concatenate([*chances]))
    order = np.argsort(issues.places, kind="stable")
    words, suggested, probabilities = (one[order] for one in (issues.places, issues.suggested, issues.probabilities))
    ends = np.cumsum([len(each) for each in tags])
    found = []
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        part = slice(*np.searchsorted(words, [start, end]))
        suspicion = float(issues.suspicions[start:end].max(initial=-1.0))
        found.append(DoubtfulWords(words[part] - start, suggested[part], probabilities[part], suspicion))
    return found


def flipped_classes(targets: np.ndarray, width: int, random: np.random.Generator) -> np.ndarray:
    """Return another class for each text, each of the others with the same probability, int64 [N]."""
    return (targets + random.integers(1, width, len(targets))) % width


def flipped_labels(targets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return labels with one label of each text changed, int64 [N, labels]."""
    made = targets.copy()
    rows, labels = np.arange(len(targets)), random.integers(0, targets.shape[1], len(targets))
    made[rows, labels] = 1 - made[rows, labels]
    return made


def confused_classes(targets: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Return how many texts of each class were answered with each class, int64 [classes, classes]."""
    return np.bincount(targets * classes + answers, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class WrongShare:
    """An estimate, rather too high, of the share of randomly wrong labels; `at_most` of its one-sided 95 % interval."""

    share: float
    at_most: float


def wrong_share(given: Sequence[np.ndarray], flipped: np.ndarray) -> WrongShare:
    """Return the share of given labels that can be as wrong as labels that were flipped on purpose.

    The suspicions of given labels are a mixture of those of right and of wrong labels. If wrong labels have the
    suspicions of flipped ones, their share is at most P(given > t) / P(flipped > t) for every threshold t (Blanchard
    et al. 2010, "Semi-Supervised Novelty Detection"). The estimate is the least of these ratios over the thresholds
    that SHARES of the flipped labels reach. The upper end takes the exact binomial bounds of both probabilities, with
    the error divided among the thresholds. `given` has the suspicions of labels that were not flipped, in each round.
    """
    reached = np.maximum(np.ceil(np.array(SHARES) * len(flipped)).astype(int) - 1, 0)
    error = 0.05 / (2 * len(SHARES))
    ratios, ends = [1.0], [1.0]
    for threshold in np.sort(flipped)[::-1][reached]:
        wrong = int((flipped >= threshold).sum())
        right = float(np.mean([np.mean(one >= threshold) for one in given]))
        ratios.append(right / (wrong / len(flipped)))
        count = len(given[0])  # the labels of all rounds are the same
        high, low = exact_bounds(round(right * count), count, error).high, exact_bounds(wrong, len(flipped), error).low
        ends.append(high / low)
    return WrongShare(min(ratios), min(ends))


def _confident_learning(targets: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Return whether each label is doubtful by cleanlab's `find_label_issues` with its default filter, bool [N]."""
    with _imported() as cleanlab:
        found: np.ndarray = cleanlab.filter.find_label_issues(targets, chances, n_jobs=1)
        return found


@contextmanager
def _imported() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        try:
            import cleanlab
            import cleanlab.filter
            import cleanlab.multilabel_classification
        except ModuleNotFoundError:
            raise problems.CLEANLAB_MISSING() from None
        yield cleanlab
