"""Reports in docs/: a study's output without its adapters, held to what its records and predictions give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from afina import Task
from afina.report.examples.disagreements import WITHHELD
from afina.report.report import FILES, PAGE, Report
from afina.studies.results import Results

ROOT = Path(__file__).resolve().parents[2]
RUNS = {"example-report": 15, "methods-report": 12}
"""By directory, how many runs there are."""

NUMBERS = re.compile(r"(\d+\.\d+(?:e-?\d+)?)")


@pytest.fixture(scope="module", params=[*RUNS])
def example(request: pytest.FixtureRequest) -> Path:
    made: Path = ROOT / "docs" / request.param
    return made


@pytest.fixture(scope="module")
def results(example: Path) -> Results:
    return Results.read(example)


@pytest.mark.slow
def test_a_report_is_what_its_records_give(results: Results, example: Path) -> None:
    made = Report.of(results, WITHHELD).files([name for name in FILES if name != PAGE])  # its plots are matplotlib's
    for name, text in made.items():
        kept, anew = (NUMBERS.split(one) for one in ((example / name).read_text(encoding="utf-8"), text))
        assert kept[::2] == anew[::2], f"write it anew: afina report docs/{example.name}"
        # NumPy's sums round by the processor and by where an array happens to lie
        assert [*map(float, kept[1::2])] == pytest.approx([*map(float, anew[1::2])], rel=1e-9), name


def test_a_report_is_whole_and_has_nothing_else(results: Results, example: Path) -> None:
    predictions = {result.record.predictions for result in results.results}
    found = {path.relative_to(example).as_posix() for path in example.rglob("*") if path.is_file()}
    assert found == {*FILES, "records.jsonl", "study.json", "tuning.json", *predictions}


def test_a_reports_figures_are_those_of_its_predictions(results: Results, example: Path) -> None:
    assert len(results.results) == RUNS[example.name]
    for result in results.results:
        given = result.predictions
        found = result.objective.metrics(given)
        assert {name: found[name] for name in result.record.metrics} == pytest.approx(result.record.metrics)
        assert len(given) == result.record.examples


def test_the_how_to_says_of_all_methods_what_their_report_says() -> None:
    page = ROOT / "docs" / "how-to" / "compare-methods-fairly.md"
    said = page.read_text(encoding="utf-8").split("`afina study methods` compares")[1].split("\n\n")[0]
    figures = re.findall(r"0\.\d{4}", said)
    assert len(figures) == 5
    report = (ROOT / "docs" / "methods-report" / "report.md").read_text(encoding="utf-8").split("## Verdicts")[0]
    assert set(figures) == set(re.findall(r"0\.\d{4}", report)) - {"0.0437"}  # a share of the parameters


@pytest.mark.slow
@pytest.mark.assets
def test_a_report_holds_no_sentence_of_the_data(example: Path) -> None:
    task = Task.load("snippets:movies")
    kept = b"\n".join(path.read_bytes() for path in example.rglob("*") if path.is_file())
    sentences = [text for split in (task.train, task.evaluation) for text in split.texts if len(text) > 25]
    assert len(sentences) > 5_000
    assert not [text for text in sentences if text.encode() in kept]
