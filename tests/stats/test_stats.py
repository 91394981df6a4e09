"""Intervals, tests and verdicts: published figures, figures computed another way, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from afina.stats import classification
from afina.stats.comparison import Comparison, compare
from afina.stats.intervals import Crossed, accuracy_estimate, bounded, f1_estimate, wilson
from afina.stats.significance import CHANCE, Evidence, holm, mcnemar, score, tango
from grid import some_slow


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_first, only_second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def studies(
    generator: np.random.Generator, count: int, seeds: int, examples: int, shares: tuple[float, float], sd: float
) -> np.ndarray:
    """bool [count, 2, seeds, examples] of two methods whose true accuracies are `shares`, over all seeds and examples.

    An answer is right where a normal variable exceeds a threshold; it has effects of the example, of the example for
    the method, of the seed, and of chance. `sd` is the standard deviation of a method's true accuracy over its seeds.
    """
    normal = scipy_stats.norm
    found = np.empty((count, 2, seeds, examples), bool)
    example = generator.standard_normal((count, 1, examples))
    for method, share in enumerate(shares):
        at, variance, effect = normal.ppf(share), 1.0 + 0.5**2 + 0.6**2, 0.0
        for _ in range(20):
            effect = sd / normal.pdf(at) * np.sqrt(variance + effect**2)
        latent = at * np.sqrt(variance + effect**2) + example + 0.5 * generator.standard_normal((count, 1, examples))
        latent = latent + effect * generator.standard_normal((count, seeds, 1))
        found[:, method] = latent + 0.6 * generator.standard_normal((count, seeds, examples)) > 0
    return found


def one(first: np.ndarray, second: np.ndarray, **options: float) -> Comparison:
    (found,) = compare({"A": first, "B": second}, **options)
    return found


# Published and independent figures


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_newcombe_1998_table_1(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    found = wilson(successes, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_mcnemar_on_the_approval_ratings_of_agresti() -> None:
    """Categorical Data Analysis, section 10.1: 794, 150, 86, 570. R: binom.test(86, 236) gives 3.716e-05."""
    assert mcnemar(*paired(794, 150, 86, 570)) == pytest.approx(3.716e-05, rel=1e-4)


def test_tango_on_airway_reactivity() -> None:
    """1, 1, 7, 12: Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014) 2850-2875: -0.517 to -0.026."""
    found = tango(1, 7, 21)
    assert (found.low, found.high) == (pytest.approx(-0.5173, abs=1e-4), pytest.approx(-0.0260, abs=5e-5))


def test_the_score_of_no_difference_is_mcnemars() -> None:
    """Agresti gives z = -4.17 for the approval ratings."""
    assert score(86, 150, 1600, 0.0) == pytest.approx((86 - 150) / np.sqrt(236))
    assert score(86, 150, 1600, 0.0) == pytest.approx(-4.17, abs=0.005)


def test_the_score_takes_its_variance_from_the_maximum_of_the_likelihood() -> None:
    first, second, n, difference = 9, 4, 60, -0.03
    shares = np.linspace(0.0301, 0.5, 400_001)
    likelihood = first * np.log(shares + difference) + second * np.log(shares)
    likelihood += (n - first - second) * np.log(1 - 2 * shares - difference)
    share = shares[np.argmax(likelihood)]
    error = np.sqrt((2 * share + difference - difference**2) / n)
    assert score(first, second, n, difference) == pytest.approx(((first - second) / n - difference) / error, rel=1e-5)


@pytest.mark.parametrize("counts", [(0, 0, 20), (5, 0, 5), (0, 5, 5), (3, 0, 30), (0, 40, 1000)])
def test_the_ends_of_tango_are_where_the_score_is_z(counts: tuple[int, int, int]) -> None:
    found, z = tango(*counts), scipy_stats.norm.ppf(0.975)
    for end, expected in ((found.low, z), (found.high, -z)):
        assert abs(end) == 1 or score(*counts, end) == pytest.approx(expected, rel=1e-6)


def test_holm_by_hand_and_in_any_order() -> None:
    """0.01, 0.04, 0.03, 0.005 give 0.03, 0.06, 0.06, 0.02 (R: p.adjust(p, "holm"))."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.6]) == [1.0, 1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_bounded_is_wilson_for_the_width_of_a_share() -> None:
    width = scipy_stats.norm.ppf(0.975) * np.sqrt(0.9 * 0.1 / 50)
    expected = wilson(45, 50)
    assert bounded(0.9, width).low == pytest.approx(expected.low)
    assert bounded(0.9, width).high == pytest.approx(expected.high)


