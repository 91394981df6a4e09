"""An adapter's probe is computed again, and two adapters' answers are told apart text by text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from afina import Adapter, Backbone, Predictor, Task, digest
from afina.cli.store_exchange import print_flips
from afina.data.evaluation_set import EvaluationSet
from afina.data.split import Split
from afina.errors import InvalidData, InvalidStudy, NotFound, UnknownName, WrongBackbone
from afina.models.predictions import Predictions
from afina.predicting import evaluation, golden_test
from afina.predicting.reading import SENTENCES
from afina.stats.comparison import compare
from afina.store import recompute
from afina.store.flips import Flips
from afina.store.recompute import flips_between
from fakes import Backbones, Runs, sentences, tfidf, write_csv
from raises import raises

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

NAMES = ("acme/reviews@2", "acme/reviews@3")


def changed(adapter: Adapter, name: str, change: Any, **manifest: Any) -> Adapter:
    """With one tensor replaced, and a manifest that says so."""
    tensors = {**adapter.tensors, name: change(adapter.tensors[name].clone())}
    update = {"tensors_digest": digest.of_tensors(tensors)} | manifest
    return replace(adapter, tensors=tensors, manifest=adapter.manifest.model_copy(update=update))


HEAD = "base_model.model.score.weight"


@pytest.fixture
def lora(trained: Path) -> Adapter:
    return Adapter.load(trained)


# The probe


@pytest.mark.parametrize("method", ["lora", "full", "prompt", "head"])
def test_a_trained_adapter_passes(method: str, runs: Runs) -> None:
    found = recompute.check(Adapter.load(runs.adapter("gpt2", method)))
    assert (found.passed, found.problem, found.tolerance) == (True, None, golden_test.TOLERANCE)
    assert found.difference is not None
    assert 0 <= found.difference <= found.tolerance
    assert found.versions["torch"] == torch.__version__
    assert set(found.platform) == {"platform", "processor", "device", "threads", "dtype"}
    assert found.platform["dtype"] == "float32"
    assert json.loads(json.dumps(found.as_json(), allow_nan=False)) == found.as_json()


def test_one_of_other_weights_does_not_and_says_by_how_much(lora: Adapter, gpt2: Backbone) -> None:
    other = changed(lora, HEAD, lambda head: head * 1.01)
    found = recompute.check(other, str(gpt2.path))
    outputs = Predictor.of(other, gpt2).outputs(SENTENCES)
    expected = np.array(other.manifest.probe)
    assert (found.passed, found.problem) == (False, None)
    assert found.difference == pytest.approx(np.abs(outputs - expected).max() / np.abs(expected).max())
    assert found.difference == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("change", "probe", "problem"),
    [
        (lambda head: head[:, :-1], None, "score"),
        (lambda head: head * torch.nan, None, "outputs are NaN or infinite"),
        (lambda head: head, ((1.0, 2.0),), r"the golden test has shape \[1, 2\], the outputs have shape \[8, 2\]"),
        (lambda head: head, ((float("nan"), 1.0),) * 8, "has NaN or infinite values"),
    ],
)
def test_one_that_cannot_be_compared_has_not_passed_and_says_why(
    change: Any, probe: Any, problem: str, lora: Adapter
) -> None:
    found = recompute.check(changed(lora, HEAD, change, **({"probe": probe} if probe else {})))
    assert (found.passed, found.difference) == (False, None)
    assert re.search(problem, found.problem or "")
    assert json.dumps(found.as_json(), allow_nan=False)


def test_without_a_probe_or_its_backbone_there_is_nothing_to_say(
    lora: Adapter, backbones: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongBackbone):
        recompute.check(lora, str(backbones.path("gpt2", seed=1)))
    with pytest.raises(NotFound):
        recompute.check(lora, "./nowhere")
    without = replace(lora, manifest=lora.manifest.model_copy(update={"probe": None}))
    monkeypatch.setattr(Backbone, "load", lambda *_: pytest.fail("a backbone was opened for nothing"))
    with raises(InvalidStudy, code="probe.missing"):
        recompute.check(without)


def test_the_difference_of_a_probe_is_what_its_check_is_about(lora: Adapter, gpt2: Backbone) -> None:
    predictor = Predictor.of(lora, gpt2)
    assert golden_test.difference(predictor) <= golden_test.TOLERANCE
    with raises(InvalidStudy, code="dtype.unsuitable"):
        golden_test.difference(Predictor.of(lora, gpt2, "bfloat16"))


# Flips


def texts_of(adapter: Adapter, address: str) -> EvaluationSet:
    return EvaluationSet.read(address, evaluation.trained(adapter))


def loop(
    first: Predictor, second: Predictor, texts: EvaluationSet
) -> tuple[dict[str, int], list[tuple[Any, ...]], Any]:
    """Text by text, from what a user is told."""
    counts = dict.fromkeys(("flipped", "right_to_wrong", "wrong_to_right", "wrong_to_wrong"), 0)
    rows, right = [], ([], [])
    answers = [[answer["label"] for answer in predictor(texts.split.texts)] for predictor in (first, second)]
    for index, (text, label, before, after) in enumerate(
        zip(texts.split.texts, texts.split.labels, *answers, strict=True)
    ):
        name = texts.label_names[label]
        for list_, answer in zip(right, (before, after), strict=True):
            list_.append(answer == name)
        if before != after:
            was = {name: "right_to_wrong"}.get(before, "wrong_to_right" if after == name else "wrong_to_wrong")
            counts["flipped"] += 1
            counts[was] += 1
            rows.append((was != "right_to_wrong", index, text, name, before, after))
    return counts, [row[1:] for row in sorted(rows)], [np.array(each) for each in right]


def rows_of(found: Flips) -> list[tuple[Any, ...]]:
    return [(row.index, row.text, row.label, row.before, row.after) for row in found.rows]


def as_counted(found: Flips) -> dict[str, Any]:
    return {key: found.as_json()[key] for key in ("flipped", "right_to_wrong", "wrong_to_right", "wrong_to_wrong")}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts that no run has seen, as some of their labels are wrong."""
    rows = [
        (text, ("bad", "good")[(label + (place % 7 == 0)) % 2]) for place, (text, label) in enumerate(sentences(50, 7))
    ]
    return str(
        write_csv(tmp_path_factory.mktemp("flips") / "others.csv", [(f"{text} indeed", name) for text, name in rows])
    )


