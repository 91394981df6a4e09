"""Linear models on dense features: scikit-learn's own, with regularization by cross-validation and features scaled."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from afina.stats.linear_models import (
    STRENGTHS,
    UNSEEN,
    WITHOUT_FOLDS,
    LinearClasses,
    LinearFit,
    LinearLabels,
    LinearNumber,
    LinearTags,
    _spread,
    fit_bytes,
    fit_dense,
)


def data(count: int = 120, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scales and means, and a number that depends on some of them."""
    draw = np.random.Generator(np.random.PCG64(seed))
    plain = draw.normal(size=(count, width))
    right = plain[:, 0] - 2 * plain[:, 1] + draw.normal(size=count)
    scales = 10.0 ** np.linspace(-3, 4, width)
    return ((plain + 3) * scales).astype(np.float32), right


def outputs(fit: LinearFit, features: np.ndarray) -> np.ndarray:
    return features.astype(np.float64) @ fit.weights.T + fit.biases


@pytest.mark.parametrize("intercept", [True, False])
def test_weights_for_the_features_as_they_are_answer_as_the_fit_on_scaled_features(intercept: bool) -> None:
    features, right = data()
    wide = features.astype(np.float64)
    centre = wide.mean(0) if intercept else 0.0
    scaled = (wide - centre) / wide.std(0)
    classes = (right > 0).astype(np.int64)
    found = fit_dense(LinearClasses(), features, classes, 2, intercept=intercept)
    model = LogisticRegression(C=found.strength, fit_intercept=intercept, max_iter=1000).fit(scaled, classes)
    expected = model.decision_function(scaled)
    made = outputs(found, features)
    assert np.abs(made[:, 1] - made[:, 0] - expected).max() < 1e-3 * np.abs(expected).max()
    assert found.strength in STRENGTHS
    number = fit_dense(LinearNumber(), features, right, 1, intercept=intercept)
    ridge = Ridge(alpha=number.strength, fit_intercept=intercept).fit(scaled, right)
    assert np.abs(outputs(number, features)[:, 0] - ridge.predict(scaled)).max() < 1e-5
    assert (found.biases != 0).any() == (number.biases != 0).any() == intercept


def test_with_a_common_scale_all_features_are_divided_by_one_number() -> None:
    features, right = data()
    classes, wide = (right > 0).astype(np.int64), features.astype(np.float64)
    found = fit_dense(LinearClasses(), features, classes, 2, intercept=True, common_scale=True)
    scaled = (wide - wide.mean(0)) / np.sqrt(wide.var(0).mean())
    model = LogisticRegression(C=found.strength, max_iter=1000).fit(scaled, classes)
    made, expected = outputs(found, features), model.decision_function(scaled)
    assert np.abs(made[:, 1] - made[:, 0] - expected).max() < 1e-3 * np.abs(expected).max()


def test_texts_of_labels_are_learnt_in_each_fold_and_scored_in_none() -> None:
    plain, right = data(count=30)
    features, classes = plain.astype(np.float64), (right > 0).astype(np.int64)
    names = features[:2] + 5.0
    given = np.concatenate([features, names]), np.concatenate([classes, [0, 1]])
    weights = np.concatenate([np.ones(30), [4.0, 4.0]])
    found = fit_dense(LinearClasses(), *given, 2, intercept=True, weights=weights, label_texts=2)
    lowest, best = np.inf, 0.0
    for strength in STRENGTHS:
        losses = []
        for learnt, seen in LinearClasses().folds(classes).split(features, classes):
            part = np.concatenate([learnt, [30, 31]])
            shifted = np.concatenate([features, names + features[learnt].mean(0) - features.mean(0)])
            rows = shifted[part], given[1][part], 2
            made = fit_dense(
                LinearClasses(), *rows, intercept=True, weights=weights[part], strength=strength, label_texts=2
            )
            losses.append(LinearClasses().loss(outputs(made, features[seen]), classes[seen]))
        if np.mean(losses) < lowest:
            lowest, best = float(np.mean(losses)), strength
    assert found.strength == best
    other = np.concatenate([features, names + 100.0]), given[1]
    again = fit_dense(LinearClasses(), *other, 2, intercept=True, weights=weights, label_texts=2)
    assert np.abs(again.weights - found.weights).max() < 1e-3 * np.abs(found.weights).max()


def test_the_strength_has_the_lowest_loss_in_cross_validation() -> None:
    features, right = data(count=90)
    wide, classes = features.astype(np.float64), (right > 0).astype(np.int64)
    kind = LinearClasses()
    losses = []
    for strength in STRENGTHS:
        each = []
        for learnt, seen in kind.folds(classes).split(wide, classes):
            centre, scale = wide[learnt].mean(0), wide[learnt].std(0)
            model = LogisticRegression(C=strength, max_iter=1000).fit((wide[learnt] - centre) / scale, classes[learnt])
            chances = model.predict_proba((wide[seen] - centre) / scale)
            each.append(-np.log(chances[np.arange(len(seen)), classes[seen]]).mean())
        losses.append(np.mean(each))
    found = fit_dense(LinearClasses(), features, classes, 2, intercept=True)
    assert found.strength == STRENGTHS[int(np.argmin(losses))]


