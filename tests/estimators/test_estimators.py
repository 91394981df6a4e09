"""TextClassifier and TextRegressor: what scikit-learn and its users expect of an estimator, on tiny models."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier

from afina import Adapter, AfinaError, Backbone, Predictor, TextClassifier, TextRegressor
from afina.errors import CorruptAdapter, InvalidData, InvalidStudy, UnknownName
from fakes import Backbones, sentences
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
    assert (fitted.n_iter_, len(fitted.loss_curve_)) == (3, 3)
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
    [np.array(TEXTS, dtype=object)[:, None], pd.Series(TEXTS, index=range(100, 124)), pd.DataFrame({"text": TEXTS})],
    ids=["column", "Series", "DataFrame"],
)
def test_other_forms_of_texts_give_the_same_answers(fitted: TextClassifier, given: Any) -> None:
    assert np.array_equal(fitted.predict_proba(given), fitted.predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([label == "good" for label in LABELS]), [False, True]),
        ([7 if label == "good" else -1 for label in LABELS], [-1, 7]),
        ([0.0 if label == "good" else 1.0 for label in LABELS], [0.0, 1.0]),
        (
            pd.Series([["no", "yes", "perhaps"][n % 3] for n in range(24)], dtype="category", index=range(24, 0, -1)),
            ["no", "perhaps", "yes"],
        ),
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


def test_the_state_has_the_adapter_as_bytes(fitted: TextClassifier) -> None:
    def kinds(value: Any) -> set[type]:
        inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        return {type(value)}.union(*map(kinds, inner))

    state = fitted.__getstate__()
    assert kinds(state) <= {dict, list, str, bytes, int, float, bool, type(None), np.ndarray}
    assert {"manifest.json", "adapter_model.safetensors"} <= state["adapter_"].keys()
    again = TextClassifier()
    again.__setstate__(state)
    assert np.array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert again.adapter_.digest == fitted.adapter_.digest
    assert np.array_equal(copy.deepcopy(fitted).predict_proba(TEXTS[:3]), fitted.predict_proba(TEXTS[:3]))


def test_a_state_of_an_earlier_version_and_a_changed_state_are_refused(fitted: TextClassifier) -> None:
    state = fitted.__getstate__()
    with raises(CorruptAdapter, code="adapter.file-missing", found="Adapter"):
        TextClassifier().__setstate__({**state, "adapter_": fitted.adapter_})
    cut = {**state["adapter_"], "adapter_model.safetensors": b"cut"}
    with raises(CorruptAdapter, code="adapter.file-malformed"):
        TextClassifier().__setstate__({**state, "adapter_": cut})
    with raises(CorruptAdapter, code="adapter.file-malformed", path="../manifest.json"):
        TextClassifier().__setstate__({**state, "adapter_": {"../manifest.json": b""}})


def test_only_inputs_with_columns_have_a_number_of_columns(fitted: TextClassifier, made: TextClassifier) -> None:
    """MAPIE, for one, gives rows of numbers to an estimator that says how many columns it takes."""
    assert not hasattr(fitted, "n_features_in_")
    made.set_params(method="head", training={"max_steps": 1})
    assert made.fit(pd.DataFrame({"text": TEXTS}), LABELS).n_features_in_ == 1
    assert not hasattr(made.fit(np.array(TEXTS), LABELS), "n_features_in_")


@pytest.mark.slow
def test_whole_weights_train_as_repeated_texts_do(backbones: Backbones) -> None:
    """All texts are one batch, and there is no dropout: the gradient is that of the weighted mean."""
    made = TextClassifier("bitfit", backbone=str(backbones.path("gpt2", dropout=0.0)), batch_size=64)
    made.set_params(class_weight="balanced", training={"max_steps": 2, "dtype": "float32"})
    weights = [1 + number % 3 for number in range(24)]
    repeated = np.repeat(np.arange(24), weights)
    chances = made.fit(TEXTS, LABELS, sample_weight=weights).predict_proba(TEXTS)
    plain = clone(made).fit([TEXTS[i] for i in repeated], [LABELS[i] for i in repeated])
    assert chances == pytest.approx(plain.predict_proba(TEXTS), abs=1e-5)
    assert abs(chances - clone(made).fit(TEXTS, LABELS).predict_proba(TEXTS)).max() > 1e-4


@pytest.mark.slow
def test_equal_weights_change_nothing_and_texts_of_weight_0_are_left_out(made: TextClassifier) -> None:
    made.set_params(method="head", training={"max_steps": 2})
    whole = made.fit(TEXTS, LABELS).adapter_.digest
    assert made.fit(TEXTS, LABELS, sample_weight=np.full(24, 0.3)).adapter_.digest == whole
    part = made.fit(TEXTS[:16], LABELS[:16]).adapter_.digest
    assert made.fit(TEXTS, LABELS, sample_weight=[2] * 16 + [0] * 8).adapter_.digest == part != whole


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([1.0] * 23, "inconsistent numbers of samples"),
        ([1.0] * 23 + [float("nan")], "sample_weight contains NaN"),
        ([1.0] * 23 + [-1.0], "sample_weight: found -1"),
        ([0.0] * 24, "sample_weight: all weights are zero"),
        (np.ones((24, 2)), "Sample weights must be 1D"),
        (3.0, "Sample weights must be 1D"),
        ([float(label == "bad") for label in LABELS], "texts have one class"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(made: TextClassifier, weights: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made.fit(TEXTS, LABELS, sample_weight=weights)


@pytest.mark.parametrize("changes", [{"method": "zero-shot"}, {"training": {"temperature": True}}])
def test_weights_without_effect_are_refused(made: TextClassifier, changes: dict[str, Any]) -> None:
    with raises(InvalidStudy, code="option.inapplicable", option="sample_weight"):
        made.set_params(**changes).fit(TEXTS, LABELS, sample_weight=range(1, 25))


@pytest.mark.slow
def test_weights_are_routed_as_scikit_learn_does(made: TextClassifier) -> None:
    quick, weights = made.set_params(method="head", training={"max_steps": 1}), np.arange(1.0, 25)
    with config_context(enable_metadata_routing=True):
        asking = clone(quick).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = cross_validate(asking, np.array(TEXTS), LABELS, cv=2, params={"sample_weight": weights})
    piped = make_pipeline(FunctionTransformer(), quick).fit(TEXTS, LABELS, textclassifier__sample_weight=weights)
    right = piped.predict(TEXTS) == np.array(LABELS)
    assert len(found["test_score"]) == 2
    assert piped.score(TEXTS, LABELS, sample_weight=weights) == pytest.approx(np.average(right, weights=weights))
    assert piped[-1].adapter_.digest == clone(quick).fit(TEXTS, LABELS, sample_weight=weights).adapter_.digest


@pytest.mark.slow
def test_it_works_in_a_pipeline_and_a_search(made: TextClassifier) -> None:
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


def test_a_grid_may_set_one_entry_of_a_parameter_that_is_a_dict(made: TextClassifier) -> None:
    usual = made.set_params(hyperparameters={"alpha": 4})
    usual.set_params(hyperparameters__r=np.int64(2), training__max_steps=np.int64(1), epochs=1)
    assert usual.hyperparameters == {"alpha": 4, "r": 2}
    assert usual.training == {**SHORT, "max_steps": 1}
    assert clone(usual).set_params(hyperparameters__r=3).hyperparameters == {"alpha": 4, "r": 3}
    assert usual.fit(TEXTS, LABELS).adapter_.manifest.hyperparameters["r"] == 2
    with raises(UnknownName, code="name.unknown", name="R", nearest="r"):
        usual.set_params(hyperparameters__R=2).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="words"):
        TextRegressor().set_params(words__good=" good")
    with pytest.raises(ValueError, match="'r'"):
        usual.set_params(r=2)


@pytest.mark.slow
def test_the_seed_is_the_random_state(made: TextClassifier) -> None:
    def digest(random_state: Any) -> str:
        made.set_params(random_state=random_state, training={"max_steps": 1}, method="head", head="random")
        found: str = made.fit(TEXTS, LABELS).adapter_.digest
        return found

    assert digest(np.int64(5)) == digest(5) != digest(6)
    assert digest(np.random.RandomState(3)) == digest(np.random.RandomState(3))
    assert digest(None) != digest(None)


@pytest.mark.slow
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
        (["a", "b"], [1, "1"], r"y: found labels of several types \(int, str\)"),
        (["a", "b"], [1, True], r"y: found labels of several types \(bool, int\)"),
        (["a", "b"], ["x", "y\ud800"], "y: label 2, .* holds half a surrogate pair"),
        (["a", "b"], None, "requires y to be passed"),
        (["a", "b"], [[1, 0], [0, 1]], "should be a 1d array|1d"),
        (np.zeros(2), ["x", "y"], "X: text 1: found a float64, expected a text"),
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
        ({"epochs": 0}, InvalidStudy, "epochs"),
        (
            {"training": {"epochs": 3}},
            InvalidStudy,
            "`training` has epochs, which is also a parameter of the estimator",
        ),
        ({"training": "epochs=3"}, InvalidStudy, "`training`: found a str. Expected a dict or None"),
        ({"hyperparameters": ["r"]}, InvalidStudy, "`hyperparameters`: found a list"),
        ({"words": ["great"]}, InvalidStudy, "`words`: found a list"),
        ({"class_weight": {"bad": 2}}, InvalidStudy, "class_weights"),
        ({"words": {"good": ["great"], "fine": ["ok"]}}, UnknownName, "fine"),
        ({"template": "no place"}, AfinaError, "{text}"),
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


@pytest.mark.slow
def test_a_classifier_says_which_texts_it_is_sure_of(made: TextClassifier) -> None:
    made.set_params(method="head", training={"max_steps": 2}).fit(TEXTS, LABELS)
    assert made.answered(TEXTS).all()
    with pytest.raises(InvalidStudy, match="abstain_error"):
        made.set_params(training={"abstain_error": 0.05}).fit(TEXTS, LABELS)
    made.set_params(training={"max_steps": 2, "abstain_error": 0.9}).fit(TEXTS, LABELS)
    threshold = made.adapter_.manifest.objective["abstain_below"]
    assert made.answered(TEXTS).tolist() == (made.predict_proba(TEXTS).max(axis=1) >= threshold).tolist()
    assert len(made.predict(TEXTS)) == len(TEXTS)
    with pytest.raises(InvalidStudy, match="sample_weight"):
        made.fit(TEXTS, LABELS, np.arange(24.0))


def test_a_regressor_answers_in_the_unit_of_its_numbers(gpt2: Backbone) -> None:
    prices = [100.0 + 10 * len(text) for text in TEXTS]
    made = TextRegressor(backbone=gpt2.address, method="head", training=SHORT).fit(
        TEXTS, pd.Series(prices, name="price")
    )
    answers = made.predict(TEXTS)
    assert (answers.shape, answers.dtype) == ((24,), np.float64)
    assert min(prices) - 500 < answers.mean() < max(prices) + 500
    assert made.score(TEXTS, prices) == r2_score(prices, answers)
    weights = np.arange(24.0)
    heavy = clone(made).fit(TEXTS, prices, sample_weight=weights)
    assert heavy.adapter_.manifest.objective["mean"] == pytest.approx(np.average(prices, weights=weights))
    assert made.adapter_.manifest.label_names == ("price",)
    assert is_regressor(made)
    dates = [date(2024, 1, day) for day in range(1, 25)]
    for wrong, told in (
        ([1.0] * 24, "all 24 texts have the number 1"),
        (["a"] * 24, "could not convert"),
        ([1e300, *range(23)], "their standard deviation is infinite"),
        ([10**400, *range(23)], "their standard deviation is infinite"),
        (dates, "y: found date. Expected numbers"),
        (pd.Series(pd.to_datetime(dates)), "y: found datetime64"),
    ):
        with pytest.raises(ValueError, match=told):
            made.fit(TEXTS, wrong)


@pytest.mark.parametrize("labels", [["bad", "good"], [0, 1]], ids=["texts", "numbers"])
def test_self_training_labels_the_texts_without_a_label(gpt2: Backbone, labels: list[Any]) -> None:
    """scikit-learn converts an array of objects to numbers, but not a table. The labels are objects beside -1."""
    known = np.array([labels[label == "good"] for label in LABELS], dtype=object)
    known[12:] = -1
    table = pa.table({"text": TEXTS})
    base = TextClassifier(method="head", backbone=gpt2.address, training={"max_steps": 1}, head="random")
    made = SelfTrainingClassifier(base, threshold=0.0).fit(table, known)
    assert made.classes_.tolist() == labels
    assert made.transduction_[:12].tolist() == known[:12].tolist()
    assert set(made.transduction_) == set(labels)
    assert made.predict(table).tolist() == base.fit(TEXTS, made.transduction_).predict(pa.array(TEXTS)).tolist()