@pytest.mark.slow
def test_flips_are_those_of_a_plain_loop_over_what_each_answers(runs: Runs, gpt2: Backbone, file: str) -> None:
    first, second = (Adapter.load(runs.adapter("gpt2", method)) for method in ("bitfit", "full"))
    texts = texts_of(first, file)
    found = flips_between(first, second, texts, names=NAMES, most=1000)
    counts, rows, right = loop(Predictor.of(first, gpt2), Predictor.of(second, gpt2), texts)
    assert counts["flipped"] > 3
    assert as_counted(found) == counts
    assert rows_of(found) == rows
    assert found.figures == pytest.approx((right[0].mean(), right[1].mean()))
    compared = compare({NAMES[1]: right[1], NAMES[0]: right[0]})[0]
    assert (found.comparison, found.words, found.verdict) == (compared, compared.words, compared.verdict)
    told = found.as_json()
    assert told["interval"] == [compared.interval.low, compared.interval.high]
    assert told["difference"] == pytest.approx(found.figures[1] - found.figures[0])
    assert told["examples"] == 50
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert rows_of(flips_between(first, second, texts, most=2)) == rows[:2]
    turned = flips_between(second, first, texts, names=NAMES)
    assert (turned.right_to_wrong, turned.wrong_to_right) == (found.wrong_to_right, found.right_to_wrong)


def test_an_adapter_has_no_flips_against_itself_under_one_name_either(lora: Adapter, file: str) -> None:
    found = flips_between(lora, lora, texts_of(lora, file), names=(NAMES[0], NAMES[0]))
    assert (found.flipped, found.rows, found.verdict, found.comparison) == (0, (), "same", None)
    assert found.names == ("acme/reviews@2 (first)", "acme/reviews@2 (second)")
    assert found.as_json()["difference"] == 0


def test_a_backbone_that_both_name_is_opened_and_hashed_once(
    runs: Runs, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Adapter.load(runs.adapter("gpt2", method)) for method in ("lora", "full"))
    opened, hashed = [], []
    load, of_tensors = Backbone.load, digest.of_tensors
    monkeypatch.setattr(Backbone, "load", lambda address: opened.append(address) or load(address))
    monkeypatch.setattr(digest, "of_tensors", lambda tensors: hashed.append(1) or of_tensors(tensors))
    flips_between(first, second, texts_of(first, file))
    assert (len(opened), len(hashed)) == (1, 1)


