"""Doubtful entities: those whose words a model tags otherwise, with what it would have instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from afina.data.entities import Entity, as_entities, corrected
from afina.data.words import words_of
from afina.models import objectives
from afina.models.feature_rows import FeatureRows
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.stats import label_issues
from afina.stats.linear_models import HELD
from afina.studies.labelling.cross_fitting import CrossFit, by_features, calibrated
from afina.studies.labelling.doubtful_kinds import doubtful_kind

NAMES = ("LOC", "PER")
ENTITIES: Objective = objectives.make(NAMES, {"kind": "entities"})
KIND = doubtful_kind(ENTITIES)


def test_predicted_entities_with_a_doubtful_word_replace_given_ones() -> None:
    given = (Entity(0, 5, "PER"), Entity(10, 14, "LOC"), Entity(20, 30, "LOC"))
    other = (Entity(0, 5, "PER"), Entity(6, 14, "PER"), Entity(24, 30, "LOC"))
    doubtful = np.array([[10, 14]])
    assert corrected(given, other, doubtful) == (given[0], other[1], given[2])
    assert corrected(given, (), doubtful) == (given[0], given[2])
    assert corrected(given, other, np.zeros((0, 2), np.int32)) == given
    assert corrected((), other, np.array([[24, 25]])) == (other[2],)
    wide = (Entity(0, 14, "LOC"),)  # touches a given entity without a doubtful word
    assert corrected(given, wide, doubtful) == (*wide, given[2])


def task(count: int = 80, seed: int = 0) -> tuple[list[str], np.ndarray, FeatureRows]:
    """Texts of five words whose tags follow from features, each word with an entity of its own or none."""
    draw = np.random.default_rng(seed)
    texts = [f"alpha beta gamma delta number{place}" for place in range(count)]
    words = np.fromiter((words_of(text) for text in texts), dtype=object)
    tags = draw.choice(3, (count, 5), p=[0.7, 0.15, 0.15])  # O, LOC, PER
    found = [
        [(*span, NAMES[tag - 1]) for span, tag in zip(spans.tolist(), row, strict=True) if tag]
        for spans, row in zip(words, tags.tolist(), strict=True)
    ]
    rows = (np.eye(3)[tags.reshape(-1)] + draw.normal(0, 0.1, (5 * count, 3))).astype(np.float32)
    return texts, as_entities(found), FeatureRows(rows, words)


def fitted(targets: np.ndarray, features: FeatureRows) -> CrossFit:
    folds = np.arange(len(targets)) % 4
    folds[-10:] = HELD
    return by_features(features, targets, ENTITIES, folds)


def test_confident_mistakes_are_calibrated_before_what_models_gain_is_measured() -> None:
    """Predictions that are right in seven words of eight, with certainty, are better than frequencies of tags."""
    _, right, features = task(40)
    outputs = 30.0 * np.eye(5)[ENTITIES.row_targets(right, features)]
    outputs[::8] = np.roll(outputs[::8], 1, axis=1)
    predictions = ENTITIES.of_rows(outputs, right, features)
    folds = np.arange(40) % 4
    found = CrossFit(predictions, calibrated(ENTITIES, predictions, folds), folds)
    assert replace(found, objective=ENTITIES).gain < 0 < found.gain


@pytest.mark.slow  # the import of cleanlab takes seconds
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_words_that_models_of_other_texts_tag_otherwise_are_found_with_the_text_they_are_in() -> None:
    _, right, features = task()
    random = np.random.default_rng(1)
    wrong = [3, 17, 42, 75]
    targets = right.copy()
    given = Predictions(right[wrong], right[wrong], {"words": features.words[wrong]})  # type: ignore[index]
    targets[wrong] = KIND.flipped(ENTITIES, given, random)
    assert KIND.differ(ENTITIES, targets, right).nonzero()[0].tolist() == wrong
    made = fitted(targets, features)
    assert made.gain > 0.5
    issues = KIND.issues(ENTITIES, made.predictions)
    assert sorted(np.argsort(-issues.suspicions)[:4].tolist()) == wrong
    assert {*issues.places.tolist()} <= {*wrong}
    assert len(issues) >= 3, "confident learning prunes some"
    assert issues.suggested.tolist() == right[issues.places].tolist()
    assert (np.diff(issues.suspicions[issues.places]) <= 0).all()
    assert (issues.probabilities > 0.5).all()
    assert made.refitted is not None
    again = KIND.issues(ENTITIES, made.refitted(right))
    assert len(again) == 0


def test_each_flipped_target_has_one_wrong_entity_and_targets_without_entities_get_one() -> None:
    _, right, features = task(seed=3)
    given = Predictions(right, right, {"words": features.words})  # type: ignore[dict-item]
    flipped = KIND.flipped(ENTITIES, given, np.random.default_rng(0))
    assert KIND.differ(ENTITIES, flipped, right).all()
    for before, after in zip(right, flipped, strict=True):
        assert abs(len(after) - len(before)) <= 1
        assert len({*before} ^ {*after}) in (1, 2)


def test_rows_of_words_are_chosen_with_their_texts_and_averaged_by_text() -> None:
    _, right, features = task(4)
    some = features.take([2, 0])
    assert len(some) == 2
    np.testing.assert_array_equal(some.rows, np.concatenate([features.rows[10:15], features.rows[:5]]))
    np.testing.assert_allclose(some.of_texts, [features.rows[10:15].mean(axis=0), features.rows[:5].mean(axis=0)])
    tags = ENTITIES.row_targets(right, features)
    np.testing.assert_array_equal(ENTITIES.row_targets(right[[2, 0]], some), np.concatenate([tags[10:15], tags[:5]]))
    outputs = np.eye(5)[tags]
    assert ENTITIES.decode(ENTITIES.of_rows(outputs, right, features)).tolist() == right.tolist()
    assert features.repeated(np.arange(4)).tolist() == sorted([*range(4)] * 5)
    plain = FeatureRows(features.rows[:3])
    assert (len(plain), plain.take([1]).rows.tolist()) == (3, features.rows[1:2].tolist())
    assert plain.of_texts is plain.rows


@pytest.mark.slow  # the import of cleanlab takes seconds
def test_doubtful_words_are_those_of_cleanlab() -> None:
    from cleanlab.token_classification.filter import find_label_issues

    _, right, features = task(120, seed=2)
    draw = np.random.default_rng(0)
    tags = np.split(ENTITIES.row_targets(right, features), 120)
    given = [np.where(draw.random(5) < 0.05, draw.integers(0, 5, 5), each) for each in tags]
    chances = [np.full((5, 5), 0.02) + 0.9 * np.eye(5)[each] for each in tags]
    expected = find_label_issues([each.tolist() for each in given], chances, n_jobs=1)
    found = label_issues.of_words(given, chances)
    assert {(text, word) for text, one in enumerate(found) for word in one.places.tolist()} == {*expected}
    assert len(expected) > 5