# Seeds by examples


def test_mean_squares_are_those_of_the_analysis_of_variance_by_hand() -> None:
    """Rows 2, 4, 6 and 4, 8, 12: means 4 and 8, columns 3, 6, 9; rest -1, 0, 1 and 1, 0, -1."""
    model = Crossed.of(np.array([[2.0, 4.0, 6.0], [4.0, 8.0, 12.0]]))
    assert (model.between_seeds, model.between_examples, model.rest) == pytest.approx((24.0, 18.0, 2.0))
    assert model.variance == pytest.approx((24 + 18 - 2) / 6)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_where_only_seeds_vary_it_is_students_t_over_seeds(seeds: int) -> None:
    means = np.random.default_rng(seeds).standard_normal(seeds)
    values = np.repeat(means[:, None], 20_000, axis=1)
    expected = scipy_stats.t.ppf(0.975, seeds - 1) * means.std(ddof=1) / np.sqrt(seeds)
    assert Crossed.of(values).width(0.95) == pytest.approx(expected, rel=0.01)


def test_with_one_seed_it_is_students_t_over_examples() -> None:
    values = np.random.default_rng(0).standard_normal((1, 30))
    expected = scipy_stats.t.interval(0.95, 29, values.mean(), values.std(ddof=1) / np.sqrt(30))
    assert Crossed.of(values).width(0.95) == pytest.approx(expected[1] - values.mean())


def test_components_are_recovered_and_predict_the_variance_at_another_size() -> None:
    generator = np.random.default_rng(5)
    values = generator.standard_normal((200, 1)) + 2 * generator.standard_normal(300)
    values = values + 3 * generator.standard_normal((200, 300))
    model = Crossed.of(values)
    assert model.at(200, 300).variance == pytest.approx(model.variance)
    assert model.at(3, 10).variance == pytest.approx(1 / 3 + 4 / 10 + 9 / 30, rel=0.15)


def test_the_tail_of_the_width_is_what_the_level_leaves() -> None:
    model = Crossed.of(np.random.default_rng(0).standard_normal((3, 40)))
    for level in (0.5, 0.9, 0.95, 0.999):
        assert model.tail(model.width(level)) == pytest.approx((1 - level) / 2)
    assert model.tail(0.0) == pytest.approx(0.5)


# Accuracy and F1


def test_accuracy_of_one_seed_has_wilsons_interval_and_no_spread() -> None:
    correct = np.arange(1000) < 893
    found = accuracy_estimate(correct)
    assert (found.mean, found.spread, found.interval) == (0.893, None, wilson(893, 1000))
    assert accuracy_estimate(correct[None]) == found


def test_the_spread_is_the_standard_deviation_of_the_seeds() -> None:
    correct = np.array([[1] * 9 + [0], [1] * 8 + [0] * 2, [1] * 7 + [0] * 3], bool)
    found = accuracy_estimate(correct)
    assert (found.mean, found.spread) == (pytest.approx(0.8), pytest.approx(0.1))
    assert found.interval.contains(0.8)


def test_seeds_that_answer_alike_count_as_one() -> None:
    correct = np.arange(50) < 45
    same = accuracy_estimate(np.tile(correct, (3, 1)))
    assert (same.mean, same.spread, same.interval) == (0.9, 0.0, wilson(45, 50))
    gold, predicted = np.arange(50) % 2, np.where(correct, np.arange(50) % 2, 1 - np.arange(50) % 2)
    assert f1_estimate(gold, np.tile(predicted, (3, 1)), 2).interval == f1_estimate(gold, predicted, 2).interval
    assert f1_estimate(gold, np.tile(predicted, (3, 1)), 2).spread == 0.0


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("classes", [2, 3])
def test_perfection_in_few_examples_is_not_certainty(seeds: int, classes: int) -> None:
    gold = np.arange(20) % classes
    perfect = np.tile(gold, (seeds, 1))
    for found in (accuracy_estimate(perfect == gold), f1_estimate(gold, perfect, classes)):
        assert found.mean == found.interval.high == 1.0
        assert 0.5 < found.interval.low < 0.95
    assert accuracy_estimate(perfect != gold).interval == wilson(0, 20)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seeds", [1, 4])
