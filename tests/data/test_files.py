"""Tasks from files: what is read, what the labels mean, and what every mistake in a file is told as."""

import datetime
import decimal
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.remedies import remedies_of
from afina.data.split import Split
from afina.data.task import Task
from afina.errors import AfinaError, InvalidData, Leakage, NotFound, UnknownName
from raises import raises

SHARED = Path(__file__).parents[3] / "shared" / "data" / "sst2"

ROWS = [("a warm film", "good"), ("a cold film", "bad"), ("what a delight", "good"), ("what a bore", "bad")]


def write_csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """train.csv with four rows, dev.csv with two."""
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "dev.csv", [("a good evening", "good"), ("a bad evening", "bad")])
    return tmp_path


def labelled(task: Task, split: Split) -> list[tuple[str, str]]:
    return [(example.text, task.label_names[example.label]) for example in split]


def message(address: Path | str, kind: type[AfinaError] = InvalidData, **options: Any) -> str:
    """The message of the error that loading raises; one or two lines."""
    with pytest.raises(kind) as caught:
        Task.load(str(address), **options)
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


# What is read


def test_a_directory_is_a_train_and_a_dev_file(directory: Path) -> None:
    task = Task.load(str(directory))
    assert task.address == str(directory)
    assert task.label_names == ("bad", "good")
    assert labelled(task, task.train) == ROWS
    assert labelled(task, task.evaluation) == [("a good evening", "good"), ("a bad evening", "bad")]
    assert task.train.labels.dtype == "int64"
    assert task.train.pairs is None
    assert task.leaked == 0


@pytest.mark.parametrize("stem", ["dev", "validation", "valid", "val"])
def test_the_evaluation_file_has_one_of_four_names(directory: Path, stem: str) -> None:
    (directory / "dev.csv").rename(directory / f"{stem}.CSV")
    assert len(Task.load(str(directory)).evaluation) == 2


def _jsonl(path: Path) -> None:
    path.write_text("".join(f'{{"text": "{text}", "label": "{label}"}}\n\n' for text, label in ROWS), encoding="utf-8")


def _parquet(path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": [row[0] for row in ROWS], "label": [row[1] for row in ROWS]}), path)


def _tsv(path: Path) -> None:
    path.write_text("text\tlabel\n" + "".join("\t".join(row) + "\n" for row in ROWS), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("train.tsv", _tsv),
        ("train.jsonl", _jsonl),
        ("train.ndjson", _jsonl),
        ("train.json", _jsonl),
        ("train.parquet", _parquet),
    ],
)
def test_every_format_gives_the_same_split_as_csv(directory: Path, name: str, write: Callable[[Path], None]) -> None:
    expected = Task.load(str(directory)).train.digest
    (directory / "train.csv").unlink()
    write(directory / name)
    assert Task.load(str(directory)).train.digest == expected


def test_a_json_text_may_hold_a_line_separator(directory: Path) -> None:
    (directory / "train.csv").unlink()
    lines = '{"text": "one\u2028two", "label": "good"}\n{"text": "three", "label": "bad"}'
    (directory / "train.jsonl").write_text(lines, encoding="utf-8")
    assert list(Task.load(str(directory)).train.texts) == ["one\u2028two", "three"]


# Which columns


