"""The study file that repeats recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from afina.cli import studies
from afina.errors import InvalidStudy, NotFound, UnknownName
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.descriptions import read_request
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import HeadFit
from afina.studies.runs.run import Run
from afina.studies.study import Study
from afina.studies.study_toml import as_toml, recommended_study, study_of
from command import Command, InventedExecutor
from raises import raises

STUDIES: dict[str, dict[str, Any]] = {
    "plain": {"methods": {"full": {}, "lora": {"r": 4, "targets": ["c_attn"]}}},
    "settings": {
        "seeds": [1, 2],
        "train": {"epochs": 1, "learning_rate": 1e-05, "dtype": "float32"},
        "data": {"labels": ['no, "never"', "ye\ns"], "train_examples": 50, "text": "a b"},
        "ask": {"template": "{text}\n→", "words": {"no": [" no"], "ye s": [" yes", " sure"]}},
        "methods": {"a b": {"method": "lora", "learning_rate": 0.001}, "prelayer": {}},
    },
    "sizes": {"sizes": [10, 20], "methods": {"head": {"head": "random"}}, "baselines": False},
    "backbones": {
        "backbone": None,
        "backbones": ["gpt2", "EleutherAI/pythia-70m"],
        "methods": {"lora": {"by_backbone": {"EleutherAI/pythia-70m": {"r": 2}}}},
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_study_file_of_a_study_has_the_same_runs(name: str, tmp_path: Path) -> None:
    content = {"name": name, "backbone": "gpt2", "task": "sst2", **STUDIES[name]}
    study = Study.parse({key: value for key, value in content.items() if value is not None}, "test")
    study.run(tmp_path / "out", executor=InventedExecutor())
    path = tmp_path / "again.toml"
    path.write_text(as_toml(study_of(tmp_path / "out")), encoding="utf-8")
    again = Study.load(path)
    keys = read_request(OutputDirectory(tmp_path / "out").study).keys
    assert tuple(run.key for run in again.runs()) == keys
    assert as_toml(again) == path.read_text(encoding="utf-8")


def test_a_study_that_kept_outputs_of_frozen_blocks_is_repeated_without_and_not_described_anew(tmp_path: Path) -> None:
    study = Study(name="s", backbone="gpt2", task="sst2", methods={"lora": {"layers": 2}})
    study.run(tmp_path, executor=InventedExecutor())
    path = OutputDirectory(tmp_path).study
    described = json.loads(path.read_text(encoding="utf-8"))
    described["study"]["train"] |= {"trunk": "kept", "trunk_dropout": True}
    described["study"]["methods"]["lora"]["trunk"] = "recomputed"
    path.write_text(json.dumps(described), encoding="utf-8")
    assert study_of(tmp_path) == study
    for anew in ("train.trunk=kept", "train.trunk_dropout=false", "methods.lora.trunk=kept"):
        with raises(UnknownName, code="name.unknown") as caught:
            Study.load("quickstart", anew)
        assert caught.value.sentence.options == ("layers",)
    with raises(UnknownName, code="name.unknown", name="training.trunk"):
        Run(backbone="gpt2", task="sst2", method="lora", training={"trunk": "kept"})


def test_the_command_prints_the_file_and_says_where_there_is_none(tmp_path: Path, afina: Command) -> None:
    Study(name="mine", backbone="gpt2", task="sst2", methods={"lora": {}}).run(
        tmp_path / "out", executor=InventedExecutor()
    )
    shown = afina("show", tmp_path / "out", "--study-file")
    assert shown.out == as_toml(study_of(tmp_path / "out"))
    assert afina("show", tmp_path / "out", "--study-file", "--json").object() == {"study_file": shown.out}
    with pytest.raises(NotFound):
        study_of(tmp_path)


def test_a_recommended_method_is_a_study_of_its_settings_and_a_baseline_is_none(
    tmp_path: Path, afina: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(
        name="choose", backbone="gpt2", task="sst2", methods={"lora": {"r": 2, "learning_rate": 0.003, "max_steps": 12}}
    )
    (record,) = study.run(tmp_path, executor=InventedExecutor()).records
    directory = OutputDirectory(tmp_path)
    chosen = record.model_copy(update={"training": study.runs()[0].training.model_dump(), "hyperparameters": {"r": 2}})
    directory.write([chosen.sealed()])

    def recommend(name: str) -> None:
        contenders = (
            Contender(name="majority", metrics={"accuracy": 0.5}),
            Contender(name="lora-0.003", method="lora", metrics={"accuracy": 0.9}, key=record.key),
        )
        made = Recommendation(
            **{"task": "sst2", "data": {"text": "words"}, "backbone": "gpt2", "recommended": name, "adapter": None},
            **{"contenders": contenders, "comparisons": (), "dropped": {}, "train_examples": 9, "examples": 9},
            **{"minutes": 1, "seconds": 1},
        )
        directory.recommendation.write_text(made.sealed().model_dump_json(), encoding="utf-8")

    recommend("lora-0.003")
    (again,) = study_of(tmp_path).runs()
    assert (again.method, again.hyperparameters["r"], again.training.learning_rate) == ("lora", 2, 0.003)
    assert (again.training.max_steps, again.data.text, again.metric) == (12, "words", "accuracy")
    with raises(NotFound, code="results.recommendation-missing", path="none"):
        recommended_study(tmp_path / "none")
    begun: list[Study] = []
    monkeypatch.setattr(studies, "_carry_out", lambda study, *_, **__: begun.append(study))
    for given in ((), ("--seed", "3", "--set", "r=4", "--set", "epochs=2", "--label", "stars", "--metric", "mcc")):
        assert afina("train", "--from", tmp_path, *given).code == 0
    (as_recorded,), (changed,) = (one.runs() for one in begun)
    assert as_recorded == again.model_copy(update={"send_texts": as_recorded.send_texts})
    assert (changed.seed, changed.hyperparameters["r"], changed.training.learning_rate) == (3, 4, 0.003)
    assert (changed.training.epochs, changed.training.max_steps, changed.metric) == (2, None, "mcc")
    assert (changed.data.text, changed.data.label) == ("words", "stars")
    for option, other in (("--method", "full"), ("--backbone", "minilm")):
        answer = afina("train", "--from", tmp_path, option, other)
        assert f"{option} {other}: {tmp_path} recommends " in answer.error
    recommend("majority")
    with pytest.raises(InvalidStudy) as refused:
        study_of(tmp_path)
    assert refused.value.code == "results.baseline-recommended"


def test_a_study_file_names_slow_baselines(tmp_path: Path) -> None:
    content = {"name": "words", "backbone": "gpt2", "task": "words", "methods": {"lora": {}}}
    study = Study.parse({**content, "baselines": ["crf"]}, "test")
    path = tmp_path / "again.toml"
    path.write_text(as_toml(study), encoding="utf-8")
    assert Study.load(path).baselines == study.baselines == ("crf",)
    assert Study.parse({**content, "baselines": True}, "test").baselines is True
    for wrong in ("crf", 1, [1]):
        with pytest.raises(InvalidStudy):
            Study.parse({**content, "baselines": wrong}, "test")


@pytest.mark.parametrize("words", [None, {"negative": ("bad",), "positive": ("good",)}])
def test_a_recommended_linear_probe_keeps_its_label_words(tmp_path: Path, words: dict[str, tuple[str, ...]]) -> None:
    table = {"linear_probe": {"words": words} if words else {}}
    study = Study(name="choose", backbone="minilm", task="sst2", methods=table)
    (record,) = study.run(tmp_path, executor=InventedExecutor()).records
    texts = words or {name: (name,) for name in record.label_names}
    told = {"parameter": "C", "strength": 1, "seconds": 1, "iterations": 1, "converged": True, "pooling": "mean"}
    fit = HeadFit(**told, normalize=True, label_texts=texts)
    (run,) = study.runs()
    directory = OutputDirectory(tmp_path)
    directory.write([record.model_copy(update={"fitted": fit, "hyperparameters": run.hyperparameters}).sealed()])
    contender = Contender(name="linear_probe", method="linear_probe", metrics={"accuracy": 0.9}, key=record.key)
    made = Recommendation(
        **{"task": "sst2", "data": {}, "backbone": "minilm", "recommended": "linear_probe", "adapter": None},
        **{"contenders": (contender,), "comparisons": (), "dropped": {}, "train_examples": 9, "examples": 9},
        **{"minutes": 1, "seconds": 1},
    )
    directory.recommendation.write_text(made.sealed().model_dump_json(), encoding="utf-8")
    (again,) = study_of(tmp_path).runs()
    assert again.hyperparameters == run.hyperparameters
    assert (again.hyperparameters["label_examples"], again.ask.words) == (8, words)
