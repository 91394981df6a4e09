"""Label Studio's JSON is read as labelled texts: what annotators agree on, and nothing that a model has predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from afina import Task
from afina.data.readers import formats
from afina.data.texts_to_label import TextToLabel, write
from afina.errors import InvalidData, Refused
from raises import raises


def result(value: Any, kind: str = "choices", name: str = "sentiment") -> dict[str, Any]:
    return {"from_name": name, "to_name": "text", "id": "Dx1", "type": kind, "value": {kind: value}}


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    own = {"id": 1001, "completed_by": 10, "lead_time": 4.2, "was_cancelled": False, "ground_truth": False}
    return {**own, "result": list(results), **more}


def task(number: int, text: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": number, "data": {"text": text}, "annotations": list(annotations), "predictions": [], **more}


def export(directory: Path, *tasks: dict[str, Any]) -> Path:
    path = directory / "export.json"
    path.write_text(json.dumps(tasks))
    return path


def several(count: int) -> list[dict[str, Any]]:
    words = ("good", "bad")
    return [task(100 + i, f"text number {i}", annotation(result([words[i % 2]]))) for i in range(count)]


def test_choices_of_an_export_are_classes_and_the_note_says_what_was_read(tmp_path: Path) -> None:
    found = Task.load(export(tmp_path, *several(20)))
    assert (found.label_names, len(found.train) + len(found.evaluation)) == (("bad", "good"), 20)
    assert found.train.rows is not None
    assert set(found.train.rows.numbers) <= set(range(100, 120))
    assert "The answers of annotators are the column 'sentiment'." in found.told
    assert found.columns["label"] == "sentiment"


def test_only_answers_on_which_annotators_agree_are_labels(tmp_path: Path) -> None:
    good, bad = annotation(result(["good"])), annotation(result(["bad"]))
    guess = {"model_version": "m", "score": 0.9, "result": [result(["bad"])]}
    path = export(
        tmp_path,
        *several(10),
        task(1, "agreed", good, good),
        task(2, "disagreed", good, bad),
        task(3, "settled", good, bad | {"ground_truth": True}),
        task(4, "skipped", bad | {"was_cancelled": True}),
        task(5, "skipped by one", bad | {"was_cancelled": True}, good),
        task(6, "predicted only", predictions=[guess]),
        task(7, "empty", annotation()),
    )
    table = formats.read(path)
    labels = dict(zip(table.columns["text"], table.columns["sentiment"], strict=True))
    assert {text: labels[text] for text in ("agreed", "settled", "skipped by one")} == {
        "agreed": "good",
        "settled": "bad",
        "skipped by one": "good",
    }
    assert [text for text, label in labels.items() if label is None] == [
        *("disagreed", "skipped", "predicted only", "empty")
    ]
    found = Task.load(path)
    assert len(found.train) + len(found.evaluation) == 13
    assert "1 on which the annotators disagree" in found.told
    assert "(first: task 2)" in found.told


@pytest.mark.parametrize(
    ("kind", "cells", "read"),
    [
        ("choices", [["a", "b"], ["a"], ["b"], ["b", "a"]], "labels"),
        ("rating", [1.5, 2, 3.25, 4], "number"),
        ("number", [0.5, 7, 3.25, 4], "number"),
        ("taxonomy", [[["x", "a"]], [["x", "b"]], [["x", "a"]], [["x", "b"]]], "classes"),
    ],
)
def test_each_control_becomes_the_kind_of_its_values(tmp_path: Path, kind: str, cells: Any, read: str) -> None:
    tasks = [task(i, f"text number {i}", annotation(result(cells[i % 4], kind))) for i in range(24)]
    assert Task.load(export(tmp_path, *tasks)).kind == read


def test_several_controls_are_columns_of_their_own_and_data_keep_their_cells(tmp_path: Path) -> None:
    both = [task(i, f"text {i}", annotation(result(["good"]), result([f"t{i % 2}"], name="topic"))) for i in range(12)]
    for one in both:
        one["data"] |= {"topic": "old", "chosen": "random"}
    path = export(tmp_path, *both)
    assert Task.load(path, label="topic").label_names == ("t0", "t1")
    assert set(formats.read(path).columns) == {"text", "chosen", "data.topic", "sentiment", "topic"}


def test_older_exports_and_the_flat_export_are_read(tmp_path: Path) -> None:
    old = [
        {"id": i, "data": {"text": f"text {i}"}, "completions": [annotation(result([("a", "b")[i % 2]]))]}
        for i in range(12)
    ]
    assert Task.load(export(tmp_path, *old)).label_names == ("a", "b")
    own = {"annotator": 1, "annotation_id": 5, "created_at": "2021-03-09", "lead_time": 2.0}
    flat = [{"text": f"text {i}", "id": i, "tags": {"choices": ["a", "b"][: 1 + i % 2]}, **own} for i in range(12)]
    assert Task.load(export(tmp_path, *flat)).kind == "labels"


def test_a_project_without_annotations_or_with_a_damaged_one_is_refused(tmp_path: Path) -> None:
    bare = export(tmp_path, *[{"data": {"text": f"text {i}"}} for i in range(5)])
    with raises(InvalidData, code="data.no-labels", tasks=5):
        Task.load(bare)
    damaged = task(9, "x", annotation({"type": "choices", "from_name": "s", "value": {}}))
    with raises(InvalidData, code="data.file-damaged", task=9):
        Task.load(export(tmp_path, damaged))


def test_written_tasks_come_back_as_texts_and_keep_the_reason(tmp_path: Path) -> None:
    texts = [TextToLabel({"text": "=1+1", "label": "", "chosen": "random"}, ["good"], 0.75)]
    path = tmp_path / "next.json"
    assert write(path, texts, "text", "label") == 0
    (made,) = json.loads(path.read_text())
    assert made["data"] == {"text": "=1+1", "chosen": "random"}
    assert made["predictions"][0]["result"][0] == {
        "from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["good"]}
    }  # fmt: skip
    assert formats.read(path).columns == {"text": ["=1+1"], "chosen": ["random"]}
    with raises(Refused, code="out.exists"):
        write(path, texts, "text", "label")
    with raises(InvalidData, code="data.format-unknown"):
        write(tmp_path / "next.xlsx", texts, "text", "label")
    assert write(tmp_path / "next.csv", texts, "text", "label") == 1
    assert (tmp_path / "next.csv").read_text() == (
        "text,label,chosen,suggested,probability\n'=1+1,,random,good,0.750\n"
    )
