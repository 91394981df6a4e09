"""Intervals and verdicts by any metric: directions, words, bounds, and what is the same as for accuracy."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats as scipy_stats

from afina.stats.comparison import Comparison, compare
from afina.stats.intervals import accuracy_estimate, bent, estimate, f1_estimate, size_of, wilson
from afina.stats.metrics import METRICS, Answered

LOSSES = ["log_loss", "brier", "rmse", "mae", "loss"]
SHARES_OF_FAULTS = ["unended", "repeated_4grams"]
LINEAR = [name for name, metric in METRICS.items() if metric.values and not metric.counted]


def errors(generator: np.random.Generator, seeds: int, examples: int, sizes: tuple[float, float]) -> list[np.ndarray]:
    """RMSE's values of two methods whose errors have these sizes and much in common, [seeds, examples] each."""
    targets, shared = generator.standard_normal((2, examples))
    found = []
    for size in sizes:
        noise = 0.5 * generator.standard_normal((seeds, examples)) + generator.standard_normal((seeds, 1)) * 0.01
        answers = targets + size * (0.9 * shared + noise)
        found.append(np.stack([METRICS["rmse"].values(Answered(targets, each)) for each in answers]))
    return found


def one(first: np.ndarray, second: np.ndarray, name: str, **options: float) -> Comparison:
    (found,) = compare({"A": first, "B": second}, metric=METRICS[name], **({"margin": 0.05} | options))
    return found


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seeds", [1, 3])
def test_less_of_a_loss_is_better(name: str, seeds: int) -> None:
    small, large = errors(np.random.default_rng(0), seeds, 800, (0.5, 0.7))
    found, swapped = one(small, large, name), one(large, small, name)
    assert (found.verdict, swapped.verdict) == ("better", "worse")
    assert found.difference == pytest.approx(small.mean() - large.mean())
    assert found.difference < 0 < swapped.difference
    assert found.interval.high < 0
    assert found.noninferiority < 0.001 < 0.99 < swapped.noninferiority
    assert found.metric == name
    assert len(found.mcnemar) == seeds
    words = METRICS[name].words
    assert found.words.startswith(f"A is better than B: {words} lower by 0.")
    assert swapped.words.startswith(f"A is worse than B: {words} higher by 0.")


@pytest.mark.parametrize("name", sorted(set(LINEAR) - set(LOSSES) - set(SHARES_OF_FAULTS)))
def test_more_of_anything_else_is_better(name: str) -> None:
    less, more = errors(np.random.default_rng(0), 3, 800, (0.5, 0.7))
    assert one(more, less, name).verdict == "better"
    assert "A is worse than B by" in one(less, more, name).words


def test_one_seed_is_a_paired_t_test() -> None:
    first, second = errors(np.random.default_rng(0), 1, 4000, (0.60, 0.61))
    found = one(first, second, "rmse")
    expected = scipy_stats.ttest_rel(first[0], second[0])
    assert found.p == pytest.approx(expected.pvalue, rel=0.05)
    assert found.mcnemar == (found.p,)
    ends = expected.confidence_interval()
    assert (found.interval.low, found.interval.high) == (
        pytest.approx(ends.low, abs=2e-4),
        pytest.approx(ends.high, abs=2e-4),
    )


@pytest.mark.parametrize(("seeds", "name"), [(1, "rmse"), (2, "f1"), (4, "mcc")])
def test_laws_of_a_comparison(seeds: int, name: str) -> None:
    generator = np.random.default_rng(seeds)
    for size in (0.6, 0.62, 0.7):
        for level in (0.9, 0.95):
            first, second = errors(generator, seeds, 200, (0.6, size))
            found, swapped = one(first, second, name, level=level), one(second, first, name, level=level)
            assert (found.p < 1 - level) == (not found.interval.contains(0))
            assert found.interval.contains(found.difference)
            assert swapped.difference == -found.difference
            assert swapped.interval.low == pytest.approx(-found.interval.high)
            assert (swapped.p, swapped.equivalence) == (pytest.approx(found.p), pytest.approx(found.equivalence))
            assert 0 <= found.noninferiority <= found.equivalence + 1e-12 <= 1 + 1e-12
            inner = one(first, second, name, level=2 * level - 1).interval
            assert (found.equivalence < 1 - level) == (-0.05 < inner.low <= inner.high < 0.05)


