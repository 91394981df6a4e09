"""Doubts in words: how many were found, how many can be wrong, what to do, and a page without a link or a script."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina.data.reading_options import ReadingOptions
from afina.report import doubts as words
from afina.report.examples.disagreements import WITHHELD
from afina.report.report import Report
from afina.studies.labelling.doubts import JSON_FILE, ConfusedLabels, DoubtfulLabel, Doubts, FlippedLabels
from afina.studies.results import Results
from records import answering, results


def doubt(row: int, **changes: Any) -> DoubtfulLabel:
    told = {"file": "a.csv", "row": row, "training": True, "text": f"text <b>{row}</b>", "label": "bad"}
    return DoubtfulLabel(**{**told, "suggested": "good", "probability": 0.9, "reason": "the model", **changes})


def made(count: int = 60, **changes: Any) -> Doubts:
    told = {"task": "a.csv", "kind": "classes", "method": "linear_probe", "backbone": "minilm", "folds": 5, "seed": 0}
    figures = {"train": 800, "evaluation": 200, "metric": "accuracy", "value": 0.875, "gain": 0.5}
    flips = FlippedLabels(flipped=500, found=0.8, wrong=50.0, at_most=70.0)
    labels = [doubt(1, similar="equal"), *map(doubt, range(2, count + 1))][:count]
    return Doubts(**{**told, **figures, "labels": tuple(labels), "flips": flips, **changes})


def test_the_sentences_say_how_many_are_doubtful_and_how_many_can_be_wrong() -> None:
    said = " ".join(words.sentences(made()))
    assert "1,000 labels were checked (800 of training texts, 200 of evaluation texts)" in said
    assert "5 folds, accuracy 0.8750" in said
    assert "60 labels are doubtful (6.0%): 60 contradict the prediction and 1 contradict the label of an equal" in said
    assert "500 labels were flipped on purpose, of which 80% were found doubtful." in said
    assert "about 50 of the given labels (5.0%)" in said
    assert "at most 70" in said
    assert "little" not in said


def test_little_is_said_to_be_found_where_few_labels_look_flipped() -> None:
    few = FlippedLabels(flipped=500, found=0.8, wrong=3.0, at_most=12.0)
    said = " ".join(words.sentences(made(flips=few)))
    assert "So little was found: by this estimate, about 95% or more of the doubtful labels are right" in said
    assert "wide" not in said
    said = " ".join(words.sentences(made(flips=few.model_copy(update={"at_most": 40.0}))))
    assert "The interval is wide" in said
    all_ = few.model_copy(update={"wrong": 900.0})
    assert "too unsure" in " ".join(words.sentences(made(flips=all_)))


def test_without_a_comparison_numbers_and_unknowing_models_have_sentences_of_their_own() -> None:
    assert "3.5 robust standard deviations" in " ".join(words.sentences(made(flips=None, expected=0.5)))
    assert "Hard texts are among" in " ".join(words.sentences(made(flips=None)))
    nothing = " ".join(words.sentences(made(0, flips=None, knows=False)))
    assert "No label is listed. The model predicts these texts hardly better than the frequencies" in nothing
    assert words.next_steps(made(0), "doubts.csv") == ""
    one = ConfusedLabels(first="bad", second="awful", first_as_second=5, second_as_first=4, texts=30)
    said = " ".join(words.sentences(made(confused=(one,), alike=("Alike.",), rare=("odd",))))
    assert "5 texts of bad as awful, 4 the other way round, of 30" in said
    assert "Alike. Fewer texts than folds have the label odd" in said


def test_a_table_is_cut_and_names_what_a_label_contradicts() -> None:
    shown = words.table(made(), 2, 40, reasons=False)
    assert [column.heading for column in shown.columns][-1] == "Contradicts"
    assert [row[-1] for row in shown.rows] == ["equal text, model", "model"]
    assert shown.notes == ("The first 2 of 60 doubtful labels, the most doubtful first.",)
    pairs = words.table(made(1, labels=(doubt(1, text_pair="b", probability=None),)))
    assert [column.heading for column in pairs.columns] == [
        "Row",
        "Text",
        "Second text",
        "Label",
        "Suggested",
        "Reason",
    ]


def test_the_page_escapes_texts_and_has_the_command() -> None:
    page = words.page(made(), "out/doubts.csv", "afina train a.csv --without out/doubts.csv")
    assert "text &lt;b&gt;1&lt;/b&gt;" in page
    assert "afina train a.csv --without out/doubts.csv" in page
    assert "<script" not in page
    assert "delete from out/doubts.csv the rows whose labels are right" in page


# In the report of a study


def of_sst2(task: str = "sst2") -> Doubts:
    return made(task=task, labels=(doubt(1, text="the phone refused to die"),)).sealed()


def study(out: Path, without: str | None = None) -> Results:
    made = results([answering("lora", range(10)), answering("head", range(20))], out=out)
    return replace(made, data=ReadingOptions(without=without))


@pytest.mark.parametrize("beside", [True, False])
def test_doubtful_labels_of_the_task_are_a_section(tmp_path: Path, beside: bool) -> None:
    where = tmp_path / "doubts" if beside else tmp_path
    of_sst2().write(where)
    made = study(tmp_path, str(where / "doubts.csv") if beside else None)
    report = Report.of(made).markdown()
    assert "## Labels" in report
    assert "1 label is doubtful (0.1%)" in " ".join(report.split())
    assert "the phone refused to die" in report
    withheld = Report.of(made, WITHHELD).markdown()
    assert "1 label is doubtful" in " ".join(withheld.split())
    assert "the phone" not in withheld


def test_doubts_about_other_texts_are_not_shown_and_damaged_ones_are_told(tmp_path: Path) -> None:
    assert "## Labels" not in Report.of(study(tmp_path)).markdown()
    of_sst2("other.csv").write(tmp_path)
    assert "## Labels" not in Report.of(study(tmp_path)).markdown()
    (tmp_path / JSON_FILE).write_text("{}")
    assert JSON_FILE in Report.of(study(tmp_path)).markdown().partition("## Labels")[2]
