"""Rows that are left out of the training texts: which rows, what is kept, and what is no list of rows of the task."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Study, Task
from afina.data.readers.further_files import change_rows
from afina.data.readers.splitting import TaskData
from afina.data.split import Split
from afina.data.text_hashes import TextHashes
from afina.errors import AfinaError, InvalidData, NotFound
from afina.spreadsheet_cells import harmless
from afina.studies.runs.inputs import digests_beside
from afina.studies.runs.run import Run
from fakes import write_csv
from raises import raises

ROWS = [
    (f"the {kind} boat {number} came home", "good" if number % 2 else "bad") for number in range(20) for kind in "ab"
]
ROWS[3] = ("=a boat, late; and @sea", "good")

HEADER = ("file", "row", "text", "label", "suggested", "probability", "reason")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "boats.csv", ROWS)


def listed(split: Split, indices: Sequence[int], names: Sequence[str] = ("bad", "good")) -> list[dict[str, Any]]:
    """Return texts of a split as rows of a list of doubts."""
    assert split.rows is not None
    return [
        {
            "file": split.rows.files[i],
            "row": split.rows.numbers[i],
            "text": harmless(split.texts[i]),
            "label": names[split.labels[i]],
            "suggested": "?",
            "probability": 0.9,
            "reason": "",
        }
        for i in indices
    ]


def written(
    path: Path, rows: Sequence[Mapping[str, Any]], header: Sequence[str] = HEADER, separator: str = ","
) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, header, delimiter=separator, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("header", "separator"),
    [(HEADER, ","), (("text", "label", "note", "row", "file"), ";"), (("row", "text", "file"), "\t")],
)
def test_training_rows_are_left_out_and_evaluation_rows_are_kept(
    task: Path, header: Sequence[str], separator: str
) -> None:
    whole = Task.load(task)
    gone = [whole.train.texts.index(ROWS[3][0]), 5, 7]
    rows = [*listed(whole.train, gone), *listed(whole.evaluation, [0, 1])]
    without = written(task.parent / "doubts.csv", rows, header, separator)
    found = Task.load(task, without=without)
    assert found.train.texts == [text for i, text in enumerate(whole.train.texts) if i not in gone]
    assert found.evaluation.digest == whole.evaluation.digest
    assert found.data_digest == whole.data_digest
    assert found.left_out is not None
    assert sorted(found.left_out.split.texts) == sorted(whole.train.texts[i] for i in gone)
    assert found.left_out.counts == {"training": 3, "evaluation": 2}
    assert found.notes[-1] == f"{without}: 3 rows are left out of the training texts. Kept: 2 in the evaluation split."


def test_what_is_set_aside_or_not_used_keeps_its_rows(task: Path) -> None:
    whole = Task.load(task)
    without = written(task.parent / "doubts.csv", listed(whole.train, [*range(0, len(whole.train), 2)]))
    options = {"validation": 0.3, "selection": 0.2, "train_examples": 24}
    before = Task.load(task, **options, calibration=True)
    found = Task.load(task, **options, calibration=True, without=without)
    for name in ("evaluation", "selection", "calibration"):
        assert getattr(found, name).digest == getattr(before, name).digest
    assert found.left_out is not None
    assert len(found.train) == len(before.train) - found.left_out.counts["training"] < len(before.train)
    assert sum(found.left_out.counts.values()) == len(range(0, len(whole.train), 2))
    assert set(found.left_out.counts) == {"training", "aside", "unused"}


def test_data_in_memory_and_a_workbook(task: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    texts, labels = zip(*ROWS, strict=True)
    whole = Task.of(texts, labels)
    book = openpyxl.Workbook()
    book.active.append(HEADER[:4])
    for row in listed(whole.train, [2, 4]):
        book.active.append([row["file"], float(row["row"]), row["text"], row["label"]])
    book.save(task.parent / "doubts.xlsx")
    found = Task.of(texts, labels, without=task.parent / "doubts.xlsx")
    again = Task.load(whole.address, without=task.parent / "doubts.xlsx")
    assert found.train.texts == [text for i, text in enumerate(whole.train.texts) if i not in (2, 4)]
    assert again.train.digest == found.train.digest


def test_pairs_are_found_by_both_texts(tmp_path: Path) -> None:
    rows = [(f"boat {number // 2}", f"came home in hour {number}", number % 2) for number in range(20)]
    task = write_csv(tmp_path / "pairs.csv", rows, ("text", "text_pair", "label"))
    whole = Task.load(task)
    assert whole.train.pairs is not None
    listing = [row | {"text_pair": whole.train.pairs[i]} for i, row in enumerate(listed(whole.train, [0, 1], "01"))]
    header = ("file", "row", "text", "text_pair")
    assert len(Task.load(task, without=written(tmp_path / "a.csv", listing, header)).train) == len(whole.train) - 2
    with raises(InvalidData, code="data.column-missing", missing=["text_pair"]):
        Task.load(task, without=written(tmp_path / "b.csv", listing))
    listing[0]["text_pair"] = "came late"
    with raises(InvalidData, code="data.rows-unknown"):
        Task.load(task, without=written(tmp_path / "c.csv", listing, header))


@pytest.mark.parametrize(
    ("change", "expected", "told"),
    [
        ({"row": 1}, InvalidData, {"code": "data.rows-unknown", "row": 1, "file": "boats.csv"}),
        ({"row": 999}, InvalidData, {"code": "data.rows-unknown", "row": 999, "file": "boats.csv"}),
        ({"row": "7.5"}, InvalidData, {"code": "data.row-malformed", "found": "7.5"}),
        ({"row": ""}, InvalidData, {"code": "data.row-malformed", "found": ""}),
        ({"file": "ships.csv"}, InvalidData, {"code": "data.rows-unknown", "expected": ["boats.csv"]}),
        ({"file": ""}, InvalidData, {"code": "data.row-malformed", "column": "file"}),
        ({"text": "another text"}, InvalidData, {"code": "data.rows-unknown", "found": "another text"}),
        ({"text": ""}, InvalidData, {"code": "data.row-malformed", "column": "text"}),
        ({"label": "corrected"}, InvalidData, {"code": "data.rows-unknown", "found": "corrected"}),
        ("header", InvalidData, {"code": "data.no-rows"}),
        ("empty", InvalidData, {"code": "data.no-rows"}),
        ("columns", InvalidData, {"code": "data.column-missing", "missing": ["file", "row"]}),
        ("all", InvalidData, {"code": "data.no-rows", "examples": 32}),
        ("label", InvalidData, {"code": "data.no-rows", "label": "good", "rows": 16}),
        ("gone", NotFound, {"code": "file.missing", "field": "without"}),
    ],
    ids=str,
)
def test_what_is_no_list_of_rows_of_the_task_is_refused(
    task: Path, change: str | Mapping[str, Any], expected: type[AfinaError], told: Mapping[str, Any]
) -> None:
    train, path = Task.load(task).train, task.parent / "doubts.csv"
    if isinstance(change, Mapping):
        first, second = listed(train, [0, 1])
        written(path, [first, second | change])
    elif change == "empty":
        path.write_text("")
    elif change != "gone":
        chosen = {"all": range(len(train)), "label": [i for i, one in enumerate(train.labels) if one]}.get(
            change, range(1)
        )
        header = ("text", "label") if change == "columns" else HEADER
        written(path, [] if change == "header" else listed(train, [*chosen]), header)
    with raises(expected, **told):
        Task.load(task, without=path)


def test_texts_that_are_no_labelled_rows_of_files_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "doubts.csv", [("a.csv", 2, "x")], HEADER[:3])
    answers = write_csv(tmp_path / "a.csv", [(f"text {i}", f"answer {i}") for i in range(20)], ("text", "target"))
    with raises(InvalidData, code="data.option-inapplicable"):
        Task.load(answers, kind="text", label="target", without=path)
    split = Split(["one", "two"], np.array([0, 1]))
    with raises(InvalidData, code="data.option-inapplicable", task="snippets:pairs"):
        change_rows("snippets:pairs", path, TaskData(("bad", "good"), split, split), split, {})


def test_a_run_has_the_list_in_its_key_and_no_other_key_without_it(task: Path, gpt2: Any) -> None:
    train = Task.load(task).train
    first = written(task.parent / "a.csv", listed(train, [0]))
    same, other = written(task.parent / "b.csv", listed(train, [0])), written(task.parent / "c.csv", listed(train, [1]))
    runs = [
        Run(backbone=str(gpt2.path), task=str(task), method="lora", data={} if one is None else {"without": str(one)})
        for one in (None, first, same, other)
    ]
    keys = [run.with_digests(**digests_beside(run.data)).key for run in runs]
    assert keys[0] == runs[0].key
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_a_table_of_a_study_leaves_rows_out_in_place_of_the_study(task: Path) -> None:
    methods = {"lora": {}, "fewer": {"method": "lora", "without": "own.csv"}}
    content = {"name": "labels", "backbone": "gpt2", "task": str(task), "methods": methods}
    assert [run.data.without for run in Study.parse(content, "x").runs()] == [None, "own.csv"]
    of_all = Study.parse(content | {"data": {"without": "all.csv"}}, "x")
    assert [run.data.without for run in of_all.runs()] == ["all.csv", "own.csv"]


def test_left_out_rows_are_no_new_texts_for_the_adapter(task: Path) -> None:
    train = Task.load(task).train
    found = Task.load(task, without=written(task.parent / "doubts.csv", listed(train, [0, 3])))
    assert TextHashes.of(found.known_texts).among(train).all()


def test_rows_with_a_corrected_label_change_the_training_texts_and_no_held_out_text(task: Path) -> None:
    whole = Task.load(task)
    first, gone, held = *listed(whole.train, [0, 1]), *listed(whole.evaluation, [0])
    other = {"good": "bad", "bad": "good"}
    free = {"text": whole.train.texts[2].upper(), "corrected": other[("bad", "good")[whole.train.labels[2]]]}
    rows = [first | {"corrected": other[first["label"]]}, gone, held | {"corrected": other[held["label"]]}, free]
    rows += [{"text": "a new boat", "corrected": "bad"}, {"text": "A new boat!", "corrected": "good"}]
    found = Task.load(task, without=written(task.parent / "corrected.csv", rows, (*HEADER, "corrected")))
    assert found.evaluation.digest == whole.evaluation.digest
    assert found.train.texts == [whole.train.texts[0], *whole.train.texts[2:], "A new boat!"]
    changed = [1 - whole.train.labels[0], 1 - whole.train.labels[2], *whole.train.labels[3:], 1]
    assert found.train.labels.tolist() == changed
    assert found.left_out is not None
    assert found.left_out.counts == {"training": 1, "evaluation": 1, "corrected": 2, "added": 1}
    said = "1 row is left out of the training texts, 2 labels are corrected, 1 text is added to the training texts."
    assert found.notes[-1].endswith(f"corrected.csv: {said} Kept: 1 in the evaluation split.")


@pytest.mark.parametrize(
    ("kind", "cells", "right", "expected"),
    [
        ("labels", ("loud;late", "late"), "loud, late", (1, 1)),
        ("labels", ("loud;late", "late"), "none", (0, 0)),
        ("number", ("1.5", "2.5"), "4", 4.0),
        ("text", ("an answer", "another"), "The right one.", ("The right one.",)),
        (
            "entities",
            ('[{"start": 0, "end": 4, "label": "WHO"}]', "[]"),
            '[{"start": 5, "end": 6, "label": "WHO"}]',
            ((5, 6, "WHO"),),
        ),
    ],
)
def test_each_kind_of_task_is_corrected(tmp_path: Path, kind: str, cells: Any, right: str, expected: Any) -> None:
    rows = [(f"text {number}", cells[number % 2]) for number in range(20)]
    task = write_csv(tmp_path / "texts.csv", rows, ("text", "label"))
    asked: dict[str, Any] = {"kind": kind, "label": "label"}
    whole = Task.load(task, **asked)
    changed = [{"text": whole.train.texts[3], "corrected": right}, {"text": "text x", "corrected": right}]
    found = Task.load(task, **asked, without=written(tmp_path / "right.csv", changed, ("text", "corrected")))
    assert [found.train.labels.tolist()[place] for place in (3, -1)] == [
        list(expected) if kind == "labels" else expected
    ] * 2
    assert len(found.train) == len(whole.train) + 1
    assert found.evaluation.digest == whole.evaluation.digest


def test_a_corrected_label_that_the_task_lacks_is_refused(task: Path) -> None:
    without = written(task.parent / "a.csv", [{"text": "x", "corrected": "fine"}], ("text", "corrected"))
    with raises(InvalidData, code="data.labels-mismatch", found=["fine"]):
        Task.load(task, without=without)


def test_a_correction_ends_what_is_said_about_equal_texts_with_different_labels(task: Path) -> None:
    train = Task.load(task).train
    again = write_csv(task, [*ROWS, (train.texts[0].upper(), "bad" if train.labels[0] else "good")])
    assert any("with different labels" in note for note in Task.load(again).notes)
    right = written(task.parent / "a.csv", [{"text": train.texts[0], "corrected": "good"}], ("text", "corrected"))
    assert not any("with different labels" in note for note in Task.load(again, without=right).notes)


def test_a_label_that_no_agreed_text_has_is_no_task(tmp_path: Path) -> None:
    rows = [*((f"boat {number}", "good") for number in range(20)), ("ship", "bad"), ("Ship", "good"), ("car", "bad")]
    task = write_csv(tmp_path / "a.csv", rows)
    held_out = write_csv(tmp_path / "b.csv", [("a tram", "good"), ("a bus", "bad"), ("car", "bad")])
    with raises(InvalidData, code="data.no-rows", label="bad"):
        Task.load(task, evaluation=str(held_out), duplicates="agreed", allow_leakage=True)