def words(task: Task) -> Adapter:
    made = tfidf(task.train)
    assert made.model
    return made.model.adapter(task.label_names, made.hyperparameters, task="toy")


def test_a_bag_of_words_is_compared_with_an_adapter_on_a_backbone(
    lora: Adapter, toy: str, gpt2: Backbone, file: str
) -> None:
    bag, texts = words(Task.load(toy)), texts_of(lora, file)
    found = flips_between(bag, lora, texts, str(gpt2.path), most=1000)
    counts, rows, _ = loop(Predictor.of(bag), Predictor.of(lora, gpt2), texts)
    assert (as_counted(found), rows_of(found)) == (counts, rows)
    assert flips_between(bag, bag, texts).flipped == 0
    with raises(InvalidStudy, code="option.inapplicable", option="backbone", where="adapter"):
        flips_between(bag, bag, texts, str(gpt2.path))


def test_an_adapter_of_pefts_has_the_labels_of_the_texts(
    lora: Adapter, gpt2: Backbone, file: str, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=2)
    settings = LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(model, settings).save_pretrained(tmp_path)
    made, texts = Adapter.load(tmp_path), texts_of(lora, file)
    found = flips_between(lora, made, texts, str(gpt2.path))
    answers = Predictor.of(made, gpt2).outputs(texts.split.texts).argmax(axis=1)
    assert found.figures[1] == pytest.approx((answers == texts.split.labels).mean())


# Other kinds, whose adapters answer as they are told to


class Answers:
    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs

    def predict(self, *_: Any, **__: Any) -> tuple[Predictions, int]:
        return Predictions(self.outputs), 0


def of_kind(
    lora: Adapter,
    monkeypatch: pytest.MonkeyPatch,
    outputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    names: tuple[str, ...],
    told: dict[str, Any] | None,
) -> tuple[Adapter, Adapter, EvaluationSet]:
    monkeypatch.setattr(Predictor, "of", lambda adapter, *_: Answers(outputs[adapter.where]))
    update = {"label_names": names, "objective": told}
    pair = [
        replace(lora, where=where, manifest=lora.manifest.model_copy(update={**update, "max_length": 64 + place}))
        for place, where in enumerate(outputs)  # two adapters, not one with itself
    ]
    texts = [f"text {index}" for index in range(len(labels))]
    return pair[0], pair[1], EvaluationSet("t", "t", names, Split(texts, labels, texts[::-1]))


