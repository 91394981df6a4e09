"""The texts behind the figures: which texts a method answered how."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina.data.split import FileRows
from afina.data.task import Task
from afina.errors import InvalidData, NotFound, UnknownName
from afina.report.examples.answered_texts import MOST_LISTED, RunChoice
from afina.report.examples.disagreements import EvaluationTexts
from afina.report.report import Report
from afina.studies.results import Results
from afina.studies.study import Study
from command import Command, GuessingExecutor
from fakes import write_csv
from records import of_kind, record, results, texts

LABELS = ("bad", "fair", "good")


def studied(out: Path, file: Path, labels: tuple[str, ...] = LABELS, size: int = 90) -> Results:
    """Two methods on invented texts."""
    write_csv(
        file,
        [(f"text {number} is {labels[number % len(labels)]}", labels[number % len(labels)]) for number in range(size)],
    )
    study = Study(name="mine", backbone="gpt2", task=str(file), methods={"full": {}, "lora": {}}, seeds=(0, 1))
    study.run(out, executor=GuessingExecutor())
    return Results.read(out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("answered")
    return studied(root / "out", root / "texts.csv")


def test_a_cell_of_the_confusion_matrix_has_as_many_texts_as_it_counts(made: Results) -> None:
    report = Report.of(made)
    run = report.answered[0]
    assert report.of_use is not None
    assert (run.key, run.seed) == (report.of_use.key, report.of_use.seed)
    assert sum(map(sum, run.matrix)) == report.of_use.examples
    assert any(run.matrix[row][column] for row in range(3) for column in range(3) if row != column)
    for row, given in enumerate(run.names):
        for column, predicted in enumerate(run.names):
            found = report.texts(given, predicted)
            assert (found.count, len(found.texts)) == (run.matrix[row][column],) * 2
            assert {(one.given, one.predicted) for one in found.texts} <= {(given, predicted)}


def test_each_text_is_that_of_its_row_and_the_surest_answer_comes_first(made: Results) -> None:
    split = Task.load(made.task).evaluation
    found = Report.of(made).texts()
    assert found.texts
    assert [one.text for one in found.texts] == [split.texts[one.row] for one in found.texts]
    assert all(one.given != one.predicted and one.text.endswith(one.given) for one in found.texts)
    lines = Path(made.task).read_text(encoding="utf-8").splitlines()
    for one in found.texts:
        file, line = str(one.where).split(", line ")
        assert (file, lines[int(line) - 1]) == (made.task, f"{one.text},{one.given}")
    chances = [one.probability for one in found.texts]
    assert chances == sorted(chances, key=lambda one: -(one or 0))


def test_rows_are_those_of_the_texts_that_the_run_did_not_leave_out() -> None:
    made = record(too_long_rows=(1,))
    evaluated = EvaluationTexts("abc", made.environment.evaluation_digest, rows=FileRows(["x.csv"] * 3, [2, 5, 7]))
    rows = evaluated.rows_shown(made)
    assert rows is not None
    assert (evaluated.shown(made)[0], rows.where(1), len(rows)) == (["a", "c"], "x.csv, line 7", 2)
    assert EvaluationTexts("abc").rows_shown(made) is None


def test_texts_are_those_of_the_named_method_and_seed(made: Results) -> None:
    report = Report.of(made)
    rows = [tuple(one.row for one in report.texts(chosen=RunChoice("lora", seed)).texts) for seed in (0, 1)]
    assert rows[0] != rows[1]
    assert tuple(one.row for one in report.texts(chosen=RunChoice("lora")).texts) == rows[0]
    assert tuple(one.row for one in report.texts(chosen=RunChoice("full")).texts) not in rows[:1]
    assert sorted(one.method for one in report.answered) == ["full", "lora"]


def test_few_and_short_texts_are_shown_on_request_and_all_are_counted(made: Results) -> None:
    report = Report.of(made)
    found, every = report.texts("bad", most=2, longest=5), report.texts("bad")
    assert (len(found.texts), found.count) == (2, every.count)
    assert all(one.text == "text…" for one in found.texts)
    assert "2 are shown" in found.words


def test_a_text_that_changed_since_the_run_is_refused(tmp_path: Path) -> None:
    made = studied(tmp_path / "out", tmp_path / "texts.csv")
    path = tmp_path / "texts.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("text", "words"), encoding="utf-8")
    with pytest.raises(InvalidData) as refused:
        Report.of(made).texts()
    assert refused.value.code == "report.texts-unavailable"
    path.unlink()
    with pytest.raises(InvalidData) as gone:
        Report.of(made).texts()
    assert gone.value.code == "report.texts-unavailable"


def test_labels_methods_and_runs_that_do_not_exist_are_refused(made: Results) -> None:
    report = Report.of(made)
    with pytest.raises(UnknownName, match="label"):
        report.texts("awful")
    with pytest.raises(UnknownName, match="method"):
        report.texts(chosen=RunChoice("ia3"))
    with pytest.raises(NotFound) as missing:
        report.texts(chosen=RunChoice("lora", 7))
    assert missing.value.code == "report.run-missing"


@pytest.mark.parametrize("kind", ["number", "labels", "text"])
def test_texts_by_label_need_one_label_a_text(kind: str) -> None:
    report = Report.of(results([texts() if kind == "text" else of_kind(kind)]))
    with pytest.raises(InvalidData) as refused:
        report.texts()
    assert (refused.value.code, refused.value.fields["kind"]) == ("report.answers-unlabelled", kind)
    assert [bool(one.labels) for one in report.answered] == [True] * (kind == "labels")
    assert all(not one.matrix and not one.confusions for one in report.answered)


def test_many_labels_have_a_list_of_confusions_in_place_of_a_matrix(tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(40))
    made = Report.of(studied(tmp_path / "out", tmp_path / "texts.csv", labels, 1000))
    run = made.answered[0]
    assert (run.matrix, len(run.labels)) == ((), 40)
    assert 0 < len(run.confusions) <= MOST_LISTED
    first = run.confusions[0]
    assert first.given != first.predicted
    assert made.texts(first.given, first.predicted).count == first.texts


def test_the_command_shows_the_same_texts(made: Results, afina: Command) -> None:
    said = afina("texts", made.out, "--given", "bad", "--predicted", "fair", "--json").object()
    expected = Report.of(made).texts("bad", "fair")
    assert [one["row"] for one in said["texts"]] == [one.row for one in expected.texts]
    assert said["count"] == expected.count
    shown = afina("texts", made.out, "--given=bad", "--predicted=fair", "--most", "1")
    assert shown.code == 0
    assert len(shown.out.splitlines()) == 2
    assert f"{expected.texts[0].where}: bad, answered fair" in shown.out
    assert expected.texts[0].text in shown.out
    assert "bad, fair, good" in afina("texts", made.out, "--given", "awful").error
