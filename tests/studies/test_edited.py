"""What records, recommendations and manifests claim is what was measured: edited by hand, they are refused."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from afina import Adapter, AdapterStore, Predictor, Results, Run, Study, recommend
from afina.errors import AfinaError, CorruptAdapter, InvalidData
from afina.models.manifest import MANIFEST, read_manifest
from afina.models.predictions import Predictions
from afina.schema import digest_of_content
from afina.studies import adapter_paths, results
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.executors import fork_server
from afina.studies.executors.worker import CarryOut
from afina.studies.executors.worker_process import WorkerProcess
from afina.studies.runs.output_directory import OutputDirectory
from command import Command, InventedExecutor, copy
from raises import raises


@pytest.fixture
def out(tmp_path: Path) -> Path:
    content = {"name": "two", "backbone": "gpt2", "task": "sst2", "methods": {"full": {}, "lora": {}}}
    Study.parse(content, "two").run(tmp_path / "out", executor=InventedExecutor())
    return tmp_path / "out"


def edit(out: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = False) -> None:
    """Change the second record as an editor would; `sealed`: with the digest that it then has."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    change(lines[1])
    if sealed:
        lines[1]["content_digest"] = digest_of_content(json.dumps(lines[1]))
    (out / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def say(accuracy: float) -> Callable[[dict[str, Any]], object]:
    return lambda line: line["metrics"].update(accuracy=accuracy)


@pytest.mark.parametrize(
    "change",
    [
        say(1.0),
        lambda line: line["seconds"].update(train=0.1),
        lambda line: line.update(method="full", title="full fine-tuning"),
        lambda line: line.pop("content_digest"),
    ],
)
def test_an_edited_record_is_refused_by_all_that_read_it(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(out, change)
    content = {"name": "two", "backbone": "gpt2", "task": "sst2", "methods": {"full": {}, "lora": {}}}
    for read in (
        lambda: Results.read(out),
        lambda: adapter_paths.find_adapter(out, "lora"),
        lambda: Study.parse(content, "two").run(out, executor=InventedExecutor()),
    ):
        with raises(InvalidData, code="results.changed", where="records.jsonl, line 2", run="lora", seed=0):
            read()


def test_a_record_in_another_order_of_fields_is_the_same(out: Path) -> None:
    before = Results.read(out).records
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    (out / "records.jsonl").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    assert Results.read(out).records == before


@pytest.mark.parametrize("path", ["../../etc", "/etc/passwd", "adapters/../../x", "a\\b", ""])
def test_a_record_names_nothing_outside_its_directory(out: Path, path: str) -> None:
    for field in ("adapter", "predictions"):
        edit(out, lambda line, field=field: line.update({field: path}))
        with raises(InvalidData, code="results.damaged", where="records.jsonl, line 2"):
            Results.read(out)


def _line(out: Path) -> dict[str, Any]:
    return json.loads((out / "records.jsonl").read_text().splitlines()[1])


def recommendation(**changes: Any) -> Recommendation:
    contender = Contender(name="majority class", metrics={"accuracy": 0.6, "f1": 0.1})
    facts: dict[str, Any] = {
        **{"task": "sst2", "data": {}, "backbone": "gpt2", "recommended": "majority class", "adapter": None},
        **{"contenders": (contender,), "comparisons": (), "dropped": {}},
        **{"train_examples": 10, "examples": 5, "minutes": 5.0, "seconds": 9.0},
    }
    return Recommendation(**(facts | changes))


def test_a_recommendation_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = OutputDirectory(tmp_path).recommendation
    path.write_text(recommendation().sealed().model_dump_json(indent=2))
    assert results.read_recommendation(path).recommended == "majority class"
    path.write_text(path.read_text().replace("0.6", "0.99"))
    with raises(InvalidData, code="results.changed", path="recommendation.json"):
        results.read_recommendation(path)
    path.write_text(recommendation().model_dump_json())
    with raises(InvalidData, code="results.changed", path="recommendation.json"):
        results.read_recommendation(path)


def test_results_of_another_format_are_refused(out: Path, afina: Command) -> None:
    for name, found in (("records.jsonl", 1), ("records.jsonl", None), ("records.jsonl", 3), ("study.json", 1)):
        path = out / name
        whole = path.read_text()
        path.write_text(whole.replace('"format":2,', "" if found is None else f'"format":{found},'))
        with raises(InvalidData, code="results.format-unknown", path=name, found=str(found), expected=2):
            Results.read(out)
        assert "this version of afina reads 2. Run" in afina("show", out).error
        path.write_text(whole)


def boast(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["metrics"]["accuracy"] = 7.5
    (directory / MANIFEST).write_text(json.dumps(manifest))


def boast_unsealed(directory: Path) -> None:
    boast(directory)
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | {"claims_digest": None}))


@pytest.mark.parametrize("edited", [boast, boast_unsealed])
def test_an_adapter_with_edited_figures_predicts_and_is_not_published(
    trained: Path, tmp_path: Path, edited: Callable[[Path], None]
) -> None:
    boasting = copy(trained, tmp_path / "boasting", edited)
    assert Adapter.load(boasting).digest == Adapter.load(trained).digest
    assert Predictor.load(boasting)(["A warm soup."]) == Predictor.load(trained)(["A warm soup."])
    store = AdapterStore(tmp_path / "store")
    with raises(CorruptAdapter, code="adapter.changed", field="claims_digest", where="manifest.json"):
        store.publish(boasting, "me/mine", message="best ever")
    assert not (tmp_path / "store").exists()
    store.publish(trained, "me/mine", message="as measured")
    assert store.verify() == []


@pytest.mark.parametrize("field", ["metrics", "training", "versions", "environment", "seed", "train_digest", "probe"])
def test_whatever_a_manifest_claims_is_covered(trained: Path, tmp_path: Path, field: str) -> None:
    manifest = read_manifest(trained)
    assert manifest.claims_digest is not None
    manifest.check_claims("here")
    other = {"seed": 99, "train_digest": "sha256:0", "probe": None}.get(field, {})
    with pytest.raises(CorruptAdapter):
        manifest.model_copy(update={field: other}).check_claims("here")
    moved = manifest.model_copy(update={"backbone": "elsewhere", "task": "moved.csv"})
    moved.check_claims("here")


def test_a_store_names_the_version_with_edited_claims(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boasting, store = copy(trained, tmp_path / "boasting", boast), AdapterStore(tmp_path / "store")
    with monkeypatch.context() as patch:  # a store that another version wrote to
        patch.setattr("afina.models.manifest.Manifest.check_claims", lambda *_: None)
        store.publish(boasting, "me/mine", message="best ever")
    (damage,) = store.verify()
    assert (damage.kind, damage.id) == ("manifest", "me/mine@1")
    assert "metrics, or fields that say what was measured, were changed after training" in damage.problem


@pytest.mark.parametrize(
    "odd",
    [
        {"metrics": {"accuracy": 0.8, "f1": 0.8, "zzz": 3}},
        {"trainable": 10**400},
        {"trainable": -5},
        {"seconds": {"load": 1, "encode": 1, "train": -5, "evaluate": 1, "save": 1}},
        {"objective": {"kind": "labels", "x": 1}},
        {"objective": {"kind": 3}},
        {"objective": {"kind": "labels"}},
        {"kind": ""},
        {"metric": "rmse"},
        {"metrics": {}},
        {"label_names": ["a"]},
        {"label_names": []},
        {"label_names": list("abc")},
        {"name": "lora\x1b[2J"},
        {"title": "\x07"},
    ],
)
def test_a_record_that_says_what_cannot_be_is_refused(out: Path, odd: dict[str, Any]) -> None:
    edit(out, lambda line: line.update(odd), sealed=True)
    with pytest.raises(
        InvalidData, match=r"records\.jsonl, line 2: not a record|the predictions do not belong to lora"
    ):
        Results.read(out)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (np.zeros((3, 7)), [0, 1, 1]),
        (np.zeros((3, 2)), [0, 1]),
        (np.zeros((5, 2)), [0, 1, 9, -4, 0]),
        (np.full((5, 2), np.nan), [0, 1, 1, 0, 1]),
        (np.zeros(5), [0, 1, 1, 0, 1]),
    ],
)
def test_predictions_that_cannot_be_the_records_are_refused(out: Path, outputs: np.ndarray, targets: list[int]) -> None:
    line = _line(out)
    digest = Predictions(outputs, np.array(targets)).write(out / line["predictions"])
    edit(out, lambda line: line.update(predictions_digest=digest), sealed=True)
    with raises(InvalidData, code="results.changed", run="lora", seed=0):
        Results.read(out)