@pytest.mark.parametrize("header", ["sentence,target", "Review,Class", " content ,sentiment", "label,text,verdict"])
def test_the_usual_columns_are_found_by_name_in_any_case(tmp_path: Path, header: str) -> None:
    names = [name.strip().casefold() for name in header.split(",")]
    row = {"label": "{1}", "verdict": "never"}
    cells = ",".join(
        row.get(name, "{0}" if name in ("text", "sentence", "review", "content") else "{1}") for name in names
    )
    for stem in ("train", "dev"):
        lines = [cells.format(f"{stem} {text}", label) for text, label in ROWS]
        (tmp_path / f"{stem}.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    task = Task.load(str(tmp_path))
    assert labelled(task, task.train) == [(f"train {text}", label) for text, label in ROWS]


def test_named_columns_win_over_the_usual_ones(directory: Path) -> None:
    for name in ("train.csv", "dev.csv"):
        write_csv(
            directory / name,
            [(f"{name} {i}", "x", f"body {name} {i}", "yn"[i]) for i in range(2)],
            "text,label,b,stars",
        )
    task = Task.load(str(directory), text="b", label="stars")
    assert labelled(task, task.train) == [("body train.csv 0", "y"), ("body train.csv 1", "n")]


@pytest.mark.parametrize(
    "header",
    ["sentence1,sentence2,label", "text,text_pair,label", "premise,hypothesis,label", "question,sentence,label"],
)
def test_the_pairs_of_glue_are_read_as_pairs(tmp_path: Path, header: str) -> None:
    for stem in ("train", "dev"):
        write_csv(tmp_path / f"{stem}.csv", [(f"{stem} one", "two", "yes"), (f"{stem} three", "four", "no")], header)
    task = Task.load(str(tmp_path))
    assert list(task.train.texts) == ["train one", "train three"]
    assert task.train.pairs == ["two", "four"]
    assert task.evaluation.pairs == ["two", "four"]
    alone = Task.load(str(tmp_path), text=header.split(",")[0])
    assert alone.train.pairs is None


def test_any_column_can_be_named_as_the_pair(tmp_path: Path) -> None:
    for stem in ("train", "dev"):
        write_csv(
            tmp_path / f"{stem}.csv",
            [(f"{stem} one", "two", "yes"), (f"{stem} three", "four", "no")],
            "text,note,label",
        )
    assert Task.load(str(tmp_path)).train.pairs is None
    assert Task.load(str(tmp_path), text_pair="note").train.pairs == ["two", "four"]


def test_a_missing_text_column_is_told_with_what_was_found_and_which_field_to_give(directory: Path) -> None:
    write_csv(directory / "train.csv", ROWS, "words,label")
    told = message(directory)
    assert told.startswith(f"{directory / 'train.csv'}: no text column. Found: words, label. Expected text, sentence,")
    assert told.endswith("Name another column with `text`.")


def test_a_missing_label_column_is_told_with_what_was_found_and_which_field_to_give(directory: Path) -> None:
    write_csv(directory / "train.csv", ROWS, "text,verdict")
    told = message(directory)
    assert "train.csv: no label column. Found: text, verdict. Expected label, labels, target" in told
    assert told.endswith("Name another column with `label`, or a column of texts to write with `target`.")


@pytest.mark.parametrize("field", ["text", "label", "text_pair"])
def test_a_named_column_that_is_not_there_is_told_with_its_field(directory: Path, field: str) -> None:
    told = message(directory, **{field: "nope"})
    assert f"train.csv: no column 'nope'. Found: text, label. Name the right one with `{field}`." in told


def test_the_evaluation_file_must_have_the_columns_of_the_training_file(directory: Path) -> None:
    write_csv(directory / "dev.csv", ROWS, "sentence,label")
    assert "dev.csv: no column 'text'. Found: sentence, label." in message(directory)


# What the labels mean


def load_labels(directory: Path, values: list[str], **options: Any) -> Task:
    for stem in ("train", "dev"):
        write_csv(directory / f"{stem}.csv", [(f"{stem} text {i}", value) for i, value in enumerate(values)])
    return Task.load(str(directory), **options)


@pytest.mark.parametrize(
    ("values", "names", "indices"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (["1", "0", "1"], ("0", "1"), [1, 0, 1]),
        (["10", "9", "-1"], ("-1", "9", "10"), [2, 1, 0]),
        (["1.0", "0", "1"], ("0", "1"), [1, 0, 1]),
        (["007", "8", "007"], ("007", "8"), [0, 1, 0]),
        (["+1", "-1", "+1"], ("-1", "1"), [1, 0, 1]),
        (["1", "0", "neutral"], ("0", "1", "neutral"), [1, 0, 2]),
        (
            ["12345678901234567891", "12345678901234567890", "0"],
            ("0", "12345678901234567890", "12345678901234567891"),
            [2, 1, 0],
        ),
    ],
    ids=["strings are sorted", "0 and 1", "integers by value", "whole floats", "codes", "signs", "mixed", "huge"],
)
def test_labels_keep_the_order_of_integers_or_are_sorted(
    tmp_path: Path, values: list[str], names: tuple[str, ...], indices: list[int]
) -> None:
    task = load_labels(tmp_path, values)
    assert task.label_names == names
    assert task.train.labels.tolist() == task.evaluation.labels.tolist() == indices


@pytest.mark.parametrize(
    ("values", "labels", "indices"),
    [
        (["good", "bad", "good"], ("good", "bad"), [0, 1, 0]),
        (["1", "0", "1"], ("no", "yes"), [1, 0, 1]),
        (["1", "0", "1"], ("1", "0"), [0, 1, 0]),
        (["2", "0", "1"], ("low", "middle", "high"), [2, 0, 1]),
    ],
    ids=["order of strings", "names of integers", "order of integers", "three names"],
)
def test_labels_given_by_the_user_set_the_order_or_name_the_integers(
    tmp_path: Path, values: list[str], labels: tuple[str, ...], indices: list[int]
) -> None:
    task = load_labels(tmp_path, values, labels=labels)
    assert task.label_names == labels
    assert task.train.labels.tolist() == indices


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tsv", "sentence\tlabel\n{0} a prize\t1\n{0} lunch\t0\n"),
        ("tsv", "sentence\tlabel\tid\n{0} fine\t1\t1\n{0} dull\t0\t2\n"),
        ("tsv", "text\tlabel\n{0} fine\t1\n{0} dull\t0\n"),
        ("csv", "sentence,label\n{0} fine,1\n{0} dull,0\n"),
    ],
)
def test_files_with_zeros_and_ones_keep_them_as_names(tmp_path: Path, name: str, text: str) -> None:
    for stem in ("train", "dev"):
        (tmp_path / f"{stem}.{name}").write_text(text.format(stem), encoding="utf-8")
    assert Task.load(str(tmp_path)).label_names == ("0", "1")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ("true false", ("false", "true")),
        ("1 0", ("0", "1")),
        ("1.0 0.0", ("0", "1")),
        ('"b" "a"', ("a", "b")),
        ('1 "none"', ("1", "none")),
    ],
)
def test_json_labels_may_be_truth_values_numbers_or_strings(
    directory: Path, values: str, names: tuple[str, ...]
) -> None:
    for stem in ("train", "dev"):
        (directory / f"{stem}.csv").unlink()
        lines = [f'{{"text": "{stem} {i}", "label": {value}}}' for i, value in enumerate(values.split())]
        (directory / f"{stem}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = Task.load(str(directory))
    assert task.label_names == names
    assert sorted(task.train.labels.tolist()) == [0, 1]


def test_an_evaluation_label_that_was_never_trained_is_told_with_its_row(directory: Path) -> None:
    write_csv(directory / "dev.csv", [("one", "good"), ("two", "bed")])
    assert message(directory) == (
        f"{directory / 'dev.csv'}, line 3: label 'bed' is unknown; the training split has bad, good. "
        "Correct it, or add training examples of it."
    )


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            ("good", "bed"),
            "`labels` good, bed: the training split has the labels bad, good. Give each of them once, as",
        ),
        (("good",), "`labels` good: the training split has the labels bad, good."),
        (("good", "bad", "ugly"), "`labels` good, bad, ugly: the training split has the labels bad, good."),
        (("good", "good"), "`labels`: good is given twice."),
    ],
)
def test_an_order_that_is_not_of_the_labels_in_the_data_is_refused(
    directory: Path, labels: tuple[str, ...], told: str
) -> None:
    assert message(directory, labels=labels).startswith(told)


