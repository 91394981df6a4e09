"""What a file leaves in doubt is said or refused: columns, numbers, multi-hot lists, missing values, spellings."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from afina import Task
from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.readers.texts import chunks
from afina.data.reading_options import ReadingOptions
from afina.errors import AfinaError, UnknownName
from afina.studies.runs.spec import RunSpec
from fakes import write_csv
from raises import raises


def table_of(path: Path, labels: Sequence[object], header: Sequence[str] = ("text", "label")) -> Path:
    return write_csv(path / "mine.csv", [(f"text number {i}", label) for i, label in enumerate(labels)], header)


def lists_of(path: Path, labels: Sequence[object]) -> Path:
    lines = [json.dumps({"text": f"text number {i}", "labels": label}) for i, label in enumerate(labels)]
    (path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return path / "mine.jsonl"


def refused(address: Path, **options: Any) -> str:
    with pytest.raises(AfinaError) as caught:
        Task.load(address, **options)
    return str(caught.value)


# Columns


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("question,answer,label", "several columns may be the text: question, answer. Name one with `text`, such as"),
        ("title,body,label", "several columns may be the text: body, title. Name one with `text`, such as `text` body"),
        ("text,context,label", "or two with `text` text and `text_pair` context."),
        ("sentence1,sentence2,label,text", "several columns may be the text: sentence1, sentence2, text."),
        ("Text,text,label", "several columns may be the text: Text, text."),
        ("text,label,sentiment", "several columns may be the label: label, sentiment. Name one with `label`, such as"),
        ("text,stars,score", "name all, such as `label` stars,score."),
    ],
)
def test_two_columns_for_one_role_are_an_error_that_names_the_options(tmp_path: Path, header: str, told: str) -> None:
    names = header.split(",")
    rows = [[f"{name} {i}" if name not in ("label", "score") else "yn"[i % 2] for name in names] for i in range(20)]
    assert told in refused(write_csv(tmp_path / "mine.csv", rows, names))


@pytest.mark.parametrize(
    ("options", "roles"),
    [
        ({"text": "title"}, {"text": "title", "label": "verdict", "others": "id, body, more"}),
        ({"text": "body", "text_pair": "title"}, {"text": "body", "text_pair": "title", "label": "verdict"}),
    ],
)
def test_the_line_and_the_task_say_which_columns_were_taken(
    tmp_path: Path, options: dict[str, str], roles: dict[str, str]
) -> None:
    rows = [(i, f"title {i}", f"body {i}", "yn"[i % 2], "") for i in range(20)]
    mine = write_csv(tmp_path / "mine.csv", rows, ("id", "title", "body", "verdict", "more"))
    task = Task.load(mine, label="verdict", **options)
    assert task.columns.items() >= roles.items()
    assert f"text: column '{options['text']}'" in task.told.splitlines()[0]
    assert "label: column 'verdict'; not read: id," in task.told
    found = EvaluationSet.read(mine, TrainingInfo(2, ("n", "y")), label="verdict", **options)
    assert found.told.startswith(f"text: column '{options['text']}'")


def test_the_line_of_a_task_with_a_name_says_its_name(tmp_path: Path) -> None:
    lines = "".join(f"text {i}\t{i % 2}\n" for i in range(9))
    for stem in ("train", "dev"):
        (tmp_path / f"{stem}.tsv").write_text("sentence\tlabel\n" + lines.replace("text", stem), encoding="utf-8")
    address = f"glue/sst2:{tmp_path}"
    told = Task.load(address).told
    assert told == f"{address}: 18 rows, 2 classes (negative, positive): kind classes"


def test_texts_to_predict_are_refused_where_two_columns_may_be_the_text(tmp_path: Path) -> None:
    mine = write_csv(tmp_path / "mine.csv", [("a", "b")], ("title", "body"))
    with (
        raises(AfinaError, code="data.column-ambiguous", field="text", where="mine.csv", found=["body", "title"]),
        chunks(mine) as parts,
    ):
        list(parts)
    with chunks(str(mine), ReadingOptions(text="title")) as parts:
        assert [chunk.texts for chunk in parts] == [["a"]]


# Numbers or classes


@pytest.mark.parametrize(
    ("name", "labels", "kind"),
    [
        ("stars", [1, 2, 3, 4, 5] * 4, "number"),
        ("Star Rating", ["1.0", "2.0", "5.0"] * 6, "number"),
        ("reviewScore", [*range(11)] * 2, "number"),
        ("stars", [1, 5] * 8, "classes"),
        ("score", [-1, 0, 1] * 6, "classes"),
        ("label", [1, 2, 3, 4, 5] * 4, "classes"),
        ("label", [0, 1] * 8, "classes"),
        ("label", ["4.5", "3.0"] * 8, "number"),
        ("label", [0, 25, 50, 100] * 5, "classes"),
        ("label", [3 * i for i in range(30)] * 2, "number"),
        ("category", [*range(77)] * 2, "classes"),
        ("score", [*range(101)] * 2, "number"),
        ("score", ["007", "008", "009"] * 5, "classes"),
    ],
)
def test_one_rule_says_whether_numbers_are_classes(
    tmp_path: Path, name: str, labels: Sequence[object], kind: str
) -> None:
    mine = table_of(tmp_path, labels, ("text", name))
    task = Task.load(mine, label=name)
    assert task.kind == kind
    numbers = labels[0] != "007"
    other = {"number": "`kind` classes reads them as names of", "classes": "`kind` number reads them as numbers"}[kind]
    assert (other in task.told) == numbers
    said = {"number": "classes", "classes": "number"}[kind]
    if numbers:
        assert Task.load(mine, label=name, kind=said).kind == said


def test_whole_numbers_without_a_gap_that_may_be_either_are_refused(tmp_path: Path) -> None:
    mine = table_of(tmp_path, [*range(101)] * 2)
    told = refused(mine)
    assert "column 'label' holds each whole number from 0 to 100. They may measure something, or stand for 101" in told
    assert Task.load(mine, kind="number").kind == "number"
    assert len(Task.load(mine, kind="classes").label_names) == 101


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["4,5", "3,0", "2"], [4.5, 3.0, 2.0]),
        (["1.000,5", "3", "2"], [1000.5, 3.0, 2.0]),
        (["0,125", "1,5", "2"], [0.125, 1.5, 2.0]),
        (["1,234,567", "1,000", "2"], [1234567.0, 1000.0, 2.0]),
        (["1,234.5", "1,000", "2"], [1234.5, 1000.0, 2.0]),
        (["5 %", "12.5 %", "100%"], [5.0, 12.5, 100.0]),
        (["4,5 %", "3 %", "1 %"], [4.5, 3.0, 1.0]),
    ],
)
def test_numbers_of_a_column_that_agrees_are_read_as_it_writes_them(
    tmp_path: Path, cells: list[str], values: list[float]
) -> None:
    task = Task.load(table_of(tmp_path, cells * 5))
    assert task.kind == "number"
    assert {*task.train.labels, *task.evaluation.labels} == set(values)
    (note,) = task.notes
    assert "holds numbers that are not written plainly: " in note
    assert Task.load(table_of(tmp_path, cells * 5), kind="classes").label_names == tuple(sorted(cells))


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["1,000", "2,500", "3"], "holds '1,000', which is 1 with a decimal comma, and 1000 with a comma after the th"),
        (
            ["1.000", "2.500", "12.000", "900"],
            "holds '1.000' beside '900': its point may be a decimal mark or separate",
        ),
        (["2.000 %", "5 %", "7 %"], "holds '2.000 %' beside '5 %': its point may be a decimal mark or separate"),
        (["4,5", "3.5", "2"], "holds '4,5' beside '3.5', which is no one way to write numbers"),
        (["5 %", "12.5", "100"], "holds '5 %' beside '12.5', which is no one way to write numbers"),
        (["1 000", "2 500", "300"], "holds '1 000', which is no one way to write numbers."),
        (["0,1,0,1", "1,0,0,1", "0,0,1,1"], "if several labels, with `separator`."),
        (["−1,5", "2,5", "3,5"], "holds '−1,5', which is no one way"),
        (["4,5", "3,0", "2,5", "unknown"], "line 5: column 'label' holds 'unknown' among numbers."),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_or_in_none_are_refused(
    tmp_path: Path, cells: list[str], told: str
) -> None:
    mine = table_of(tmp_path, cells * 5)
    assert told in refused(mine)
    assert Task.load(mine, kind="classes").kind == "classes"


@pytest.mark.parametrize("cells", [["1.000", "2.500", "3.125"], ["1.000", "0.250", "2"], ["1.000", "2.5", "900"]])
def test_points_are_decimal_marks_where_all_numbers_or_other_decimals_say_so(tmp_path: Path, cells: list[str]) -> None:
    assert Task.load(table_of(tmp_path, cells * 5)).train.labels.min() < 2


def test_points_that_may_separate_thousands_are_refused_in_an_evaluation_file_too(tmp_path: Path) -> None:
    points = write_csv(tmp_path / "points.csv", [("new", "1.000"), ("newer", "900")])
    with raises(AfinaError, code="data.number-malformed", found="1.000", kinds=["classes", "number"]):
        EvaluationSet.read(points, TrainingInfo(1, ("label",), kind="number"))
    known = EvaluationSet.read(points, TrainingInfo(1, ("label",), kind="number"), kind="number")
    assert known.split.labels.tolist() == [1.0, 900.0]
    assert "'1.000' beside '1" in refused(table_of(tmp_path, [*range(100, 150)]), evaluation=points)
    decimals = table_of(tmp_path, ["0.5", "3"] * 8)
    assert Task.load(decimals, evaluation=points).evaluation.labels.tolist() == [1.0, 900.0]


def test_the_training_file_says_how_numbers_of_the_other_are_written(tmp_path: Path) -> None:
    mine = table_of(tmp_path, ["4,5", "3,0"] * 8)
    other = write_csv(tmp_path / "other.csv", [("new", "1,250"), ("newer", "2")])
    assert Task.load(mine, evaluation=other).evaluation.labels.tolist() == [1.25, 2.0]
    write_csv(other, [("new", "1.5")])
    assert "other.csv, line 2: column 'label' holds '1.5', expected a number such as 3,5." in refused(
        mine, evaluation=other
    )


# Multi-hot lists


def test_lists_of_one_length_that_hold_0_and_1_are_multi_hot(tmp_path: Path) -> None:
    lists = [[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]] * 6
    task = Task.load(lists_of(tmp_path, lists))
    assert task.label_names == ("label_0", "label_1", "label_2", "label_3")
    assert sorted(map(tuple, {*map(tuple, task.train.labels.tolist())})) == sorted(map(tuple, lists[:4]))
    assert (
        "multi-hot lists, 0 or 1 for each of 4 labels in their order (label_0, label_1, label_2, label_3)" in task.told
    )
    named = Task.load(tmp_path / "mine.jsonl", labels=iter(["late", "rude", "broken", "dear"]))
    assert named.label_names == ("late", "rude", "broken", "dear")
    assert named.train.labels.tolist() == task.train.labels.tolist()
    told = refused(tmp_path / "mine.jsonl", labels=["late", "rude"])
    assert "hold 0 or 1 for each of 4 labels, and `labels` late, rude gives 2." in told


@pytest.mark.parametrize("write", [str, json.dumps, lambda bits: ";".join(map(str, bits))])
def test_multi_hot_cells_of_a_csv_are_read_alike(tmp_path: Path, write: Any) -> None:
    lists = [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]] * 6
    task = Task.load(table_of(tmp_path, [write(bits) for bits in lists], ("text", "labels")))
    assert task.label_names == ("label_0", "label_1", "label_2")


def test_labels_of_texts_that_have_one_each_are_said_to_be_classes_perhaps(tmp_path: Path) -> None:
    for last, said in (("b", 1), ("a;b", 0), ("", 0)):
        rows = [*(["a", "b"] * 12), last, "b"]
        found = Task.load(
            table_of(tmp_path, rows, ("text", "labels")), kind="labels", separator=";" if ";" in last else None
        )
        assert found.told.count("Every text has exactly one label") == said


def test_truth_values_and_floats_are_multi_hot_too(tmp_path: Path) -> None:
    for lists in ([[True, False], [False, False]], [[1.0, 0.0], [0.0, 1.0]]):
        assert Task.load(lists_of(tmp_path, lists * 9)).label_names[0] == "label_0"


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ([[0, 1, 0, 1], [1, 0, 0, 1], [1, 0]], "line 3: column 'labels' holds '[1, 0]', but most other rows hold 4"),
        ([[0, 1, 0, 1], [1, 0, 0, 1], ["late"]], "Expected 4 times 0 or 1 in each row, or the names of its labels"),
        ([[0, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 2]], "line 3: column 'labels' holds '[1, 0, 0, 2]', but most other"),
        ([[0], [1], [1]], "each list of column 'labels' holds a single 0 or 1. This may be the name of a label, "),
        ([[0, 1, 0], [1, 0, 0], None], "line 3: column 'labels' is empty. Expected a label"),
    ],
)
def test_lists_that_may_be_names_or_multi_hot_are_refused(tmp_path: Path, lists: list[Any], told: str) -> None:
    assert told in refused(lists_of(tmp_path, lists * 6))


def test_lists_of_indices_are_names(tmp_path: Path) -> None:
    assert Task.load(lists_of(tmp_path, [[0], [1], [0, 1], []] * 6)).label_names == ("0", "1")
    assert Task.load(lists_of(tmp_path, [[0, 1], [2], [1, 2], [3]] * 6)).label_names == ("0", "1", "2", "3")
    assert Task.load(lists_of(tmp_path, [[0], [1], [1]] * 6), labels=["0", "1"]).label_names == ("0", "1")


def test_a_label_of_a_place_that_is_never_1_in_training_is_left_out_and_said(tmp_path: Path) -> None:
    task = Task.load(lists_of(tmp_path, [[0, 1, 0], [1, 0, 0], [1, 1, 0]] * 6))
    assert task.label_names == ("label_0", "label_1")
    assert "No training text has the label label_2, so this label is left out." in task.notes


def test_an_adapter_of_multi_hot_lists_is_measured_on_such_lists(tmp_path: Path) -> None:
    mine = lists_of(tmp_path, [[0, 1], [1, 0], [1, 1]] * 6)
    found = EvaluationSet.read(mine, TrainingInfo(2, ("label_0", "label_1"), kind="labels"))
    assert found.split.labels.tolist()[:3] == [[0, 1], [1, 0], [1, 1]]
    named = EvaluationSet.read(
        mine, TrainingInfo(2, ("late", "rude"), data=ReadingOptions(labels=("late", "rude")), kind="labels")
    )
    assert named.split.labels.tolist()[:3] == [[0, 1], [1, 0], [1, 1]]


def test_what_numpy_prints_for_a_list_is_refused_and_what_python_prints_is_read(tmp_path: Path) -> None:
    told = refused(table_of(tmp_path, ["['late' 'rude']", "['rude']"] * 6))
    assert "holds \"['late' 'rude']\", and a list in line 3. Expected a list in JSON or Python notation" in told
    task = Task.load(table_of(tmp_path, ["['late', \"isn't\"]", "['late']", "[]"] * 6))
    assert task.label_names == ("isn't", "late")


# Missing values

WORDS = ("NA", "N/A", "n/a", "None", "NULL", "null", "NaN", "nan", "<NA>", "#N/A", "#VALUE!", "")


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("column", ["text", "label"])
def test_missing_values_are_refused_with_their_rows_or_skipped_and_counted(
    tmp_path: Path, word: str, column: str
) -> None:
    rows = [(f"text {i}", "yn"[i % 2]) for i in range(20)]
    for i in (3, 7):
        rows[i] = (word, "y") if column == "text" else (f"text {i}", word)
    mine = write_csv(tmp_path / "mine.csv", rows)
    told = refused(mine)
    assert f"mine.csv, line 5: column '{column}'" in told
    assert "Values are missing in 2 rows: lines 5, 9." in told
    task = Task.load(mine, missing="skip")
    assert len(task.train) + len(task.evaluation) == 18
    assert task.notes == (f"{mine}: 2 rows are left out because a value is missing (lines 5, 9).",)
    if word:
        kept = Task.load(mine, missing="keep")
        assert len(kept.train) + len(kept.evaluation) == 20
    with raises(UnknownName, code="name.unknown", name="drop", kind="missing"):
        Task.load(mine, missing="drop")


@pytest.mark.parametrize("word", ["NaN", "nan", "<NA>"])
def test_words_for_missing_values_are_classes_if_they_are_kept(tmp_path: Path, word: str) -> None:
    mine = table_of(tmp_path, [word, "None"] * 10)
    assert Task.load(mine, missing="keep").label_names == tuple(sorted((word, "None")))


def test_lower_case_none_is_a_class_as_in_pandas(tmp_path: Path) -> None:
    assert Task.load(table_of(tmp_path, ["none", "some"] * 8)).label_names == ("none", "some")


def test_an_empty_cell_of_several_labels_is_no_missing_value_and_a_word_is(tmp_path: Path) -> None:
    cells = ["a;b", "", "b;c", "a"] * 6
    task = Task.load(table_of(tmp_path, cells))
    assert len(task.train) + len(task.evaluation) == 24
    assert "line 26: column 'label' holds 'None', a word for a missing" in refused(table_of(tmp_path, [*cells, "None"]))
    skipped = Task.load(tmp_path / "mine.csv", missing="skip")
    assert len(skipped.train) + len(skipped.evaluation) == 24


def test_a_number_that_is_missing_is_skipped(tmp_path: Path) -> None:
    task = Task.load(table_of(tmp_path, [*["1.5", "2.5", "3.5"] * 6, "NA", ""]), missing="skip")
    assert len(task.train) + len(task.evaluation) == 18


# Texts with two labels, labels in two spellings


def test_texts_with_two_labels_are_counted_and_said(tmp_path: Path) -> None:
    rows = [(f"text {i}", "yn"[i % 2]) for i in range(20)]
    mine = write_csv(tmp_path / "mine.csv", [*rows, ("Text 3!", "y"), ("text 3", "y"), ("text 5", "n")])
    (note,) = Task.load(mine).notes
    assert "5 rows with different labels" not in note
    assert note.startswith("1 text occurs in 3 rows with different labels") or note.startswith(
        "2 texts stand in 4 rows"
    )
    assert f"(first: {mine}, line 5, and {mine}, line 22)" in note


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "labels",
    [
        ("good", "Good", "bad"),
        ("very  good", "very good", "bad"),
        (COMPOSED, DECOMPOSED, "bad"),
        ("good", "good\u200b", "bad"),
        ("good", "good\x07", "bad"),
        ("\u2764\ufe0f", "\u2764", "bad"),
        ("İyi", "iyi", "kötü"),
        ("PER", "B-PER", "B-ORG"),
        ("01", "1", "2"),
        ("1", "1.0", "neutral"),
        ("1,0", "1", "0"),
        ("true", "1", "no"),
        ("0", "False", "neutral"),
    ],
)
def test_labels_that_differ_in_their_spelling_are_refused_or_merged(tmp_path: Path, labels: Sequence[str]) -> None:
    first, second, other = labels
    mine = table_of(tmp_path, [*[first] * 6, *[second] * 4, *[other] * 6])
    with raises(AfinaError, code="data.labels-alike"):
        Task.load(mine)
    task = Task.load(mine, merge_labels=True)
    assert set(task.label_names) == {first, other}
    assert f"{second!r} is read as {first!r}" in task.told
    assert set(Task.load(mine, labels=labels).label_names) == set(labels)


def test_labels_that_look_the_same_are_told_apart_by_escapes(tmp_path: Path) -> None:
    told = refused(table_of(tmp_path, ["\u2764\ufe0f", "\u2764"] * 8))
    assert r"'\u2764' and '\u2764\ufe0f'" in told


def test_tags_are_different_labels_where_none_stands_without_its_letter(tmp_path: Path) -> None:
    assert Task.load(table_of(tmp_path, ["B-PER", "I-PER", "O"] * 6)).label_names == ("B-PER", "I-PER", "O")


def test_true_and_1_in_one_jsonl_are_two_ways_to_write_one_label(tmp_path: Path) -> None:
    mine = lists_of(tmp_path, [True, True, 1, 0] * 5)
    with raises(AfinaError, code="data.labels-alike"):
        Task.load(mine)
    task = Task.load(mine, merge_labels=True)
    assert task.label_names == ("0", "true")
    assert sum(task.train.labels) + sum(task.evaluation.labels) == 15
    assert Task.load(lists_of(tmp_path, [True, False] * 10)).label_names == ("false", "true")


@pytest.mark.parametrize(
    ("labels", "names"), [(("+1", "-1"), ("-1", "1")), (("1,0", "0,0"), ("0,0", "1,0")), (("10 %", "5 %"), None)]
)
def test_two_whole_numbers_are_classes_in_every_notation(tmp_path: Path, labels: Any, names: Any) -> None:
    task = Task.load(table_of(tmp_path, labels * 10))
    assert (task.kind, task.label_names) == ("classes", names or labels)
    assert "`kind` number reads them as numbers" in task.told
    assert Task.load(table_of(tmp_path, labels * 10), kind="number").kind == "number"
    assert Task.load(table_of(tmp_path, labels * 10), labels=labels[::-1]).label_names == tuple(labels[::-1])


def test_digits_of_another_script_are_refused_unless_the_kind_is_given(tmp_path: Path) -> None:
    mine = table_of(tmp_path, ["１", "２", "３"] * 8)
    with raises(AfinaError, code="data.number-malformed", found="１"):
        Task.load(mine)
    assert Task.load(mine, kind="classes").label_names == ("１", "２", "３")


@pytest.mark.parametrize("separator", [",", ", "])
def test_classes_that_look_like_several_labels_between_commas_are_said(tmp_path: Path, separator: str) -> None:
    mine = table_of(tmp_path, [f"a{separator}b", "b", "c"] * 8)
    task = Task.load(mine)
    assert (task.kind, len(task.label_names)) == ("classes", 3)
    assert f"`kind` labels reads a cell such as 'a{separator}b' as several labels" in task.told
    assert Task.load(mine, kind="labels").label_names == ("a", "b", "c")
    assert "labels" not in Task.load(table_of(tmp_path, ["Bed, bath", "Food, drink"] * 8)).told


def test_digits_between_commas_are_numbers_and_the_other_readings_are_said(tmp_path: Path) -> None:
    mine = table_of(tmp_path, ["1,2", "2", "1"] * 8)
    task = Task.load(mine)
    assert task.kind == "number"
    assert "`kind` classes reads them as names of classes, and `kind` labels as several labels" in task.told
    assert Task.load(mine, kind="labels").label_names == ("1", "2")


def test_the_separator_is_the_one_whose_parts_recur(tmp_path: Path) -> None:
    assert Task.load(table_of(tmp_path, ["a;b|c", "c", "d"] * 8)).label_names == ("a;b", "c", "d")


def test_labels_of_a_cell_and_of_another_file_are_merged_too(tmp_path: Path) -> None:
    several = Task.load(table_of(tmp_path, ["late;Rude", "rude", "rude;late", "Late"] * 5), merge_labels=True)
    assert set(several.label_names) == {"late", "rude"} or len(several.label_names) == 2
    mine = table_of(tmp_path, ["good", "bad"] * 8)
    other = write_csv(tmp_path / "other.csv", [("new", "GOOD"), ("newer", "bad")])
    assert "label 'GOOD' is unknown" in refused(mine, evaluation=other)
    assert Task.load(mine, evaluation=other, merge_labels=True).evaluation.labels.tolist() == [1, 0]
    found = EvaluationSet.read(other, TrainingInfo(2, ("bad", "good"), data=ReadingOptions(merge_labels=True)))
    assert found.split.labels.tolist() == [1, 0]


def test_rows_that_name_the_columns_again_are_refused(tmp_path: Path) -> None:
    mine = table_of(tmp_path, ["y", "n"] * 8)
    mine.write_text(2 * mine.read_text(encoding="utf-8"), encoding="utf-8")
    assert "mine.csv, line 18: this row repeats the column names." in refused(mine)


def test_a_nul_character_is_refused_in_any_line(tmp_path: Path) -> None:
    mine = table_of(tmp_path, ["y", "n"] * 8)
    mine.write_bytes(mine.read_bytes().replace(b"number 7", b"number \0"))
    assert "mine.csv, line 9: a NUL character." in refused(mine)


# Keys and paths


def test_what_came_later_enters_the_key_of_a_run_only_where_it_is_given() -> None:
    plain = RunSpec(backbone="gpt2", task="mine.csv", method="lora")
    same = plain.model_copy(update={"data": ReadingOptions(missing=None, merge_labels=False, sheet=None)})
    assert same.key == plain.key
    for changed in ({"missing": "skip"}, {"merge_labels": True}, {"sheet": "one"}):
        assert plain.model_copy(update={"data": ReadingOptions(**changed)}).key != plain.key


def test_half_a_surrogate_pair_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    for line in ('{"text": "\\ud800", "label": "y"}', '{"text": "x", "label": "\\ud800"}'):
        rows = [*(f'{{"text": "t {i}", "label": "{"yn"[i % 2]}"}}' for i in range(8)), line]
        (tmp_path / "mine.jsonl").write_text("\n".join(rows), encoding="utf-8")
        assert "line 9: column" in refused(tmp_path / "mine.jsonl")
        assert "holds half a surrogate pair" in refused(tmp_path / "mine.jsonl")
    (tmp_path / "mine.jsonl").write_text('{"text": "x", "label": "y", "\\ud800": 1}', encoding="utf-8")
    assert "a column name holds half a surrogate pair" in refused(tmp_path / "mine.jsonl")
