"""docs/example-report: a study's output without its adapters, held to what its records and predictions give."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import Task
from afina.report.evaluated import WITHHELD
from afina.report.report import FILES, PAGE, Report
from afina.studies.results import Results

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "example-report"


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.read(EXAMPLE)


def test_the_example_report_is_what_its_records_give(results: Results) -> None:
    made = Report.of(results, WITHHELD).files([name for name in FILES if name != PAGE])  # its plots are matplotlib's
    for name, text in made.items():
        assert (EXAMPLE / name).read_text(encoding="utf-8") == text, f"write it anew: afina report {EXAMPLE.name}"


def test_the_example_report_is_whole_and_has_nothing_else(results: Results) -> None:
    predictions = {result.record.predictions for result in results.results}
    found = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.is_file()}
    assert found == {*FILES, "records.jsonl", "study.json", "tuning.json", *predictions}


def test_the_example_reports_figures_are_those_of_its_predictions(results: Results) -> None:
    assert len(results.results) == 15
    for result in results.results:
        given = result.predictions
        found = result.objective.metrics(given.outputs, given.targets)
        assert {name: found[name] for name in result.record.metrics} == pytest.approx(result.record.metrics)
        assert len(given.outputs) == result.record.examples


@pytest.mark.assets
def test_the_example_report_holds_no_sentence_of_the_data() -> None:
    task = Task.load("snippets:movies")
    kept = b"\n".join(path.read_bytes() for path in EXAMPLE.rglob("*") if path.is_file())
    sentences = [text for split in (task.train, task.evaluation) for text in split.texts if len(text) > 25]
    assert len(sentences) > 5_000
    assert not [text for text in sentences if text.encode() in kept]
