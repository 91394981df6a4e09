"""Doubts: labels that models contradict, equal texts with different labels, confusions and misspellings."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from afina.data.split import FileRows, Split
from afina.data.task import Task
from afina.errors import InvalidData, InvalidStudy, NotFound
from afina.report.doubts import sentences as sentences_of
from afina.spreadsheet_cells import restored
from afina.stats.label_issues import LabelIssues
from afina.stats.linear_models import HELD
from afina.studies.labelling.cross_fitting import by_features, folds_of, labelled_texts, objective_of
from afina.studies.labelling.doubts import Doubts
from afina.studies.labelling.find_doubts import Finding, doubts
from afina.studies.labelling.similar_texts import SimilarTexts, labels_alike
from fakes import sentences, write_csv
from raises import raises


def numbers(count: int = 60) -> tuple[Task, np.ndarray]:
    """A task of numbers that follow from features, apart from the number of text 4."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(count, 4)).astype(np.float32)
    targets = features.sum(axis=1).astype(np.float64) + draw.normal(0, 0.1, count)
    targets[4] += 6
    texts = [f"{text} {place}" for place, (text, _) in enumerate(sentences(count))]
    rows = FileRows(["a.csv"] * count, range(2, count + 2))
    split = Split(texts, targets, rows=rows)
    train, evaluation = split.take(range(50)), split.take(range(50, count))
    return Task("a.csv", ("stars",), train, evaluation, kind="number"), features


def found_in(task: Task, features: np.ndarray, seed: int = 0) -> Doubts:
    split, training = labelled_texts(task)
    similar, objective = SimilarTexts.of(split), objective_of(task, split.labels)
    folds = folds_of(task, split.labels, similar.groups, 5, seed)
    fitted = by_features(features, split.labels, objective, folds)
    return Finding(task, split, training, similar, fitted, seed).doubts("linear_probe", "minilm")


def test_a_wrong_number_is_found_with_its_row_and_the_predicted_number(tmp_path: Path) -> None:
    task, features = numbers()
    made = found_in(task, features)
    first = made.labels[0]
    assert (first.file, first.row, first.training, first.probability) == ("a.csv", 6, True, None)
    assert abs(float(first.suggested) - features[4].sum()) < 1
    assert float(first.label) == task.train.labels[4]
    assert first.by_model
    assert first.similar is None
    assert made.flips is None
    assert made.expected == pytest.approx(60 * 0.000465)
    assert made == found_in(task, features)
    made.write(tmp_path)
    assert Doubts.read(tmp_path) == made
    (tmp_path / "doubts.json").write_text((tmp_path / "doubts.json").read_text().replace('"seed": 0', '"seed": 1'))
    with raises(InvalidData, code="doubts.damaged"):
        Doubts.read(tmp_path)
    with raises(NotFound, code="doubts.missing"):
        Doubts.read(tmp_path / "none")


def test_the_csv_has_a_row_for_each_doubt_and_no_formula() -> None:
    task, features = numbers()
    texts = ["=1+1", *task.train.texts[1:4], "=HYPERLINK(1)", *task.train.texts[5:]]
    made = found_in(replace(task, train=replace(task.train, texts=texts)), features)
    rows = [*csv.reader(io.StringIO(made.csv))]
    assert rows[0] == ["file", "row", "text", "label", "suggested", "probability", "reason"]
    assert rows[1][:3] == ["a.csv", "6", "'=HYPERLINK(1)"]
    assert restored(rows[1][2]) == "=HYPERLINK(1)"
    assert len(rows) == len(made) + 1


def similar(texts: Sequence[str], targets: Sequence[int], suspicions: Sequence[float]) -> list[tuple[int, int, str]]:
    split = Split(list(texts), np.array(targets))
    objective = objective_of(Task("t", ("a", "b", "c"), split, split), split.labels)
    found = SimilarTexts.of(split).contradictions(objective, split.labels, np.array(suspicions))
    return [(one.place, one.other, one.state) for one in found]


