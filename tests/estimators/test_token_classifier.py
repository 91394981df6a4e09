"""The estimator of entities: what it refuses, and what it finds, saves and is measured by."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from afina import Backbone, MarkedText, TokenClassifier
from afina.data.entities import Entity
from afina.errors import AfinaError
from afina.estimators.inputs import entities_of
from records import sentences_with_entities

TEXT = "Maria lives in Porto."
QUICK: dict[str, Any] = {"method": "lora", "training": {"max_steps": 1, "dtype": "float32"}, "batch_size": 4}


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["x"], "input.entity-invalid", "text 1: found 'x'. Expected entities as"),
        ([[(0, 5)]], "input.entity-invalid", r"text 1: found \(0, 5\)"),
        ([[(0, "5", "PER")]], "input.entity-invalid", "Expected entities as"),
        ([[(0.0, 5.0, "PER")]], "input.entity-invalid", "Expected entities as"),
        ([[(0, 5, "")]], "input.entity-invalid", "a label that is a text"),
        ([[(0, 5, None)]], "input.entity-invalid", "a label that is a text"),
        ([[{"start": 0, "label": "PER"}]], "input.entity-invalid", "Expected entities as"),
        ([3], "input.entity-invalid", "found 3"),
        ([[(0, 22, "PER")]], "input.entity-invalid", "the text has 21 characters"),
        ([[(-1, 5, "PER")]], "input.entity-invalid", "Expected 0 <= start < end <= 21"),
        ([[(5, 5, "PER")]], "input.entity-invalid", "Expected 0 <= start < end"),
        ([[(0, 5, "PER"), (3, 8, "LOC")]], "input.entity-invalid", "overlap"),
        ([[(0, 4, "PER")]], "input.entity-invalid", "'Mari' does not begin and end at a word; its words are 'Maria'"),
        ([[(0, 6, "PER")]], "input.entity-invalid", "its words are 'Maria'"),
        ([[(5, 6, "PER")]], "input.entity-invalid", "its words are ''"),
        ([[]], "input.one-value", "none of the 1 texts has an entity"),
        (None, "input.target-missing", "target y is None"),
    ],
)
def test_entities_that_do_not_fit_their_text_are_refused_with_the_text(given: Any, code: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        entities_of(given, [TEXT])
    assert isinstance(caught.value, AfinaError)
    assert caught.value.code == code


def test_entities_are_tuples_or_dicts_in_any_order() -> None:
    found, names = entities_of([[(15, 20, "LOC"), {"end": 5, "start": np.int64(0), "label": "PER"}], []], [TEXT, "Hi."])
    assert found.tolist() == [(Entity(0, 5, "PER"), Entity(15, 20, "LOC")), ()]
    assert names == ("LOC", "PER")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        entities_of([[]], [TEXT, TEXT])


def test_pairs_of_texts_and_predicting_before_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="Entities are parts of one text"):
        TokenClassifier().fit([("a", "b")], [[(0, 1, "X")]])
    with pytest.raises(NotFittedError):
        TokenClassifier().predict([TEXT])


def test_it_finds_entities_and_is_cloned_pickled_and_scored(gpt2: Backbone) -> None:
    texts, targets = sentences_with_entities(9)
    made = clone(TokenClassifier(backbone=gpt2.address, **QUICK)).fit(texts, targets)
    check_is_fitted(made)
    assert made.labels_.tolist() == ["LOC", "PER"]
    found = made.predict(texts[:3])
    assert [*map(len, found)] == [len([*one]) for one in found]
    assert {entity.label for one in found for entity in one} <= {"LOC", "PER"}
    for text, one in zip(texts, found, strict=False):
        assert str(MarkedText.of(text, one)).count("[") == len(one)
    again = pickle.loads(pickle.dumps(made))
    assert again.predict(texts[:3]) == found
    assert made.score(texts[:3], found) == 1.0 if any(found) else np.isnan(made.score(texts[:3], targets[:3]))
    assert 0 <= made.score(texts, targets) <= 1
    assert made.predictor_(texts[:1])[0]["entities"] == [
        {**entity._asdict(), "text": texts[0][entity.start : entity.end], "score": pytest.approx(0.5, abs=0.5)}
        for entity in found[0]
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("check_parameters_default_constructible", "check_no_attributes_set_in_init", "check_get_params_invariance"),
        *("check_set_params", "check_estimator_repr", "check_estimator_cloneable", "check_mixin_order"),
        "check_valid_tag_types",
    ],
)
def test_it_passes_the_checks_of_scikit_learn_that_need_no_data(name: str) -> None:
    """The other checks of scikit-learn give rows of numbers and a number for each, which are no entities."""
    getattr(estimator_checks, name)("TokenClassifier", TokenClassifier())
