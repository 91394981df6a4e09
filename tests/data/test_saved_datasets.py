"""Arrow files, and folders of `save_to_disk` of the `datasets` library: the task of a csv file with the same rows."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import feather, ipc

from afina import Run, Task
from afina.data.readers.texts import chunks
from afina.errors import InvalidData, NotFound
from afina.studies.runs.inputs import RunInputs
from hubs import classes
from raises import raises
from vocabularies import sentences

TEXTS = [text for text, _ in sentences(40)]
LABELS = [label for _, label in sentences(40)]
FEATURES = {"text": {"dtype": "string", "_type": "Value"}, "label": classes("bad", "good", "unused")}


def table(rows: slice = slice(None)) -> pyarrow.Table:
    made = pyarrow.table({"text": TEXTS[rows], "label": LABELS[rows]})
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def saved(path: Path, *shards: slice, **state: Any) -> Path:
    """Write a folder as `Dataset.save_to_disk` of datasets 5.2 does."""
    path.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        with ipc.new_stream(path / name, table().schema) as stream:
            stream.write_table(table(rows), max_chunksize=7)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))
    (path / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return path


def saved_splits(path: Path, **splits: slice) -> Path:
    for name, rows in splits.items():
        saved(path / name, rows)
    (path / "dataset_dict.json").write_text(json.dumps({"splits": [*splits]}))
    return path


def copy(inputs: RunInputs, name: str, path: Path) -> None:
    shutil.copy(inputs.content[name], path)


@pytest.fixture
def expected(tmp_path: Path) -> Task:
    lines = [json.dumps({"text": text, "label": ("bad", "good")[label]}) for text, label in sentences(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return Task.load(tmp_path / "rows.jsonl")


def test_a_folder_of_a_data_set_and_arrow_files_are_the_task_of_their_rows(expected: Task, tmp_path: Path) -> None:
    feather.write_feather(table(), tmp_path / "rows.feather")
    with ipc.new_file(tmp_path / "file.arrow", table().schema) as stream:
        stream.write_table(table(), max_chunksize=9)
    folder = saved(tmp_path / "folder", slice(0, 13), slice(13, 40))
    for path in (tmp_path / "rows.feather", tmp_path / "file.arrow", folder / "data-00000-of-00002.arrow", folder):
        found = Task.load(path)
        assert (len(found.train) + len(found.evaluation) == 40) == ("data" not in path.name)
        assert found.label_names == ("bad", "good")
        if "data" not in path.name:
            assert found.data_digest == expected.data_digest
    with chunks(folder) as texts:
        assert [text for chunk in texts for text in chunk.texts] == TEXTS


def test_the_splits_of_a_folder_are_those_that_are_read_of_the_hub(tmp_path: Path) -> None:
    folder = saved_splits(tmp_path / "all", train=slice(0, 20), test=slice(20, 30), validation=slice(30, 40))
    found = Task.load(folder)
    assert ([*found.train.texts], [*found.evaluation.texts]) == (TEXTS[:20], TEXTS[30:])
    assert f"{folder}: the split 'train' is for training, and the split 'validation' is for evaluation." in found.notes
    shutil.rmtree(folder / "validation")
    assert [*Task.load(folder).evaluation.texts] == TEXTS[20:30]
    shutil.rmtree(folder / "test")
    assert len(Task.load(folder).train) + len(Task.load(folder).evaluation) == 20
    (folder / "train").rename(folder / "training")
    with raises(NotFound, code="task.missing", found=["training"], expected="train"):
        Task.load(folder)


def test_all_files_of_a_folder_go_to_another_machine(tmp_path: Path) -> None:
    folder = saved_splits(tmp_path / "all", train=slice(0, 30), test=slice(30, 40))
    for address in (folder, saved(tmp_path / "one", slice(0, 13), slice(13, 40))):
        inputs = Run(backbone="embedded", task=str(address), method="head").inputs()
        there = tmp_path / "there" / address.name
        where = inputs.materialise(there, partial(copy, inputs))
        assert Task.load(where.task).data_digest == Task.load(address).data_digest
        assert Path(where.task).is_relative_to(there)


@pytest.mark.parametrize(
    "state",
    [
        {"_data_files": [{"filename": "../rows.arrow"}]},
        {"_data_files": []},
        {"_indices_data_files": [{"filename": "i"}]},
    ],
)
def test_a_folder_whose_rows_are_not_known_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    with raises(InvalidData, code="data.file-damaged"):
        Task.load(saved(tmp_path / "all", slice(0, 20), **state))


def test_a_damaged_arrow_file_is_refused(tmp_path: Path) -> None:
    for name in ("old.feather", "cut.arrow"):
        (tmp_path / name).write_bytes(b"FEA1" + bytes(20))
        with raises(InvalidData, code="data.file-damaged"):
            Task.load(tmp_path / name)
