"""Tasks whose targets are texts: which columns are read, several references, cuts by input, and bad rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.readers.texts import chunks
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import Task
from afina.errors import InvalidData, UnknownName
from raises import raises

Rows = Sequence[Mapping[str, Any]]


def written(path: Path, rows: Rows) -> Path:
    """A jsonl file of these rows."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def numbered(count: int, **columns: str) -> Rows:
    """Rows whose cells are the given words with the row's number."""
    return [{name: f"{word} {row}" for name, word in columns.items()} for row in range(count)]


def by_text(split: Split) -> dict[str, list[tuple[str, ...]]]:
    found: dict[str, list[tuple[str, ...]]] = {}
    for example in split:
        found.setdefault(example.text, []).append(example.label)
    return found


# Columns


@pytest.mark.parametrize(
    ("columns", "text", "pair", "target"),
    [
        ("input output", "input", None, "output"),
        ("Prompt completion id", "Prompt", None, "completion"),
        ("document summary", "document", None, "summary"),
        ("mr ref", "mr", None, "ref"),
        ("question answer id", "question", None, "answer"),
        ("id context question answers", "context", "question", "answers"),
        ("question context answer", "context", "question", "answer"),
    ],
)
def test_usual_names_make_a_text_task(tmp_path: Path, columns: str, text: str, pair: str | None, target: str) -> None:
    rows = numbered(10, **{name: name for name in columns.split()})
    task = Task.load(written(tmp_path / "a.jsonl", rows))
    assert task.kind == "text"
    assert task.label_names == (target,)
    assert (task.columns["text"], task.columns.get("text_pair"), task.columns["target"]) == (text, pair, target)
    assert task.told.startswith(f"text: column '{text}'; ")
    assert f"target: column '{target}'" in task.told
    assert "kind text" in task.told
    assert {example.label for example in (*task.train, *task.evaluation)} == {(row[target],) for row in rows}


def test_a_usual_label_column_is_read_as_before(tmp_path: Path) -> None:
    rows = [{"text": f"t {row}", "output": f"o {row}", "label": "ab"[row % 2]} for row in range(20)]
    assert Task.load(written(tmp_path / "a.jsonl", rows)).kind == "classes"
    rows = [{"text": f"t {row}", "target": f"o {row % 3}"} for row in range(20)]
    assert Task.load(written(tmp_path / "b.jsonl", rows)).kind == "classes"


@pytest.mark.parametrize(
    ("columns", "given"),
    [
        ("body reply", {"text": "body", "target": "reply"}),
        ("body reply", {"text": "body", "label": "reply", "kind": "text"}),
        ("text label", {"kind": "text"}),
        ("text target", {"kind": "text"}),
        ("prompt reply", {"target": "reply"}),
        ("text label", {"target": "label"}),
        ("input output label", {"target": "output"}),
        ("prompt completion input", {"text": "prompt", "kind": "text"}),
    ],
)
def test_target_or_kind_makes_a_text_task(tmp_path: Path, columns: str, given: dict[str, Any]) -> None:
    path = written(tmp_path / "a.jsonl", numbered(10, **{name: name for name in columns.split()}))
    task = Task.load(path, **given)
    assert task.kind == "text"
    if "target" in given:
        rest = {name: value for name, value in given.items() if name != "target"}
        again = Task.load(path, **rest, label=given["target"], kind="text")
        assert again.data_digest == task.data_digest
        assert ReadingOptions(**given) == ReadingOptions(**rest, label=given["target"], kind="text")