def test_paths_and_strings_are_taken_alike_and_what_is_no_path_is_an_error(out: Path, tmp_path: Path) -> None:
    content = {"name": "two", "backbone": "gpt2", "task": "sst2", "methods": {"full": {}, "lora": {}}}
    study, executor = Study.parse(content, "two"), InventedExecutor()
    assert Results.read(str(out)).records == Results.read(out).records == study.run(str(out), executor=executor).records
    assert adapter_paths.find_adapter(str(out), "lora") == adapter_paths.find_adapter(out, "lora")
    for odd in ("a\0b", "x" * 5000, str(out / "study.json"), str(out / "study.json" / "below")):
        with pytest.raises(AfinaError):
            Results.read(odd)
        with pytest.raises(AfinaError):
            study.run(odd, executor=executor)
        with raises(AfinaError, code="out.not-directory"):
            Run(backbone="nowhere", task="nowhere.csv", method="lora").execute(odd)
    preset = tmp_path / "mine.toml"
    preset.write_text('name = "x"\nbackbone = "gpt2"\ntask = "sst2"\n[methods.lora]\n')
    assert Study.load(preset, "seeds=[3]") == Study.load(str(preset), ["seeds=[3]"])


def test_what_the_library_is_given_is_refused_in_our_words() -> None:
    good = {"backbone": "gpt2", "task": "sst2", "method": "lora"}
    for made, said in (
        (lambda: Run(foo=1), "run: backbone is missing. Add this key."),
        (lambda: Run(**good, foo=1), "run: unknown key 'foo'."),
        (
            lambda: Run(**good, hyperparameters={"rank": 1}),
            "run: unknown hyperparameter of lora 'rank'. Did you mean 'r'?",
        ),
        (
            lambda: Run(**good, training={"epoch": 1}),
            "run: unknown key 'training.epoch'. Did you mean 'training.epochs'",
        ),
        (lambda: Run(**good, name="../x"), "run '../x': the name cannot be part of a file name: it contains '/'."),
        (lambda: Run(**good, data={"validation": 2}), "run: data.validation = 2: expected a number below 1."),
        (lambda: Study(name="x", **good), "study: methods is missing."),
        (lambda: Study.parse([1], "x"), "x: found [1]. Expected a table of fields by name, such as methods."),  # type: ignore[arg-type]
        (lambda: recommend("sst2", 5, ask={"foo": 1}), "recommend: ask: unknown key 'foo'."),
        (lambda: recommend("sst2", "5"), "`minutes` 5: expected more than 0"),  # type: ignore[arg-type]
    ):
        with pytest.raises(AfinaError) as raised:
            made()
        assert str(raised.value).startswith(said)


