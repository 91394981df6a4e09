"""A run with `abstain_error` chooses a threshold, keeps it in its adapter, and says what became of its promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from afina import Adapter, Backbone, Predictor, Task
from afina.data.evaluation_set import EvaluationSet
from afina.errors import InvalidStudy
from afina.predicting.evaluation import evaluate, trained
from afina.report import evaluation as evaluation_report
from afina.report.details import abstention as in_words
from afina.report.details.abstention import ABSTENTION
from afina.report.report import Report
from afina.stats.abstention import CONFIDENCE, LADDER, AnsweredShare, find_threshold
from afina.studies.runs import inputs
from afina.studies.runs.record import Abstention, AnsweredCounts
from afina.studies.runs.run import Run
from command import Command
from fakes import Backbones, sentences, write_csv
from raises import raises
from records import answering, results


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts of which two thirds end in a word that tells the label."""
    drawn = np.random.default_rng(0)
    told = [("soup", "lamp")[label] if drawn.random() < 0.7 else "play" for _, label in sentences(400)]
    rows = [(f"{text} {word} {word} {word}", label) for (text, label), word in zip(sentences(400), told, strict=True)]
    return str(write_csv(tmp_path_factory.mktemp("abstention") / "toy.csv", rows))


def asked(gpt2: Backbone, file: str, error: float | None) -> Run:
    return Run(backbone=gpt2.address, task=file, method="linear_probe", training={"abstain_error": error})


def test_too_few_texts_are_refused_before_training_with_the_number_missing(gpt2: Backbone, toy: str) -> None:
    run = asked(gpt2, toy, 0.05)
    facts = inputs.facts_of(run)
    missing = round((59 - facts.abstention_examples) / 0.2)
    with raises(InvalidStudy, code="abstention.too-few-texts", option="abstain_error", expected=59, more=missing):
        facts.check(run)
    whole = Task.load(toy)
    with raises(InvalidStudy, code="abstention.too-few-texts", found=0):  # a task without texts that are set aside
        run.execute(Path("out"), task=whole)


@pytest.mark.slow
def test_the_adapter_has_the_threshold_of_the_texts_that_were_set_aside(
    gpt2: Backbone, file: str, tmp_path: Path
) -> None:
    record = asked(gpt2, file, 0.2).execute(tmp_path)
    promised, adapter = record.abstention, Adapter.load(tmp_path / str(record.adapter))
    assert promised is not None
    assert (promised.error, promised.confidence) == (0.2, CONFIDENCE)
    assert promised.threshold in LADDER
    assert adapter.manifest.objective == record.objective
    assert adapter.manifest.training["abstention"] == json.loads(promised.model_dump_json())
    split = Task.load(file, abstention=True).abstention
    assert split is not None
    predictor = Predictor.of(adapter, gpt2)
    predictions, _ = predictor.measure(split)
    confidence = predictor.objective.confidence(predictions)
    assert confidence is not None
    again = find_threshold(confidence, predictor.objective.answered(predictions).wrong, 0.2)
    assert (again.value, again.found) == (promised.threshold, promised.calibration.share)
    texts = EvaluationSet.read(file, trained(adapter))
    assert texts.held_out  # the texts that chose the threshold are recognised as training texts
    assert texts.left_out == 0
    found = evaluate(adapter, texts)
    assert found.abstention is not None
    assert found.abstention.found == promised.evaluation.share
    assert found.metrics == pytest.approx(record.metrics)
    assert evaluation_report.as_json(found)["abstention"]["promised_error"] == 0.2  # type: ignore[index]
    saw = trained(adapter).saw(split)
    assert saw is not None
    assert saw.all()


