"""Zero-shot on an encoder of sentences: logits are similarities to the names of labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from afina import Backbone, Predictor, Run, Study
from afina.data.task import Task
from afina.errors import InvalidStudy, Refused
from afina.predicting.prompting import SHARPNESS, ask
from afina.store.exchange.merging import merge
from command import HereExecutor
from fakes import Backbones, difference, sentences, write_csv
from raises import raises

WORDS = {"bad": (" poor",), "good": (" fine", " great")}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, backbones: Backbones) -> Path:
    place = tmp_path_factory.mktemp("sentences") / "model"
    shutil.copytree(backbones.path("bert"), place)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"path": "" if kind == "Transformer" else kind, "type": f"st.models.{kind}"} for kind in kinds]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "Pooling").mkdir()
    (place / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return place


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(60)]
    return write_csv(tmp_path_factory.mktemp("named") / "task.csv", rows)


def embedded(backbone: Backbone, texts: list[str]) -> torch.Tensor:
    model, _ = backbone.open(("bad", "good"), 0)
    model.config._attn_implementation = "sdpa"
    rows = [backbone.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
    with torch.inference_mode():
        states = [model.base_model(each).last_hidden_state[0].mean(0) for each in rows]
    return normalize(torch.stack(states))


@pytest.mark.parametrize("words", [None, WORDS])
def test_logits_are_similarities_to_the_texts_of_labels(
    encoder: Path, task: Path, tmp_path: Path, words: dict[str, tuple[str, ...]] | None
) -> None:
    run = Run(backbone=str(encoder), task=str(task), method="zero-shot", ask={"words": words})
    made = run.execute(tmp_path)
    backbone, texts = Backbone.load(str(encoder)), list(Task.load(task).evaluation.texts)
    names = {name: tuple(word.strip() for word in given) for name, given in (words or {}).items()}
    names = names or {"bad": ("bad",), "good": ("good",)}
    assert (made.ask.words, made.hyperparameters) == (names, {"pooling": "mean", "normalize": True})
    rows = torch.stack([embedded(backbone, list(given)).mean(0) for given in names.values()])
    expected = SHARPNESS * embedded(backbone, texts) @ normalize(rows).T
    predictor = Predictor.load(tmp_path / made.adapter)
    assert difference(torch.from_numpy(predictor.outputs(texts)), expected) < 1e-4
    answer = ask(backbone, Task.load(task), words=words)
    assert (answer.words, answer.metrics["accuracy"]) == (names, made.metrics["accuracy"])
    with raises(Refused, code="merge.impossible"):
        merge(predictor, tmp_path / "merged")


def test_a_study_compares_zero_shot_on_an_encoder(encoder: Path, task: Path, tmp_path: Path) -> None:
    study = Study(name="both", backbone=str(encoder), task=str(task), methods={"zero-shot": {}, "linear_probe": {}})
    results = study.run(tmp_path, executor=HereExecutor())
    assert [one.method for one in results.records] == ["zero-shot", "linear_probe"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hyperparameters": {"shots": 2}}, "backbone.encoder-unsupported"),
        ({"ask": {"offset": True}}, "backbone.encoder-unsupported"),
    ],
)
def test_what_only_a_language_model_does_is_refused(
    encoder: Path, task: Path, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with raises(InvalidStudy, code=code, family="bert"):
        Run(backbone=str(encoder), task=str(task), method="zero-shot", **changes).execute(tmp_path)


def test_labels_that_are_codes_need_words(encoder: Path, tmp_path: Path) -> None:
    codes = str(write_csv(tmp_path / "codes.csv", [(text, f"L{label}") for text, label in sentences(40)]))
    with raises(InvalidStudy, code="words.missing"):
        Run(backbone=str(encoder), task=codes, method="zero-shot").execute(tmp_path / "out")
    words = {"L0": ("bad",), "L1": ("good",)}
    made = Run(backbone=str(encoder), task=codes, method="zero-shot", ask={"words": words}).execute(tmp_path / "out")
    assert made.ask.words == words
    with raises(InvalidStudy, code="words.missing"):
        ask(Backbone.load(str(encoder)), Task.load(codes))


def test_a_bare_encoder_is_refused(backbones: Backbones, task: Path, tmp_path: Path) -> None:
    with raises(InvalidStudy, code="backbone.encoder-unsupported", family="bert"):
        Run(backbone=str(backbones.path("bert")), task=str(task), method="zero-shot").execute(tmp_path)
    with raises(InvalidStudy, code="backbone.encoder-unsupported", family="bert"):
        ask(Backbone.load(str(backbones.path("bert"))), Task.load(task))
