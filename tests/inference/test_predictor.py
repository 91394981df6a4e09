"""Predictions: in the texts' own order, whatever the batches; labels by name, probabilities that sum to one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from afina import Backbone, Run, Task
from afina.data.loader import by_length
from afina.data.tokenize import encode
from afina.errors import InvalidData, NotFound
from afina.events import Progress
from afina.inference.evaluation import evaluate, predict_texts, read_texts
from afina.inference.predictor import PROBE, logits, of_texts, probabilities, probe
from afina.models.classifier import Classifier
from afina.studies.spec import Training
from fakes import TEXTS, Backbones, Runs, logits_of, sentences, write_csv

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
    monkeypatch.setattr("afina.inference.predictor.by_length", lambda encoded: by_length(encoded, budget))
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


def test_pairs_and_the_maximum_length_reach_the_tokenizer(classifier: Classifier, gpt2: Backbone) -> None:
    joined = gpt2.tokenizer("a bicycle", "a lamp, warm and bright", truncation=True, max_length=7)["input_ids"]
    text = gpt2.tokenizer.decode(joined)
    assert gpt2.tokenizer(text)["input_ids"] == joined
    found = of_texts(classifier, gpt2, ["a bicycle"], ["a lamp, warm and bright"], 7)
    assert np.allclose(found, logits_of(classifier, gpt2, [text]).numpy(), atol=TOLERANCE)


def test_the_probe_holds_the_logits_of_the_built_in_sentences(classifier: Classifier, gpt2: Backbone) -> None:
    expected = logits_of(classifier, gpt2, PROBE).numpy()
    found = np.array(probe(classifier, gpt2, gpt2.longest))
    assert found.shape == (8, 3)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_probabilities_are_the_softmax_and_bear_large_logits() -> None:
    rows = np.array([[0.0, np.log(3.0)], [1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32)
    assert np.allclose(probabilities(rows), [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    some = np.random.default_rng(0).normal(0, 5, (4, 6)).astype(np.float32)
    assert np.allclose(probabilities(some), torch.tensor(some).softmax(-1).numpy(), atol=1e-6)


def test_an_adapter_evaluates_to_the_figures_of_its_record(runs: Runs, toy: str) -> None:
    for method in ("lora", "full", "baseline"):
        record = runs.record("gpt2", method)
        found = evaluate(runs.adapter("gpt2", method), toy, check_probe=True)
        assert (found["accuracy"], found["f1"]) == (record.accuracy, record.f1)
        assert (found["examples"], found["digest"], found["truncated"]) == (record.examples, record.digest, 0)


def test_labels_in_another_order_than_the_adapters_are_an_error(runs: Runs, toy: str) -> None:
    with pytest.raises(InvalidData, match=r"its labels are good, bad; the adapter's are bad, good.*--labels"):
        evaluate(runs.adapter("gpt2", "lora"), toy, {"labels": ("good", "bad")})


def test_a_backbone_that_is_gone_is_an_error_that_names_it(runs: Runs, toy: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=rf"backbone {tmp_path}/gone"):
        evaluate(runs.adapter("gpt2", "lora"), toy, backbone_address=str(tmp_path / "gone"))


def test_predictions_name_the_likeliest_label_as_the_evaluation_does(runs: Runs, toy: str) -> None:
    record, task = runs.record("llama", "lora"), Task.load(toy)
    lines = list(predict_texts(runs.adapter("llama", "lora"), task.evaluation.texts))
    assert [line["text"] for line in lines] == list(task.evaluation.texts)
    assert [line["label"] for line in lines] == [("bad", "good")[index] for index in record.predicted]
    for line in lines:
        assert list(line["probabilities"]) == ["bad", "good"]
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].__getitem__)
        assert json.loads(json.dumps(line)) == line


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
    assert evaluate(path, run.task)["accuracy"] == record.accuracy
    split = Task.load(run.task).evaluation
    lines = list(predict_texts(path, split.texts, split.pairs))
    assert [line["text_pair"] for line in lines] == list(split.pairs or ())
    assert [line["label"] for line in lines] == [names[index] for index in record.predicted]
    alone = list(predict_texts(path, split.texts))
    assert "text_pair" not in alone[0]
    assert [line["probabilities"] for line in alone] != [line["probabilities"] for line in lines]


def test_texts_are_read_one_a_line_and_jsonl_with_or_without_pairs(tmp_path: Path) -> None:
    plain, single, paired = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    plain.write_bytes("\ufeffone\r\n two \n\nlast".encode())
    assert read_texts(plain) == (["one", " two ", "", "last"], None)
    single.write_text('{"text": "x", "label": 1}\n{"text": "y\\nz"}\n')
    assert read_texts(single) == (["x", "y\nz"], None)
    paired.write_text('{"text": "x", "text_pair": "p"}\n{"text": "y", "text_pair": ""}\n')
    assert read_texts(paired) == (["x", "y"], ["p", ""])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "x"}\nnot json\n', r"texts\.jsonl, line 2: expected an object with \"text\""),
        (b'{"words": "x"}\n', r"texts\.jsonl, line 1: expected an object with \"text\""),
        (b'["x"]\n', r"texts\.jsonl, line 1: expected an object with \"text\""),
        (b'{"text": "x"}\n{"text": "y", "text_pair": "p"}\n', r'some lines have "text_pair" and some have not'),
        (b"\xff\xfe\n", r"not UTF-8 text \(byte 0\)"),
    ],
)
def test_a_file_of_texts_that_cannot_be_read_is_an_error_that_says_where(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        read_texts(file)


def test_a_file_of_texts_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"--file .*absent\.txt: cannot be read \(No such file"):
        read_texts(tmp_path / "absent.txt")