def test_names_for_integers_that_do_not_start_at_zero_are_refused(tmp_path: Path) -> None:
    with raises(InvalidData, code="data.labels-mismatch", expected=["1", "2"], labels=["no", "yes"]):
        load_labels(tmp_path, ["1", "2"], labels=("no", "yes"))


# What is wrong in a row


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "train.csv: the file is empty. Expected names of columns"),
        ("text,label\n", "train.csv: no rows below the column names."),
        ("text,label\nfine,good\n,bad\n", "train.csv, line 3: column 'text' is empty. Expected a text."),
        ("text,label\nfine,good\n   ,bad\n", "train.csv, line 3: column 'text' is empty."),
        ("text,label\nfine,good\ndull,\n", "train.csv, line 3: column 'label' is empty. Expected a label."),
        (
            "text,label\n\nfine, good\ndull, so dull,bad\n",
            "train.csv, line 4: found 3 fields in the row that begins with 'dull'. Expected 2 (text, label).",
        ),
        (
            'text,label\n"a\nb",good\ndull\n',
            "train.csv, line 4: found 1 field in the row that begins with 'dull'. Expected 2",
        ),
        ('text,label\nfine,good\n"dull,bad\nx,good\n', "train.csv, line 3: unexpected end of data. Expected comma-sep"),
        ('text,label\n"fine" film,good\n', "train.csv, line 2: ',' expected after '\"'."),
        ("text,label,text\na,good,b\n", "train.csv, line 1: column 'text' occurs more than once."),
    ],
)
def test_a_mistake_in_a_csv_file_is_told_with_its_line(directory: Path, content: str, told: str) -> None:
    (directory / "train.csv").write_text(content, encoding="utf-8")
    assert told in message(directory)


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        (
            "mine.jsonl",
            '{"text": "a", "label": "b"}\n{"text": "c", "label": "b", "label": "d"}\n',
            "mine.jsonl, line 2",
        ),
        ("mine.json", '[{"text": "a", "text": "b", "label": "c"}]', "mine.json"),
        ("mine.jsonl", '{"text": "a", "label": "b", "more": {"x": 1, "x": 2}}\n', "mine.jsonl, line 1"),
    ],
)
def test_a_key_that_stands_twice_in_an_object_is_refused(tmp_path: Path, name: str, content: str, where: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with raises(InvalidData, code="data.column-repeated", where=where):
        Task.load(tmp_path / name)


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    columns = [pyarrow.array(["one", "two"] * 9), pyarrow.array(["a", "b"] * 9), pyarrow.array(["c", "d"] * 9)]
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "label", "label"]), tmp_path / "mine.parquet")
    with raises(InvalidData, code="data.column-repeated", column="label", where="mine.parquet"):
        Task.load(tmp_path / "mine.parquet")


