"""TextClassifier and TextRegressor: what scikit-learn and its users expect of an estimator, on tiny models."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from afina import Adapter, AfinaError, Backbone, Predictor, TextClassifier, TextRegressor
from afina.errors import InvalidData, InvalidStudy, UnknownName
from fakes import sentences
from raises import raises

SHORT = {"max_steps": 3, "dtype": "float32"}
TEXTS = [text for text, _ in sentences(24)]
LABELS = [("bad", "good")[label] for _, label in sentences(24)]


@pytest.fixture
def made(gpt2: Backbone) -> TextClassifier:
    return TextClassifier(backbone=gpt2.address, training=SHORT)


@pytest.fixture(scope="module")
def fitted(gpt2: Backbone) -> TextClassifier:
    return TextClassifier(backbone=gpt2.address, training=SHORT).fit(TEXTS, LABELS)


def test_it_fits_predicts_and_scores(fitted: TextClassifier) -> None:
    assert fitted.classes_.tolist() == ["bad", "good"]
    answers, chances = fitted.predict(TEXTS), fitted.predict_proba(TEXTS)
    assert answers.shape == (24,)
    assert (answers == fitted.classes_[chances.argmax(axis=1)]).all()
    assert chances.sum(axis=1) == pytest.approx(1.0)
    assert fitted.score(TEXTS, LABELS) == accuracy_score(LABELS, answers)
    assert (fitted.n_iter_, len(fitted.loss_curve_), fitted.n_features_in_) == (3, 3, 1)
    assert is_classifier(fitted)


def test_it_is_the_run_of_the_same_settings(fitted: TextClassifier, gpt2: Backbone) -> None:
    again = clone(fitted).fit(TEXTS, LABELS)
    assert again.adapter_.digest == fitted.adapter_.digest
    assert np.array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    manifest = fitted.adapter_.manifest
    assert (manifest.method, manifest.label_names, manifest.seed) == ("lora", ("bad", "good"), 0)
    assert manifest.training["max_steps"] == 3
    expected = Predictor.load(fitted.adapter_).outputs(TEXTS)
    assert np.array_equal(fitted.predictor_.outputs(TEXTS), expected)


def test_nothing_is_claimed_of_the_texts_that_it_was_trained_on_and_no_file_is_left(
    made: TextClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made.fit(TEXTS, LABELS)
    assert list(tmp_path.iterdir()) == []
    manifest = made.adapter_.manifest
    assert (manifest.metrics, manifest.task, manifest.evaluation_digest) == ({}, None, None)
    manifest.check_claims("it")


@pytest.mark.parametrize(
    "given",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pd.Series(TEXTS, index=range(100, 124)),
        pd.DataFrame({"text": TEXTS}),
    ],
    ids=["tuple", "array", "column", "Series", "DataFrame"],
)
def test_every_form_of_texts_gives_the_same_answers(fitted: TextClassifier, given: Any) -> None:
    assert np.array_equal(fitted.predict_proba(given), fitted.predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([label == "good" for label in LABELS]), [False, True]),
        ([7 if label == "good" else -1 for label in LABELS], [-1, 7]),
        (pd.Series(LABELS, dtype="category", index=range(24, 0, -1)), ["bad", "good"]),
        ([0.0 if label == "good" else 1.0 for label in LABELS], [0.0, 1.0]),
        ([["no", "yes", "perhaps"][number % 3] for number in range(24)], ["no", "perhaps", "yes"]),
    ],
)
def test_labels_keep_their_type(made: TextClassifier, labels: Any, classes: list[Any]) -> None:
    made.set_params(method="head", head="random", training={"max_steps": 1}).fit(TEXTS, labels)
    assert made.classes_.tolist() == classes
    assert made.predict_proba(TEXTS[:2]).shape == (2, len(classes))
    assert made.predict(TEXTS).dtype == made.classes_.dtype
    assert set(made.predict(TEXTS)) <= set(classes)


def test_labels_that_are_not_words_are_warned_of_with_the_parameter_to_give(made: TextClassifier) -> None:
    numbers = [int(label == "good") for label in LABELS]
    with pytest.warns(UserWarning, match="The labels `0` and `1` are not words") as told:
        made.fit(TEXTS, numbers)
    assert Path(told[0].filename).name == Path(__file__).name
    given = re.search(r"words=(\{.*?\}) \(", str(told[0].message))
    assert given is not None
    made.set_params(words=ast.literal_eval(given[1])).fit(TEXTS, numbers)
    assert made.adapter_.manifest.words == {"0": (" negative",), "1": (" positive",)}


def test_pairs_are_two_columns_in_their_order(made: TextClassifier) -> None:
    frame = pd.DataFrame({"first": TEXTS, "second": TEXTS[::-1]})
    made.fit(frame, LABELS)
    assert made.n_features_in_ == 2
    assert made.feature_names_in_.tolist() == ["first", "second"]
    assert np.array_equal(made.predict_proba(frame), made.predict_proba(list(zip(TEXTS, TEXTS[::-1], strict=True))))
    with raises(InvalidData, code="input.columns-differ", found=["second", "first"]):
        made.predict(frame[["second", "first"]])
    with raises(ValueError, code="input.pairs-mismatch", found="single texts"):
        made.predict(TEXTS)


def test_singles_are_not_answered_for_pairs(fitted: TextClassifier) -> None:
    with raises(ValueError, code="input.pairs-mismatch", found="pairs of texts"):
        fitted.predict([("a", "b")])


def test_it_is_cloned_copied_and_pickled(fitted: TextClassifier) -> None:
    copied = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copied.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert copied.get_params() == fitted.get_params()
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        fresh.predict(TEXTS)


def test_it_works_in_a_pipeline_a_search_and_a_cross_validation(made: TextClassifier) -> None:
    quick = made.set_params(method="head", training={"max_steps": 1})
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), quick),
        {"textclassifier__learning_rate": np.array([1e-3, 1e-2]), "textclassifier__batch_size": np.array([8])},
        cv=2,
        scoring="roc_auc",
        error_score="raise",
    )
    search.fit(TEXTS, LABELS)
    assert set(search.best_params_) == {"textclassifier__learning_rate", "textclassifier__batch_size"}
    assert set(search.predict(TEXTS)) <= {"bad", "good"}
    assert len(cross_val_score(quick, np.array(TEXTS), LABELS, cv=2, error_score="raise")) == 2


def test_the_seed_is_the_random_state(made: TextClassifier) -> None:
    def digest(random_state: Any) -> str:
        made.set_params(random_state=random_state, training={"max_steps": 1}, method="head", head="random")
        found: str = made.fit(TEXTS, LABELS).adapter_.digest
        return found

    assert digest(np.int64(5)) == digest(5) != digest(6)
    assert digest(np.random.RandomState(3)) == digest(np.random.RandomState(3))
    assert digest(None) != digest(None)


def test_out_is_where_the_adapter_is_left_and_nothing_else_is_overwritten(
    made: TextClassifier, tmp_path: Path, gpt2: Backbone
) -> None:
    out = tmp_path / "model"
    made.set_params(out=out).fit(TEXTS, LABELS)
    assert Adapter.load(out).digest == made.adapter_.digest
    assert (out / "adapter_config.json").is_file()  # peft opens it too
    assert np.array_equal(Predictor.load(out).outputs(TEXTS), made.predictor_.outputs(TEXTS))
    made.set_params(random_state=1).fit(TEXTS, LABELS)  # in the place of the first
    assert Adapter.load(out).digest == made.adapter_.digest
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    with raises(InvalidStudy, code="option.invalid", path="mine"):
        made.set_params(out=mine).fit(TEXTS, LABELS)
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("texts", "labels", "told"),
    [
        ("one text", ["a"], "X: one string, 'one text': expected a list of texts"),
        ([], [], r"X: found 0 sample\(s\)"),
        (["a", "b"], ["x"], "inconsistent numbers of samples"),
        (["a", "b"], ["x", "x"], "y: all 2 texts have one class, 'x'"),
        (["a", None], ["x", "y"], "X: text 2: found a NoneType, expected a text"),
        (["a", float("nan")], ["x", "y"], "X: text 2: found a float"),
        (["a", " "], ["x", "y"], "X: text 2: ' ' is blank"),
        (["a", b"b"], ["x", "y"], "X: text 2: found a bytes"),
        (["a", "b"], ["x", None], r"y: label 2 is missing \(None"),
        (["a", "b"], [0.5, float("nan")], "y: label 2 is missing"),
        (["a", "b"], [0.5, 0.25], "Unknown label type: continuous"),
        (["a", "b"], pd.Series(["x", pd.NA]), "y: label 2 is missing"),
        (["a", "b"], np.array(["x", 1], dtype=object), "y: found labels of several types|Unknown label type"),
        (["a", "b"], ["x", "y\ud800"], "y: label 2, .* holds half a surrogate pair"),
        (["a", "b"], None, "requires y to be passed"),
        (["a", "b"], [[1, 0], [0, 1]], "should be a 1d array|1d"),
        (np.zeros((2, 3)), ["x", "y"], r"X: `texts`: found a ndarray of shape \(2, 3\)"),
        (np.zeros(2), ["x", "y"], "X: text 1: found a float64, expected a text"),
        ({"a": 1}, ["x"], "X: `texts`: found a dict"),
        (pd.DataFrame({"id": [1, 2], "text": ["a", "b"], "z": [0, 0]}), ["x", "y"], "columns 'id', 'text', 'z'"),
        (pd.DataFrame({"id": [1, 2], "text": ["a", "b"]}), ["x", "y"], "X: text 1: found a int"),
    ],
)
def test_rubbish_is_a_value_error_that_says_what_is_wrong(
    made: TextClassifier, texts: Any, labels: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        made.fit(texts, labels)
    with pytest.raises(NotFittedError):
        made.predict(["a"])


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"method": "lorra"}, UnknownName, "Did you mean 'lora'"),
        ({"hyperparameters": {"rank": 3}}, AfinaError, "rank"),
        ({"epochs": 0}, InvalidStudy, "epochs"),
        ({"learning_rate": -1.0}, InvalidStudy, "learning_rate"),
        (
            {"training": {"epochs": 3}},
            InvalidStudy,
            "`training` has epochs, which is also a parameter of the estimator",
        ),
        ({"training": {"epoch": 3}}, AfinaError, "epoch"),
        ({"training": "epochs=3"}, InvalidStudy, "`training`: found a str. Expected a dict or None"),
        ({"hyperparameters": ["r"]}, InvalidStudy, "`hyperparameters`: found a list"),
        ({"class_weight": {"bad": 2}}, InvalidStudy, "class_weights"),
        ({"words": {"good": ["great"], "fine": ["ok"]}}, UnknownName, "fine"),
        ({"template": "no place"}, AfinaError, "{text}"),
        ({"template": "{text} Title: {title}"}, AfinaError, "{title} is no column"),
        ({"random_state": -1}, InvalidStudy, "seed"),
        ({"backbone": "nowhere/at-all/here"}, AfinaError, "nowhere"),
    ],
)
def test_parameters_are_looked_at_by_fit(
    made: TextClassifier, changes: dict[str, Any], error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made.set_params(**changes)
    with pytest.raises(error, match=told):
        made.fit(TEXTS, LABELS)


def test_a_temperature_is_fitted_on_texts_that_are_set_aside(made: TextClassifier) -> None:
    made.set_params(method="head", training={"max_steps": 2, "temperature": True}).fit(TEXTS, LABELS)
    assert made.adapter_.manifest.objective["kind"] == "classes"


def test_a_regressor_answers_in_the_unit_of_its_numbers(gpt2: Backbone) -> None:
    prices = [100.0 + 10 * len(text) for text in TEXTS]
    made = TextRegressor(backbone=gpt2.address, method="head", training=SHORT).fit(
        TEXTS, pd.Series(prices, name="price")
    )
    answers = made.predict(TEXTS)
    assert (answers.shape, answers.dtype) == ((24,), np.float64)
    assert min(prices) - 500 < answers.mean() < max(prices) + 500
    assert made.score(TEXTS, prices) == r2_score(prices, answers)
    assert made.adapter_.manifest.label_names == ("price",)
    assert is_regressor(made)
    for wrong, told in (([1.0] * 24, "all 24 texts have the number 1"), (["a"] * 24, "could not convert")):
        with pytest.raises(ValueError, match=told):
            made.fit(TEXTS, wrong)


def test_it_is_there_without_torch_until_it_fits() -> None:
    code = "import sys, afina; made = afina.TextClassifier(); made.get_params(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
