"""Two samples of texts, compared by their counts: p values, sizes of differences, and how many texts are needed."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp

from afina.stats.drift import (
    Drift,
    categories_test,
    noticeable,
    ordered_test,
    shares_test,
    texts_needed,
)

NAMES = ("a", "b", "c")


def test_scores_are_compared_by_chi_squared_and_the_largest_gap_of_cumulative_shares() -> None:
    before, now = [10, 20, 40, 30], [30, 30, 20, 20]
    found = ordered_test("scores", before, now)
    assert found.p == pytest.approx(chi2_contingency([before, now], correction=False).pvalue)
    raw = [np.repeat(np.arange(4), counts) for counts in (before, now)]
    assert found.distance == pytest.approx(ks_2samp(*raw).statistic)
    assert (found.edge, found.shares) == (1, (0.3, 0.6))


def test_rare_bins_are_merged_with_their_neighbours_and_empty_ones_count_for_nothing() -> None:
    before, now = [1, 2, 40, 57, 0], [3, 2, 38, 57, 0]
    merged = [[43, 57], [43, 57]]
    assert ordered_test("scores", before, now).p == pytest.approx(chi2_contingency(merged, correction=False).pvalue)
    assert ordered_test("scores", [0, 7, 0], [0, 9, 0]).p == 1.0
    assert ordered_test("scores", [0, 2, 0], [1, 0, 0]).p == 1.0, "too few texts for a test"


def test_one_label_for_each_text_is_compared_by_the_total_variation_distance() -> None:
    found = categories_test("labels", [50, 30, 20], [20, 30, 50], NAMES)
    assert found.p == pytest.approx(chi2_contingency([[50, 30, 20], [20, 30, 50]], correction=False).pvalue)
    assert (found.distance, found.most, found.shares) == (pytest.approx(0.3), "a", (0.5, 0.2))


def test_several_labels_are_compared_by_fishers_test_of_the_most_different_one() -> None:
    before, now, sizes = [90, 5, 0], [80, 30, 0], (100, 90)
    found = shares_test("labels", before, now, sizes, NAMES)
    assert found.p == pytest.approx(2 * fisher_exact([[5, 95], [30, 60]]).pvalue), "c cannot differ, so two count"
    assert (found.most, found.shares) == ("b", (0.05, pytest.approx(1 / 3)))
    assert shares_test("labels", [0, 100], [0, 90], sizes).p == 1.0


def test_p_values_are_corrected_for_all_tests_and_small_differences_are_no_drift() -> None:
    tests = [ordered_test("scores", [5000, 5000], [5300, 4700]), categories_test("labels", [70, 30], [69, 31], "ab")]
    found = Drift.of(tests, 10_000, 10_000, level=0.01, effect=0.1)
    assert found.tests[0].adjusted == pytest.approx(2 * tests[0].p)
    assert (found.state, found.p) == ("small", found.tests[0].adjusted)
    assert Drift.of(tests, 10_000, 10_000, level=0.01, effect=0.02).state == "drift"
    assert Drift.of(tests[1:], 10_000, 10_000, level=0.01, effect=0.1).state == "none"
    assert Drift.of(tests[1:], 100, 100, level=0.01, effect=0.1).state == "few"
    nothing = Drift.of([], 100, 0, level=0.01, effect=0.1)
    assert (nothing.p, nothing.state, nothing.noticeable) == (1.0, "few", None)


def test_the_texts_that_are_needed_notice_exactly_the_difference() -> None:
    needed = texts_needed(1000, 0.01, 0.1)
    assert needed is not None
    assert noticeable(1000, needed, 0.01) <= 0.1 < noticeable(1000, needed - 1, 0.01)
    assert texts_needed(100, 0.01, 0.1) is None, "a hundred texts cannot show it, however many follow"
    assert noticeable(100, 10**9, 0.01) > 0.1
    assert texts_needed(0, 0.01, 0.1) is None
    assert noticeable(1, 1, 0.01) == 1.0 < inf


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "texts"), [(60, 40), (300, 500)])
def test_without_drift_alarms_are_at_most_as_frequent_as_the_level(reference: int, texts: int) -> None:
    random, level, alarms, weeks = np.random.default_rng(0), 0.05, 0, 600
    for _ in range(weeks):
        bins, labels, groups = (
            random.dirichlet(np.full(28, 0.3)),
            random.dirichlet(np.ones(5)),
            random.beta(0.3, 2, 256),
        )
        sizes = reference, texts
        tests = [
            ordered_test("scores", *(random.multinomial(size, bins) for size in sizes)),
            categories_test("labels", *(random.multinomial(size, labels) for size in sizes), "abcde"),
            shares_test("tokens", *(random.binomial(size, groups) for size in sizes), sizes),
        ]
        alarms += Drift.of(tests, *sizes, level=level, effect=0.1).p <= level
    assert alarms / weeks <= level + 3 * (level * (1 - level) / weeks) ** 0.5


@pytest.mark.slow
def test_a_difference_of_the_stated_size_is_noticed_four_times_in_five() -> None:
    random, reference, effect, weeks = np.random.default_rng(0), 1000, 0.1, 1000
    texts = texts_needed(reference, 0.01, effect)
    assert texts is not None
    noticed = 0
    for _ in range(weeks):
        before, now = random.binomial(reference, 0.45), random.binomial(texts, 0.45 + effect)
        found = categories_test("labels", [before, reference - before], [now, texts - now], "ab")
        noticed += 3 * found.p <= 0.01  # the smallest of three p values is multiplied by three
    assert 0.75 <= noticed / weeks <= 0.88
