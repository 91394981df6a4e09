"""Doubtful labels: cleanlab's own for classes and labels, robust residuals for numbers, and the share that is wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from afina.errors import NotFound
from afina.stats import label_issues
from afina.stats.folds import stratified_folds
from afina.stats.intervals import exact_bounds
from afina.stats.label_issues import ROBUST, wrong_share
from afina.stats.linear_models import LinearClasses, cross_fitted, fit_dense
from raises import raises


def chances(targets: np.ndarray, classes: int, draw: np.random.Generator) -> np.ndarray:
    """Probabilities of a model that is often right."""
    logits = draw.normal(size=(len(targets), classes))
    logits[np.arange(len(targets)), targets] += 2
    made: np.ndarray = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4])
def test_doubtful_classes_are_those_of_cleanlab_in_the_order_of_its_normalised_margin(classes: int) -> None:
    from cleanlab.filter import find_label_issues

    draw = np.random.default_rng(classes)
    right = draw.integers(0, classes, 400)
    probabilities = chances(right, classes, draw)
    targets = np.where(draw.random(400) < 0.1, (right + 1) % classes, right)
    expected = find_label_issues(targets, probabilities, return_indices_ranked_by="normalized_margin", n_jobs=1)
    found = label_issues.of_classes(targets, probabilities)
    assert len(found) > 20
    assert found.places.tolist() == expected.tolist()
    assert (found.suggested == probabilities[found.places].argmax(axis=1)).all()
    assert (found.probabilities == probabilities[found.places].max(axis=1)).all()
    assert (np.diff(found.suspicions[found.places]) <= 0).all()
    assert found.first(5).places.tolist() == expected[:5].tolist()


@pytest.mark.slow
def test_doubtful_labels_are_those_of_cleanlab_and_the_suggestion_changes_only_the_doubtful_ones() -> None:
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    from cleanlab.multilabel_classification.rank import get_label_quality_scores

    draw = np.random.default_rng(0)
    right = (draw.random((300, 3)) < [0.5, 0.2, 0.3]).astype(np.int64)
    probabilities = np.clip(0.8 * right + 0.1 + draw.normal(0, 0.1, right.shape), 0.01, 0.99)
    targets = right.copy()
    targets[:10, 0] ^= 1
    several = [np.flatnonzero(row).tolist() for row in targets]
    expected = find_multilabel_issues_per_class(several, probabilities, n_jobs=1)
    found = label_issues.of_labels(targets, probabilities)
    assert sorted(found.places.tolist()) == np.flatnonzero(expected.any(axis=1)).tolist()
    assert 8 <= len(found) <= 10
    assert (found.suspicions == -get_label_quality_scores(several, probabilities)).all()
    assert (found.suggested == right[found.places]).all()
    assert (found.probabilities > 0.5).all()
    assert (np.diff(found.suspicions[found.places]) <= 0).all()
    targets[:, 2] = 1  # cleanlab refuses a label of all texts
    assert sorted(label_issues.of_labels(targets, probabilities).places.tolist()) == sorted(found.places.tolist())


def test_a_number_is_doubtful_if_its_residual_is_far_from_the_others() -> None:
    draw = np.random.default_rng(0)
    predicted = draw.normal(size=200)
    targets = predicted + 5 + draw.uniform(-0.1, 0.1, 200)
    targets[7] += 3
    targets[3] -= 1
    found = label_issues.of_numbers(targets, predicted)
    assert found.places.tolist() == [7, 3]
    assert found.suggested.tolist() == predicted[[7, 3]].round(4).tolist()
    assert found.suspicions[7] > found.suspicions[3] > ROBUST > np.sort(found.suspicions)[-3]
    assert np.isnan(found.probabilities).all()
    assert len(label_issues.of_numbers(predicted, predicted)) == 0


def test_flipped_targets_are_wrong_and_of_the_same_form() -> None:
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 3, 300)
    flipped = label_issues.flipped_classes(targets, 3, draw)
    assert not (flipped == targets).any()
    assert set(flipped.tolist()) == {0, 1, 2}
    several = draw.integers(0, 2, (300, 4))
    assert ((label_issues.flipped_labels(several, draw) != several).sum(axis=1) == 1).all()


def test_the_share_of_wrong_labels_is_estimated_from_a_mixture_and_bounded() -> None:
    """Wrong labels have suspicions around 2, right ones around 0: a tenth is wrong."""
    draw = np.random.default_rng(1)
    for wrong in (0.0, 0.1):
        given = draw.normal(2.0 * (np.arange(5000) < 5000 * wrong), 1.0)
        found = wrong_share([given, given], draw.normal(2.0, 1.0, 1000))
        assert wrong - 0.015 <= found.share <= wrong + 0.03
        assert found.share < found.at_most <= wrong + 0.07
    assert wrong_share([np.ones(9)], np.ones(9)).share == 1.0


def test_exact_bounds_are_those_of_a_table() -> None:
    """Clopper and Pearson: 0 of 10 is at most 0.3085, 1 of 10 at most 0.4450 (95 %, two-sided)."""
    assert exact_bounds(0, 10, 0.025).high == pytest.approx(0.3085, abs=1e-4)
    assert exact_bounds(0, 10, 0.025).low == 0.0
    assert exact_bounds(1, 10, 0.025).high == pytest.approx(0.4450, abs=1e-4)
    assert exact_bounds(10, 10, 0.025).low == pytest.approx(1 - 0.3085, abs=1e-4)
    assert exact_bounds(10, 10, 0.025).high == 1.0


def test_folds_keep_groups_together_and_spread_each_stratum() -> None:
    draw = np.random.default_rng(0)
    strata = (draw.random(503) < 0.1).astype(np.int64)
    groups = [*range(480), *([480] * 20), 3, 3, 3]
    strata[480:500] = 1
    folds = stratified_folds(strata, groups, 5, seed=0)
    assert len({*folds[480:500].tolist()}) == len({folds[3], *folds[500:].tolist()}) == 1
    alone = np.arange(480)
    counts = [[int((strata[alone][folds[alone] == fold] == one).sum()) for fold in range(5)] for one in (0, 1)]
    assert np.ptp(counts[0]) <= 4
    assert np.ptp(np.bincount(folds)) <= 25
    assert (stratified_folds(strata, groups, 5, seed=0) == folds).all()
    assert (stratified_folds(strata, groups, 5, seed=1) != folds).any()


def test_each_output_of_a_cross_fit_is_that_of_a_model_of_the_other_folds() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 3)).astype(np.float32)
    targets = (features[:, 0] + draw.normal(size=60) > 0).astype(np.int64)
    folds = np.arange(60) % 3
    outputs, strength = cross_fitted(LinearClasses(), features, targets, 2, folds)
    chosen = folds == 1
    model = fit_dense(LinearClasses(), features[~chosen], targets[~chosen], 2, intercept=True, strength=strength)
    assert np.allclose(outputs[chosen], features[chosen].astype(np.float64) @ model.weights.T + model.biases)
    again, same = cross_fitted(LinearClasses(), features, targets, 2, folds, strength)
    assert same == strength
    assert (again == outputs).all()


def test_classes_without_cleanlab_are_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with raises(NotFound, code="extra.missing") as caught:
        label_issues.of_classes(np.array([0, 1]), np.full((2, 2), 0.5))
    assert "afina[doubts]" in str(caught.value)