def test_a_model_that_knows_nothing_doubts_nothing() -> None:
    task, features = numbers()
    assert (found_in(task, features).gain or 0) > 0.5
    texts = [*task.train.texts[:49], task.train.texts[4].upper()]
    made = found_in(replace(task, train=replace(task.train, texts=texts)), features[::-1] * 0)
    assert not made.knows
    assert abs(made.gain or 0) < 0.02
    assert {one.similar for one in made.labels} == {"equal"}, "equal texts need no model"
    assert any("hardly better" in one for one in sentences_of(made))


LONG = "a long text about a telephone that was bought in spring and broke down after two weeks of little use"


def test_of_equal_texts_the_most_frequent_label_counts_as_right_and_then_the_least_suspicious() -> None:
    assert similar(["Good one!", "good  ONE", "Good, one", "bad"], [1, 1, 0, 0], [0.9, 0.9, 0.1, 0]) == [
        (2, 0, "equal")
    ]
    assert similar(["Good one!", "good one", "bad"], [1, 0, 0], [0.2, 0.9, 0]) == [(1, 0, "equal")]
    assert similar(["Good one!", "good one", "bad"], [1, 0, 0], [0.9, 0.2, 0]) == [(0, 1, "equal")]
    assert similar(["good one", "good one"], [1, 1], [0, 0]) == []


def test_of_nearly_equal_texts_the_less_suspicious_label_counts_as_right() -> None:
    near = [LONG, LONG.replace("little", "some"), "nothing of the kind"]
    assert similar(near, [0, 1, 1], [0.1, 0.8, 0]) == [(1, 0, "near")]
    assert similar(near, [0, 1, 1], [0.8, 0.1, 0]) == [(0, 1, "near")]
    assert similar(near, [1, 1, 0], [0.8, 0.1, 0]) == []


def test_equal_and_nearly_equal_texts_are_in_one_fold() -> None:
    texts = [f"{text} {place}" for place, (text, _) in enumerate(sentences(60))]
    texts = [*texts, LONG, LONG.replace("little", "some"), texts[7].upper()]
    split = Split(texts, np.arange(63) % 2)
    groups = SimilarTexts.of(split)
    folds = folds_of(Task("t", ("a", "b"), split, split), split.labels, groups.groups, 5, seed=0)
    assert folds[60] == folds[61]
    assert folds[7] == folds[62]
    assert groups.equal[60] != groups.equal[61]
    pairs = SimilarTexts.of(replace(split, pairs=["x"] * 62 + ["y"]))
    assert pairs.groups[60] != pairs.groups[61], "pairs are equal or not"
    assert pairs.groups[7] != pairs.groups[62]


def test_a_misspelled_label_is_named_and_short_names_and_numbers_are_not() -> None:
    names = ["positive", "postive", "positvie", "negative", "class1", "class2", "neg", "beg"]
    assert labels_alike(names, [900, 3, 2, 800, 100, 1, 500, 1]) == [("postive", "positive"), ("positvie", "positive")]
    assert labels_alike(["positive", "postive"], [900, 60]) == []