def test_f1_is_that_of_metrics(classes: int, seeds: int) -> None:
    generator = np.random.default_rng(classes)
    gold = generator.integers(0, classes, 60)
    predicted = np.where(generator.random((seeds, 60)) < 0.7, gold, generator.integers(0, classes, (seeds, 60)))
    by_seed = [classification.f1(gold, each, classes) for each in predicted]
    found = f1_estimate(gold, predicted, classes)
    assert found.mean == pytest.approx(np.mean(by_seed))
    assert found.spread == (None if seeds == 1 else pytest.approx(np.std(by_seed, ddof=1)))
    assert 0 <= found.interval.low < found.mean < found.interval.high <= 1


def test_f1_of_a_class_that_never_occurs() -> None:
    nothing = f1_estimate(np.zeros(9, int), np.zeros((1, 9), int), 2)
    assert np.isnan([nothing.mean, nothing.interval.low, nothing.interval.high]).all()
    gold, answers = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 0])
    for classes in (3, 4):
        by_hand = (6 / 8 + 2 / 3 + 0) / 3
        assert classification.f1(gold, answers, classes) == pytest.approx(by_hand)
        assert f1_estimate(gold, answers, classes).mean == pytest.approx(by_hand)


def test_f1_of_one_seed_by_hand_wilson_of_the_jaccard_index() -> None:
    """TP 40, FP 10, FN 5: Wilson of 40 in 55, and F1 = 2 J / (1 + J)."""
    gold = np.repeat([1, 0, 1, 0], [40, 10, 5, 45])
    predicted = np.repeat([1, 1, 0, 0], [40, 10, 5, 45])
    share = wilson(40, 55)
    found = f1_estimate(gold, predicted, 2)
    assert found.mean == pytest.approx(80 / 95)
    assert found.interval.low == pytest.approx(2 * share.low / (1 + share.low))
    assert found.interval.high == pytest.approx(2 * share.high / (1 + share.high))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_spread_of_f1_over_examples_is_that_of_the_bootstrap(classes: int) -> None:
    generator = np.random.default_rng(1)
    gold = generator.integers(0, classes, 800)
    base = np.where(generator.random(800) < 0.8, gold, generator.integers(0, classes, 800))
    predicted = np.tile(base, (2, 1))
    predicted[1, :4] = (predicted[1, :4] + 1) % classes
    drawn = generator.integers(0, 800, (250, 800))
    again = [classification.f1(gold[index], base[index], classes) for index in drawn]
    found = f1_estimate(gold, base, classes).interval
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(again), rel=0.12)


# Verdicts


def test_better_and_worse_and_the_other_way_round() -> None:
    first, second = paired(794, 150, 86, 570)
    found, swapped = one(first, second), one(second, first)
    assert (found.verdict, swapped.verdict) == ("better", "worse")
    assert found.words == (
        "A is better than B by 4.0 points (95 % interval 2.1 to 5.9). (One seed: this says nothing of other seeds.)"
    )
    assert swapped.words.startswith("A is worse than B by 4.0 points (95 % interval 2.1 to 5.9).")
    assert (found.more_seeds, found.more_examples) == (None, None)
    assert found.noninferiority < 0.001 < 0.9 < swapped.noninferiority


def test_several_seeds_say_nothing_of_one_seed() -> None:
    first, second = studies(np.random.default_rng(0), 1, 5, 1000, (0.92, 0.85), 0.005)[0]
    found = one(first, second)
    assert found.verdict == "better"
    assert "seed" not in found.words
    assert len(found.mcnemar) == 5
    assert found.mcnemar[2] == mcnemar(first[2], second[2])


def test_methods_that_always_agree_are_equivalent_with_enough_examples_only() -> None:
    for seeds in (1, 3):
        many, few = np.ones((seeds, 1000), bool), np.ones((seeds, 20), bool)
        assert one(many, many).verdict == "equivalent"
        assert one(many, many).p == 1.0
        found = one(few, few)
        assert found.verdict == "undecided"
        assert found.interval.high > 0.05
        assert (found.more_seeds, found.more_examples) == (None, None)
        assert "; 20 examples are too few to estimate how many more would settle it." in found.words
    assert "equivalent within 1 point: difference 0.0 points" in one(many, many).words


def test_nearly_the_same_answers_are_not_certainty_either() -> None:
    """One answer of 60 differs: three seeds of 20 examples do not show equivalence."""
    first = np.ones((3, 20), bool)
    second = first.copy()
    second[1, 7] = False
    found = one(first, second)
    assert found.verdict == "undecided"
    assert found.interval.low < -0.03 < 0.05 < found.interval.high


