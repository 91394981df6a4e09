"""Predictions: in the texts' own order, whatever the batches; labels by name, probabilities that sum to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from afina import Adapter, Backbone, Predictor, Run, Task, digest
from afina.data.batch import by_length
from afina.data.evaluation_set import EvaluationSet
from afina.data.tokenize import encode
from afina.errors import InvalidData, NotFound
from afina.events import Progress
from afina.models.classifier import Classifier
from afina.models.predictions import Predictions
from afina.predicting import golden_test
from afina.predicting.evaluation import Evaluation, evaluate, trained
from afina.predicting.predictor import logits
from afina.stats.classification import probabilities
from afina.studies.runs.record import Record
from afina.training.settings import Training
from fakes import TEXTS, Backbones, Runs, logits_of, sentences, write_csv
from raises import raises

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def classifier(gpt2: Backbone) -> Classifier:
    return Classifier.open(gpt2, ("no", "perhaps", "yes"), seed=0)


@pytest.mark.parametrize("budget", [1, 60, 4096])
def test_logits_are_in_the_order_of_the_texts_whatever_the_batches(
    classifier: Classifier, gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    expected = torch.cat([logits_of(classifier, gpt2, [text]) for text in TEXTS]).numpy()
    encoded = encode(gpt2.tokenizer, TEXTS, max_length=gpt2.longest)
    monkeypatch.setattr(
        "afina.predicting.predictor.by_length", lambda encoded, **named: by_length(encoded, budget, **named)
    )
    found = logits(classifier, encoded)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_predicting_switches_dropout_off_and_needs_no_gradient(classifier: Classifier, gpt2: Backbone) -> None:
    encoded = encode(gpt2.tokenizer, TEXTS, max_length=gpt2.longest)
    classifier.train()
    first, second = logits(classifier, encoded), logits(classifier, encoded)
    assert np.array_equal(first, second)
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_a_listener_hears_how_many_texts_are_done(classifier: Classifier, gpt2: Backbone) -> None:
    heard: list[Progress] = []
    logits(classifier, encode(gpt2.tokenizer, TEXTS, max_length=gpt2.longest), heard.append)
    assert [progress.phase for progress in heard] == ["evaluate"] * len(heard)
    assert [progress.step for progress in heard] == sorted(progress.step for progress in heard)
    assert (heard[-1].step, heard[-1].steps) == (len(TEXTS), len(TEXTS))


def test_no_texts_give_no_logits(classifier: Classifier, gpt2: Backbone) -> None:
    assert len(logits(classifier, encode(gpt2.tokenizer, [], max_length=8))) == 0


def test_pairs_and_the_maximum_length_reach_the_tokenizer(runs: Runs, gpt2: Backbone) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "lora"))
    shorter = replace(adapter, manifest=adapter.manifest.model_copy(update={"max_length": 7, "pairs": None}))
    joined = gpt2.tokenizer("a bicycle", "a lamp, warm and bright", truncation=True, max_length=7)["input_ids"]
    text = gpt2.tokenizer.decode(joined)
    assert gpt2.tokenizer(text)["input_ids"] == joined
    predictor = Predictor.of(shorter, gpt2)
    assert predictor.max_length == 7
    found = predictor.outputs(["a bicycle"], ["a lamp, warm and bright"])
    assert np.allclose(found, logits_of(predictor.classifier, gpt2, [text]).numpy(), atol=TOLERANCE)


def test_one_predictor_answers_any_number_of_calls_and_no_text(runs: Runs) -> None:
    predictor = Predictor.load(runs.adapter("gpt2", "lora"))
    whole = predictor(TEXTS)
    assert [answer for text in TEXTS for answer in predictor([text])] == [
        {"label": one["label"], "probabilities": pytest.approx(one["probabilities"], abs=TOLERANCE)} for one in whole
    ]
    assert predictor([]) == []


def test_the_weights_of_a_backbone_are_hashed_for_its_first_adapter_only(
    runs: Runs, backbones: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def count(tensors: Mapping[str, torch.Tensor]) -> str:
        hashed.append(len(tensors))
        return of_tensors(tensors)

    of_tensors = digest.of_tensors
    backbone = Backbone.load(str(backbones.path("gpt2")))
    adapters = [Adapter.load(runs.adapter("gpt2", method)) for method in ("lora", "full", "baseline")]
    monkeypatch.setattr(digest, "of_tensors", count)
    first, *others = [Predictor.of(adapter, backbone) for adapter in adapters]
    assert len(hashed) == 1
    assert len({json.dumps(one(TEXTS)) for one in (first, *others)}) == len(adapters)
    assert first(TEXTS) == Predictor.load(runs.adapter("gpt2", "lora"))(TEXTS)
    assert len(hashed) == 3  # a Backbone, and an adapter, of their own


def test_probabilities_are_the_softmax_and_bear_large_logits() -> None:
    rows = np.array([[0.0, np.log(3.0)], [1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32)
    assert np.allclose(probabilities(rows), [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    some = np.random.default_rng(0).normal(0, 5, (4, 6)).astype(np.float32)
    assert np.allclose(probabilities(some), torch.tensor(some).softmax(-1).numpy(), atol=1e-6)


def evaluated(path: Path, task: str, **options: Any) -> Evaluation:
    adapter = Adapter.load(path)
    return evaluate(adapter, EvaluationSet.read(task, trained(adapter)), **options)


def test_an_adapter_evaluates_to_the_figures_of_its_record(runs: Runs, toy: str) -> None:
    for method in ("lora", "full", "baseline"):
        record, path = runs.record("gpt2", method), runs.adapter("gpt2", method)
        found = evaluated(path, toy, check_probe=True)
        assert found.metrics == record.metrics
        assert (found.adapter, found.task) == (str(path), toy)
        assert (found.examples, found.digest, found.truncated) == (record.examples, record.digest, 0)


def test_a_backbone_that_is_gone_is_an_error_that_names_it(runs: Runs, toy: str, tmp_path: Path) -> None:
    adapter = runs.adapter("gpt2", "lora")
    with raises(NotFound, code="backbone.missing"):
        evaluated(adapter, toy, backbone=str(tmp_path / "gone"))
    with raises(NotFound, code="backbone.missing"):
        Predictor.load(adapter, str(tmp_path / "gone"))


def answered(directory: Path, record: Record) -> list[str]:
    """The label that a run gave each evaluation text."""
    outputs = Predictions.read(directory / record.predictions, record.predictions_digest).outputs
    return [record.label_names[index] for index in outputs.argmax(axis=1)]


def test_predictions_name_the_likeliest_label_as_the_evaluation_does(runs: Runs, toy: str) -> None:
    record, task = runs.record("llama", "lora"), Task.load(toy)
    answers = Predictor.load(runs.adapter("llama", "lora"))(task.evaluation.texts)
    assert [answer["label"] for answer in answers] == answered(runs.root / "llama", record)
    for answer in answers:
        assert list(answer["probabilities"]) == ["bad", "good"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
        assert json.loads(json.dumps(answer)) == answer


def test_a_task_of_pairs_and_three_labels_trains_evaluates_and_predicts(
    backbones: Backbones, tmp_path: Path, gpt2: Backbone
) -> None:
    names = ("after", "before", "same")
    rows = [
        (first, second, names[0 if first > second else 1])
        for (first, _), (second, _) in zip(sentences(90, seed=1), sentences(90, seed=2), strict=True)
    ]
    rows += [(text, text + " ", names[2]) for text, _ in sentences(30, seed=3)]
    write_csv(tmp_path / "pairs.csv", rows, ("text", "text_pair", "label"))
    training = Training(max_steps=4, batch_size=8, dtype="float32")
    run = Run(backbone=str(gpt2.path), task=str(tmp_path / "pairs.csv"), method="lora", training=training)
    record = run.execute(tmp_path)
    assert record.label_names == names
    assert record.head == 3 * 32
    path = tmp_path / record.adapter
    task, predictor = Task.load(run.task), Predictor.load(path)
    assert evaluated(path, run.task).metrics == record.metrics
    answers = predictor(task.evaluation.texts, task.evaluation.pairs)
    assert [answer["label"] for answer in answers] == answered(tmp_path, record)
    assert predictor.manifest.pairs
    assert predictor.manifest.template is None
    with raises(InvalidData, code="data.pairs-mismatch", expected="pairs"):
        predictor(task.evaluation.texts)
    golden_test.check(predictor)  # though its sentences are asked alone
    singles = replace(predictor, manifest=predictor.manifest.model_copy(update={"pairs": False}))  # type: ignore[type-var]
    with raises(InvalidData, code="data.pairs-mismatch", expected="texts"):
        singles(task.evaluation.texts, task.evaluation.pairs)


def test_one_string_in_the_place_of_a_list_is_refused_and_not_labelled_letter_by_letter(runs: Runs) -> None:
    predictor = Predictor.load(runs.adapter("gpt2", "lora"))
    with raises(InvalidData, code="data.type-wrong", argument="texts"):
        predictor("good")
    with raises(InvalidData, code="data.type-wrong", row=2, found="NoneType"):
        predictor(["good", None])  # type: ignore[list-item]


def test_lists_arrays_series_and_frames_are_answered_alike_and_in_their_order(runs: Runs) -> None:
    predictor = Predictor.load(runs.adapter("gpt2", "lora"))
    texts = [text for text, _ in sentences(3)]
    expected = predictor(texts)
    series = pd.Series(texts, index=[2, 0, 1])
    for given in (tuple(texts), np.array(texts), series, series.to_frame("text"), (text for text in texts)):
        assert predictor(given) == expected
    assert np.array_equal(predictor.outputs(series), predictor.outputs(texts))
    with raises(InvalidData, code="data.type-wrong", argument="texts", found="DataFrame"):
        predictor(pd.DataFrame([texts], columns=list("abc")))
    with raises(InvalidData, code="data.type-wrong", row=2, found="float"):
        predictor(pd.Series(["good", float("nan")]))
