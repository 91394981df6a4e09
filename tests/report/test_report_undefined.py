"""A metric that is undefined is told as such, and never as 0: in tables, verdicts, the conclusion and files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from afina.report.report import Report
from afina.studies.runs.record import Result
from records import predictions, record, results

FIGURES = ("accuracy", "f1", "mcc", "auroc")


def of_one_class(method: str, wrong: int, metric: str = "auroc", targets: int = 1) -> Result:
    """A run on twenty texts of one class alone, some of them answered with the other."""
    gold = [targets] * 20
    told = predictions(gold, [1 - targets] * wrong + [targets] * (20 - wrong))
    made = Result(record(method), told)
    figures = {name: made.objective.value(name, told) for name in FIGURES}
    return Result(record(method, metric=metric, metrics=figures, examples=20), told)


def test_two_methods_cannot_be_compared_by_what_is_undefined() -> None:
    made = Report.of(results([of_one_class("full", 1), of_one_class("lora", 9)]))
    (apart,) = made.verdicts.not_comparable
    assert not made.verdicts.compared
    needs = "it needs probabilities and texts of both labels"
    assert apart.reason == f"AUROC is undefined for full fine-tuning and LoRA: {needs}"
    (told,) = made.sentences
    assert told == f"No method can be called best: AUROC is undefined, because {needs}."


def test_an_undefined_figure_is_called_so_in_every_table() -> None:
    made = Report.of(results([of_one_class("full", 1), of_one_class("lora", 9)]))
    (headings, row) = [column.heading for column in made.tables[0].columns], made.tables[0].rows[0]
    assert dict(zip(headings, row, strict=True))["AUROC"] == "undefined"
    said = " ".join(made.tables[0].notes)
    assert "AUROC is undefined: it needs probabilities and texts of both labels." in said
    assert "Matthews correlation is undefined: it needs texts of two labels or more." in said
    assert "nan" not in made.markdown().replace("LayerNorm", "")


def test_an_undefined_figure_is_null_in_json_and_empty_in_csv() -> None:
    files = Report.of(results([of_one_class("full", 1)])).files(["tables.csv", "tables.json"])
    (row,) = json.loads(files["tables.json"])["tables"]["performance"]
    assert (row["auroc"], row["auroc_low"], row["accuracy"]) == (None, None, 0.95)
    assert "performance,full fine-tuning,0,auroc,\n" in files["tables.csv"]


def test_a_defined_metric_is_compared_beside_an_undefined_one() -> None:
    made = Report.of(results([of_one_class("full", 1, "accuracy"), of_one_class("lora", 19, "accuracy")]))
    assert made.verdicts.compared[0].verdict == "better"
    assert made.summary()["records"][0]["metrics"]["auroc"] is None  # type: ignore[index]


@pytest.mark.parametrize("targets", [0, 1])
def test_f1_is_undefined_only_where_its_class_neither_occurs_nor_is_answered(targets: int) -> None:
    made = of_one_class("full", 0, "f1", targets)
    assert np.isnan(made.record.metrics["f1"]) == (targets == 0)


def test_f1_names_its_class_and_says_how_another_is_chosen_where_the_order_of_a_file_chose_it() -> None:
    mine = Report.of(results([of_one_class("full", 1, "accuracy")]))
    assert "F1 of positive" in [column.heading for column in mine.tables[0].columns]
    assert "--positive" not in " ".join(mine.tables[0].notes), "sst2 says itself which label is positive"
    told = of_one_class("full", 1, "accuracy")
    of_file = Result(told.record.model_copy(update={"task": "mine.csv"}), told.predictions)
    said = " ".join(Report.of(results([of_file])).tables[0].notes)
    assert (
        "F1 is of the class `positive`, the last in the order of the labels (`--positive LABEL` names another)." in said
    )
