"""A task of kind text and a linear probe on an int8 base: an adapter that is opened again answers as its run did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Adapter, Predictor, Run
from afina.models.predictions import Predictions
from afina.predicting import golden_test
from afina.studies.runs.prepared import read_task
from fakes import Backbones, difference, sentences, write_csv

INT8 = "int8"


def asked(backbones: Backbones, where: Path, method: str, data: dict[str, Any], **training: Any) -> Run:
    rows = [(text, " ".join(text.split()[:3]) if data else ("bad", "good")[label]) for text, label in sentences(60)]
    task = write_csv(where / "rows.csv", rows, ("text", "answer" if data else "label"))
    settings = {"dtype": "float32", "precision": INT8} | training
    return Run(backbone=str(backbones.path("gpt2")), task=str(task), method=method, data=data, training=settings)


def on_float(made: Adapter) -> Adapter:
    return replace(made, manifest=made.manifest.model_copy(update={"precision": "float"}))


@pytest.mark.slow
def test_a_text_task_on_an_int8_base_answers_as_its_run_did(backbones: Backbones, tmp_path: Path) -> None:
    data = {"kind": "text", "label": "answer"}
    run = asked(backbones, tmp_path, "lora", data, max_steps=12, batch_size=8, learning_rate=5e-3)
    record = run.execute(tmp_path / "out")
    place = tmp_path / "out" / record.adapter
    recorded = Predictions.read(tmp_path / "out" / record.predictions, record.predictions_digest).outputs.tolist()
    texts = list(read_task(run).evaluation.texts)
    made = Adapter.load(place)
    assert made.manifest.precision == INT8
    assert len({*recorded}) > 1
    for _ in range(2):  # each opens the backbone again
        predictor = Predictor.load(place)
        assert predictor.outputs(texts).tolist() == recorded
        golden_test.check(predictor)
    assert [answer["answer"] for answer in Predictor.load(place)(texts)] == recorded
    assert golden_test.difference(Predictor.load(on_float(made))) > 10 * golden_test.TOLERANCE


def test_a_linear_probe_on_an_int8_base_answers_as_its_run_did(backbones: Backbones, tmp_path: Path) -> None:
    run = asked(backbones, tmp_path, "linear_probe", {}).model_copy(update={"hyperparameters": {"pooling": "mean"}})
    record = run.execute(tmp_path / "out")
    place = tmp_path / "out" / record.adapter
    recorded = Predictions.read(tmp_path / "out" / record.predictions, record.predictions_digest).outputs
    texts = list(read_task(run).evaluation.texts)
    made = Adapter.load(place)
    assert made.manifest.precision == INT8
    predictor = Predictor.load(place)
    assert difference(predictor.outputs(texts), recorded) < 1e-6
    golden_test.check(predictor)
    labels = [answer["label"] for answer in predictor(texts)]
    assert labels == [made.manifest.label_names[index] for index in np.argmax(recorded, 1)]
    assert golden_test.difference(Predictor.load(on_float(made))) > 10 * golden_test.TOLERANCE