TEXTS = [f"text {i}" for i in range(20)]


def parquet_of(path: Path, features: dict[str, Any] | None = None, **columns: Any) -> Path:
    table = pyarrow.table({"text": TEXTS} | columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
    return path


DAY = datetime.datetime(2020, 1, 1)


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (pyarrow.array([DAY.date()] * 20), "2020-01-01"),
        (pyarrow.array([DAY] * 20), "2020-01-01 00:00:00.000000"),
        (pyarrow.array([10**9 + 1] * 20).cast(pyarrow.timestamp("ns")), "1970-01-01 00:00:01.000000001"),
        (pyarrow.array([DAY] * 20).cast(pyarrow.timestamp("ms", "UTC")), "2020-01-01 00:00:00.000Z"),
    ],
    ids=["date", "datetime", "nanoseconds", "zone"],
)
def test_dates_of_a_parquet_file_are_texts_and_no_labels(tmp_path: Path, cells: Any, text: str) -> None:
    mine = parquet_of(tmp_path / "mine.parquet", label=["y", "n"] * 10, when=cells)
    assert set(Task.load(mine, text="text", text_pair="when").train.pairs or ()) == {text}
    with raises(InvalidData, code="data.label-malformed", column="when", found=text):
        Task.load(mine, label="when")


def test_dates_of_a_csv_are_classes_only_if_the_kind_is_given(tmp_path: Path) -> None:
    mine = write_csv(tmp_path / "mine.csv", [(text, f"2020-01-0{1 + i % 2}") for i, text in enumerate(TEXTS)])
    with raises(InvalidData, code="data.label-malformed", column="label", found="2020-01-01"):
        Task.load(mine)
    assert Task.load(mine, kind="classes").label_names == ("2020-01-01", "2020-01-02")


def test_decimals_of_a_parquet_file_are_numbers(tmp_path: Path) -> None:
    halves = [decimal.Decimal(i % 5) / 2 for i in range(20)]
    task = Task.load(parquet_of(tmp_path / "a.parquet", label=halves))
    assert task.kind == "number"
    assert {*task.train.labels, *task.evaluation.labels} == {0, 0.5, 1, 1.5, 2}
    whole = [decimal.Decimal(i % 2) for i in range(20)]
    assert Task.load(parquet_of(tmp_path / "b.parquet", label=whole)).label_names == ("0", "1")
    ids = pyarrow.array([decimal.Decimal(10**17 + i % 2) for i in range(20)])
    found = Task.load(parquet_of(tmp_path / "c.parquet", label=ids)).label_names
    assert found == ("100000000000000000", "100000000000000001")


