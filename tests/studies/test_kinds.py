"""Studies of every kind of task, from a file to its report: numbers, several labels, skewed classes, pairs; sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from afina import Adapter, Predictor, Results, Study, Task
from afina.data.evaluation_set import EvaluationSet
from afina.errors import AfinaError, InvalidStudy
from afina.events import ValidationScore
from afina.methods import make
from afina.predicting.evaluation import evaluate, trained
from afina.report.report import Report
from afina.report.verdicts import CURVES
from afina.studies.adapter_paths import find_adapter
from afina.studies.choosing.candidate_trainings import CandidateTrainings
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.runs.record import Selection
from afina.studies.tuning import _value
from command import HereExecutor
from fakes import Backbones, sentences, write_csv
from raises import raises
from records import record

ROWS = sentences(120)
HEADERS = {"number": "rating", "labels": "tags", "classes": "label", "pairs": "label"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of each kind; in that of pairs two sentences stand beside a number."""
    where = tmp_path_factory.mktemp("kinds")

    def tags(text: str, label: int) -> str:
        return ";".join(
            name for name, has in (("good", label), ("the", "the" in text), ("long", len(text) > 60)) if has
        )

    cells = {
        "number": [(text, 10 + 4 * label + len(text) / 100) for text, label in ROWS],
        "labels": [(text, tags(text, label)) for text, label in ROWS],
        "classes": [(text, "short" if len(text) < 40 else ("bad", "good")[label]) for text, label in ROWS],
        "pairs": [(text, ROWS[-i][0], 0.5 + label - ROWS[-i][1]) for i, (text, label) in enumerate(ROWS, start=1)],
    }
    made = {}
    for kind, rows in cells.items():
        header = ("text", *(["text_pair"] if kind == "pairs" else []), HEADERS[kind])
        made[kind] = str(write_csv(where / f"{kind}.csv", rows, header).rename(where / f"{kind}.csv"))
    return made


def study(backbones: Backbones, task: str, **changes: Any) -> Study:
    content = {
        "name": "kinds",
        "backbone": str(backbones.path("gpt2")),
        "task": task,
        "train": {"max_steps": 12, "batch_size": 8, "learning_rate": 5e-3, "dtype": "float32"},
        "methods": {"full": {}, "lora": {}},
    }
    return Study.parse(content | changes, "here")


@pytest.fixture(scope="module")
def done(
    backbones: Backbones, files: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Results]:
    """The results of a study on a file, which tests only read."""
    made: dict[str, Results] = {}

    def of(name: str) -> Results:
        if name not in made:
            out = tmp_path_factory.mktemp(name)
            made[name] = study(backbones, files[name]).run(out, executor=HereExecutor())
        return made[name]

    return of