def test_weights_of_features_that_hardly_vary_are_bounded() -> None:
    features, right = data()
    tiny = np.random.default_rng(0).normal(size=(len(features), 2)) * [1e-33, 1e-8]
    classes = (right > 0).astype(np.int64)
    found = fit_dense(LinearClasses(), np.hstack([features / features.std(0), tiny]), classes, 2, intercept=True)
    assert 1e5 < np.abs(found.weights).max() < 1e10


def test_a_constant_feature_and_a_feature_of_zeros_do_no_harm() -> None:
    features, right = data()
    more = np.concatenate([features, np.full((len(features), 1), 3e6, np.float32), np.zeros_like(features[:, :1])], 1)
    for intercept in (True, False):
        found = fit_dense(LinearNumber(), more, right, 1, intercept=intercept)
        assert np.isfinite(found.weights).all()
        assert found.converged
        assert np.corrcoef(outputs(found, more)[:, 0], right)[0, 1] > 0.8


def test_labels_that_no_text_or_every_text_has_are_answered_so() -> None:
    features, right = data()
    labels = np.stack([right > 0, np.zeros(len(right)), np.ones(len(right))], 1).astype(np.float32)
    for intercept in (True, False):
        made = outputs(fit_dense(LinearLabels(), features, labels, 3, intercept=intercept), features)
        assert (made[:, 1] == UNSEEN).all()
        assert (made[:, 2] == -UNSEEN).all()
        assert ((made[:, 0] > 0) == labels[:, 0]).mean() > 0.8
    classes = fit_dense(LinearClasses(), features, 2 * (right > 0).astype(np.int64), 4, intercept=False)
    assert (outputs(classes, features)[:, [1, 3]] == UNSEEN).all()


def test_weights_of_texts_are_those_of_the_loss() -> None:
    features, right = data()
    classes = (right > 1.5).astype(np.int64)
    balanced = (len(classes) / (2 * np.bincount(classes)))[classes]
    found = fit_dense(LinearClasses(), features, classes, 2, intercept=True, weights=balanced)
    wide = features.astype(np.float64)
    scaled = (wide - wide.mean(0)) / wide.std(0)
    model = LogisticRegression(C=found.strength, class_weight="balanced", max_iter=1000).fit(scaled, classes)
    made = outputs(found, features)
    expected = model.decision_function(scaled)
    assert np.abs(made[:, 1] - made[:, 0] - expected).max() < 1e-3 * np.abs(expected).max()


def test_few_texts_are_fitted_without_cross_validation() -> None:
    features, right = data(count=4)
    for linear, targets, strength in ((LinearClasses(), np.array([0, 1, 0, 1]), 0.01), (LinearNumber(), right, 50.0)):
        found = fit_dense(linear, features, targets, 2 if linear.parameter == "C" else 1, intercept=False)
        assert np.isfinite(outputs(found, features)).all()
        assert found.strength == strength


def test_words_of_which_those_compared_all_have_one_tag_are_fitted_without_cross_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("afina.stats.linear_models.MOST_COMPARED", 20)
    features, _ = data(count=40)
    tags = np.zeros(40, np.int64)
    tags[[3, 5, 7, 9, 11]] = [1, 2, 1, 1, 2]
    assert not tags[_spread(40)].any()
    for linear in (LinearTags(), LinearClasses()):
        found = fit_dense(linear, features, tags, 3, intercept=True)
        assert found.strength == WITHOUT_FOLDS
        assert np.isfinite(outputs(found, features)).all()


def test_a_solver_that_stops_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.stats.linear_models.MOST_ITERATIONS", 2)
    features, right = data()
    assert not fit_dense(LinearClasses(), features, (right > 0).astype(np.int64), 2, intercept=True).converged


@pytest.mark.slow
@pytest.mark.parametrize("compared", [500, 5000])
def test_the_memory_of_a_fit_is_foreseen(monkeypatch: pytest.MonkeyPatch, compared: int) -> None:
    monkeypatch.setattr("afina.stats.linear_models.MOST_COMPARED", compared)
    monkeypatch.setattr("afina.stats.linear_models.MOST_ITERATIONS", 1)
    features = np.random.default_rng(0).normal(size=(1500, 192)).astype(np.float32)
    classes = (features[:, 0] > 0).astype(np.int64)
    targets = {
        LinearTags: classes,
        LinearClasses: classes,
        LinearNumber: features[:, 0].astype(np.float64),
        LinearLabels: np.stack([classes, 1 - classes], 1).astype(np.float32),
    }
    for kind, right in targets.items():
        fit_dense(kind(), features[:90, :2], right[:90], 2, intercept=True)  # imports what a fit needs
        for strength in (None, 1.0):
            tracemalloc.start()
            fit_dense(kind(), features, right, 2, intercept=True, strength=strength)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            foreseen = fit_bytes(kind(), *features.shape, strength)
            assert 0.8 * foreseen < peak < 1.1 * foreseen, (kind, strength)