@pytest.mark.slow
def test_an_adapter_that_can_promise_nothing_is_kept_and_answers_nothing(gpt2: Backbone, tmp_path: Path) -> None:
    """Labels that have nothing to do with the texts: about half of the most confident answers are wrong."""
    drawn = np.random.default_rng(0).integers(0, 2, 400)
    file = write_csv(
        tmp_path / "noise.csv",
        [(text, ("no", "yes")[label]) for (text, _), label in zip(sentences(400), drawn, strict=True)],
    )
    said: list[str] = []
    record = asked(gpt2, str(file), 0.1).execute(tmp_path / "out", lambda one: said.append(getattr(one, "note", "")))
    assert record.abstention is not None
    assert (record.abstention.threshold, record.abstention.evaluation.answered) == (None, 0)
    assert any("no confidence promises an error of at most 0.1" in note for note in said)
    (answer,) = Predictor.load(tmp_path / "out" / str(record.adapter))(["warm soup"])
    assert answer["answered"] is False


def test_a_report_shows_coverage_and_error_of_adapters_that_abstain() -> None:
    evaluated = AnsweredCounts(texts=200, answered=160, errors=20)
    calibration = AnsweredCounts(texts=300, answered=210, errors=5)
    told = Abstention(error=0.05, confidence=0.95, threshold=0.9, calibration=calibration, evaluation=evaluated)
    unsure = {"kind": "classes", "temperature": 1.0, "abstain_below": 0.9}
    runs = [answering("lora", range(10), abstention=told, objective=unsure), answering("head", range(20))]
    report = Report.of(results(runs))
    table = next(one for one in report.tables if one.title == ABSTENTION)
    assert table.rows == (("LoRA", "0.05", "0.9000", "0.8000", "0.1250", "0.0824 to 0.1852"),)
    assert "LoRA, seed 0: the error among answered evaluation texts is above the promised error" in table.notes[-1]
    (row,) = json.loads(report.files(("tables.json",))["tables.json"])["tables"]["abstention"]
    assert (row["coverage"], row["error"], row["promised_error"]) == (0.8, 0.125, 0.05)
    never = told.model_copy(update={"threshold": None, "evaluation": AnsweredCounts(texts=200, answered=0, errors=0)})
    shown = Report.of(results([answering("lora", range(10), abstention=never)]))
    table = next(one for one in shown.tables if one.title == ABSTENTION)
    assert table.rows == (("LoRA", "0.05", "no text is answered", "0.0000", "undefined", "–"),)
    assert ABSTENTION not in Report.of(results(runs[1:])).markdown()


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (AnsweredShare(100, 80, 4), in_words.KEPT),
        (AnsweredShare(100, 80, 5), in_words.IN_DOUBT),
        (AnsweredShare(100, 80, 30), in_words.BROKEN),
        (AnsweredShare(100, 0, 0), in_words.UNTESTED),
    ],
)
def test_a_promise_is_in_doubt_before_it_is_broken(found: AnsweredShare, verdict: str) -> None:
    assert in_words.verdict(0.05, found) == verdict
    for answers_nothing in (False, not found.answered):
        words = in_words.sentence(found, 0.05, answers_nothing=answers_nothing)
        assert f"{found.answered} of 100 texts are answered" in words
        assert ("No confidence promised" in words and "promise a larger error" in words) is answers_nothing


@pytest.mark.slow
def test_the_flag_trains_predicts_and_evaluates(afina: Command, backbones: Backbones, file: str) -> None:
    arguments = ("--task", file, "--backbone", str(backbones.path("gpt2")), "--method", "linear_probe", "--out", "made")
    answer = afina("train", *arguments, "--abstain-error", "0.2")
    assert answer.code == 0, answer.err
    assert "texts are answered (coverage" in answer.out
    shown = afina("predict", "made", "What a warm ferry!", "A dull lamp.")
    assert all(isinstance(line["answered"], bool) for line in shown.lines())
    assert "of 2 texts answered" in shown.err
    told = afina("evaluate", "made", "--task", file, "--json").object()
    assert told["abstention"]["answered"] <= told["examples"]
    refused = afina("train", *arguments, "--abstain-error", "0.001")
    assert refused.code == 2
    assert "--abstain-error 0.001: " in refused.err
