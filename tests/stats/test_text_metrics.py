"""Metrics of texts: cases by hand, any number of references, and standard errors against the bootstrap.

`test_registry.py` compares every metric with another library, and its values with the jackknife.
"""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from afina.stats import bleu_chrf_nist, text
from afina.stats.comparison import compare
from afina.stats.intervals import estimate_of_answers
from afina.stats.metrics import METRICS, Answered
from afina.stats.ngrams import Paired, longest_common
from references import given, texts

CORPUS = ["bleu", "chrf", "nist"]


def value(name: str, answers: list[str], targets: list[list[str]], **extras: np.ndarray) -> float:
    return METRICS[name].value(given(answers, targets, **extras))


def part(answered: Answered, places: np.ndarray) -> Answered:
    return Answered(answered.targets[places], answered.answers[places])


# By hand


def test_exact_match_and_token_f1_take_the_best_reference_as_squad_normalises_it() -> None:
    targets = [["The Cat's mat!", "a dog"], ["42"]]
    assert value("exact_answer", ["cats mat", "42."], targets) == 1.0
    assert value("exact_answer", ["cat mat", "no"], targets) == 0.0
    assert value("token_f1", ["an old dog", "42"], targets) == pytest.approx((2 * 1 / (2 + 1) + 1) / 2)
    assert value("token_f1", ["the", ""], [["a"], ["b"]]) == 0.5, "articles alone equal articles alone"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("abcbdab", "bdcaba", 4), ("", "abc", 0), ("abc", "", 0), ("abc", "abc", 3), ("abc", "xyz", 0), ("aab", "aba", 2)],
)
def test_the_longest_common_subsequence_by_hand(first: str, second: str, expected: int) -> None:
    assert longest_common(first, second) == expected == longest_common(second, first)


def test_rouge_by_hand() -> None:
    """Of `police killed the gunman`, `police kill the gunman` has 3 words, 1 pair of words, and 3 words in order."""
    answers, targets = ["police kill the gunman"], [["Police killed the gunman.", "nothing at all"]]
    found = [value(f"rouge_{kind}", answers, targets) for kind in "12l"]
    assert found == pytest.approx([3 / 4, 1 / 3, 3 / 4])


def test_rouge_of_a_script_that_it_does_not_read_is_undefined_and_chrf_is_not() -> None:
    assert np.isnan(value("rouge_l", ["東京です"], [["東京です"]]))
    assert value("rouge_l", ["東京です", "a"], [["東京です"], ["a"]]) == 0.5, "as in rouge-score"
    assert value("chrf", ["東京です"], [["東京です"]]) == 1.0


def test_loss_and_perplexity_are_over_all_tokens() -> None:
    extras = {"nll": np.array([2.0, 9.0]), "reference_tokens": np.array([1, 3])}
    assert value("loss", ["", ""], [["a"], ["b"]], **extras) == pytest.approx(11 / 4)
    assert value("perplexity", ["", ""], [["a"], ["b"]], **extras) == pytest.approx(np.exp(11 / 4))
    impossible = {"nll": np.array([1e9]), "reference_tokens": np.array([1])}
    assert value("perplexity", [""], [["a"]], **impossible) == np.inf


def test_what_only_a_language_model_has_is_undefined_without_one() -> None:
    answered = given(["a"], [["a"]])
    assert [name for name, one in METRICS.items() if one.kind == "text" and np.isnan(one.value(answered))] == [
        "loss",
        "perplexity",
        "unended",
    ]


def test_lengths_repeats_and_answers_without_an_end() -> None:
    answers, targets = ["a b c", "a b a b a b"], [["a", "a b c d e"], ["x y"]]
    assert [one.tolist() for one in text.word_counts(given(answers, targets))] == [[3, 6], [1, 2]]
    assert value("length_ratio", answers, targets) == 9 / 3
    assert value("repeated_4grams", answers, targets) == pytest.approx((0 + 1 / 3) / 2)
    assert value("unended", answers, targets, ended=np.array([True, False])) == 0.5