def test_a_text_column_of_numbers_is_read_and_said(tmp_path: Path) -> None:
    labels = ["y", "n"] * 10
    for mine in (
        write_csv(tmp_path / "a.csv", [(str(i), label) for i, label in enumerate(labels)]),
        parquet_of(tmp_path / "b.parquet", text=list(range(20)), label=labels),
        parquet_of(tmp_path / "c.parquet", text=[float(i) for i in range(20)], label=labels),
    ):
        task = Task.load(mine)
        assert {*task.train.texts, *task.evaluation.texts} == set(map(str, range(20)))
        assert "column 'text' has only numbers or dates, such as 0" in task.told
    some = tmp_path / "d.jsonl"
    rows = [
        {"text": 7 if i == 3 else text, "label": label}
        for i, (text, label) in enumerate(zip(TEXTS, labels, strict=True))
    ]
    some.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = Task.load(some)
    assert "7" in {*task.train.texts, *task.evaluation.texts}
    assert "numbers in column 'text' are read as texts (line 4)" in task.told


MOODS = {"label": {"names": ["sad", "glad", "angry"], "_type": "ClassLabel"}}


def test_classes_of_a_parquet_file_of_datasets_have_their_names_in_their_order(tmp_path: Path) -> None:
    mine = parquet_of(tmp_path / "mine.parquet", MOODS, label=[i % 2 for i in range(20)])
    task = Task.load(mine)
    assert (task.kind, task.label_names) == ("classes", ("sad", "glad"))
    assert Task.load(mine, kind="number").kind == "number"
    assert Task.load(mine, labels=("glad", "sad")).label_names == ("glad", "sad")
    plain = Task.load(parquet_of(tmp_path / "plain.parquet", label=[i % 2 for i in range(20)]))
    assert task.train.labels.tolist() == plain.train.labels.tolist()
    assert plain.label_names == ("0", "1")


def test_lists_of_classes_have_their_names_and_one_that_no_training_text_has_is_left_out(tmp_path: Path) -> None:
    feature = {"label": {"feature": MOODS["label"], "_type": "List"}}
    lists = [[1], [0, 1], [0], []] * 5
    task = Task.load(parquet_of(tmp_path / "mine.parquet", feature, label=lists))
    assert (task.kind, task.label_names) == ("labels", ("sad", "glad"))
    assert "No training text has the label angry" in task.told
    assert task.train.labels.sum() + task.evaluation.labels.sum() == 20


def test_each_parquet_file_names_its_own_classes(tmp_path: Path) -> None:
    mine = parquet_of(tmp_path / "mine.parquet", MOODS, label=[i % 2 for i in range(20)])
    turned = {"label": {"names": ["glad", "sad"], "_type": "ClassLabel"}}
    other = parquet_of(tmp_path / "other.parquet", turned, text=[f"new {i}" for i in range(20)], label=[0] * 20)
    assert Task.load(mine, evaluation=other).evaluation.labels.tolist() == [1] * 20
    named, numbered = TrainingInfo(2, ("sad", "glad")), TrainingInfo(2, ("0", "1"))
    assert EvaluationSet.read(other, named).split.labels.tolist() == [1] * 20
    assert EvaluationSet.read(other, numbered).split.labels.tolist() == [0] * 20


def test_the_class_index_of_a_row_without_a_label_is_a_missing_value(tmp_path: Path) -> None:
    mine = parquet_of(tmp_path / "mine.parquet", MOODS, label=[i % 2 for i in range(19)] + [-1])
    with raises(InvalidData, code="data.value-missing", where="mine.parquet, row 20: column 'label'"):
        Task.load(mine)
    assert "1 row is left out" in Task.load(mine, missing="skip").told


@pytest.mark.parametrize("text", ["\u200b", "\u200b \u2060\ufeff", "\u00ad", "\x7f"])
def test_a_text_in_which_nothing_is_shown_is_empty(tmp_path: Path, text: str) -> None:
    mine = write_csv(tmp_path / "mine.csv", [(f"text {i}", "yn"[i % 2]) for i in range(20)] + [(text, "y")])
    with raises(InvalidData, code="data.value-missing", where="mine.csv, line 22: column 'text'"):
        Task.load(mine)
    assert len(Task.load(mine, missing="skip").train.texts) == 16


