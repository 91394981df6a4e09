"""Targets of more than half of max_length: an error with the row, or left out and counted, in every part of a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from afina import Results, Study, device
from afina.data.answer_tokens import encode_references, without_long
from afina.data.evaluation_set import EvaluationSet
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split, as_references
from afina.data.task import Task
from afina.data.template import Template
from afina.errors import InvalidData, InvalidStudy, UnknownName
from afina.events import ignore
from afina.meter import Meter
from afina.models.adapter import Adapter
from afina.predicting.evaluation import evaluate, trained
from afina.report import evaluation
from afina.report.arms import measured_on
from afina.report.examples.disagreements import EvaluationTexts
from afina.report.report import Report
from afina.studies.choosing.recommend import _same_texts
from afina.studies.planning.forecast_runs import encoded, forecast_methods
from afina.studies.runs.prepared import prepare
from afina.studies.runs.run import Run
from afina.training.settings import Training
from command import HereExecutor
from fakes import Backbones, sentences, write_csv
from raises import raises

LONG = " ".join(["soup garden noon ferry"] * 30)
LENGTH = 100
ROWS = [
    (text, LONG if number % 12 == 0 else " ".join(text.split()[:3])) for number, (text, _) in enumerate(sentences(96))
]
DATA = {"kind": "text", "label": "summary"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("long")
    return write_csv(where / "rows.csv", ROWS, ("text", "summary")).rename(where / "rows.csv")


def content(backbones: Backbones, task: Path, **data: Any) -> dict[str, Any]:
    return {
        "name": "long",
        "backbone": str(backbones.path("gpt2")),
        "task": str(task),
        "data": DATA | data,
        "train": {"max_steps": 2, "batch_size": 8, "dtype": "float32", "max_length": LENGTH},
        "baselines": True,
        "methods": {"full": {}, "lora": {}},
    }


@pytest.fixture(scope="module")
def results(backbones: Backbones, task: Path) -> Results:
    return Study.parse(content(backbones, task, long="skip"), "here").run(task.parent / "out", executor=HereExecutor())


def test_of_several_targets_only_those_that_are_too_long_are_left_out(backbones: Backbones) -> None:
    labels = as_references([("soup",), (LONG, "a ferry"), (LONG,), ("noon", LONG, "garden")])
    split = Split(["a", "b", "c", "d"], labels)
    tokenizer = backbones.tokenizer("gpt2")
    references = encode_references(tokenizer, split.texts, None, labels, Template("{text}"))
    kept, tokens, left_out = without_long(split, references, LENGTH, "skip", "text")
    assert [*kept.texts] == ["a", "b", "d"]
    assert kept.labels.tolist() == [("soup",), ("a ferry",), ("noon", "garden")]
    assert (left_out.targets, left_out.rows) == (3, (2,))
    again = encode_references(tokenizer, kept.texts, None, kept.labels, Template("{text}"))
    assert tokens.owners.tolist() == again.owners.tolist() == [0, 1, 2, 2]
    assert tokens.tokens.tokens.tolist() == again.tokens.tokens.tolist()
    with raises(InvalidData, code="data.target-long", row=2, most=LENGTH // 2):
        without_long(split, references, LENGTH, "refuse", "text")
    with raises(InvalidData, code="data.target-long", row=2):
        without_long(split, references, 2, "skip", "text")  # no target is left
    same = without_long(split, references, 2 * references.longest, "refuse", "text")
    assert same[0] is split
    assert same[1] is references


@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_by_default_a_long_target_is_an_error_on_either_side(part: str, backbones: Backbones, tmp_path: Path) -> None:
    short = [(text, " ".join(text.split()[:3])) for text, _ in sentences(40)]
    long = [(text, LONG) for text, _ in sentences(44)[40:]]
    learnt, measured = (short + long, short) if part == "training" else (short, short + long)
    task = write_csv(tmp_path / "rows.csv", learnt, ("text", "summary"))
    other = write_csv(tmp_path / "more.csv", measured, ("text", "summary"))
    data = ReadingOptions(**DATA, evaluation=str(other), allow_leakage=True)
    training = Training(max_length=LENGTH)
    run = Run(backbone=str(backbones.path("gpt2")), task=str(task), method="full", data=data, training=training)
    with raises(InvalidData, code="data.target-long", row=41) as caught:
        encoded(run)
    assert str(caught.value).startswith(f"{part} text 41: its target has")
    skips = run.model_copy(update={"data": replace(data, long="skip")})
    found = encoded(skips)
    counts = (4, 0) if part == "training" else (0, 4)
    assert (found.train.left_out.targets, found.evaluation.left_out.targets) == counts
    assert f"{counts[0]} training targets and {counts[1]} evaluation targets" in found.notes[-1]
    assert (len(found.train), len(found.evaluation)) == (40, 40)


def test_the_option_is_for_texts_and_of_two_words(task: Path) -> None:
    with raises(UnknownName, code="name.unknown"):
        Task.load(task, **DATA, long="cut")
    path = write_csv(task.parent / "classes.csv", sentences(40))
    with raises(InvalidData, code="data.option-inapplicable", option="long"):
        Task.load(path, long="skip")


@pytest.mark.slow
def test_a_run_leaves_out_long_targets_and_its_record_counts_them(results: Results, task: Path) -> None:
    whole = Task.load(task, **DATA)
    long = sum(one == (LONG,) for one in whole.evaluation.labels), sum(one == (LONG,) for one in whole.train.labels)
    assert sum(long) == 8
    assert all(long)
    for result in results.results:
        made = result.record
        assert made.examples == len(whole.evaluation) - long[0] == len(result.predictions.outputs)
        assert made.train_examples == len(whole.train) - long[1]
        assert [whole.evaluation.labels[row] for row in made.too_long_rows] == [(LONG,)] * long[0]
        assert LONG not in [target for several in result.targets for target in several]
        assert f": {long[1]} training target" in made.notes[-1]
        assert made.environment.evaluation_digest == whole.evaluation.digest
    assert "Left out because they have more than 50 tokens" in Report.of(results).markdown()


def test_the_report_shows_the_texts_that_were_answered(results: Results, task: Path) -> None:
    whole, record = Task.load(task, **DATA).evaluation, results.records[0]
    texts, reason = EvaluationTexts.read(results.task, results.data).shown(record)
    assert reason == ""
    expected = [text for text, label in zip(whole.texts, whole.labels, strict=True) if label != (LONG,)]
    assert texts == expected


def test_baselines_are_compared_on_the_same_targets(results: Results) -> None:
    first = results.results[0]
    for one in results.baselines:
        assert one.measured_on != measured_on(first)
        beside = one.beside(first)
        assert beside.measured_on == measured_on(first)
        assert beside.values("rouge_l").mean() == pytest.approx(beside.record.metrics["rouge_l"])
    assert "Compared with" in " ".join(Report.of(results).tables[1].notes)


def test_an_evaluation_of_the_adapter_counts_them_too(results: Results, tmp_path: Path) -> None:
    adapter = Adapter.load(results.out / results.records[0].adapter)
    more = [(f"{text} tomorrow", LONG if number < 3 else "soup") for number, (text, _) in enumerate(sentences(20))]
    path = write_csv(tmp_path / "more.csv", more, ("text", "summary"))
    texts = EvaluationSet.read(path, trained(adapter), target="summary")
    found = evaluate(adapter, texts)
    assert (found.examples, found.too_long) == (17, 3)
    assert any("3 targets left out" in line for line in evaluation.sentences(found))
    assert evaluation.as_json(found)["too_long"] == 3
    with raises(InvalidData, code="data.target-long", row=1):
        evaluate(adapter, EvaluationSet.read(path, trained(adapter), target="summary", long="refuse"))


def test_a_choice_compares_what_answered_the_same_targets(results: Results, task: Path) -> None:
    whole, (first, second) = Task.load(task, **DATA).evaluation, results.results
    fewer = SimpleNamespace(predictions=SimpleNamespace(right_as_bytes=b"other"))
    held_out, finalists, untrained = _same_texts(whole, {"full": first, "lora": second}, {"zero-shot": fewer})
    assert list(finalists) == ["full", "lora"]
    assert untrained == {}
    assert len(held_out) == first.record.examples
    assert held_out.labels.tolist() == first.targets.tolist()
    assert np.array_equal(held_out.texts, EvaluationTexts.read(results.task, results.data).shown(first.record)[0])


@pytest.mark.slow
def test_a_plan_for_texts_needs_a_task() -> None:
    with raises(InvalidStudy, code="option.inapplicable", option="kind", found="text"):
        forecast_methods("embedded", data=ReadingOptions(kind="text"))


def test_a_prompt_and_target_beyond_the_positions_are_refused(backbones: Backbones, tmp_path: Path) -> None:
    learnt = [(text + " soup" * 300, "noon" if number else "soup") for number, (text, _) in enumerate(sentences(12))]
    measured = [(text + " noon" * 300, "soup garden " * 8) for text, _ in sentences(16)[12:]]
    other = write_csv(tmp_path / "more.csv", measured, ("text", "summary")).rename(tmp_path / "more.csv")
    given = content(backbones, write_csv(tmp_path / "rows.csv", learnt, ("text", "summary")), evaluation=str(other))
    given |= {"train": {"max_steps": 1, "dtype": "float32"}, "methods": {"lora": {}}, "baselines": False}
    study = Study.parse(given, "here")
    with raises(InvalidData, code="data.target-long") as caught:
        prepare(study.runs()[0], Meter(device.choose()), ignore)
    assert "the model takes at most" in str(caught.value)