def test_a_difference_may_be_certain_and_within_the_margin() -> None:
    found = one(*paired(98_000, 500, 200, 1300))
    assert found.verdict == "better"
    assert found.equivalence < 0.05
    assert ", within the margin of 1 point." in found.words


def test_too_few_examples_do_not_say_how_many_more_would_settle_it() -> None:
    """Of 16 examples, 3 differ; with 6.25 times as many in the same shares, the number is shown."""
    few, more = one(*paired(13, 2, 1, 0)), one(*paired(82, 12, 6, 0))
    assert (few.verdict, more.verdict) == ("undecided", "undecided")
    assert (few.examples, more.examples) == (16, 100)
    assert few.more_examples is None
    assert few.words.startswith("Undecided between A and B: difference 6.2 points (95 % interval ")
    assert "); 16 examples are too few to estimate how many more would settle it." in few.words
    assert more.more_examples
    assert f"; about {more.more_examples:,} more examples would probably settle it" in more.words


def test_undecided_says_what_would_settle_it() -> None:
    found = one(*paired(850, 45, 37, 68))
    assert found.verdict == "undecided"
    assert found.more_examples is not None
    text = f"{found.more_examples:,} more examples would probably settle it."
    assert found.words.startswith(
        f"Undecided between A and B: difference 0.8 points (95 % interval −1.0 to 2.6); about {text}"
    )
    several = studies(np.random.default_rng(2), 1, 3, 4000, (0.90, 0.88), 0.012)[0]
    found = one(*several)
    assert found.more_seeds is not None
    assert found.more_examples is None
    assert f"{found.more_seeds} more seed" in found.words
    assert "(more examples alone would not)" in found.words
    assert "not sure enough" not in found.words


def test_many_pairs_can_make_undecided_what_one_pair_alone_would_decide() -> None:
    first, second = paired(900, 40, 20, 40)
    alone = one(first, second)
    among = compare({"A": first, "B": second, "C": second, "D": first, "E": second})[0]
    assert (alone.verdict, among.verdict) == ("better", "undecided")
    assert "not sure enough for one of several pairs" in among.words


def test_pairs_with_a_reference_are_counted_apart() -> None:
    first, second = paired(900, 40, 20, 40)
    among = compare({"A": first, "B": second, "C": second, "D": first, "E": second}, references=("C", "D", "E"))
    assert [one.verdict for one in among if {one.first, one.second} == {"A", "B"}] == ["better"]
    with_references = [one for one in among if {one.first, one.second} != {"A", "B"}]
    rest = sorted(one.p for one in with_references)
    assert {one.adjusted for one in with_references if one.p == rest[0]} == {min(1.0, len(rest) * rest[0])}
    everyone = compare({"A": first, "B": second}, references=("A", "B"))
    assert everyone == compare({"A": first, "B": second})


def test_another_method_changes_only_what_is_corrected_for_it() -> None:
    first, second = studies(np.random.default_rng(3), 1, 3, 300, (0.9, 0.82), 0.005)[0]
    alone, among = one(first, second), compare({"A": first, "B": second, "C": second})[0]
    for name in ("difference", "interval", "p", "mcnemar", "equivalence", "noninferiority"):
        assert getattr(among, name) == getattr(alone, name)
    assert among.adjusted > alone.adjusted == alone.p


@pytest.mark.parametrize(("seeds", "examples"), [(1, 200), (2, 200), (3, 20), (5, 200)])
def test_laws_of_a_comparison(seeds: int, examples: int) -> None:
    generator = np.random.default_rng(seeds * examples)
    rejected = 0
    for level in (0.9, 0.95):
        for first, second in studies(generator, 6, seeds, examples, (0.95, 0.7), 0.01):
            found, swapped = one(first, second, level=level), one(second, first, level=level)
            rejected += found.p < 1 - level
            assert (found.p < 1 - level) == (not found.interval.contains(0))
            assert found.interval.contains(found.difference)
            assert found.difference == pytest.approx(first.mean() - second.mean())
            assert swapped.difference == -found.difference
            assert swapped.interval.low == pytest.approx(-found.interval.high)
            assert (swapped.p, swapped.equivalence) == (pytest.approx(found.p), pytest.approx(found.equivalence))
            order, runs = generator.permutation(examples), generator.permutation(seeds)
            shuffled = one(first[runs][:, order], second[runs][:, order], level=level)
            assert shuffled.p == pytest.approx(found.p)
            assert shuffled.interval.low == pytest.approx(found.interval.low)
            assert 0 <= found.noninferiority <= found.equivalence + 1e-12 <= 1 + 1e-12
    assert rejected or examples == 20


