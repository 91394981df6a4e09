"""Studies: what a file or preset asks for, and what becomes of its runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from pydantic import create_model

from afina import Backbone, Study, digest
from afina.errors import AfinaError, Busy, InvalidData, InvalidStudy, NotFound, RunFailed, UnknownName
from afina.events import Progress
from afina.methods import METHODS, make
from afina.methods.lora import Lora
from afina.models.adapter import Adapter
from afina.report.report import Report
from afina.studies import study_file
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.results import Results
from afina.studies.runs import record
from afina.studies.runs.run import Run
from afina.studies.runs.spec import RunSpec
from afina.studies.study_toml import as_toml, study_of
from afina.studies.watcher import Watcher
from afina.training.settings import Training
from command import HereExecutor, InventedExecutor
from raises import raises
from scribe import Scribe
from workers import is_worker

MINIMAL = """
name = "mine"
backbone = "gpt2"
task = "sst2"
[methods.lora]
"""


def write(path: Path, text: str = MINIMAL) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# What a file asks for


def test_a_study_file_gives_a_run_for_every_method_and_seed(tmp_path: Path) -> None:
    source = write(
        tmp_path / "mine.toml",
        """
        name = "mine"
        backbone = "path/to/model"
        task = "reviews.csv"
        seeds = [0, 7]
        [data]
        text = "body"
        labels = ["bad", "good"]
        train_examples = 100
        [train]
        epochs = 3
        learning_rate = 1e-4
        [methods.full]
        [methods.lora]
        r = 8
        learning_rate = 1e-3
        [methods.wide]
        method = "lora"
        r = 64
        targets = ["c_attn", "c_proj"]
        epochs = 1
        """,
    )
    runs = Study.load(source).runs()
    assert [(run.title, run.method, run.seed) for run in runs] == [
        (title, method, seed)
        for seed in (0, 7)
        for title, method in (("full", "full"), ("lora", "lora"), ("wide", "lora"))
    ]
    full, lora, wide = runs[:3]
    assert {run.backbone for run in runs} == {"path/to/model"}
    assert {run.task for run in runs} == {"reviews.csv"}
    assert full.data.given == {
        "text": "body",
        "labels": ["bad", "good"],
        "train_examples": 100,
    }
    assert full.training == Training(epochs=3, learning_rate=1e-4)
    assert lora.training == Training(epochs=3, learning_rate=1e-3)
    assert wide.training == Training(epochs=1, learning_rate=1e-4)
    assert full.hyperparameters == {}
    assert lora.hyperparameters == {"r": 8, "alpha": 16, "dropout": 0.05}
    assert wide.hyperparameters == {"r": 64, "alpha": 16, "dropout": 0.05, "targets": ["c_attn", "c_proj"]}


def test_the_paper_preset_is_the_published_set_up() -> None:
    runs = Study.load("paper").runs()
    expected: dict[str, dict[str, Any]] = {
        "baseline": {},
        "zero-shot": {},
        "full": {},
        "lora": {"r": 4, "alpha": 16, "dropout": 0.05, "targets": ["c_attn"]},
        "prelayer": {"train_head": False},
        "prelayer-46080": {"train_head": False},
    }
    assert {run.method: run.hyperparameters for run in runs} == expected
    assert [run.title for run in runs] == list(expected)
    for run in runs:
        assert (run.backbone, run.task, run.seed) == ("gpt2", "sst2", 0)
        assert run.data.train_examples is run.data.evaluation_examples is None
        assert run.training.non_defaults() == {"learning_rate": 2e-4, "max_length": 128, "dtype": "float32"}


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("published.methods.nope.f1=0.5", "name.unknown"),
        ("published.methods.lora.fidelity=0.5", "name.unknown"),
        ("published.methods.lora.accuracy=86.9", "study.value-invalid"),
        ("published.methods.lora.accuracy=nan", "study.value-invalid"),
    ],
)
def test_published_figures_are_of_methods_and_metrics_that_exist(override: str, code: str) -> None:
    with raises(AfinaError, code=code):
        Study.load("paper", override)


def test_published_figures_do_not_enter_a_runs_key() -> None:
    study = Study.load("paper")
    assert study.published is not None
    assert study.published.methods["lora"] == {"accuracy": 0.8693, "f1": 0.8742}
    without = study.model_copy(update={"published": None})
    assert [run.key for run in without.runs()] == [run.key for run in study.runs()]


def test_every_preset_is_read_by_the_same_code_as_a_file(tmp_path: Path) -> None:
    assert study_file.presets() == ["backbones", "e2e", "fair", "methods", "paper", "quickstart"]
    for name in study_file.presets():
        text = (Path(study_file.__file__).parent / "presets" / f"{name}.toml").read_text(encoding="utf-8")
        assert Study.load(write(tmp_path / "copy.toml", text)) == Study.load(name)


@pytest.mark.parametrize(
    ("item", "read", "value"),
    [
        ("train.epochs=1", lambda s: s.train.epochs, 1),
        ("train.learning_rate=3e-5", lambda s: s.train.learning_rate, 3e-5),
        ("backbone=random:../some/dir", lambda s: s.backbone, "random:../some/dir"),
        ("task=path with spaces/x=y.csv", lambda s: s.task, "path with spaces/x=y.csv"),
        ('task="quoted.csv"', lambda s: s.task, "quoted.csv"),
        ("seeds=[1, 2]", lambda s: s.seeds, (1, 2)),
        ("data.labels=['no', 'yes']", lambda s: s.data.labels, ("no", "yes")),
        ("data.allow_leakage=true", lambda s: s.data.allow_leakage, True),
        ("methods.lora.r=32", lambda s: s.runs()[0].hyperparameters["r"], 32),
        ("methods.lora.batch_size=2", lambda s: s.runs()[0].training.batch_size, 2),
        ("methods.full.epochs=5", lambda s: s.runs()[1].training.epochs, 5),
        ("methods.full={}", lambda s: len(s.runs()), 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_field_can_be_set(tmp_path: Path, item: str, read: Callable[[Study], Any], value: object) -> None:
    source = write(tmp_path / "mine.toml")
    assert read(Study.load(source, [item])) == value


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ("seed = 3", UnknownName, "unknown key 'seed'. Did you mean 'seeds'?"),
        ("[tune]\ncandidate = 3", UnknownName, "unknown key 'tune.candidate'. Did you mean 'tune.candidates'?"),
        ("[tune]\npruner = 'best'", InvalidStudy, "tune.pruner = 'best': expected 'median', 'successive-"),
        ("[data]\nvalidation = 0.1\n[tune]", InvalidStudy, "data.validation cannot be combined with a [tune] section."),
        ("[methods.lora.search]\nr = [2]", InvalidStudy, "methods.lora.search has no effect without a [tune] section"),
        ("[tune]\n[methods.lora.search]\nrr = [2]", UnknownName, "methods.lora.search: unknown key 'rr'. Did you mean"),
        ("[tune]\n[methods.lora.search]\nr = 2", InvalidStudy, "methods.lora.search.r = 2: expected a list of val"),
        ("[tune]\n[methods.lora.search]\nr = [2, 0]", InvalidStudy, "methods.lora.search: method lora: r=0, alpha=16"),
        ("[tune]\n[methods.full]\nsearch = 3", InvalidStudy, "methods.full.search = 3: expected a table."),
        ("[tune]\n[methods.full]\nepochs = 3", InvalidStudy, "methods.full: epochs differs from the other methods,"),
        (
            "[tune]\n[methods.full.search]\nlearning_rate = [1e-3, 1e-4]",
            InvalidStudy,
            "methods.full.search.learning_rate = [0.001, 0.0001]: expected [lowest, highest], finite and above 0.",
        ),
        ("[train]\nlearning_rate = inf", InvalidStudy, "train.learning_rate = inf: expected a finite number"),
        (
            "[train]\nbatch_size = 9_000_000_000",
            InvalidStudy,
            "train.batch_size = 9000000000: expected a number of at most 2",
        ),
        (
            "[tune]\n[methods.baseline.search]\nlearning_rate = [1e-4, 1e-3]",
            InvalidStudy,
            "methods.baseline: method baseline has nothing to tune. Remove search.",
        ),
        ("[train]\nlr = 1", UnknownName, "unknown key 'train.lr'. Did you mean 'train.learning_rate'?"),
        ("[methods.x]\nmethod = 'lora'\nlr = 1", UnknownName, "unknown key 'lr'. Did you mean 'learning_rate'?"),
        ("[methods.x]\nmethod = 'lora'\nrank = 1", UnknownName, "unknown key 'rank'. Did you mean 'r'?"),
        ("lr = 1\n", InvalidStudy, "unknown key 'lr'. Did you mean 'train.learning_rate'?"),
        ("[methods.x]\nmethod = 'lora'\ntargets = 'v'", InvalidStudy, 'a list in square brackets, such as ["v"].'),
        (
            "baselines = 'crf'\n",
            InvalidStudy,
            "baselines = 'crf': expected true or false, or a list in square brackets, such as [\"crf\"].",
        ),
        ("baselines = ['crf', 3]\n", InvalidStudy, "baselines.1 = 3: expected a text."),
        ("[train]\nretention = 3", InvalidStudy, "train.retention = 3: expected true or false, or a text."),
        ("[train]\nepoch = 1", UnknownName, "unknown key 'train.epoch'. Did you mean 'train.epochs'?"),
        ("[methods.loar]", UnknownName, "methods.loar: unknown method 'loar'. Did you mean 'lora'?"),
        ("[methods.x]\nmethod = 3", UnknownName, "methods.x: unknown method '3'. "),
        (
            "[methods.full]\nr = 8",
            UnknownName,
            "methods.full: unknown key 'r'. Known: abstain_error, accumulate, average, ",
        ),
        ("[train]\nepochs = 'two'", InvalidStudy, "train.epochs = 'two': expected a whole number"),
        ("[train]\ndtype = 'half'", InvalidStudy, "train.dtype = 'half': expected 'auto', 'float32' or"),
        ("[methods.full]\nbatch_size = 'x'", InvalidStudy, "methods.full: batch_size = 'x': expected a whole"),
        ("[methods.x]\nmethod = 'lora'\nr = 'big'", InvalidStudy, "methods.x: lora.r = 'big': expected"),
        ("[methods.x]\nmethod = 'lora'\nr = 0", InvalidStudy, "r=0, alpha=16, dropout=0.05; expected r >= 1"),
        ("seeds = [0.5]", InvalidStudy, "seeds.0 = 0.5: expected a whole number"),
        ("[train]\nlearning_rate = true", InvalidStudy, "train.learning_rate = True: expected a number"),
        ("[methods.full]\nepochs = true", InvalidStudy, "methods.full: epochs = True: expected a whole number"),
        ("[data]\ntrain_examples = true", InvalidStudy, "data.train_examples = True: expected a whole number"),
        ("[generate]\nbeams = true", InvalidStudy, "generate.beams = True: expected a whole number"),
        ("[tune]\ncandidates = true", InvalidStudy, "tune.candidates = True: expected a whole number"),
        ("sizes = [true]", InvalidStudy, "sizes.0 = True: expected a whole number"),
        ("[tune]\n[methods.full.search]\nlearning_rate = [false, true]", InvalidStudy, "expected [lowest, highest]"),
        ("seeds = []", InvalidStudy, "seeds = []: expected at least one seed, such as seeds = [0]."),
        ("seeds = [0, 1, 0]", InvalidStudy, "seed 0 is given more than once, which would repeat the same runs."),
        ("train = ", InvalidStudy, "not valid TOML: "),
        pytest.param(
            "seeds = " + "[" * 5_000, InvalidStudy, "not valid TOML: arrays or tables are nested too", id="deep"
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_study_that_cannot_be_meant_is_told_where_and_why(
    tmp_path: Path, change: str, kind: type[AfinaError], told: str
) -> None:
    # Plain keys come before the first table, tables after the others.
    text = MINIMAL + change if change.startswith("[") else change + MINIMAL
    source = write(tmp_path / "mine.toml", text)
    with pytest.raises(kind) as caught:
        Study.load(source)
    message = str(caught.value)
    assert message.startswith(source)
    assert told in message
    assert "\n" not in message


def test_a_study_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINIMAL, encoding="utf-8-sig")
    assert Study.load(str(tmp_path / "mine.toml")).methods == {"lora": {}}


@pytest.mark.parametrize(
    ("source", "kind", "code"),
    [
        ("papr", UnknownName, "name.unknown"),
        ("nope.toml", NotFound, "study.missing"),
        ("some/where", NotFound, "study.missing"),
    ],
)
def test_a_study_that_is_not_there_is_refused(source: str, kind: type[AfinaError], code: str) -> None:
    with raises(kind, code=code):
        Study.load(source)


@pytest.mark.parametrize("content", [b"name = \xff", MINIMAL.replace("[methods.lora]", "[methods]").encode()])
def test_a_study_file_that_is_not_text_or_has_no_methods_is_refused(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "mine.toml"
    source.write_bytes(content)
    with raises(InvalidStudy, code="study.malformed"):
        Study.load(str(source))


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("epochs", "`overrides` epochs: expected key=value, such as `epochs`=1."),
        ("=1", "`overrides` =1: expected key=value"),
        ("train..epochs=1", "`overrides` train..epochs=1: expected key=value"),
        ("backbone.name=x", "`overrides` backbone.name=x: backbone is a value, not a table, so it has no"),
        (["epochs=1", " epochs = 3"], "`overrides` epochs: the key is given more than once"),
        ("train.epoch=1", "unknown key 'train.epoch'. Did you mean 'train.epochs'?"),
        ("train=3", "train = 3: expected a table"),
        ("methods.lora=3", "methods.lora = 3: expected a table"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_told(tmp_path: Path, item: str | list[str], told: str) -> None:
    with pytest.raises(AfinaError) as caught:
        Study.load(write(tmp_path / "mine.toml"), item)
    assert told in str(caught.value)


# Which runs are the same


def test_a_key_covers_what_differs_from_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Newer(Training):
        invented: int = 3

    newer = make_dataclass("NewerLora", [("invented", int, 3)], bases=(Lora,), frozen=True)
    given = {"backbone": "gpt2", "task": "sst2", "method": "lora", "training": {"epochs": 3}}
    run = RunSpec(**given)
    assert run.key == digest.of_json([1, given])
    assert run.key == RunSpec(**given, data={"allow_leakage": True}, hyperparameters={"r": 4, "dora": False}).key
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "lora", newer)
        later = create_model("Later", __base__=RunSpec, training=(Newer, Newer()))
        assert later(**given).key == run.key
        assert later(**given | {"training": {"epochs": 3, "invented": 4}}).key != run.key
        assert later(**given, hyperparameters={"invented": 4}).key != run.key
        assert make("lora").hyperparameters == Lora().hyperparameters
    monkeypatch.setattr("afina.digest.DEFAULTS", 2)
    assert RunSpec(**given).key != run.key


def _key(**changes: Any) -> str:
    return Run(**({"backbone": "gpt2", "task": "sst2", "method": "lora"} | changes)).key


def test_what_changes_no_result_changes_no_key() -> None:
    same: list[dict[str, Any]] = [
        {"name": "another"},
        {"hyperparameters": {"r": 4}},
        {"data": {"allow_leakage": True}},
        {"data": {"evaluation": None}},
        {"training": {"checkpoint_seconds": 1}},
        {"training": {"epochs": 2}},
    ]
    assert {_key(**changes) for changes in same} == {_key()}


def test_what_may_change_a_result_changes_the_key() -> None:
    others: list[dict[str, Any]] = [
        {},
        {"backbone": "gpt2-medium"},
        {"task": "other"},
        {"method": "full"},
        {"seed": 1},
        {"hyperparameters": {"r": 5}},
        {"data": {"text": "x"}},
        {"data": {"train_examples": 5}},
        {"data": {"evaluation": "e"}},
        {"data": {"selection": 0.25}},
        {"data": {"validation": 0.2}},
        {"data": {"positive": "good"}},
        {"data": {"kind": "text"}},
        {"data": {"kind": "text", "long": "skip"}},
        {"data": {"labels": ("a", "b")}},
        {"training": {"epochs": 1}},
        {"training": {"dtype": "float32"}},
        {"training": {"class_weights": "balanced"}},
        {"training": {"abstain_error": 0.05}},
        {"training": {"abstain_error": 0.1}},
        {"ask": {"head": "random"}},
        {"ask": {"head": "words"}},
        {"ask": {"template": "{text} It was"}},
        {"ask": {"words": {"negative": (" bad",), "positive": (" good",)}}},
        {"ask": {"offset": True}},
    ]
    assert len({_key(**changes) for changes in others}) == len(others)
    asked = [changes for changes in others if "ask" in changes]
    assert len({_key(method="baseline", **changes) for changes in asked}) == 1, "it asks for nothing"
    assert _key(method="zero-shot") == _key(method="zero-shot", ask={"head": "words"})


# What becomes of the runs; a fake carries them out


@pytest.fixture
def invented() -> InventedExecutor:
    return InventedExecutor()


def three(**changes: Any) -> Study:
    content = {"name": "three", "backbone": "gpt2", "task": "sst2", "methods": {"baseline": {}, "full": {}, "lora": {}}}
    return Study.parse(content | changes, "three")


def titles(results: Results) -> list[str]:
    return [one.name for one in results.records]


def test_a_study_writes_its_request_and_records_and_tells_each_result(
    invented: InventedExecutor, tmp_path: Path
) -> None:
    scribe = Scribe()
    results = three().run(tmp_path / "deep" / "out", scribe, ["afina", "study", "a file.toml"], invented)
    assert titles(results) == ["baseline", "full", "lora"]
    assert record.read_records(results.out / "records.jsonl") == list(results.records)
    assert results.command == ("afina", "study", "a file.toml")
    assert (results.task, results.data) == ("sst2", three().data)
    assert Results.read(results.out) == results
    assert [titles(one) for one in scribe.changes] == [
        ["baseline"],
        ["baseline", "full"],
        ["baseline", "full", "lora"],
        ["baseline", "full", "lora"],
    ]
    assert scribe.changes[-1] == results
    assert [result.answers.tolist() for result in results.results] == [[0, 1, 0, 0, 1]] * 3


def test_published_figures_are_recorded_and_can_be_given_later(invented: InventedExecutor, tmp_path: Path) -> None:
    assert three().run(tmp_path, executor=invented).published is None
    study = three(published={"source": "A study", "methods": {"lora": {"f1": 0.8}}})
    results = study.run(tmp_path, executor=invented)
    assert results.published == study.published
    assert Results.read(tmp_path) == results
    assert len(record.read_records(tmp_path / "records.jsonl")) == 3
    assert study_of(tmp_path) == study


def test_what_is_recorded_is_not_run_again(invented: InventedExecutor, tmp_path: Path) -> None:
    first = three().run(tmp_path, executor=invented)
    scribe = Scribe()
    second = three().run(tmp_path, scribe, executor=invented)
    assert scribe.told == ["finished baseline before", "finished full before", "finished lora before"]
    assert second.records == first.records
    scribe = Scribe()
    three(seeds=[0, 1]).run(tmp_path, scribe, executor=invented)
    assert scribe.told[4:] == [  # after a line about two seeds
        f"{what} {name}{tail}"
        for name, number in (("baseline", 4), ("full", 5), ("lora", 6))
        for what, tail in (("started", f" {number}/6"), ("finished", ""))
    ]


@pytest.mark.parametrize("case", ["adapter", "predictions", "damaged"])
def test_a_record_without_its_files_is_made_again_once(invented: InventedExecutor, tmp_path: Path, case: str) -> None:
    first = three().run(tmp_path, executor=invented)
    place = tmp_path / str(getattr(first.records[1], "predictions" if case == "predictions" else "adapter"))
    if case == "damaged":
        tensors = place / "delta.safetensors"
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\1")
    else:
        shutil.rmtree(place) if case == "adapter" else place.unlink()
    scribe = Scribe()
    three().run(tmp_path, scribe, executor=invented)
    (why,) = [one for one in scribe.told if "executed again" in one]
    assert why.startswith("full, seed 0: recorded before, and executed again. ")
    assert str(place) in why
    if case != "predictions":
        assert Adapter.load(place).digest == first.records[1].digest
    assert scribe.told == [
        "finished baseline before",
        why,
        "started full 2/3",
        "finished full",
        "finished lora before",
    ]
    assert sorted(one.name for one in record.read_records(tmp_path / "records.jsonl")) == ["baseline", "full", "lora"]


def test_a_failed_run_stops_no_other_and_is_tried_again(invented: InventedExecutor, tmp_path: Path) -> None:
    invented.failing.add("full")
    scribe = Scribe()
    results = three().run(tmp_path, scribe, executor=invented)
    assert scribe.changes[-1] == results
    assert scribe.told[2:4] == ["started full 2/3", "failed full: run full: it was made to fail."]
    assert titles(results) == ["baseline", "lora"]
    assert [(one.name, one.method, one.seed, one.error) for one in results.failed] == [
        ("full", "full", 0, "run full: it was made to fail.")
    ]
    read = Results.read(tmp_path)
    assert (read.failed, read.waiting) == (results.failed, 0), "it failed, and is not said to wait"
    said = Report.of(read).sentences[-1]
    assert said == "Not included: 1 run that failed (full, seed 0)."

    invented.failing.clear()
    scribe = Scribe()
    results = three().run(tmp_path, scribe, executor=invented)
    assert scribe.told == ["finished baseline before", "started full 2/3", "finished full", "finished lora before"]
    assert titles(results) == ["baseline", "full", "lora"]
    assert not results.failed
    assert not Results.read(tmp_path).failed
    invented.failing.add("full")
    assert [one.name for one in three().run(tmp_path, executor=invented, fresh=True).failed] == ["full"]
    again = Results.read(tmp_path)
    assert (again.failed, again.waiting, titles(again)) == ((), 0, ["baseline", "full", "lora"]), "its earlier record"


def test_an_interrupted_study_tells_failed_runs_from_waiting_ones(invented: InventedExecutor, tmp_path: Path) -> None:
    class Impatient(Watcher):
        def started(self, run: Run, number: int, total: int) -> None:
            if number == 3:
                raise KeyboardInterrupt

    invented.failing.add("full")
    with pytest.raises(KeyboardInterrupt):
        three().run(tmp_path, Impatient(), executor=invented)
    read = Results.read(tmp_path)
    assert ([one.name for one in read.failed], read.waiting, titles(read)) == (["full"], 1, ["baseline"])
    invented.failing.clear()
    assert titles(three().run(tmp_path, executor=invented)) == ["baseline", "full", "lora"]


def test_records_of_other_settings_are_kept_and_not_shown(invented: InventedExecutor, tmp_path: Path) -> None:
    three().run(tmp_path, executor=invented)
    results = three(methods={"lora": {}}, task="another").run(tmp_path, executor=invented)
    assert [(one.name, one.task) for one in results.records] == [("lora", "another")]
    assert Results.read(tmp_path).records == results.records
    kept = record.read_records(tmp_path / "records.jsonl")
    assert [(one.name, one.task) for one in kept] == [
        ("baseline", "sst2"),
        ("full", "sst2"),
        ("lora", "sst2"),
        ("lora", "another"),
    ]
    scribe = Scribe()
    three().run(tmp_path, scribe, executor=invented)
    assert [line for line in scribe.told if "before" not in line] == []


def test_the_checkpoint_of_a_recorded_run_is_removed_and_no_other(invented: InventedExecutor, tmp_path: Path) -> None:
    places = {run.title: tmp_path / "checkpoints" / f"{run.label}.safetensors" for run in three().runs()}
    invented.failing.add("lora")
    for place in places.values():
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"")
    three().run(tmp_path, executor=invented)
    assert [name for name, place in places.items() if place.exists()] == ["lora"]


def test_what_a_killed_process_left_half_written_is_swept(invented: InventedExecutor, tmp_path: Path) -> None:
    for place in (tmp_path, *(tmp_path / name for name in ("adapters", "predictions", "checkpoints"))):
        (place / ".tmp-x-123").mkdir(parents=True)
    three().run(tmp_path, executor=invented)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_predictions_that_changed_are_told_and_not_believed(invented: InventedExecutor, tmp_path: Path) -> None:
    first = three().run(tmp_path, executor=invented)
    path = tmp_path / first.records[1].predictions
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for again in (lambda: Results.read(tmp_path), lambda: three().run(tmp_path, executor=invented)):
        with raises(InvalidData, code="results.changed"):
            again()
    path.unlink()
    assert three().run(tmp_path, executor=invented).records == first.records


def test_a_study_of_which_nothing_comes_leaves_nothing(invented: InventedExecutor, tmp_path: Path) -> None:
    invented.failing |= {"baseline", "full", "lora"}
    assert len(three().run(tmp_path / "out", executor=invented).failed) == 3
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    three().run(tmp_path / "mine", executor=invented)
    assert (tmp_path / "mine").exists()


def test_of_two_studies_at_once_in_one_place_the_second_is_refused(invented: InventedExecutor, tmp_path: Path) -> None:
    class Waits(Watcher):
        def __init__(self) -> None:
            self.began, self.go_on = threading.Event(), threading.Event()

        def started(self, run: Run, number: int, total: int) -> None:
            self.began.set()
            assert self.go_on.wait(20)

    first = Waits()
    thread = threading.Thread(target=three().run, args=(tmp_path, first, (), invented))
    thread.start()
    try:
        assert first.began.wait(20)
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        with raises(Busy, code="out.occupied"):
            three(methods={"lora": {}}).run(tmp_path, executor=invented)
        assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    finally:
        first.go_on.set()
        thread.join()
    assert titles(Results.read(tmp_path)) == ["baseline", "full", "lora"]
    FileLock(tmp_path / ".lock", timeout=0).acquire().lock.release()  # it is free again


def test_a_place_without_a_study_cannot_be_read(tmp_path: Path) -> None:
    with raises(NotFound, code="results.missing"):
        Results.read(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 2, "study": {}}'])
def test_a_study_with_a_damaged_description_says_so(
    invented: InventedExecutor, tmp_path: Path, content: str | None
) -> None:
    three().run(tmp_path, executor=invented)
    (tmp_path / "study.json").unlink()
    if content is not None:
        (tmp_path / "study.json").write_text(content, encoding="utf-8")
    with raises(InvalidData, code="results.damaged", path="study.json"):
        Results.read(tmp_path)


# With a real model: in a process of its own


def toy_study(gpt2: Backbone, toy: str, *methods: str, **train: Any) -> Study:
    content = {
        "name": "toy",
        "backbone": gpt2.address,
        "task": toy,
        "train": {"max_steps": 4, "dtype": "float32", **train},
        "methods": {method: {} for method in methods},
    }
    return Study.parse(content, "toy")


@pytest.mark.slow
def test_a_worker_makes_the_same_record_as_this_process(
    gpt2: Backbone, toy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An executor never changes a digest."""
    there = toy_study(gpt2, toy, "lora").run(tmp_path / "there").records[0]
    assert capfd.readouterr() == ("", "")
    here = toy_study(gpt2, toy, "lora").run(tmp_path / "here", executor=HereExecutor()).records[0]
    measured = {"seconds", "memory", "tokens_per_second", "environment", "content_digest"}
    assert there.model_dump(exclude=measured) == here.model_dump(exclude=measured)
    assert there.environment.versions == here.environment.versions
    assert there.memory.rss_peak is not None