def test_confused_labels_are_counted_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels 1 and 2 have the same features. cleanlab, which takes seconds to import, is left out."""
    draw = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], 30)
    features = (np.eye(3)[np.minimum(targets, 1)] + draw.normal(0, 0.1, (90, 3))).astype(np.float32)
    texts = [f"{text} {place}" for place, (text, _) in enumerate(sentences(90))]
    split = Split(texts, targets)
    task = Task("t", ("fine", "bad", "awful"), split, split.take([0]))
    none = LabelIssues(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(91))
    monkeypatch.setattr("afina.stats.label_issues.of_classes", lambda *_: none)
    made = found_in(task, np.concatenate([features, features[:1]]))
    (one,) = made.confused
    assert (one.first, one.second, one.texts) == ("bad", "awful", 60)
    assert min(one.first_as_second, one.second_as_first) >= 5
    assert made.labels == ()


def test_no_model_learns_from_evaluation_texts() -> None:
    """Otherwise training without the doubtful rows would be measured on texts that chose these rows."""
    task, features = numbers()
    split, training = labelled_texts(task)
    folds = folds_of(task, split.labels, SimilarTexts.of(split).groups, 5, 0)
    before = by_features(features, split.labels, objective_of(task, split.labels), folds)
    changed = split.labels.copy()
    changed[training:] = changed[training:][::-1] + 3
    after = by_features(features, changed, before.objective, folds)
    assert set(folds[:training]) == set(range(5))
    assert set(folds[training:]) == {HELD}
    for one in (before.predictions.outputs, after.predictions.outputs):
        assert np.isfinite(one).all()
    centred = [one - one[0] for one in (before.predictions.outputs, after.predictions.outputs)]
    np.testing.assert_allclose(*centred, atol=1e-6)


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    few = write_csv(tmp_path / "few.csv", [(text, "ab"[label]) for text, label in sentences(10)])
    with raises(InvalidData, code="doubts.too-few-texts", texts=10):
        doubts(few)
    many = write_csv(tmp_path / "many.csv", [(text, "ab"[label]) for text, label in sentences(40)])
    with raises(InvalidStudy, code="doubts.folds-invalid", found=1):
        doubts(many, folds=1)
    with raises(InvalidStudy, code="doubts.directory-missing", method="lora"):
        doubts(many, method="lora")
    with raises(InvalidStudy, code="doubts.method-unsupported"):
        doubts(many, method="endpoint")
    written = write_csv(tmp_path / "written.csv", [(text, f"answer {text}") for text, _ in sentences(40)])
    with raises(InvalidStudy, code="doubts.kind-unsupported", kind="text"):
        doubts(written, target="label")
    alone = write_csv(tmp_path / "alone.csv", [(text, "a") for text, _ in sentences(40)])
    with raises(InvalidData, code="data.one-value"):
        doubts(alone)
    same = [(text, "a") for text, _ in sentences(40)] + [("an odd one", "b"), ("An odd one!", "b")]
    split = Split([text for text, _ in same], np.array([int(label == "b") for _, label in same]))
    task = Task("same.csv", ("a", "b"), split, split.take([0]))
    whole, _ = labelled_texts(task)
    with raises(InvalidData, code="doubts.one-label"):
        folds_of(task, whole.labels, SimilarTexts.of(whole).groups, 5, seed=0)


def of_words(_: object, texts: Sequence[str], *__: object) -> np.ndarray:
    """Features that say which words a text has."""
    return np.asarray(HashingVectorizer(n_features=64, norm=None).transform(texts).toarray(), np.float32)


@pytest.mark.slow
def test_flipped_classes_are_found_by_the_probe_and_by_runs(
    tmp_path: Path, backbones: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word of each text says the label, so that flipped labels are found."""
    monkeypatch.setattr("afina.predicting.text_features.FeatureModel.of_texts", of_words)
    draw, wrong = np.random.default_rng(0), set(range(0, 250, 25))
    words = ["lens", "battery", "screen", "price", "case", "cable", "sound", "weight", "button", "menu"]
    several = [" ".join(draw.permutation(words)[:5]) for _ in range(250)]
    rows = [(f"{('awful', 'great')[place % 2]} {one} {place}", place % 2) for place, one in enumerate(several)]
    flipped = [(text, ("bad", "good")[label ^ (place in wrong)]) for place, (text, label) in enumerate(rows)]
    path = write_csv(tmp_path / "a.csv", [*flipped, ("Fine!", "Good")])
    found = doubts(path, backbone=str(backbones.path("gpt2")), out=tmp_path / "out")
    first = {one.row - 2 for one in found.labels[:10]}
    assert len(first & wrong) >= 8
    assert found.flips is not None
    assert found.flips.wrong < 40
    assert found.alike
    assert "'Good' is read as 'good'" in found.alike[0]
    settings = {"max_steps": 2}
    given: dict[str, Any] = {"method": "lora", "backbone": str(backbones.path("gpt2")), "folds": 2}
    by_runs = doubts(path, **given, settings=settings, out=tmp_path / "runs")
    assert by_runs.method == "lora"
    assert by_runs.flips is None
    assert sorted(one.name for one in (tmp_path / "runs" / "folds").iterdir()) == ["1", "2"]
    before = {one: one.stat().st_mtime_ns for one in (tmp_path / "runs").rglob("*.safetensors")}
    assert doubts(path, **given, settings=settings, out=tmp_path / "runs") == by_runs
    assert {one: one.stat().st_mtime_ns for one in before} == before
