"""A threshold of abstention keeps its promise, also where confidence says nothing; the reference is MAPIE."""

from __future__ import annotations

import numpy as np
import pytest
from mapie.risk_control.fwer_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy.stats import binomtest

from afina.stats.abstention import CONFIDENCE, LADDER, fewest, find_threshold, start_of


def draw(texts: int, error: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw confidences and whether answers are wrong, with a true error that depends on the confidence."""
    confidence = rng.uniform(0.5, 1.0, texts)
    return confidence, rng.random(texts) < ERRORS[error](confidence)


ERRORS = {
    "calibrated": lambda confidence: 1 - confidence,
    "uninformative": lambda confidence: np.full(len(confidence), 0.101),
    "step": lambda confidence: np.where(confidence > 0.9, 0.01, 0.4),
    "confident mistakes": lambda confidence: np.where(confidence > 0.99, 0.5, 1 - confidence),
}


def true_error(error: str, threshold: float) -> float:
    """Return the error among all texts whose confidence is at least the threshold."""
    confidence = np.linspace(max(threshold, 0.5), 1.0, 2001)
    return float(ERRORS[error](confidence).mean())


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("texts", [60, 400])
def test_the_promise_is_broken_in_at_most_one_of_twenty_draws(error: str, texts: int) -> None:
    rng, draws = np.random.default_rng(1), 200
    found = [find_threshold(*draw(texts, error, rng), 0.1).value for _ in range(draws)]
    broken = sum(one is not None and true_error(error, one) > 0.1 for one in found)
    assert binomtest(broken, draws, 1 - CONFIDENCE, alternative="greater").pvalue > 0.01


def test_a_threshold_that_is_chosen_without_a_test_breaks_the_promise() -> None:
    """The reason for the test: the lowest threshold with a small enough error on the same texts is a lucky one."""
    broken, rng = 0, np.random.default_rng(7)
    for _ in range(200):
        confidence, wrong = draw(400, "uninformative", rng)
        order = np.argsort(-confidence)
        share = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
        broken += bool((share[20:] <= 0.1).any())
    assert broken > 100


@pytest.mark.parametrize("error", ["calibrated", "step"])
def test_the_threshold_is_that_of_mapies_fixed_sequence(error: str) -> None:
    confidence, wrong = draw(500, error, np.random.default_rng(7))
    counts = [(int((confidence >= one).sum()), int((wrong & (confidence >= one)).sum())) for one in LADDER]
    tested = [place for place, (answered, _) in enumerate(counts) if answered >= start_of(500, 0.1)]
    exact = [binomtest(counts[place][1], counts[place][0], 0.1, alternative="less").pvalue for place in tested]
    accepted = control_fwer(np.array(exact), 1 - CONFIDENCE, "fixed_sequence")
    found = find_threshold(confidence, wrong, 0.1)
    assert found.value == LADDER[tested[accepted[-1]]]
    assert (found.found.answered, found.found.errors) == counts[tested[accepted[-1]]]
    assert found.found.coverage == found.found.answered / 500
    answered, errors = np.array(counts)[tested].T
    bound = compute_hoeffding_bentkus_p_value(errors / answered, answered, np.array([0.1]))
    assert (np.ravel(bound) >= np.array(exact) - 1e-12).all()  # MAPIE's own p-values accept less


def test_too_few_texts_or_too_many_errors_give_no_threshold() -> None:
    assert (fewest(0.05), fewest(0.1), fewest(0.05, errors=1)) == (59, 29, 93)
    certain, right = np.full(58, 0.99), np.zeros(58, dtype=bool)
    assert find_threshold(certain, right, 0.05).value is None
    enough = find_threshold(np.full(59, 0.99), np.zeros(59, dtype=bool), 0.05)
    assert enough.value == LADDER[-1]
    assert (enough.found.answered, enough.found.errors, enough.found.coverage) == (59, 0, 1.0)
    none = find_threshold(np.full(400, 0.99), np.arange(400) % 3 == 0, 0.05)
    assert (none.value, none.found.answered, none.found.errors) == (None, 0, 0)
    assert np.isnan(none.found.error)


def test_the_ladder_descends_and_separates_confidences_near_one() -> None:
    assert (np.diff(LADDER) < 0).all()
    assert LADDER[0] > 1 - 2e-7
    assert LADDER[-1] < 0.001  # below the largest of a thousand equal probabilities
