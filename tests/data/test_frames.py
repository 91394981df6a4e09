"""Tasks of data in memory: every form is the task of a file with the same rows, and is refused as the file is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from afina import Run, Study, Task
from afina.errors import AfinaError, InvalidData, Leakage, NotFound
from afina.studies.runs.prepared import read_task
from raises import raises
from vocabularies import sentences

TEXTS = [text for text, _ in sentences(40)]
LABELS = [("bad", "good")[label] for _, label in sentences(40)]
SPLITS = {"train": 0, "test": 10, "validation": 20, "unsupervised": 30}
FRAME = pd.DataFrame({"id": range(40), "body": TEXTS, "mark": LABELS}, index=range(40, 0, -1))


class Dataset:
    """What Task.of uses of a Dataset of `datasets`; its column_names are no `columns`."""

    def __init__(self, columns: dict[str, list[Any]], names: dict[str, list[str]] | None = None) -> None:
        self._columns, self.column_names = columns, list(columns)
        self.features = {name: SimpleNamespace(names=given) for name, given in (names or {}).items()}

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, name: str) -> Iterator[Any]:
        return iter(self._columns[name])


class LazyFrame:
    """What Task.of uses of a LazyFrame of polars."""

    def collect(self) -> pd.DataFrame:
        return FRAME


class DuckDBPyRelation:
    """What Task.of uses of a relation of DuckDB."""

    def to_arrow_table(self) -> pa.Table:
        return pa.Table.from_pandas(FRAME)


class DatasetDict(dict[str, Any]):
    """What Task.of uses of a DatasetDict of `datasets`."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "data",
    [
        FRAME,
        FRAME.to_dict("list"),
        FRAME.to_dict("records"),
        pa.Table.from_pandas(FRAME),
        Dataset(FRAME.to_dict("list")),
        LazyFrame(),
        DuckDBPyRelation(),
        pa.Table.from_pandas(FRAME).to_reader(),
        DatasetDict(train=Dataset(FRAME.to_dict("list"))),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_frame_is_the_task_of_a_file_with_the_same_rows(data: Any, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    expected = Task.load(tmp_path / "rows.csv", text="body", label="mark")
    found = Task.of(data, text="body", label="mark")
    assert found.data_digest == expected.data_digest
    assert (found.train.digest, found.evaluation.digest) == (expected.train.digest, expected.evaluation.digest)
    assert found.columns == {"text": "body", "label": "mark"}


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), np.array(TEXTS), pd.Series(TEXTS, index=range(40, 0, -1))])
@pytest.mark.parametrize("labels", [LABELS, np.array(LABELS), pd.Series(LABELS, dtype="category")])
def test_texts_and_labels_are_a_task(texts: Any, labels: Any) -> None:
    found = Task.of(texts, labels)
    assert [*found.train.texts, *found.evaluation.texts] != TEXTS
    assert sorted([*found.train.texts, *found.evaluation.texts]) == sorted(TEXTS)
    assert found.data_digest == Task.of(FRAME[["body", "mark"]], text="body", label="mark").data_digest


@pytest.mark.parametrize(
    ("labels", "how", "kind", "names"),
    [
        ([number / 7 for number in range(40)], {}, "number", ("label",)),
        ([Decimal(number) / 4 for number in range(40)], {}, "number", ("label",)),
        ([True, False] * 20, {}, "classes", ("false", "true")),
        (np.array([1, -1] * 20), {}, "classes", ("-1", "1")),
        ([["late", "rude"], []] * 20, {}, "labels", ("late", "rude")),
        (np.array([[1, 0], [1, 1]] * 20), {"labels": ["late", "rude"]}, "labels", ("late", "rude")),
        (TEXTS[::-1], {"kind": "text"}, "text", ("label",)),
        (LABELS, {"positive": "bad"}, "classes", ("good", "bad")),
    ],
)
def test_labels_of_every_kind_are_read_as_those_of_a_file(
    labels: Any, how: dict[str, Any], kind: str, names: tuple[str, ...]
) -> None:
    found = Task.of(TEXTS, labels, **how)
    assert (found.kind, found.label_names) == (kind, names)
    again = Task.load(found.address, found.data)
    assert (again.data_digest, again.train.digest) == (found.data_digest, found.train.digest)


def test_pairs_class_names_and_data_to_evaluate_are_read(cache: Path) -> None:
    assert Task.of(list(zip(TEXTS, TEXTS[::-1], strict=True)), LABELS).pairs
    indices = [int(label == "bad") for label in LABELS]
    named = Dataset({"text": TEXTS, "label": indices}, {"label": ["good", "bad", "unused"]})
    found = Task.of(named)
    assert found.label_names == ("good", "bad")
    assert [found.label_names[label] for label in found.train.labels] == [
        LABELS[TEXTS.index(text)] for text in found.train.texts
    ]
    whole = Task.of(TEXTS[:30], LABELS[:30], evaluation=(TEXTS[30:], LABELS[30:]), allow_leakage=True)
    assert (len(whole.train), list(whole.evaluation.texts)) == (30, TEXTS[30:])
    with pytest.raises(Leakage):
        Task.of(FRAME, text="body", label="mark", evaluation=FRAME[:8])


