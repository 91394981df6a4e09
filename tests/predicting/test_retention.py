"""Retention: the language-model loss on neutral sentences, before and after an adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from afina import Backbone, Run
from afina.data.tokenize import encode
from afina.errors import InvalidData, InvalidStudy, NotFound
from afina.models.classifier import Classifier
from afina.models.language_model import open_model
from afina.models.objectives import Texts
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.predicting.retention import sentence_losses
from afina.studies.runs.record import read_records, write_records
from fakes import LONG, Backbones, sentences, write_csv
from raises import raises

NEUTRAL = [*(" ".join(reversed(text.split())) for text, _ in sentences(30, seed=7)), LONG]


def expected_losses(model: Any, rows: Any) -> np.ndarray:
    """Each sentence's summed loss, by transformers' own language model, alone."""
    with torch.inference_mode():
        ids = [torch.from_numpy(rows[place].astype(np.int64))[None] for place in range(len(rows))]
        return np.array([float(model(one, labels=one).loss) * (one.shape[1] - 1) for one in ids])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_losses_are_those_of_transformers_language_model(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    rows = encode(backbone.tokenizer, NEUTRAL, max_length=backbone.longest)
    expected = expected_losses(AutoModelForCausalLM.from_pretrained(backbone.path).eval(), rows)
    opened = [
        Classifier.open(backbone, ("a", "b"), 0),
        open_model(backbone, ("answer",), 0, Texts(("answer",)).opening),
    ]
    for classifier in opened:
        found = sentence_losses(classifier, backbone, rows)
        assert np.abs(found.sums / expected - 1).max() < 1e-5
        assert found.tokens.tolist() == [len(rows[place]) - 1 for place in range(len(rows))]


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("neutral") / "neutral.txt"
    file.write_text("\n".join([*NEUTRAL, "", NEUTRAL[0], "..."]) + "\n", encoding="utf-8")
    return file


def run(backbones: Backbones, task: Path, neutral: object, method: str, family: str = "gpt2", **training: Any) -> Run:
    given = {"max_steps": 4, "dtype": "float32", "retention": neutral if neutral is True else str(neutral)}
    given |= {} if method == "linear_probe" else {"learning_rate": 1e-2}
    return Run(backbone=str(backbones.path(family)), task=str(task), method=method, training=given | training)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("task") / "task.csv", sentences(60))


def test_a_run_records_the_loss_before_and_after_its_training(
    backbones: Backbones, task: Path, neutral: Path, tmp_path: Path
) -> None:
    record = run(backbones, task, neutral, "lora", dtype="bfloat16").execute(tmp_path)
    found = record.retention
    assert found is not None
    backbone = Backbone.load(record.backbone)
    rows = encode(backbone.tokenizer, list(dict.fromkeys(NEUTRAL)), max_length=backbone.longest)
    before = sentence_losses(Classifier.open(backbone, ("a", "b"), 0), backbone, rows)
    predictor = Predictor.load(tmp_path / record.adapter)
    assert isinstance(predictor, ModelPredictor)
    after = sentence_losses(predictor.classifier, backbone, rows)
    tokens = before.tokens.sum()
    assert (found.sentences, found.tokens) == (len(rows), tokens)
    assert found.before == pytest.approx(before.sums.sum() / tokens)
    assert found.after == pytest.approx(after.sums.sum() / tokens)
    assert found.change == pytest.approx(found.after - found.before)
    assert found.change != 0
    assert found.change_interval[0] < found.change < found.change_interval[1]
    assert found.before_interval[0] < found.before < found.before_interval[1]
    write_records(tmp_path / "records.jsonl", [record])
    assert read_records(tmp_path / "records.jsonl") == [record]


@pytest.mark.parametrize("method", ["head", "linear_probe"])
def test_what_changes_the_head_alone_forgets_nothing(
    backbones: Backbones, task: Path, neutral: Path, tmp_path: Path, method: str
) -> None:
    found = run(backbones, task, neutral, method).execute(tmp_path).retention
    assert found is not None
    assert (found.change, found.change_interval) == (0.0, (0.0, 0.0))


def test_sentences_that_the_task_holds_are_refused(backbones: Backbones, task: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("\n".join([*NEUTRAL[:4], sentences(60)[3][0].upper()]), encoding="utf-8")
    with raises(InvalidData, code="retention.texts-unusable", source="held.txt"):
        run(backbones, task, held, "lora").execute(tmp_path)


def test_a_file_without_sentences_or_a_backbone_without_a_next_token_is_refused(
    backbones: Backbones, task: Path, neutral: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("...\n", encoding="utf-8")
    with raises(InvalidData, code="retention.texts-unusable"):
        run(backbones, task, empty, "lora").execute(tmp_path)
    with raises(NotFound, code="file.missing"):
        run(backbones, task, tmp_path / "none.txt", "lora").execute(tmp_path)
    with raises(InvalidStudy, code="backbone.encoder-unsupported", option="retention"):
        run(backbones, task, neutral, "lora", family="bert").execute(tmp_path)