def test_words_in_points_and_as_numbers() -> None:
    first, second = errors(np.random.default_rng(1), 3, 400, (0.7, 0.6))
    found = one(first, second, "mcc")
    assert found.verdict == "better"
    told = replace(found, difference=0.0213, interval=type(found.interval)(0.0041, 0.0378))
    assert told.sentence == "A is better than B by 0.021 (95 % interval 0.004 to 0.038)"
    assert replace(told, metric="f1").sentence == "A is better than B by 2.1 points (95 % interval 0.4 to 3.8)"
    assert replace(told, metric="log_loss", verdict="worse").sentence == (
        "A is worse than B: log loss higher by 0.021 (95 % interval 0.004 to 0.038)"
    )
    large = replace(told, metric="rmse", difference=-1234.5, interval=type(found.interval)(-2100.0, -400.0))
    assert large.sentence == "A is better than B: RMSE lower by 1,234 (95 % interval 400 to 2,100)"
    same = replace(told, verdict="equivalent", interval=type(found.interval)(-0.0041, 0.0378), margin=0.0512345)
    assert same.sentence == "A and B are equivalent within 0.0512: difference 0.021 (95 % interval −0.004 to 0.038)"
    assert replace(same, metric="rmse", difference=-0.0001).sentence == (
        "A and B are equivalent within 0.0512: difference in RMSE 0.000 (95 % interval −0.004 to 0.038)"
    )
    assert (same.margin_in_words, replace(same, metric="f1", margin=0.01).margin_in_words) == ("0.0512", "1 point")


def test_a_comparison_is_read_back_as_it_was_stored_and_older_ones_are_of_accuracy() -> None:
    kind = TypeAdapter(Comparison)
    found = one(*errors(np.random.default_rng(3), 1, 150, (0.6, 0.7)), "rmse")
    assert kind.validate_json(kind.dump_json(found)) == found
    stored = asdict(found)
    del stored["metric"]
    assert kind.validate_python(stored).metric == "accuracy"


@pytest.mark.parametrize("seeds", [1, 3])
def test_methods_that_answer_alike_are_not_known_to_be_equal_from_few_examples(seeds: int) -> None:
    few, many = (np.tile(np.arange(n) % 10 > 0, (seeds, 1)).astype(float) for n in (20, 20_000))
    found = one(few, few, "f1", margin=0.01)
    assert (found.p, found.difference, found.verdict) == (1.0, 0.0, "undecided")
    assert found.interval.low < -0.02 < 0.02 < found.interval.high
    assert one(many, many, "f1", margin=0.01).verdict == "equivalent"


def test_exact_matches_are_compared_as_right_answers_are() -> None:
    generator = np.random.default_rng(0)
    right = {name: generator.random((2, 300)) < 0.8 for name in "AB"}
    assert compare(right, metric=METRICS["exact_match"]) == [
        replace(each, metric="exact_match") for each in compare(right)
    ]


def test_what_cannot_be_compared_is_refused() -> None:
    table = np.ones((2, 10))
    with pytest.raises(ValueError, match="cannot be compared by calibration error"):
        one(table, table, "ece")
    with pytest.raises(ValueError, match="RMSE has the unit of the targets"):
        compare({"A": table, "B": table}, metric=METRICS["rmse"])
    with pytest.raises(ValueError, match="margin: found 0, expected a number above 0"):
        one(table, table, "rmse", margin=0)
    assert one(table, table, "rmse", margin=20).margin == 20
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        one(table, table, "f1", margin=20)


# Figures of one method


