"""The chosen texts are uncertain and differ from each other; scikit-learn's k-means and hand-made points check this."""

from __future__ import annotations

import numpy as np
import pytest

from afina.stats.active_learning import SPAN, diverse, uncertain

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def clouds(each: int, spread: float = 0.5) -> np.ndarray:
    """Points around four centres, `each` around every centre."""
    noise = np.random.default_rng(0).normal(0, spread, (4 * each, 2))
    return np.repeat(CENTRES, each, axis=0) + noise


def test_one_text_is_chosen_of_each_group_and_none_is_an_outlier() -> None:
    points = clouds(20)
    chosen = diverse(points, 4)
    assert sorted(chosen // 20) == [0, 1, 2, 3]
    assert np.abs(points[chosen] - CENTRES[chosen // 20]).max() < 0.5


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_the_number_of_texts_is_exact_also_if_texts_are_equal(count: int) -> None:
    points = np.repeat(CENTRES[:3], 4, axis=0)
    chosen = diverse(points, count)
    assert len(set(chosen.tolist())) == count
    assert len(np.unique(points[chosen], axis=0)) == min(count, 3)


def test_uncertain_texts_are_among_the_least_confident_and_of_different_groups() -> None:
    points = clouds(100)
    confidence = np.random.default_rng(1).uniform(0.5, 1.0, len(points))
    chosen = uncertain(points, confidence, 4)
    assert set(chosen) <= set(np.argsort(confidence)[: SPAN * 4])
    assert sorted(chosen // 100) == [0, 1, 2, 3]
    assert len(uncertain(points, np.full(len(points), 0.5), 400)) == 400
