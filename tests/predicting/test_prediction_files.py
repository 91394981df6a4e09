"""Every row of a file has an answer, with its number; written beside the file's columns, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from afina.data.readers.texts import chunks
from afina.errors import CannotWrite, InvalidData
from afina.models.objective import Objective
from afina.models.objectives import Classes, Labels, Number
from afina.models.predictions import Predictions
from afina.predicting.prediction_files import answered_rows, check_out, writing_rows
from raises import raises

OBJECTIVES = {
    "classes": Classes(("bad", "good")),
    "number": Number(("price",), mean=1.0),
    "labels": Labels(("rude", "mean", "off topic")),
    "abstaining": Classes(("bad", "good"), abstain_below=0.999),
}


def predictor(objective: Objective) -> Any:
    """One that is sure of the first of the label names for short texts, else of the others."""

    def predict(
        texts: Sequence[str], pairs: Sequence[str] | None, *, before: int, spaced: bool
    ) -> tuple[Predictions, int]:
        assert not spaced
        rows = [
            [9.0 if (len(text) < 4) == (place == 0) else -9.0 for place in range(objective.width)] for text in texts
        ]
        return Predictions(np.array(rows, np.float32)), sum(len(text) > 4 for text in texts)

    return SimpleNamespace(objective=objective, predict=predict)


def write(path: Path, kind: str = "classes", name: str = "out.csv", **options: Any) -> Path:
    out, made = path.with_name(name), predictor(OBJECTIVES[kind])
    with chunks(path) as parts, writing_rows(out, made.objective, **options) as write:
        for chunk in parts:
            write(chunk, answered_rows(made, chunk)[0])
    return out


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text('id,text,label\n7,yes,bad\n8,"  ",good\n9,"quite, long",\n', encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_row_without_a_text_has_an_answer_without_a_value_and_a_reason(kind: str, file: Path) -> None:
    with chunks(file) as parts:
        (chunk,) = parts
        answers, truncated = answered_rows(predictor(OBJECTIVES[kind]), chunk)
    assert [answer["row"] for answer in answers] == [1, 2, 3]
    assert truncated == 1
    assert answers[1] == {
        "row": 2, "text": None, **OBJECTIVES[kind].empty_answer, "reason": f"{file}, line 3: no text there"
    }  # fmt: skip
    assert answers[0].keys() - {"row", "text"} == OBJECTIVES[kind].empty_answer.keys()


def test_a_table_keeps_its_columns_and_its_rows_in_their_order(file: Path) -> None:
    with write(file).open(newline="", encoding="utf-8") as made:
        rows = list(csv.DictReader(made))
    assert [*rows[0]] == ["id", "text", "label", "predicted_label", "probability_bad", "probability_good", "reason"]
    assert [row["id"] for row in rows] == ["7", "8", "9"]
    assert [row["predicted_label"] for row in rows] == ["bad", "", "good"]
    assert [row["reason"] for row in rows] == ["", f"{file}, line 3: no text there", ""]
    assert float(rows[0]["probability_bad"]) > 0.9


def test_several_labels_stand_between_the_tasks_own_mark_and_a_number_by_itself(file: Path) -> None:
    for kind, column, expected in (("labels", "predicted_labels", ["rude", "", "mean|off topic"]),):
        with write(file, kind, separator="|").open(newline="", encoding="utf-8") as made:
            assert [row[column] for row in csv.DictReader(made)] == expected
    with write(file, "number").open(newline="", encoding="utf-8") as made:
        assert [row["predicted_value"] for row in csv.DictReader(made)] == ["10.0", "", "-8.0"]


def test_json_keeps_what_stands_in_each_row(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "yes", "id": {"a": [1]}}\n{"text": null}\n', encoding="utf-8")
    first, second = map(json.loads, write(path, name="out.jsonl").read_text("utf-8").splitlines())
    assert first["id"] == {"a": [1]}
    assert (first["predicted_label"], first["reason"]) == ("bad", None)
    assert (second["predicted_label"], second["probabilities"]) == (None, None)
    assert second["reason"].endswith("line 2: no text there")


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_a_column_that_answers_add_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text,predicted_label\nyes,bad\n", encoding="utf-8")
    with raises(InvalidData, code="data.column-repeated", column="predicted_label", where="in.csv, line 2"):
        write(path, name=name)
    assert [*tmp_path.iterdir()] == [path]


def test_a_row_with_columns_of_its_own_does_not_fit_a_table_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "yes"}\n{"text": "no", "id": 1}\n', encoding="utf-8")
    with raises(InvalidData, code="data.columns-differ", column="id", where="in.jsonl, line 2"):
        write(path)
    assert [*tmp_path.iterdir()] == [path]


def test_the_input_is_never_overwritten(tmp_path: Path, file: Path) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to(file)
    for out in (file, link, tmp_path / "." / "in.csv"):
        with raises(InvalidData, code="argument.invalid"):
            check_out(out, file)
    with raises(InvalidData, code="data.format-unknown", path="out.xlsx", expected=[".csv", ".jsonl"]):
        check_out(tmp_path / "out.xlsx", file)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(CannotWrite):
        check_out(tmp_path / "folder.csv", file)
    check_out(tmp_path / "new.csv", file)


def test_a_file_says_of_each_text_whether_it_was_answered(file: Path) -> None:
    with write(file, "abstaining").open(newline="", encoding="utf-8") as made:
        rows = list(csv.DictReader(made))
    assert [row["answered"] for row in rows] == ["true", "", "true"]
    assert [*rows[0]][-2:] == ["answered", "reason"]
    lines = write(file, "abstaining", "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answered"] for line in lines] == [True, None, True]
    assert "answered" not in write(file, "classes", "plain.jsonl").read_text(encoding="utf-8")