def test_an_address_without_characters_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stem in ("train", "dev"):
        write_csv(tmp_path / f"{stem}.csv", [(f"{stem} {i}", "yn"[i % 2]) for i in range(4)])
    monkeypatch.chdir(tmp_path)
    assert len(Task.load(".").train.texts) == 4
    with raises(UnknownName, code="name.unknown", name=""):
        Task.load("")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            '{"text": "a", "label": 1}\n{"text": "b"',
            "line 2: not JSON (Expecting ',' delimiter). Expected one JSON object",
        ),
        ("[" * 100_000, "line 1: not JSON (a number is too long, or nesting too deep). Expected one JSON object"),
        ('{"text": "a", "label": %s}' % ("1" * 5_000), "line 1: not JSON (a number is too long, or nesting too deep)."),
        ('[{"text": "a", "label": 1}]', "line 1: found a list. Expected one JSON object a line."),
        ('{"text": "a", "label": 1}\n\n{"label": 0}', "line 3: column 'text' is empty."),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": null}', "line 2: column 'label' is empty."),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": NaN}', "line 2: column 'label' is empty."),
        ('{"text": "a", "label": {}}', "line 1: column 'label' holds a dict, expected a name or an integer."),
        ('{"text": "a", "label": [0.5]}', "line 1: column 'label' holds [0.5], expected names of labels."),
        ('{"text": true, "label": 1}', "line 1: column 'text' holds a bool. Expected a text."),
        ('{"text": "\\ud83d", "label": 1}', "line 1: column 'text' holds half a surrogate pair."),
        (
            '{"text": "a", "label": 1.5}\n{"text": "b", "label": "x"}\n{"text": "c", "label": 2}',
            "line 2: column 'label' holds 'x' among numbers.",
        ),
    ],
)
def test_a_mistake_in_a_jsonl_file_is_told_with_its_line(directory: Path, lines: str, told: str) -> None:
    (directory / "train.csv").unlink()
    (directory / "train.jsonl").write_text(lines, encoding="utf-8")
    assert f"train.jsonl, {told}" in message(directory)


def test_a_mistake_in_a_parquet_file_is_told_with_its_row(directory: Path) -> None:
    (directory / "train.csv").unlink()
    parquet.write_table(pyarrow.table({"text": ["a", None], "label": [0, 1]}), directory / "train.parquet")
    assert "train.parquet, row 2: column 'text' is empty." in message(directory)
    (directory / "train.parquet").write_bytes(b"not parquet at all")
    assert "train.parquet: not a readable parquet file (" in message(directory)


def test_a_json_file_may_hold_one_list(directory: Path) -> None:
    expected = Task.load(str(directory)).train.digest
    rows = [{"text": row[0], "label": row[1]} for row in ROWS]
    (directory / "train.csv").unlink()
    (directory / "train.json").write_text("\n" + json.dumps(rows, indent=1), encoding="utf-8")
    assert Task.load(str(directory)).train.digest == expected
    (directory / "train.json").write_text(json.dumps([*rows, 3]), encoding="utf-8")
    assert f"train.json, item {len(rows) + 1}: found a int. Expected a list of JSON objects." in message(directory)
    (directory / "train.json").write_text("[{]", encoding="utf-8")
    assert "train.json: not JSON (" in message(directory)


def test_a_parquet_file_whose_columns_have_no_readable_names_is_refused(directory: Path) -> None:
    (directory / "train.csv").unlink()
    path = directory / "train.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [0, 1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"text", b"te\x80t"))
    assert "train.parquet: not a readable parquet file (" in message(directory)


# Which files


def test_a_directory_without_an_evaluation_file_is_told_which_names_are_looked_for(directory: Path) -> None:
    (directory / "dev.csv").rename(directory / "test.csv")
    assert message(directory, NotFound) == (
        f"{directory}: no dev file. Found: test.csv, train.csv. Expected one of dev.*, validation.*, valid.*, val.*, "
        "ending in .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .feather, .arrow, .xlsx, .xlsm, "
        ".conll, .iob, .iob2, .bio."
    )


def test_a_directory_without_a_training_file_is_told_what_was_found(tmp_path: Path) -> None:
    assert f"{tmp_path}: no train file. Found: nothing. Expected one of train.*" in message(tmp_path, NotFound)


def test_two_files_for_one_split_are_refused(directory: Path) -> None:
    write_csv(directory / "validation.csv", ROWS)
    assert f"{directory}: found dev.csv, validation.csv. Expected only one of dev.*, validation.*" in message(directory)


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "data.ods").write_bytes(b"PK")
    with raises(InvalidData, code="data.format-unknown", path="data.ods"):
        Task.load(tmp_path / "data.ods")