def test_nist_by_hand() -> None:
    """Two answers of two words; the references have `a` 3 times of 6 words, `b` twice, `a b` twice of 3 `a`."""
    answers, targets = ["a b", "c d"], [["a b", "A B"], ["a c"]]
    words = (1 + np.log2(6 / 2) + np.log2(6 / 1)) / 4
    pairs = np.log2(3 / 2) / 2
    assert value("nist", answers, targets) == pytest.approx(words + pairs)
    short = value("nist", ["a"], [["a b c"]])
    ratio = 1 / 3
    assert short == pytest.approx(np.log2(3) * np.exp(np.log(0.5) * (np.log(ratio) / np.log(2 / 3)) ** 2))


# References, of any number


@pytest.mark.parametrize("name", CORPUS)
def test_the_order_of_references_and_examples_does_not_matter(name: str) -> None:
    answered = texts(np.random.default_rng(0), 40)
    turned = given(list(answered.answers[::-1]), [one[::-1] for one in answered.targets[::-1]])
    assert METRICS[name].value(turned) == pytest.approx(METRICS[name].value(answered), abs=0.002)
    assert METRICS[name].values(turned).shape == (40,)


def test_signatures_are_those_that_sacrebleu_gives_after_scoring() -> None:
    for most in (1, 4):
        answered = texts(np.random.default_rng(0), 20, most=most)
        padded = [[one[k] if k < len(one) else None for one in answered.targets] for k in range(most)]
        found = bleu_chrf_nist.signatures(answered.targets)
        for name, metric in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())):
            metric.corpus_score(list(answered.answers), padded)
            assert found[name] == str(metric.get_signature())
    assert "nrefs:var" in found["bleu"]


def test_shared_ngrams_by_hand() -> None:
    paired = Paired.of(["abab", "b"], [["abb", "ba"], ["bb"]])
    ones, twos, threes = paired.overlaps(3)
    assert ones.shared.tolist() == [3, 2, 1]
    assert twos.shared.tolist() == [1, 1, 0]
    assert threes.shared.tolist() == [0, 0, 0]
    assert (ones.hits.total.sum(), twos.hits.total.sum()) == (4, 2), "a and 2 b, b; ab and ba once each"
    assert sorted(twos.answers.total[twos.answers.total > 0].tolist()) == [1, 2], "ba, and ab twice"


def test_texts_are_counted_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = texts(np.random.default_rng(0), 50)
    whole = bleu_chrf_nist.chrf_values(answered)
    monkeypatch.setattr(bleu_chrf_nist, "CHARACTERS", 300)
    assert bleu_chrf_nist.chrf_values(part(answered, np.arange(50))).tolist() == whole.tolist()


# Uncertainty


@pytest.mark.parametrize("name", CORPUS)
def test_one_text_and_texts_that_are_all_alike_have_values(name: str) -> None:
    metric = METRICS[name]
    for count in (1, 2, 30):
        values = metric.values(given(["a b c d e f"] * count, [["a b c d e g"]] * count))
        assert values == pytest.approx(np.full(count, values[0]))
        assert np.isfinite(values).all()


def _noisy(answered: Answered, share: float) -> Answered:
    generator = np.random.default_rng(1)
    spoilt = [" ".join("x" if generator.random() < share else word for word in one.split()) for one in answered.answers]
    return given(spoilt, answered.targets, **{**answered.extras, "nll": answered.extras["nll"] + share})


@pytest.mark.parametrize("name", ["rouge_l", "bleu", "chrf", "nist", "token_f1", "exact_answer", "loss"])
def test_a_worse_method_is_found_to_be_worse(name: str) -> None:
    good = texts(np.random.default_rng(0), 150)
    metric = METRICS[name]
    values = {"good": metric.values(good)[None], "bad": metric.values(_noisy(good, 0.3))[None]}
    (found,) = compare(values, metric=metric)
    assert found.verdict == "better"
    assert found.difference == pytest.approx(metric.value(good) - metric.value(_noisy(good, 0.3)))
    interval = estimate_of_answers([good], metric).interval
    assert interval.low < metric.value(good) < interval.high