@pytest.mark.parametrize(
    ("columns", "given", "code"),
    [
        ("input output", {"target": "output", "label": "input"}, "data.column-repeated"),
        ("input output", {"target": "output", "kind": "classes"}, "data.kind-mismatch"),
        ("input output", {"target": "answer"}, "data.column-missing"),
        ("text body", {"kind": "text"}, "data.column-missing"),
        ("input output", {"text": "output", "target": "output"}, "data.column-repeated"),
        ("input output", {"text": "input", "text_pair": "output", "target": "output"}, "data.column-repeated"),
        ("input output", {"text": "input", "text_pair": "input", "target": "output"}, "data.column-repeated"),
        ("instruction input output", {}, "data.column-ambiguous"),
        ("input output prompt completion", {}, "data.column-ambiguous"),
        ("context question answer answers", {}, "data.column-ambiguous"),
        ("input output", {"labels": ["a", "b"]}, "data.option-inapplicable"),
        ("input output", {"separator": ";", "kind": "text"}, "data.option-inapplicable"),
        ("input output", {"positive": "a"}, "data.option-inapplicable"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, columns: str, given: dict[str, Any], code: str) -> None:
    path = written(tmp_path / "a.jsonl", numbered(10, **{name: name for name in columns.split()}))
    with raises(InvalidData, code=code):
        Task.load(path, **given)


def test_a_target_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(UnknownName, match="novel"):
        ReadingOptions(**{"target": "a", "kind": "novel"})
    with raises(InvalidData, code="data.kind-mismatch"):
        ReadingOptions(**{"target": "a", "kind": "number"})


def test_inputs_to_answer_are_found_by_the_same_names(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", numbered(3, context="c", question="q", id="i"))
    with chunks(path, written=True) as parts:
        assert [(row.text, row.pair) for chunk in parts for row in chunk.rows] == [
            (f"c {i}", f"q {i}") for i in range(3)
        ]
    with raises(InvalidData, code="data.column-ambiguous"), chunks(path) as parts:
        list(parts)
    mr = written(tmp_path / "b.jsonl", numbered(3, mr="name"))
    with chunks(mr, written=True) as parts:
        assert [row.text for chunk in parts for row in chunk.rows] == ["name 0", "name 1", "name 2"]


# References


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a boat ", ("a boat",)),
        (["a boat", "a ship", "a boat"], ("a boat", "a ship")),
        ('["a boat", "a ship"]', ("a boat", "a ship")),
        ("['a boat', 'a ship']", ("a boat", "a ship")),
        ({"text": ["a boat", "a ship"], "answer_start": [3, 3]}, ("a boat", "a ship")),
        ({"text": "a boat", "answer_start": 3}, ("a boat",)),
        ([{"text": "a boat", "answer_start": 3}], ("a boat",)),
        ("[1, 2]", ("[1, 2]",)),
        ("[laughs]", ("[laughs]",)),
        ('"quoted"', ('"quoted"',)),
    ],
)
def test_a_cell_is_a_text_or_a_list_of_texts(tmp_path: Path, cell: Any, expected: tuple[str, ...]) -> None:
    rows = [*numbered(8, input="i", output="o"), {"input": "same", "output": cell}]
    task = Task.load(written(tmp_path / "a.jsonl", rows))
    found = by_text(task.train).get("same") or [(one,) for one in by_text(task.evaluation)["same"][0]]
    assert found == [(one,) for one in expected]


def several(inputs: int, references: int) -> Rows:
    """Rows in which each input occurs once for each of its references."""
    return [{"mr": f"name[{i}]", "ref": f"{i} is number {r}"} for i in range(inputs) for r in range(references)]


def test_training_has_a_row_a_reference_and_evaluation_a_row_an_input(tmp_path: Path) -> None:
    task = Task.load(written(tmp_path / "a.jsonl", several(20, 3)), selection=0.2, calibration=True)
    assert task.selection is not None
    assert task.calibration is not None
    aside = (task.evaluation, task.selection, task.calibration)
    assert len(task.evaluation) == 4
    assert {len(label) for label in task.train.labels} == {1}
    assert {len(found) for found in by_text(task.train).values()} == {3}
    for split in aside:
        assert len({*split.texts}) == len(split)
        assert {len(label) for label in split.labels} == {3}
    inputs = [{*split.texts} for split in (task.train, *aside)]
    assert sum(map(len, inputs)) == len(set().union(*inputs)) == 20
    assert "20 different inputs, each with 1 to 3 references." in task.told


def test_training_examples_keep_the_references_of_an_input_together(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", several(20, 3))
    for count, rows in ((10, 9), (9, 9), (3, 3), (2, 2), (1000, 48)):
        task = Task.load(path, train_examples=count)
        assert len(task.train) == rows
    held_out = Task.load(path, evaluation_examples=2).evaluation
    assert len(held_out) == 2
    assert {len(label) for label in held_out.labels} == {3}


def test_a_validation_share_is_cut_by_input(tmp_path: Path) -> None:
    task = Task.load(written(tmp_path / "a.jsonl", several(40, 2)), validation=0.3)
    assert not {*task.train.texts} & {*task.evaluation.texts}
    assert {len(label) for label in task.evaluation.labels} == {2}


def test_a_list_in_a_cell_is_as_several_rows(tmp_path: Path) -> None:
    rows = several(20, 2)
    lists = [
        {"mr": one["mr"], "ref": [one["ref"], other["ref"]]} for one, other in zip(rows[::2], rows[1::2], strict=True)
    ]
    one, other = Task.load(written(tmp_path / "a.jsonl", rows)), Task.load(written(tmp_path / "b.jsonl", lists))
    assert one.train.digest == other.train.digest
    assert one.evaluation.digest == other.evaluation.digest


def test_a_row_that_occurs_twice_is_said_and_counts_once_in_evaluation(tmp_path: Path) -> None:
    rows = [*several(10, 1), *several(10, 1)[:10]]
    task = Task.load(written(tmp_path / "a.jsonl", rows))
    assert {len(label) for label in task.evaluation.labels} == {1}
    assert len(task.train) == 16
    where = f"{tmp_path / 'a.jsonl'}, line 11"
    assert f"10 references repeat a reference of the same input (first: {where}). Training counts each." in task.told


def test_an_evaluation_file_is_grouped_too(tmp_path: Path) -> None:
    train, dev = written(tmp_path / "train.jsonl", several(20, 2)), [{"mr": "new", "ref": f"r {i}"} for i in range(5)]
    task = Task.load(train, evaluation=written(tmp_path / "dev.jsonl", dev))
    assert len(task.train) == 40
    assert task.evaluation.labels.tolist() == [tuple(f"r {i}" for i in range(5))]


def test_questions_of_one_article_are_kept_together(tmp_path: Path) -> None:
    rows = [
        {"title": f"a {i // 6}", "context": f"c {i // 3}", "question": f"q {i}", "answers": {"text": [f"{i}"]}}
        for i in range(60)
    ]
    task = Task.load(written(tmp_path / "a.jsonl", rows), selection=0.3)
    assert task.selection is not None
    splits = (task.train, task.selection, task.evaluation)
    titles = [{*split.groups} for split in splits if split.groups is not None]
    assert sum(map(len, titles)) == len(set().union(*titles)) == 10
    assert "kept together: column 'title'" in task.told
    turned = Task.load(tmp_path / "a.jsonl", text="question", text_pair="context", target="answers")
    assert turned.train.groups == Task.load(tmp_path / "a.jsonl").train.groups
    untitled = [{name: value for name, value in row.items() if name != "title"} for row in rows]
    task = Task.load(written(tmp_path / "b.jsonl", untitled))
    assert not {*task.train.texts} & {*task.evaluation.texts}
    assert task.columns["group"] == "context"


def test_a_row_without_a_title_is_kept_with_its_text(tmp_path: Path) -> None:
    rows = [{"title": None, "context": f"c {i // 4}", "question": f"q {i}", "answer": f"{i}"} for i in range(40)]
    task = Task.load(written(tmp_path / "a.jsonl", rows))
    assert task.columns["group"] == "title"
    assert len(task.evaluation) == 8
    assert not {*task.train.texts} & {*task.evaluation.texts}


def test_an_adapter_is_evaluated_on_all_references(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", several(5, 2))
    trained = TrainingInfo(1, ("ref",), kind="text")
    found = EvaluationSet.read(path, trained)
    assert found.split.labels.tolist() == [(f"{i} is number 0", f"{i} is number 1") for i in range(5)]
    assert EvaluationSet.read(path, trained, target="ref").split.digest == found.split.digest
    foreign = EvaluationSet.read(path, TrainingInfo(1, None, kind="text"))
    assert foreign.split.digest == found.split.digest
    with raises(InvalidData, code="data.kind-mismatch"):
        EvaluationSet.read(path, TrainingInfo(2, ("no", "yes")), target="ref")


# Bad rows


GOOD = numbered(6, input="i", output="o")


@pytest.mark.parametrize(
    ("row", "code", "place"),
    [
        ({"input": "a", "output": ""}, "data.value-missing", "line 7: column 'output' is empty. Expected a text."),
        ({"input": "a", "output": None}, "data.value-missing", "line 7: column 'output' is empty. Expected a text."),
        ({"input": "a"}, "data.value-missing", "line 7: column 'output' is empty. Expected a text."),
        ({"input": "a", "output": " \n"}, "data.value-missing", "line 7: column 'output' is empty. Expected a text."),
        ({"input": "a", "output": float("nan")}, "data.value-missing", "line 7: column 'output' is empty."),
        ({"input": "a", "output": "NaN"}, "data.value-missing", "line 7: column 'output' holds 'NaN', a word for a"),
        ({"input": "a", "output": []}, "data.value-missing", "line 7: column 'output' is empty. Expected a text."),
        ({"input": "a", "output": ["b", " "]}, "data.value-missing", "line 7: column 'output' holds an empty text."),
        ({"input": "a", "output": ["b", "\u200b"]}, "data.value-missing", "line 7: column 'output' holds an empty"),
        ({"input": "a", "output": {"text": []}}, "data.value-missing", "line 7: column 'output' is empty."),
        ({"input": "", "output": "b"}, "data.value-missing", "line 7: column 'input' is empty. Expected a text."),
        ({"input": None, "output": "b"}, "data.value-missing", "line 7: column 'input' is empty. Expected a text."),
        ({"input": True, "output": "b"}, "data.type-wrong", "line 7: column 'input' holds a bool. Expected a text."),
        ({"input": ["a"], "output": "b"}, "data.type-wrong", "line 7: column 'input' holds a list. Expected a text."),
        ({"input": "a", "output": 3}, "data.type-wrong", "line 7: column 'output' holds a int. Expected a text"),
        ({"input": "a", "output": True}, "data.type-wrong", "line 7: column 'output' holds a bool. Expected a text"),
        ({"input": "a", "output": ["b", 3]}, "data.type-wrong", "line 7: column 'output' holds a int. Expected a text"),
        ({"input": "a", "output": [["b"]]}, "data.type-wrong", "line 7: column 'output' holds a list. Expected a text"),
        (
            {"input": "a", "output": {"b": 1}},
            "data.type-wrong",
            "line 7: column 'output' holds a dict. Expected a text",
        ),
        ({"input": "a", "output": '["b", "c]'}, "data.label-malformed", "line 7: column 'output' holds '[\"b\", \"c]'"),
        ({"input": "a", "output": "['b' 'c']"}, "data.label-malformed", "line 7: column 'output' holds"),
        ({"input": "a", "output": '["b", 3, "c"]'}, "data.type-wrong", "line 7: column 'output' holds a int."),
        ({"input": "a", "output": "half \ud800"}, "data.surrogate", "line 7: column 'output' holds half a surrogate"),
        ({"input": "half \ud800", "output": "b"}, "data.surrogate", "line 7: column 'input' holds half a surrogate"),
        ({"input": "input", "output": "output"}, "data.header-malformed", "line 7: this row repeats the column names."),
    ],
)
def test_a_bad_row_is_an_error_that_names_it(tmp_path: Path, row: dict[str, Any], code: str, place: str) -> None:
    path = written(tmp_path / "a.jsonl", [*GOOD, row])
    with raises(InvalidData, code=code) as raised:
        Task.load(path)
    assert str(raised.value).startswith(f"{path}, {place}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("row", [{"input": "a", "output": None}, {"input": "a", "output": []}, {"output": "b"}])
def test_a_row_without_input_or_target_is_skipped_if_asked(tmp_path: Path, row: dict[str, Any]) -> None:
    path = written(tmp_path / "a.jsonl", [*GOOD, row])
    task = Task.load(path, missing="skip")
    assert len(task.train) + len(task.evaluation) == len(GOOD)
    assert f"{path}: 1 row is left out because a value is missing (line 7)." in task.told


def test_a_word_for_a_missing_value_is_kept_if_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [*GOOD, {"input": "a", "output": "None"}])
    task = Task.load(path, missing="keep")
    assert ("None",) in [example.label for example in (*task.train, *task.evaluation)]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('{"input": "a", "output": "b"}\n', "data.too-few-texts"),
        ('{"input": "a", "output": "b"}\n{"input": "a", "output": "c"}\n', "data.too-few-texts"),
        ("".join(f'{{"input": "a {i}", "output": "b"}}\n' for i in range(9)), "data.one-value"),
        ('{"input": "a", "output": "b"\n', "data.row-malformed"),
        ('["a", "b"]\n', "data.row-malformed"),
        ("", "data.no-rows"),
    ],
)
def test_a_file_of_which_nothing_can_be_learnt_is_refused(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8")
    with raises(InvalidData, code=code):
        Task.load(path, target="output")