@pytest.mark.parametrize(("count", "held"), [(2, 2), (9, 2), (60, 12), (300, 60), (1000, 200)])
def test_of_one_file_a_fifth_of_each_label_is_held_out(tmp_path: Path, count: int, held: int) -> None:
    labels = ("y", "n") if count > 3 else ("y",)
    rows = [(f"text {i}", labels[i % len(labels)]) for i in range(count)]
    rows += [] if count > 3 else [("other", "n"), ("another", "n")]
    task = Task.load(str(write_csv(tmp_path / "one.csv", rows)))
    assert len(task.evaluation) == held
    assert len(task.train) + len(task.evaluation) == len(rows)
    if count > 9:
        assert task.evaluation.labels.tolist().count(0) == held // 2


def test_a_class_of_one_text_cannot_be_held_out_and_is_told_with_its_row(tmp_path: Path) -> None:
    rows = [*((f"text {i}", "yn"[i % 2]) for i in range(8)), ("alone", "x"), ("Alone!", "x")]
    told = message(write_csv(tmp_path / "one.csv", rows))
    assert "one.csv, line 10: the only text of label 'x', so none of it can be kept aside" in told
    assert (
        len(Task.load(str(tmp_path / "one.csv"), evaluation=str(tmp_path / "one.csv"), allow_leakage=True).train) == 10
    )


def test_all_of_a_file_trains_where_another_is_evaluated(tmp_path: Path, directory: Path) -> None:
    mine = write_csv(tmp_path / "mine.csv", ROWS)
    other = write_csv(tmp_path / "other.csv", [("new", "good"), ("newer", "good")])
    task = Task.load(str(mine), evaluation=str(other))
    assert labelled(task, task.train) == ROWS
    assert labelled(task, task.evaluation) == [("new", "good"), ("newer", "good")]
    assert list(Task.load(str(directory), evaluation=str(other)).evaluation.texts) == ["new", "newer"]
    many = write_csv(tmp_path / "many.csv", [(f"text {i}", "yn"[i % 2]) for i in range(40)])
    cut = Task.load(str(many), evaluation=str(write_csv(tmp_path / "y.csv", [("new", "y")])), validation=0.5)
    assert len(cut.train) + len(cut.evaluation) == 40
    assert "4 of 4 evaluation texts also occur" in message(mine, Leakage, evaluation=str(mine))
    assert "`evaluation` gone.csv: no such file." in message(mine, NotFound, evaluation="gone.csv")
    write_csv(other, [("new", "ugly")])
    assert "line 2: label 'ugly' is unknown" in message(mine, evaluation=str(other))


def test_one_column_is_not_two_things(tmp_path: Path) -> None:
    mine = write_csv(tmp_path / "mine.csv", ROWS)
    assert "`text_pair` text is also the column of a text." in message(mine, text_pair="text")
    assert "`label` text is also the column of a text." in message(mine, label="text")


@pytest.mark.parametrize("labels", [[""], ["good", " "]])
def test_an_empty_name_of_a_label_is_refused(tmp_path: Path, labels: list[str]) -> None:
    told = message(write_csv(tmp_path / "mine.csv", ROWS), labels=labels)
    assert "an empty name. Give the labels in their order, with commas." in told


def test_one_file_is_divided_by_a_hash_of_the_text_and_not_by_its_order(tmp_path: Path) -> None:
    rows = [(f"text {i}", "yn"[i % 2]) for i in range(200)]
    task = Task.load(str(write_csv(tmp_path / "one.csv", rows)))
    again = Task.load(str(write_csv(tmp_path / "two.csv", rows[::-1])))
    assert (len(task.train), len(task.evaluation)) == (160, 40)
    assert set(task.evaluation.texts) == set(again.evaluation.texts)
    assert dict(labelled(task, task.train)) | dict(labelled(task, task.evaluation)) == dict(rows)


def test_duplicates_in_one_file_never_leak(tmp_path: Path) -> None:
    rows = [(f"{'Text' if i < 100 else 'TEXT'} {i % 100}", "yn"[i % 2]) for i in range(200)]
    task = Task.load(str(write_csv(tmp_path / "one.csv", rows)))
    assert task.leaked == 0
    assert len(task.evaluation) > 10


def test_one_file_too_small_to_divide_is_refused(tmp_path: Path) -> None:
    told = message(write_csv(tmp_path / "one.csv", [("same", "a"), ("same!", "b")]))
    assert "one.csv: no label has two different texts among 2 examples, so no text can be held out. Give more" in told