def test_right_answers_have_the_interval_of_accuracy() -> None:
    correct = np.random.default_rng(0).random((3, 50)) < 0.8
    assert (
        estimate(correct, METRICS["accuracy"])
        == estimate(correct, METRICS["exact_match"])
        == accuracy_estimate(correct)
    )
    assert estimate(correct[0], METRICS["accuracy"]) == accuracy_estimate(correct[0])


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_stay_within_the_range_and_contain_the_figure(name: str, seeds: int) -> None:
    metric = METRICS[name]
    low, high = metric.range
    for mean in (0.001, 0.5, 0.97):
        values = mean + 0.3 * np.random.default_rng(0).standard_normal((seeds, 30))
        values += mean - values.mean()
        found = estimate(values, metric)
        assert found.mean == pytest.approx(mean)
        assert low <= found.interval.low < mean < found.interval.high <= high
        assert found.spread == (None if seeds == 1 else pytest.approx(values.mean(axis=1).std(ddof=1)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_is_perfect_in_few_examples_is_not_certain(seeds: int) -> None:
    assert estimate(np.ones((seeds, 20)), METRICS["auroc"]).interval == wilson(20, 20)
    for name in LINEAR:
        limits = [limit for limit in METRICS[name].range if np.isfinite(limit)]
        for limit in limits:
            found = estimate(np.full((seeds, 20), limit), METRICS[name])
            assert found.mean == limit
            if METRICS[name].range == (0.0, 1.0):
                assert found.interval.contains(limit)
                assert found.interval.high - found.interval.low > 0.1
            else:
                assert np.isnan(found.interval.low)


@pytest.mark.parametrize("name", LINEAR)
def test_a_metric_that_counts_no_answers_has_no_interval_for_few_or_equal_values(name: str) -> None:
    low = max(METRICS[name].range[0], -1.0)
    values = low + 0.5 + 0.1 * np.arange(10)[None] / 10
    assert np.isnan(estimate(values[:, :9], METRICS[name]).interval.low)
    found = estimate(values, METRICS[name]).interval
    assert found.high > found.low
    assert np.isnan(estimate(np.full((1, 50), low + 0.5), METRICS[name]).interval.low)


def test_macro_f1_has_no_interval_for_few_examples() -> None:
    gold, found = np.arange(12) % 3, np.arange(12)[None] % 4 % 3
    assert np.isnan(f1_estimate(gold[:9], found[:, :9], 3).interval.low)
    assert f1_estimate(gold, found, 3).interval.low > 0
    assert f1_estimate(gold[:9] > 0, found[:, :9] > 0, 2).interval.low > 0


def test_bent_intervals_by_hand() -> None:
    """Fisher's z of r = 0.5 in 103 pairs: artanh 0.5 ± 1.96 / 10 gives 0.339 to 0.632."""
    width = 1.959964 * (1 - 0.5**2) / np.sqrt(100)
    assert (bent(0.5, width, (-1.0, 1.0)).low, bent(0.5, width, (-1.0, 1.0)).high) == pytest.approx(
        (0.3392, 0.6320), abs=1e-3
    )
    found = bent(2.0, 2 * np.log(3), (0.0, np.inf))
    assert (found.low, found.high) == pytest.approx((2 / 3, 6.0))
    found = bent(0.75, 0.25 * np.log(2), (-np.inf, 1.0))
    assert (found.low, found.high) == pytest.approx((0.5, 0.875))


def test_the_logit_by_hand() -> None:
    """Of 0.8: log 4 ± 0.16 log 2 / (0.8 x 0.2) gives odds of 2 and 8."""
    found = bent(0.8, 0.16 * np.log(2), (0.0, 1.0), logit=True)
    assert (found.low, found.high) == pytest.approx((2 / 3, 8 / 9))


def test_the_size_of_an_example() -> None:
    """Of right answers and of differences of them it is 1; of a mean over seeds accordingly less."""
    differences = np.zeros((1, 10_000))
    differences[0, :40], differences[0, 40:70] = 1, -1
    assert size_of(differences) == pytest.approx(1, rel=0.01)
    assert size_of(np.concatenate([differences, 0 * differences])) == pytest.approx(0.5, rel=0.01)
    assert size_of(np.ones((2, 5))) == 0.0


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "mcc"])
def test_few_differences_do_not_hide_what_others_would_make(name: str) -> None:
    """Two methods that differ in three answers of 200, all of the common class; a rare one would make more."""
    generator = np.random.default_rng(0)
    targets = (np.arange(200) < 20).astype(int)
    first = np.where(generator.random(200) < 0.8, targets, 1 - targets)
    second = first.copy()
    second[-3:] = 1 - second[-3:]
    tables = [METRICS[name].values(Answered(targets, answers))[None] for answers in (first, second)]
    found = one(tables[0], tables[1], name)
    seen = scipy_stats.ttest_rel(tables[0][0], tables[1][0]).confidence_interval()
    assert found.interval.high - found.interval.low > 1.3 * (seen.high - seen.low)
