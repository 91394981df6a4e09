"""A model of words is an adapter like any other: it answers as scikit-learn's pipeline does, and opens the same way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Adapter, Predictor, Task, digest, tensorfile
from afina.data.evaluation_set import EvaluationSet
from afina.data.split import Split
from afina.data.terms import joined
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy
from afina.models.adapter import VOCABULARY
from afina.models.manifest import MANIFEST, Manifest
from afina.models.objective import Objective
from afina.models.objectives import Classes, Labels, Number
from afina.predicting.evaluation import evaluate, trained
from afina.stats.classification import accuracy, probabilities
from afina.studies.choosing import floors
from command import Command
from fakes import TEXTS, classes_of, sentences, tfidf
from raises import raises

ODD = [*TEXTS, "?!", "ÀÉÎ straße ŒUVRE İstanbul", "good " * 500, "a_b 1,5 x²", "unheard-of words\u2028here"]


def some(labels: int, count: int = 200, *, pairs: bool = False, absent: int | None = None) -> Split:
    rows = sentences(count, seed=labels)
    texts = [text for text, _ in rows]
    found = np.array([(place + word) % labels for place, (_, word) in enumerate(rows)])
    if absent is not None:
        found[found == absent] = (absent + 1) % labels
    return Split(texts, found, texts[::-1] if pairs else None)


def handed_over(train: Split, labels: int, to: Path) -> Path:
    made = tfidf(train, Classes(tuple(map(str, range(labels)))))
    assert made.model
    made.model.adapter([f"label {index}" for index in range(labels)], made.hyperparameters).save(to)
    return to


@pytest.mark.parametrize(("labels", "pairs"), [(2, False), (3, True), (7, False)])
def test_it_answers_as_scikit_learns_pipeline_does(labels: int, pairs: bool, tmp_path: Path) -> None:
    train = some(labels, pairs=pairs)
    fitted = floors.FLOORS["classes"].pipeline(train, classes_of(train))
    predictor = Predictor.load(handed_over(train, labels, tmp_path / "adapter"))
    texts = [*ODD, *train.texts]
    second = texts[::-1] if pairs else None
    expected = fitted.predict_proba(joined(texts, second))
    found = probabilities(predictor.outputs(texts, second))
    assert np.abs(found - expected).max() < 1e-6
    answers = [answer["label"] for answer in predictor(texts, second)]
    assert answers == [f"label {index}" for index in fitted.predict(joined(texts, second))]
    assert json.loads(json.dumps(answers)) == answers


def test_a_label_that_no_training_text_has_is_never_the_answer(tmp_path: Path) -> None:
    for absent in (0, 3):
        train = some(4, absent=absent)
        predictor = Predictor.load(handed_over(train, 4, tmp_path / str(absent)))
        found = probabilities(predictor.outputs(ODD))
        assert (found[:, absent] == 0).all()
        fitted = floors.FLOORS["classes"].pipeline(train, classes_of(train))
        assert np.abs(found[:, fitted[-1].classes_] - fitted.predict_proba(ODD)).max() < 1e-6


def test_what_has_no_words_is_not_handed_over_and_says_why() -> None:
    split = Split(["?!", "...", ":)", ":("], np.array([0, 1, 1, 1]))
    made = tfidf(split)
    assert (made.model, made.setting) == (None, "no words in the texts")
    assert made.predict(split).tolist() == [1, 1, 1, 1]


@pytest.fixture
def path(toy: str, tmp_path: Path) -> Path:
    """An adapter of the toy task."""
    task = Task.load(toy)
    made = tfidf(task.train)
    assert made.model
    made.model.adapter(task.label_names, made.hyperparameters, task=toy, train_digest=task.train.digest).save(
        tmp_path / "words"
    )
    return tmp_path / "words"


def test_it_evaluates_and_predicts_from_the_command_line(afina: Command, path: Path, toy: str) -> None:
    task = Task.load(toy)
    shown = afina("evaluate", path, "--task", toy, "--json").object()
    refused = afina("evaluate", path, "--task", toy, "--check-probe").error
    assert refused.endswith("the adapter has no golden test, so nothing can be checked. Leave the check out.")
    right = tfidf(task.train).predict(task.evaluation)
    adapter = Adapter.load(path)
    found = evaluate(adapter, EvaluationSet.read(toy, trained(adapter)))
    assert shown["accuracy"] == accuracy(task.evaluation.labels, right) == found.metrics["accuracy"]
    assert (shown["dtype"], shown["truncated"], shown["examples"]) == ("float64", 0, len(task.evaluation))
    lines = afina("predict", path, "a bright play", "a dull play", "--dtype", "auto").lines()
    assert [line["label"] for line in lines] == ["good", "bad"]
    assert "needs no backbone. Leave --backbone out" in afina("predict", path, "a", "--backbone", "gpt2").error


def test_its_manifest_needs_no_backbone_and_its_digest_covers_its_vocabulary(path: Path) -> None:
    adapter = Adapter.load(path)
    manifest = adapter.manifest
    assert (manifest.method, manifest.backbone, manifest.backbone_digest, manifest.family) == ("tfidf", *[None] * 3)
    assert manifest.hyperparameters.keys() == {"C"}
    assert {file.name for file in path.iterdir()} == {MANIFEST, VOCABULARY, "weights.safetensors"}
    changed = manifest.model_copy(update={"vocabulary_digest": digest.of_strings(["a"])})
    assert changed.digest != adapter.digest
    again = path.parent / "again"
    adapter.save(again)
    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in path.iterdir()
    }


def reseal(path: Path, **changes: Any) -> None:
    content = json.loads((path / MANIFEST).read_text()) | changes
    del content["digest"]
    (path / MANIFEST).write_text(json.dumps(content | {"digest": Manifest.model_validate(content).digest}))


def swapped(path: Path) -> None:
    words = json.loads((path / VOCABULARY).read_text())
    (path / VOCABULARY).write_text(json.dumps([words[1], words[0], *words[2:]]))


def shorter(path: Path) -> None:
    words = json.loads((path / VOCABULARY).read_text())[:-1]
    (path / VOCABULARY).write_text(json.dumps(words))
    reseal(path, vocabulary_digest=digest.of_strings(words))


def not_a_number(path: Path) -> None:
    arrays = tensorfile.read_arrays(path / "weights.safetensors")
    arrays["bias"][0] = np.nan
    tensorfile.write_arrays(path / "weights.safetensors", arrays)
    tensors, _ = tensorfile.read(path / "weights.safetensors")
    reseal(path, tensors_digest=digest.of_tensors(tensors))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (swapped, rf"{VOCABULARY}: the file has digest"),
        (shorter, "has tensors .* expected 'tfidf' and"),
        (not_a_number, "a weight is NaN or infinite"),
        (lambda path: (path / VOCABULARY).unlink(), rf"{VOCABULARY}: the file is missing"),
        (lambda path: (path / VOCABULARY).write_text('{"a": 1}'), rf"{VOCABULARY}: expected a list of strings"),
        (lambda path: (path / VOCABULARY).write_text("[1]"), rf"{VOCABULARY}: expected a list of strings"),
        (lambda path: reseal(path, label_names=["a", "b", "c"]), "3 labels has tensors"),
        (lambda path: reseal(path, method="lora"), "a 'lora' adapter of"),
        (lambda path: reseal(path, vocabulary_digest=None), "names no backbone"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, damage: Callable[[Path], None], told: str) -> None:
    copied = shutil.copytree(path, path.parent / "copied")
    damage(copied)
    with pytest.raises(AfinaError, match=told) as refused:
        Predictor.load(copied)
    assert isinstance(refused.value, CorruptAdapter) or "backbone" in told


def test_a_backbone_for_it_is_an_error(path: Path) -> None:
    with raises(InvalidStudy, code="option.inapplicable", option="backbone", where="words"):
        Predictor.load(path, "gpt2")


# Numbers and several labels


def of_kind(kind: str, count: int = 200) -> tuple[Split, Objective]:
    rows = sentences(count)
    texts = [text for text, _ in rows]
    if kind == "number":
        targets = np.array([50 + 10.0 * label + len(text) / 50 for text, label in rows])
        return Split(texts, targets), Number(("price",)).of(targets)
    several = np.array([[label, "the" in text, 1, 0] for text, label in rows])
    return Split(texts, several), Labels(("good", "the", "always", "never"))


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_a_floor_of_another_kind_learns_and_is_handed_over(kind: str, tmp_path: Path) -> None:
    whole, objective = of_kind(kind)
    train, held_out = whole.take(range(150)), whole.take(range(150, 200))
    same, made = floors.fit(train, objective)
    metric = "rmse" if kind == "number" else "micro_f1"
    figures = [objective.value(metric, one.predictions(held_out)) for one in (same, made)]
    assert figures[1] < 0.5 * figures[0] if kind == "number" else figures[1] > figures[0]
    assert made.model
    assert made.setting.startswith("alpha" if kind == "number" else "C")
    origin = {"objective": objective.settings}
    made.model.adapter(objective.label_names, made.hyperparameters, **origin).save(tmp_path / "adapter")
    predictor = Predictor.load(tmp_path / "adapter")
    assert predictor.objective.decode(predictor.predict(held_out.texts)[0]) == pytest.approx(made.predict(held_out))
    (answer,) = predictor(["The ferry was warm."])
    if kind == "labels":
        assert "always" in answer["labels"]
        assert "never" not in answer["labels"]
    else:
        assert 40 < answer["value"] < 80


def test_the_same_answer_to_every_text_is_the_mean_or_how_frequent_each_label_is() -> None:
    numbers, asked = of_kind("number")
    assert floors.fit(numbers, asked)[0].predict(numbers) == pytest.approx(np.full(200, numbers.labels.mean()))
    several, labels = of_kind("labels")
    chances = labels.probabilities(floors.fit(several, labels)[0].predictions(several))
    assert chances is not None
    assert chances[0] == pytest.approx(several.labels.mean(axis=0), abs=1e-6)