def test_numbers_have_a_mean_change_and_their_largest_changes(lora: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(0)
    labels = source.normal(size=40)
    outputs = {name: labels[:, None] + source.normal(size=(40, 1)) for name in ("one", "two")}
    outputs["two"][3] = outputs["one"][3]
    told = {"kind": "number", "mean": 1.0, "scale": 2.0}
    made = of_kind(lora, monkeypatch, outputs, labels, ("stars",), told)
    found = flips_between(*made, names=NAMES)
    size = 2 * np.abs(outputs["two"] - outputs["one"])[:, 0]
    assert found.mean_change == pytest.approx(size.mean())
    assert set(as_counted(found).values()) == {None}
    assert [row.index for row in found.rows] == np.argsort(-size)[:20].tolist()
    assert 3 not in [row.index for row in flips_between(*made, most=100).rows]
    row = found.rows[0]
    assert (row.before, row.label) == (pytest.approx(2 * outputs["one"][row.index, 0] + 1), labels[row.index])
    assert row.pair == f"text {39 - row.index}"
    assert (found.kind, found.metric) == ("number", "pearson")
    assert found.comparison.difference == pytest.approx(found.figures[1] - found.figures[0])
    assert found.words.count(NAMES[1]) == 1
    assert json.dumps(found.as_json(), allow_nan=False)
    by_error = flips_between(*made, metric="rmse")
    assert by_error.comparison.margin == pytest.approx(0.05 * labels.std())
    with raises(InvalidStudy, code="metric.inapplicable", metric="accuracy", kind="number"):
        flips_between(*made, metric="accuracy")
    with pytest.raises(UnknownName):
        flips_between(*made, metric="nothing")


@pytest.mark.parametrize("below", [0.75, 2.0])
def test_flips_are_counted_among_texts_that_both_answer(
    lora: Adapter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: float
) -> None:
    source = np.random.default_rng(0)
    labels = source.integers(0, 2, 60)
    outputs = {name: source.normal(size=(60, 2)) for name in ("one", "two")}
    plain, careful = ({"kind": "classes", "temperature": 1.0, **more} for more in ({}, {"abstain_below": below}))
    first, second, texts = of_kind(lora, monkeypatch, outputs, labels, ("a", "b"), plain)
    every = flips_between(first, second, texts)
    assert every.answered is None
    assert "answered" not in every.as_json()
    second = replace(second, manifest=second.manifest.model_copy(update={"objective": careful}))
    found = flips_between(first, second, texts, names=NAMES, most=100)
    before, after = (outputs[name].argmax(axis=1) for name in ("one", "two"))
    answers = 1 / (1 + np.exp(-np.abs(outputs["two"][:, 0] - outputs["two"][:, 1]))) >= below
    assert found.flipped == (answers & (before != after)).sum()
    assert found.right_to_wrong == (answers & (before == labels) & (after != labels)).sum()
    assert all(answers[row.index] for row in found.rows)
    wrong = [int((before != labels).sum()), int((answers & (after != labels)).sum())]
    expected = {"both": int(answers.sum()), "only_first": int((~answers).sum()), "only_second": 0, "neither": 0}
    assert found.as_json()["answered"] == {**expected, "wrong": (wrong[0], wrong[1])}
    assert found.figures == every.figures, "the metric is of all texts"
    turned = flips_between(second, first, texts)
    assert turned.answered is not None
    assert (turned.answered.only_second, turned.answered.wrong) == (expected["only_first"], tuple(wrong[::-1]))
    print_flips(found)
    assert f"acme/reviews@3 answers {answers.sum()} of 60 texts, {wrong[1]} of them wrongly" in capsys.readouterr().out


def test_several_labels_are_right_where_all_are(lora: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
    before = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]])
    after = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]])
    outputs = {"one": 8.0 * before - 4, "two": 8.0 * after - 4}
    found = flips_between(*of_kind(lora, monkeypatch, outputs, labels, ("a", "b", "c"), {"kind": "labels"}))
    counts = {"flipped": 4, "right_to_wrong": 2, "wrong_to_right": 1, "wrong_to_wrong": 1}
    assert (as_counted(found), found.metric) == (counts, "micro_f1")
    assert [(row.index, row.label, row.before, row.after) for row in found.rows] == [
        (0, ("a", "c"), ("a", "c"), ("a",)),
        (4, ("c",), ("c",), ("a", "b")),
        (1, (), ("c",), ()),
        (2, ("b",), ("b", "c"), ("a", "b")),
    ]
    assert json.loads(json.dumps(found.as_json()))["rows"][0]["before"] == ["a", "c"]


def test_three_classes_in_three_orders(lora: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("x", "y", "z")
    labels = np.array([0, 1, 2, 0, 1, 2])
    right = np.eye(3)[labels]
    outputs = {"one": right, "two": right[:, [1, 2, 0]]}
    first, second, texts = of_kind(lora, monkeypatch, outputs, labels, names, None)
    second = replace(second, manifest=second.manifest.model_copy(update={"label_names": ("y", "z", "x")}))
    assert (flips_between(first, second, texts).figures, flips_between(first, second, texts).flipped) == ((1.0, 1.0), 0)
    assert flips_between(first, second, texts, metric="log_loss").comparison.difference == 0
    first = replace(first, manifest=second.manifest)
    shifted = flips_between(first, second, texts, most=1).rows[0]
    assert (shifted.label, shifted.before, shifted.after) == ("x", "y", "x")


def test_what_cannot_be_compared_is_said(lora: Adapter, file: str) -> None:
    texts = texts_of(lora, file)
    other = replace(lora, manifest=lora.manifest.model_copy(update={"label_names": ("bad", "fine")}))
    with raises(InvalidData, code="data.labels-mismatch", where="acme/reviews@3"):
        flips_between(lora, other, texts, names=NAMES)
    several = replace(lora, manifest=lora.manifest.model_copy(update={"objective": {"kind": "labels"}}))
    with raises(InvalidData, code="data.kind-mismatch", found="labels", expected="classes"):
        flips_between(lora, several, texts, names=NAMES)
