"""How well one human tells what others say: a ceiling for what is told by humans. Pure, of arrays of their marks.

Marks are whole numbers from -4 to 4: float [N, J], of text i by its j-th rater, nan where it has fewer raters. Of every
text, the j-th mark is held against the mean of its other marks, for each j that all texts have; all figures are means
over j. Who gave a mark is not known, so a text's j-th rater need not be another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np


def of_numbers(marks: np.ndarray) -> dict[str, float]:
    """For a task whose label is the mean mark."""
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
    """For a task whose label is the sign of the mean mark; a mark of 0 counts one half."""
    return _mean({"accuracy": _signs(one, others)} for one, others in _against(marks))


def of_pairs(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """For a task whose label is which of two texts has the higher mean; equal marks count one half."""
    both = zip(_against(first), _against(second), strict=False)
    return _mean({"accuracy": _signs(one - two, others - rest)} for (one, others), (two, rest) in both)


def of_classes(marks: np.ndarray, classes: int, class_of: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """For a task whose label, int from 0, `class_of` makes of the mean mark; of a single mark likewise."""

    def figures(said: np.ndarray, true: np.ndarray) -> dict[str, float]:
        table = np.zeros((classes, classes))
        np.add.at(table, (true, said), 1)
        right, both = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
        return {"accuracy": float(np.mean(said == true)), "f1": float(np.mean(2 * right / np.maximum(both, 1)))}

    return _mean(figures(class_of(one), class_of(others)) for one, others in _against(marks))


def _against(marks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(j-th mark, mean of the others), each float [N]."""
    count, total = np.sum(~np.isnan(marks), axis=1), np.nansum(marks, axis=1)
    for j in range(int(count.min())):
        yield marks[:, j], (total - marks[:, j]) / (count - 1)


def _signs(said: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean((1 + np.sign(said) * np.sign(true)) / 2))


def _ranks(values: np.ndarray) -> np.ndarray:
    """From the lowest; those that are equal share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _mean(figures: Iterator[dict[str, float]]) -> dict[str, float]:
    each = list(figures)
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]} if each else {}