def test_a_worker_may_have_longer_than_a_clock_can_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waited: list[float] = []
    monkeypatch.setattr(threading, "Timer", lambda seconds, end: waited.append(seconds) or threading.Thread())
    monkeypatch.setattr(fork_server, "_FORKS", False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: SimpleNamespace(kill=None))
    request = CarryOut(run=Run(backbone="gpt2", task="sst2", method="lora"), out=str(tmp_path), study="x")
    WorkerProcess(request, 6e10, None).__enter__()
    assert 0 < waited[0] < threading.TIMEOUT_MAX


def test_a_metric_of_another_kind_in_a_description_is_ignored(out: Path) -> None:
    left = json.loads((out / "study.json").read_bytes())
    left["study"]["metric"] = "rmse"
    (out / "study.json").write_text(json.dumps(left))
    assert [one.metric for one in Results.read(out).records] == ["accuracy", "accuracy"]


def test_a_study_writes_nothing_outside_its_directory(tmp_path: Path) -> None:
    good = {"name": "x", "backbone": "gpt2", "task": "sst2", "methods": {"lora": {}}}
    odd = ["../../x", "/tmp/x", "a/b", "a\\b", "..", ".", ".hidden", "", " x", "x ", "x\n", "x\0", "x\x1b[2J", "é" * 60]
    for name in odd:
        for content in (good | {"name": name}, good | {"methods": {name: {"method": "lora"}}}):
            with raises(AfinaError, code="run.name-invalid"):
                Study.parse(content, "mine.toml")
    for seed in (-1, 2**63, 2**80):
        with raises(AfinaError, code="study.value-invalid", where="mine.toml"):
            Study.parse(good | {"seeds": [seed]}, "mine.toml")
    for name in ("two words", "é", "👩‍💻", "نمی‌دانم", "a+b", "v1.2-rc_3", "100%"):
        Study.parse(good | {"name": name}, "mine.toml")