@pytest.mark.slow
def test_a_run_that_failed_in_its_process_has_that_errors_code(
    gpt2: Backbone, toy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run,) = toy_study(gpt2, toy, "lora", max_length=10_000).runs()
    with raises(RunFailed, code="run.failed", run="lora", cause="run.max-length") as caught:
        LocalExecutor().carry_out(run, tmp_path, "toy", lambda progress: None)
    assert caught.value.fields["of_cause"] == {
        "found": 10_000,
        "most": gpt2.longest,
        "longest": gpt2.longest,
        "backbone": gpt2.address,
    }
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_an_encoder_states_the_defaults_of_encoders() -> None:
    """The older defaults have another key, so that no run with them counts as recorded."""
    methods = {"lora": {}, "full": {"epochs": 2}, "linear_probe": {}, "ia3": {}, "setfit": {"backbones": ["minilm"]}}
    runs = Study(name="movies", task="snippets:movies", backbones=["embedded", "minilm"], methods=methods).runs()
    stated = {(run.title, run.backbone): run.training.non_defaults() for run in runs}
    assert stated == {
        ("lora", "embedded"): {},
        ("lora", "minilm"): {"epochs": 4, "learning_rate": 0.003},
        ("full", "embedded"): {},
        ("full", "minilm"): {},
        ("ia3", "embedded"): {},
        ("ia3", "minilm"): {"epochs": 4, "learning_rate": 0.05},
        ("linear_probe", "embedded"): {},
        ("linear_probe", "minilm"): {},
        ("setfit", "minilm"): {},
    }
    for run in runs:
        assert pickle.loads(pickle.dumps(run)).key == Run.model_validate_json(run.model_dump_json()).key == run.key
    unknown = runs[0].model_copy(update={"backbone": "minilm"})  # as from a machine without the configuration
    assert Run.model_validate_json(unknown.model_dump_json()).key == unknown.key
    assert "epochs = 2" in as_toml(
        Study(name="movies", task="snippets:movies", backbone="minilm", methods={"lora": {}}, train={"epochs": 2})
    )
    (first,) = (run for run in runs if (run.title, run.backbone) == ("lora", "minilm"))
    older = Run(
        backbone="minilm", task="snippets:movies", method="lora", training={"learning_rate": 0.001, "epochs": 2}
    )
    assert older.training.non_defaults() == {"learning_rate": 0.001}
    assert older.key != first.key
    sizes = Study(name="movies", task="snippets:movies", backbone="minilm", methods={"lora": {}}, sizes=[32, 64]).runs()
    assert [run.training.max_steps for run in sizes] == [16, 16]


class Killer(Watcher):
    """Kills the worker as soon as it trains."""

    def __init__(self) -> None:
        self.killed = 0

    def progress(self, run: Run, progress: Progress) -> None:
        if run.title == "lora" and progress.phase == "train" and progress.step and not self.killed:
            # The tests before may have left processes of their own.
            (worker,) = [one for one in psutil.Process().children(recursive=True) if is_worker(one)]
            self.killed = worker.pid
            os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_a_failed_run_and_leaves_nothing(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    killer = Killer()
    results = toy_study(gpt2, toy, "lora", "baseline", max_steps=5_000).run(tmp_path, killer)
    assert killer.killed
    assert [one.error for one in results.failed] == [
        "run lora: signal 9 killed its process, most likely because memory ran out. "
        "Use a smaller `backbone`, or set `token_budget` to 1024 or `checkpointing` to true, then start again."
    ]
    assert titles(results) == ["baseline"]
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == [Path(results.records[0].adapter).name]
    assert not list(tmp_path.rglob(".tmp-*"))
    assert json.loads((tmp_path / "records.jsonl").read_text(encoding="utf-8"))["method"] == "baseline"