@pytest.mark.parametrize("seeds", [1, 3])
def test_equivalence_is_the_inner_interval_within_the_margin(seeds: int) -> None:
    """TOST at 5 % is the 90 % interval within the margin."""
    verdicts = set()
    for first, second in studies(np.random.default_rng(9), 20, seeds, 3000, (0.97, 0.97), 0.001):
        found, inner = one(first, second), one(first, second, level=0.9).interval
        assert (found.equivalence < 0.05) == (inner.low > -0.01 and inner.high < 0.01)
        assert (found.noninferiority < 0.05) == (inner.low > -0.01)
        verdicts.add(found.verdict)
    assert "equivalent" in verdicts


@pytest.mark.parametrize("level", some_slow([0.9, 0.95, 0.99, 0.999], quick=[0.95]))
def test_tango_never_includes_zero_where_the_exact_test_rejects(level: float) -> None:
    """So that extending his interval to 0 is all that it takes for both to agree."""
    for only_first in range(40):
        for only_second in range(only_first):
            if mcnemar(*paired(0, only_first, only_second, 0)) < 1 - level:
                assert tango(only_first, only_second, 200, level).low > 0


def test_unlike_shapes_and_senseless_settings_are_refused() -> None:
    three, two = np.ones((3, 10), bool), np.ones((2, 10), bool)
    with pytest.raises(ValueError, match="A 3 seeds x 10 examples, B 2 seeds x 10 examples"):
        one(three, two)
    with pytest.raises(ValueError, match="without any"):
        one(np.ones((3, 0), bool), np.ones((3, 0), bool))
    with pytest.raises(ValueError, match="margin: found 1"):
        one(three, three, margin=1)
    with pytest.raises(ValueError, match="level: found 95"):
        one(three, three, level=95)
    with pytest.raises(ValueError, match="seeds by examples"):
        accuracy_estimate(np.ones((0, 4), bool))
    with pytest.raises(ValueError, match="one label for each"):
        f1_estimate(np.ones(3, int), np.ones((2, 4), int), 2)
    with pytest.raises(ValueError, match="same examples"):
        mcnemar(np.ones(3, bool), np.ones(1, bool))
    assert compare({"A": three}) == []


# By simulation


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "sd"), [(1, 0.0), (3, 0.01)])
def test_equal_methods_are_seldom_called_different_and_unequal_ones_seldom_equivalent(seeds: int, sd: float) -> None:
    generator = np.random.default_rng(1)
    same = [Evidence.of(*each) for each in studies(generator, 300, seeds, 500, (0.9, 0.9), sd)]
    assert np.mean([each.p < 0.05 for each in same]) <= 0.07
    at_margin = [Evidence.of(*each) for each in studies(generator, 300, seeds, 500, (0.97, 0.96), sd / 4)]
    assert np.mean([each.equivalence < 0.05 for each in at_margin]) <= 0.08


@pytest.mark.parametrize(("counts", "verdict"), [((850, 50, 35, 65), "better"), ((280, 5, 5, 10), "equivalent")])
def test_so_many_more_examples_settle_it(counts: tuple[int, int, int, int], verdict: str) -> None:
    """Examples drawn anew from what was observed, as many as there were and were asked for."""
    first, second = paired(*counts)
    found = one(first, second)
    assert found.verdict == "undecided"
    assert found.more_examples is not None
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(first), (100, len(first) + found.more_examples))
    again = [Evidence.of(first[None, index], second[None, index]) for index in drawn]
    settled = ["better" if each.p < 0.05 else "equivalent" if each.equivalence < 0.05 else "" for each in again]
    assert CHANCE - 0.15 <= np.mean([bool(each) for each in settled]) <= 0.97
    assert max(set(settled), key=settled.count) == verdict


@pytest.mark.slow
def test_so_many_more_seeds_settle_it() -> None:
    """New seeds of the same methods, on the same examples; the true difference is not quite the one observed."""
    settled = []
    for first, second in studies(np.random.default_rng(0), 50, 25, 1500, (0.90, 0.88), 0.01):
        found = one(first[:3], second[:3])
        if found.more_seeds and found.more_seeds <= 22:
            again = Evidence.of(first[: 3 + found.more_seeds], second[: 3 + found.more_seeds])
            settled.append(again.p < 0.05 or again.equivalence < 0.05)
    assert len(settled) > 20
    assert np.mean(settled) > 0.6