def test_the_splits_of_a_dataset_dict_are_those_that_are_read_of_the_hub() -> None:
    parts = {name: {"text": TEXTS[at : at + 10], "label": LABELS[at : at + 10]} for name, at in SPLITS.items()}
    given = DatasetDict({name: Dataset(columns) for name, columns in parts.items()})
    found = Task.of(given)
    assert ([*found.train.texts], [*found.evaluation.texts]) == (TEXTS[:10], TEXTS[20:30])
    assert (
        "DatasetDict: the split 'train' is for training, and the split 'validation' is for evaluation." in found.notes
    )
    del given["validation"]
    assert [*Task.of(given).evaluation.texts] == TEXTS[10:20]
    assert [*Task.of(given, evaluation=parts["unsupervised"]).evaluation.texts] == TEXTS[30:]
    del given["train"]
    with raises(NotFound, code="task.missing", found=["test", "unsupervised"]):
        Task.of(given)


def test_only_columns_that_are_read_are_kept_and_the_same_data_are_kept_once(cache: Path) -> None:
    first = Task.of(FRAME, text="body", label="mark")
    again = Task.of(FRAME.assign(id=object()), text="body", label="mark")
    (kept,) = (cache / "given").iterdir()
    assert first.address == again.address == str(kept)
    assert kept.read_text().splitlines()[0] == f'{{"body": "{TEXTS[0]}", "mark": "{LABELS[0]}"}}'
    kept.write_text("cut")
    assert Task.of(FRAME, text="body", label="mark").data_digest == first.data_digest


@pytest.mark.parametrize(
    ("data", "labels", "how", "told"),
    [
        (TEXTS, [*LABELS[:-1], None], {}, {"code": "data.value-missing"}),
        (TEXTS, [*LABELS[:-1], float("nan")], {}, {"code": "data.value-missing"}),
        (TEXTS, pd.Series([*LABELS[:-1], pd.NA]), {}, {"code": "data.value-missing"}),
        ([*TEXTS[:-1], ""], LABELS, {}, {"code": "data.value-missing"}),
        ([*TEXTS[:-1], None], LABELS, {}, {"code": "data.value-missing"}),
        (TEXTS, ["Bad", *LABELS[1:]], {}, {"code": "data.labels-alike"}),
        (TEXTS, [1, "01"] * 20, {}, {"code": "data.labels-alike"}),
        (TEXTS, [True, "1"] * 20, {}, {"code": "data.labels-alike"}),
        (TEXTS, [date(2024, 1, 1), date(2024, 1, 2)] * 20, {}, {"code": "data.label-malformed"}),
        (TEXTS, [b"a", b"b"] * 20, {}, {}),
        (TEXTS, LABELS[:-1], {}, {"code": "data.lengths-differ"}),
        (TEXTS, "bad", {}, {"code": "data.type-wrong", "argument": "targets"}),
        (TEXTS, LABELS, {"label": "mark"}, {"code": "data.column-missing"}),
        ([], [], {}, {"code": "data.no-rows"}),
        (TEXTS, [number * 1e300 for number in range(40)], {"kind": "number"}, {"code": "data.number-malformed"}),
        (TEXTS, None, {}, {"code": "data.type-wrong", "argument": "data", "found": "list"}),
        ("rows.csv", None, {}, {"code": "data.type-wrong", "argument": "data", "found": "str"}),
        ({"train": FRAME, "test": FRAME}, None, {}, {"code": "data.type-wrong", "argument": "data", "found": "dict"}),
        ({"text": TEXTS, "label": "bad"}, None, {}, {"code": "data.type-wrong", "argument": "data", "found": "str"}),
        (FRAME, None, {}, {"code": "data.column-missing", "field": "label"}),
        (FRAME.rename(columns={"id": 0}), None, {}, {"code": "data.type-wrong", "found": "DataFrame"}),
        (pd.concat([FRAME, FRAME], axis=1), None, {"text": "body"}, {"code": "data.column-repeated", "column": "body"}),
    ],
)
def test_what_files_refuse_is_refused(data: Any, labels: Any, how: dict[str, Any], told: dict[str, Any]) -> None:
    if told:
        with raises(InvalidData, **told):
            Task.of(data, labels, **how)
    else:
        with pytest.raises(AfinaError):
            Task.of(data, labels, **how)


def test_an_address_is_not_data_in_memory() -> None:
    with raises(InvalidData, code="data.type-wrong", argument="address", found="DataFrame"):
        Task.load(FRAME)  # type: ignore[arg-type]
    with raises(InvalidData, code="data.type-wrong", argument="address", found="DataFrame"):
        Run(backbone="b", task=FRAME, method="head")


def test_runs_and_studies_take_a_task_and_read_it_alike() -> None:
    task = Task.of(FRAME, text="body", label="mark", positive="bad", selection=0.2)
    run = Run(backbone="b", task=task, method="head", data={"train_examples": 20})
    assert run.key == Run(backbone="b", task=Task.of(FRAME, options=task.data), method="head", data=run.data).key
    assert (run.task, run.data.label, run.data.train_examples) == (task.address, "mark", 20)
    read = read_task(run)
    assert (read.label_names, read.data_digest) == (("good", "bad"), task.data_digest)
    assert len(read.train) + len(read.selection or ()) == 20
    study = Study(name="s", backbone="b", task=task, methods={"head": {}})
    assert (study.task, study.data.positive, study.data.selection) == (task.address, "bad", 0.2)
    assert study.runs()[0].data == Run(backbone="b", task=task, method="head").data
    with raises(InvalidData, code="data.option-inapplicable", option="label"):
        Run(backbone="b", task=task, method="head", data={"label": "id"})
    by_hand = Task("mine", ("bad", "good"), task.train, task.evaluation)
    with raises(InvalidData, code="data.type-wrong", argument="task"):
        Study(name="s", backbone="b", task=by_hand, methods={"head": {}})
