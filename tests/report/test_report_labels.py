"""The section on doubtful labels in the report of a study: when it is there, and what it shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from afina.data.reading_options import ReadingOptions
from afina.report.examples.disagreements import WITHHELD
from afina.report.report import Report
from afina.studies.labelling.doubts import JSON_FILE, DoubtfulLabel, Doubts
from afina.studies.results import Results
from records import answering, results


def doubtful(task: str = "sst2") -> Doubts:
    label = DoubtfulLabel(
        file="train.tsv",
        row=7,
        training=True,
        text="the phone refused to die",
        label="positive",
        suggested="negative",
        probability=0.99,
        reason="the model predicts negative with probability 0.99",
    )
    fields = {"kind": "classes", "method": "linear_probe", "backbone": "minilm", "folds": 5, "seed": 0}
    return Doubts(
        task=task, **fields, train=80, evaluation=20, labels=(label,), metric="accuracy", value=0.9, gain=0.4
    ).sealed()


def study(out: Path, without: str | None = None) -> Results:
    made = results([answering("lora", range(10)), answering("head", range(20))], out=out)
    return replace(made, data=ReadingOptions(without=without))


@pytest.mark.parametrize("beside", [True, False])
def test_doubtful_labels_of_the_task_are_a_section(tmp_path: Path, beside: bool) -> None:
    where = tmp_path / "doubts" if beside else tmp_path
    doubtful().write(where)
    made = study(tmp_path, str(where / "doubts.csv") if beside else None)
    report = Report.of(made).markdown()
    assert "## Labels" in report
    assert "1 label is doubtful (1.0%)" in " ".join(report.split())
    assert "the phone refused to die" in report
    withheld = Report.of(made, WITHHELD).markdown()
    assert "1 label is doubtful" in " ".join(withheld.split())
    assert "the phone" not in withheld


def test_doubts_about_other_texts_are_not_shown_and_damaged_ones_are_told(tmp_path: Path) -> None:
    assert "## Labels" not in Report.of(study(tmp_path)).markdown()
    doubtful("other.csv").write(tmp_path)
    assert "## Labels" not in Report.of(study(tmp_path)).markdown()
    (tmp_path / JSON_FILE).write_text("{}")
    assert JSON_FILE in Report.of(study(tmp_path)).markdown().partition("## Labels")[2]