KINDS = {
    "number": ("number", "pearson", {"pearson", "spearman", "rmse", "mae", "r2"}),
    "labels": ("labels", "micro_f1", {"micro_f1", "macro_f1", "exact_match", "average_precision"}),
    "classes": (
        "classes",
        "accuracy",
        {"accuracy", "f1", "balanced_accuracy", "mcc", "log_loss", "brier", "ece"},
    ),
    "pairs": ("number", "pearson", {"pearson", "spearman", "rmse", "mae", "r2"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_ends_in_a_report_and_an_adapter(
    done: Callable[[str], Results], files: dict[str, str], name: str
) -> None:
    kind, metric, figures = KINDS[name]
    made = done(name)
    assert made.failed == ()
    record = made.records[0]
    assert (record.kind, record.metric, set(record.metrics)) == (kind, metric, figures)
    assert all(np.isfinite(value) for value in record.metrics.values())

    place = made.out / record.adapter
    adapter, predictor = Adapter.load(place), Predictor.load(place)
    assert predictor.objective == made.results[0].objective
    texts = EvaluationSet.read(files[name], trained(adapter))
    assert texts.held_out
    again = evaluate(adapter, texts)
    assert (again.metric, again.metrics) == (metric, pytest.approx(record.metrics, abs=1e-5))
    assert again.interval.low <= record.metrics[metric] <= again.interval.high
    split = texts.split
    (answer,) = predictor([split.texts[0]], None if split.pairs is None else [split.pairs[0]])
    json.dumps(answer)
    assert set(answer) == {
        "number": {"value"}, "labels": {"labels", "probabilities"}, "classes": {"label", "probabilities"},
    }[kind]  # fmt: skip
    if kind == "number":
        assert answer["value"] == pytest.approx(made.results[0].answers[0], abs=1e-4)

    report = Report.of(Results.read(made.out))
    page, text = report.page(), report.markdown()
    (pair,) = report.verdicts.compared
    assert pair.metric == metric
    title = {"number": "Predicted against given", "labels": "Label by label", "classes": "Confusion of labels"}[kind]
    assert f">{title}</h2>" in page
    assert ("Figures by label" in text) == (kind != "number")
    assert ("How far probabilities can be trusted" in page) == (kind == "classes")
    json.loads(report.files(["tables.json"])["tables.json"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "problem"), [("number", "regression"), ("labels", "multi_label_classification")])
def test_a_saved_model_has_the_same_loss_in_transformers(
    done: Callable[[str], Results], files: dict[str, str], name: str, problem: str
) -> None:
    import torch

    made = done(name)
    record, result, place = made.records[0], made.results[0], made.out / made.records[0].adapter
    assert record.method == "full"
    model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    assert model.config.problem_type == problem
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == list(record.label_names)
    predictor = Predictor.load(place)
    split = EvaluationSet.read(files[name], trained(Adapter.load(place))).split
    ids = torch.tensor([predictor.backbone.tokenizer(split.texts[0])["input_ids"]])  # type: ignore[attr-defined]
    target = torch.tensor(result.objective.loss_targets(split.labels[:1]))
    theirs = model(ids, labels=target).loss.item()
    first = result.predictions.take([0])
    assert first.right.tolist() == split.labels[:1].tolist()
    assert theirs == pytest.approx(result.objective.mean_loss(first), rel=1e-4)


@pytest.mark.slow
def test_another_metric_heads_the_same_runs_without_running_them_again(
    backbones: Backbones, files: dict[str, str], done: Callable[[str], Results], tmp_path: Path
) -> None:
    first = done("number")
    shutil.copytree(first.out, tmp_path, dirs_exist_ok=True)
    again = study(backbones, files["number"], metric="rmse").run(tmp_path, executor=None)  # a process would be begun
    assert [one.key for one in first.records] == [one.key for one in again.records]
    assert {one.metric for one in again.records} == {"rmse"}
    report = Report.of(Results.read(tmp_path))
    (pair,) = report.verdicts.compared
    assert pair.metric == "rmse"
    values = {one.name: one.metrics["rmse"] for one in first.records}
    assert pair.difference == pytest.approx(values["full"] - values["lora"], abs=1e-6)
    assert pair.margin == pytest.approx(0.05 * first.results[0].targets.std())
    best = min(values, key=lambda name: values[name])
    assert report.of_use is not None
    assert report.of_use.name == best
    assert "has the lowest RMSE" in " ".join(report.sentences) or "Use " in report.sentences[0]


def test_a_metric_of_another_kind_is_refused_first(backbones: Backbones, files: dict[str, str], tmp_path: Path) -> None:
    with raises(InvalidStudy, code="metric.inapplicable", metric="mcc", kind="number"):
        study(backbones, files["number"], metric="mcc").run(tmp_path, executor=HereExecutor())
    with raises(InvalidStudy, code="option.inapplicable", option="temperature"):
        study(backbones, files["number"], train={"temperature": True}).run(tmp_path, executor=HereExecutor())
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize("name", ["classes", "labels"])
@pytest.mark.slow
def test_a_temperature_is_fitted_on_texts_that_train_nothing_and_applied_ever_after(
    backbones: Backbones, files: dict[str, str], tmp_path: Path, name: str
) -> None:
    made = study(backbones, files[name], methods={"full": {"temperature": True}}).run(tmp_path, executor=HereExecutor())
    record = made.records[0]
    adapter = Adapter.load(tmp_path / record.adapter)
    asked = adapter.manifest.objective
    assert asked is not None
    assert asked["temperature"] > 0
    assert ("thresholds" in asked) == (name == "labels")
    assert record.objective == asked
    texts = EvaluationSet.read(files[name], trained(adapter))
    assert texts.held_out
    assert evaluate(adapter, texts).metrics == pytest.approx(record.metrics, abs=1e-5)
    plain = adapter.manifest.model_copy(update={"objective": {**asked, "temperature": asked["temperature"] * 2}})
    assert plain.digest != adapter.digest


@pytest.mark.slow
def test_sizes_take_equal_steps_and_end_in_a_curve(backbones: Backbones, files: dict[str, str], tmp_path: Path) -> None:
    asked = study(backbones, files["classes"], sizes=[16, 32], train={"epochs": 1, "batch_size": 8})
    runs = asked.runs()
    assert len(runs) == 2 * 2
    assert {run.training.max_steps for run in runs} == {4}
    made = asked.run(tmp_path, executor=HereExecutor())
    assert made.failed == ()
    assert {(one.train_examples, one.steps) for one in made.records} == {(16, 4), (32, 4)}
    report = Report.of(Results.read(tmp_path))
    pairs = report.verdicts.compared
    assert len(pairs) == 2, "full and LoRA at each size"
    assert report.verdicts.not_comparable == ()
    assert {arm.label for arm in report.arms} >= {"LoRA, 16 texts", "full fine-tuning, 32 texts"}
    table = report.findings[0]
    assert table.title == CURVES
    assert [column.heading for column in table.columns] == ["Method", "16 texts", "32 texts"]
    assert [row[0] for row in table.rows] == ["full fine-tuning", "LoRA"]
    assert "by training texts: " in " ".join(report.sentences)
    assert "by the number of training texts" in report.page()
    assert Adapter.load(find_adapter(tmp_path, "lora").path).manifest.data.train_examples == 32


def test_the_training_split_is_counted_before_texts_are_set_aside(backbones: Backbones, files: dict[str, str]) -> None:
    there = len(Task.load(files["classes"]).train)
    changes = {"data": {"train_examples": 16, "validation": 0.5}, "train": {"temperature": True}}
    (run, _) = study(backbones, files["classes"], **changes).runs()
    assert LocalExecutor().count_texts(run) == there > 16


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sizes": [16, 16]}, {"code": "study.value-invalid", "where": "here", "found": [16, 16]}),
        ({"sizes": [0]}, {"code": "study.value-invalid", "where": "here", "found": [0]}),
        (
            {"sizes": [16], "data": {"train_examples": 5}},
            {"code": "study.contradiction", "where": "here", "keys": ["data.train_examples", "sizes"]},
        ),
    ],
)
def test_impossible_sizes_are_refused(backbones: Backbones, changes: dict[str, Any], told: dict[str, Any]) -> None:
    with raises(AfinaError, **told):
        study(backbones, "my.csv", **changes)


def test_a_number_is_not_asked_for_in_words(backbones: Backbones, files: dict[str, str], tmp_path: Path) -> None:
    made = study(backbones, files["number"], methods={"zero-shot": {}}).run(tmp_path, executor=HereExecutor())
    assert "a task of kind number has no labels with words" in made.failed[0].error
    assert make("lora").head is None


def test_of_errors_a_selection_and_tuning_prefer_the_lower() -> None:
    low, high = (ValidationScore(8, 8, 40, error, 0.5, lower=True) for error in (0.2, 0.9))
    assert (low.gain, high.gain, ValidationScore(8, 8, 40, None, None, lower=True).gain) == (-0.2, -0.9, None)
    assert _value(low) > _value(high)
    records = [
        record(
            "lora",
            kind="number",
            metric="rmse",
            metrics={"rmse": 1.0},
            objective={"kind": "number", "mean": 0.0, "scale": 1.0},
            selection=Selection(value=v, loss=1, examples=8),
        )
        for v in (0.9, 0.2)
    ]
    made: Any = CandidateTrainings(*(SimpleNamespace(),) * 3)  # type: ignore[arg-type]
    made.results = {name: SimpleNamespace(record=each) for name, each in zip(("high", "low"), records, strict=True)}
    assert made.ranked == ["low", "high"]