def test_leakage_between_two_files_is_refused_and_can_be_allowed(directory: Path) -> None:
    write_csv(directory / "dev.csv", [("A warm film!", "good"), ("new", "bad")])
    assert "1 of 2 evaluation texts also occur in the training split" in message(directory, Leakage)
    assert Task.load(str(directory), allow_leakage=True).leaked == 1


def test_limits_apply_to_each_split_and_before_leakage_is_counted(tmp_path: Path) -> None:
    rows = [(f"text {i}", "yn"[i % 2]) for i in range(100)]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "dev.csv", [(f"other {i}", "y") for i in range(50)] + rows[:1])
    task = Task.load(str(tmp_path), train_examples=20, evaluation_examples=10, allow_leakage=True)
    assert (len(task.train), len(task.evaluation)) == (20, 10)
    assert "`train_examples` 0: expected a whole number of at least 1." in message(
        tmp_path, train_examples=0, allow_leakage=True
    )
    assert "`evaluation_examples` -3: expected" in message(tmp_path, evaluation_examples=-3, allow_leakage=True)
    assert "all 1 training examples have the label" in message(tmp_path, train_examples=1, allow_leakage=True)


# Addresses


def test_an_address_that_is_neither_a_name_nor_there_lists_what_there_is() -> None:
    told = message("sst3", UnknownName)
    assert told.startswith("unknown task 'sst3'. Did you mean 'sst2'? Known: aclsum:approach, ")
    assert ", e2e:DIRECTORY, glue/NAME:DIRECTORY, glue/cola, " in told
    assert "hub:OWNER/NAME, hub:OWNER/NAME:CONFIG, path/to/directory, path/to/file.csv, snippets:" in told


@pytest.mark.parametrize("name", ["gone.csv", "gone/", "data/gone"])
def test_a_path_that_is_not_there_is_told_as_a_path(tmp_path: Path, name: str) -> None:
    told = message(f"{tmp_path}/{name}", NotFound)
    assert told.startswith(f"task {tmp_path}/{name}: no such file or directory. Expected a file (.csv, .tsv,")
    assert "snippets:movies" in told


def test_an_address_too_long_to_be_a_path_is_an_unknown_task() -> None:
    assert message("x" * 5000, UnknownName).startswith("unknown task 'xxx")


def test_invisible_characters_in_the_names_of_columns_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("te\u200bxt,label\xa0\nfine,good\ndull,bad\n", encoding="utf-8")
    with raises(InvalidData, code="data.column-missing", found=["te\u200bxt", "label\xa0"]) as caught:
        Task.load(tmp_path / "a.csv")
    assert r"Found: te\u200bxt, label\xa0." in str(caught.value)
    assert next(remedy.words for remedy in remedies_of(caught.value)) == r"Read column “te\u200bxt” as the text"


@pytest.mark.parametrize("option", ["task", "evaluation", "unlabelled", "without"])
def test_a_pipe_which_can_be_read_only_once_is_refused(tmp_path: Path, option: str) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.csv")
    rows = "".join(f"text {number},{number % 2}\n" for number in range(20))
    (mine := tmp_path / "mine.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    with raises(NotFound, code="file.unreadable", path="pipe.csv"):
        Task.load(pipe) if option == "task" else Task.load(mine, **{option: str(pipe)})  # type: ignore[arg-type]


def test_a_task_with_known_columns_takes_no_column_names() -> None:
    assert message("snippets:movies", label="x") == (
        "task snippets:movies: the columns of this task are fixed. Remove `label`."
    )


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="SST-2 is not in ../shared/data")
def test_sst2_as_glue_distributes_it() -> None:
    task = Task.load(f"glue/sst2:{SHARED}")
    assert (len(task.train), len(task.evaluation)) == (67_349, 872)
    assert task.label_names == ("negative", "positive")
    assert task.leaked == 2
    assert task.evaluation[0] == task.evaluation.take([0])[0]
    assert labelled(task, task.evaluation)[:2] == [
        ("it 's a charming and often affecting journey . ", "positive"),
        ("unflinchingly bleak and desperate ", "negative"),
    ]
    assert int(task.evaluation.labels.sum()) == 444
    assert re.fullmatch("sha256:[0-9a-f]{64}", task.train.digest)
