"""Accuracy and F1, against figures by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from afina.stats.classification import accuracy, f1

GOLD = np.array([1, 1, 1, 0, 0, 0, 0, 1])
FOUND = np.array([1, 0, 1, 0, 1, 1, 0, 1])
"""Three true positives, two false ones, one missed: precision 3/5, recall 3/4."""


def test_binary_figures_by_hand() -> None:
    assert accuracy(GOLD, FOUND) == 5 / 8
    assert f1(GOLD, FOUND, 2) == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))


def test_index_one_is_the_positive_class() -> None:
    assert f1(1 - GOLD, 1 - FOUND, 2) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))


def test_more_classes_are_averaged_without_weights() -> None:
    gold, found = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 0])
    assert f1(gold, found, 3) == pytest.approx((6 / 8 + 2 / 3 + 0) / 3)
    assert f1(gold, found, 4) == pytest.approx((6 / 8 + 2 / 3 + 0) / 3), "nothing is known of a class that never occurs"


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_figures_are_those_of_scikit_learn(classes: int) -> None:
    generator = np.random.default_rng(classes)
    gold, found = generator.integers(0, classes, (2, 500))
    assert accuracy(gold, found) == accuracy_score(gold, found)
    average = {"average": "binary"} if classes == 2 else {"average": "macro"}
    assert f1(gold, found, classes) == pytest.approx(f1_score(gold, found, **average))


@pytest.mark.parametrize(
    ("gold", "found", "expected"),
    [([0, 0], [0, 0], np.nan), ([0, 0], [1, 0], 0.0), ([1, 1], [0, 0], 0.0), ([1, 1], [1, 1], 1.0)],
)
def test_f1_of_a_single_class_warns_of_nothing(gold: list[int], found: list[int], expected: float) -> None:
    assert f1(np.array(gold), np.array(found), 2) == pytest.approx(expected, nan_ok=True)


def test_figures_are_plain_numbers() -> None:
    assert type(accuracy(GOLD, FOUND)) is float
    assert type(f1(GOLD, FOUND, 2)) is float
