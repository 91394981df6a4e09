"""What stands in the column of the label: which kind it is, how cells are read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from afina import Task
from afina.errors import AfinaError, InvalidData, UnknownName
from fakes import write_csv
from raises import raises


def table_of(path: Path, labels: Sequence[object], header: Sequence[str] = ("text", "label")) -> str:
    """A csv of texts that differ, with these labels."""
    rows = [(f"text number {index}", *(label if isinstance(label, tuple) else (label,)))
            for index, label in enumerate(labels)]  # fmt: skip
    return str(write_csv(path / "mine.csv", rows, header))


def refused(address: str, **options: Any) -> str:
    with pytest.raises(AfinaError) as caught:
        Task.load(address, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cell", "kinds"),
    [("['a', 'b'", ["classes"]), ("['a' 'b']", ["classes"]), ("[a]", ["classes"]), ("a", ["classes", "labels"])],
)
def test_a_cell_that_is_no_list_among_lists_is_refused_with_its_row(
    tmp_path: Path, cell: str, kinds: list[str]
) -> None:
    mine = table_of(tmp_path, ["['a', 'b']", "['b']", "[]"] * 13 + [cell] * 2)
    with raises(AfinaError, code="data.label-malformed", where="mine.csv, line 41", found=cell, kinds=kinds):
        Task.load(mine)
    if "labels" in kinds:
        assert Task.load(mine, kind="labels").label_names == ("a", "b")
    else:
        with raises(AfinaError, code="data.label-malformed", where="mine.csv, line 41"):
            Task.load(mine, kind="labels")


NUMBERS = ["3.5", "-1", "2", "0.25", "4e-1", "+7"] * 4


def test_a_column_of_measurements_is_a_number_in_its_own_unit(tmp_path: Path) -> None:
    task = Task.load(table_of(tmp_path, NUMBERS))
    assert (task.kind, task.label_names) == ("number", ("label",))
    both = np.concatenate([task.train.labels, task.evaluation.labels])
    assert both.dtype == np.float64
    assert sorted(both) == sorted(map(float, NUMBERS))
    assert task.told == (
        "text: column 'text'; label: column 'label'. 24 rows, numbers from -1 to 7: kind number "
        "(`kind` classes reads them as names of classes)"
    )


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["1.0", "2.0"] * 10, "classes"),
        ([10 * i for i in range(30)], "number"),
        ([-3, *range(30)], "number"),
        (["007", "008"] * 5, "classes"),
        (["a", "b"] * 5, "classes"),
        (["red, white", "rose"] * 5, "classes"),
        (["a;b", "c;d"] * 5, "classes"),
        (["a;b", "b;c"] * 5, "labels"),
        (["a;b", "b", "a", "c;a", ""] * 5, "labels"),
        (["a|b", "b", "a", "c|a"] * 5, "labels"),
        (['["a"]', '["a","b"]', "[]", '["b"]'] * 5, "labels"),
    ],
)
def test_the_kind_is_found_by_what_the_labels_look_like(tmp_path: Path, labels: Sequence[object], kind: str) -> None:
    assert Task.load(table_of(tmp_path, labels)).kind == kind


def test_the_kind_that_is_said_is_the_kind(tmp_path: Path) -> None:
    whole = table_of(tmp_path, [1, 2, 3, 4, 5] * 5)
    assert Task.load(whole, kind="number").train.labels.dtype == np.float64
    assert Task.load(whole, kind="classes").label_names == ("1", "2", "3", "4", "5")
    single = Task.load(table_of(tmp_path, ["a", "b"] * 5), kind="labels")
    assert single.label_names == ("a", "b")
    assert single.train.labels.sum(axis=1).tolist() == [1] * len(single.train)
    with raises(UnknownName, code="name.unknown", name="numbers", kind="kind", nearest="number"):
        Task.load(whole, kind="numbers")


CELLS = {
    "separator": ["a;b", "b", "", " a ; c;a "],
    "lists": ['["a", "b"]', '["b"]', "[]", '["a", "c"]'],
}


@pytest.mark.parametrize("form", CELLS)
def test_several_labels_of_a_cell(tmp_path: Path, form: str) -> None:
    task = Task.load(table_of(tmp_path, CELLS[form] * 6), evaluation=None)
    assert task.label_names == ("a", "b", "c")
    rows = {tuple(row) for row in np.concatenate([task.train.labels, task.evaluation.labels]).tolist()}
    assert rows == {(1, 1, 0), (0, 1, 0), (0, 0, 0), (1, 0, 1)}
    assert task.separator == (";" if form == "separator" else None)


def test_several_labels_as_lists_in_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "tags": [["x"], ["x", "y"], []][i % 3]} for i in range(12)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mine.parquet")
    first, second = (Task.load(str(tmp_path / f"mine.{suffix}")) for suffix in ("jsonl", "parquet"))
    assert first.kind == second.kind == "labels"
    assert first.train.digest == second.train.digest


def test_a_column_a_label_keeps_the_order_of_the_columns(tmp_path: Path) -> None:
    given = table_of(tmp_path, [(1, 0), (0, 1), (1, 1), (0, 0)] * 5, ("text", "rude", "mean"))
    task = Task.load(given, label="rude,mean")
    assert (task.kind, task.label_names) == ("labels", ("rude", "mean"))
    assert {tuple(row) for row in task.train.labels.tolist()} <= {(1, 0), (0, 1), (1, 1), (0, 0)}
    words = table_of(tmp_path, [("true", "False"), ("false", "TRUE")] * 6, ("text", "rude", "mean"))
    assert Task.load(words, label="rude, mean").train.labels.any(axis=0).all()


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        ([*NUMBERS, "abc"], {}, "line 26: column 'label' holds 'abc' among numbers."),
        ([*NUMBERS, "abc"], {"kind": "number"}, "line 26: column 'label' holds 'abc', expected a number such as 3.5."),
        ([*NUMBERS, ""], {}, "line 26: column 'label' is empty. Expected a number"),
        ([*NUMBERS, "NaN"], {}, "column 'label' holds 'NaN', a word for a missing value. Expected a num"),
        ([*NUMBERS, "inf"], {"kind": "number"}, "line 26: column 'label' is infinite."),
        (["3.5"] * 9, {}, "training examples have the number 3.5"),
        ([""] * 9, {"kind": "labels"}, "no row has a label in label"),
        (["a", "b"] * 5, {"separator": ";"}, "`separator` ';' is in no row of column 'label'."),
        (["a", "b"] * 5, {"separator": ";", "kind": "classes"}, "`separator` ';': a separator needs several labels"),
        (NUMBERS, {"labels": ["x"]}, "the targets are numbers, which have no names."),
        ([(1, 0), (0, 2)] * 5, {"label": "a,b"}, "line 3: column 'b' holds '2', expected 1 or true"),
        ([(1, 0), (0, 1)] * 5, {"label": "a,b", "kind": "number"}, "`label` names 2 columns, one for each label"),
        ([(1, 0), (0, 1)] * 5, {"label": "a,c"}, "no column 'c'."),
    ],
)
def test_what_is_wrong_is_told_with_its_row(
    tmp_path: Path, labels: Sequence[object], options: dict[str, Any], told: str
) -> None:
    header = ("text", "a", "b") if isinstance(labels[0], tuple) else ("text", "label")
    assert told in refused(table_of(tmp_path, labels, header), **options)


def test_a_label_that_is_in_the_evaluation_file_alone_is_told_with_its_row(tmp_path: Path) -> None:
    given = table_of(tmp_path, ["a;b", "b"] * 8)
    other = write_csv(tmp_path / "other.csv", [("new", "a"), ("newer", "a;z")])
    assert "other.csv, line 3: label 'z' is unknown" in refused(given, evaluation=str(other), kind="labels")


def test_the_training_file_decides_how_the_other_is_read(tmp_path: Path) -> None:
    given = table_of(tmp_path, NUMBERS)
    whole = write_csv(tmp_path / "whole.csv", [("new", 1), ("newer", 2)])
    task = Task.load(given, evaluation=str(whole))
    assert task.evaluation.labels.tolist() == [1.0, 2.0]
    text = write_csv(tmp_path / "text.csv", [("new", "good")])
    with raises(InvalidData, code="data.number-malformed", where="text.csv, line 2: column 'label'", found="good"):
        Task.load(given, evaluation=str(text))


def test_of_several_labels_the_rarest_is_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    labels = ["common"] * 60 + ["common;rare"] * 5 + ["other"] * 30
    task = Task.load(table_of(tmp_path, labels))
    rare = task.label_names.index("rare")
    assert task.train.labels[:, rare].sum() == 4
    assert task.evaluation.labels[:, rare].sum() == 1
