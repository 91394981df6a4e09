"""SST-2 from the Hub: its splits and names, and a quick answer where the Hub cannot be reached."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from afina import Task, hub
from afina.errors import InvalidData, NotFound
from raises import raises

TRAIN, VALIDATION = "sst2/train-00000-of-00001.parquet", "sst2/validation-00000-of-00001.parquet"
WAY_ROUND = "Give a directory with GLUE's own train.tsv and dev.tsv instead: glue/sst2:DIRECTORY."


class Repository:
    """A data set on the Hub: `files` are what it has there, `path` the local copy, `asked` who asked for what."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.files = {
            TRAIN: _parquet(["fine ", "dull ", "so so "], [1, 0, 0]),
            VALIDATION: _parquet(["warm ", "cold ", "new "], [1, 0, 0]),
            "sst2/test-00000-of-00001.parquet": _parquet(["one ", "two "], [-1, -1]),
            "cola/train-00000-of-00001.parquet": _parquet(["other "], [1]),
        }

    def download(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        for file, content in self.files.items():
            if any(fnmatch.fnmatch(file, pattern) for pattern in options["allow_patterns"]):
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                (self.path / file).write_bytes(content)
        return str(self.path)


def _parquet(texts: list[str], labels: list[int]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"sentence": texts, "label": labels, "idx": range(len(texts))}), sink)
    return bytes(sink.getvalue())


@pytest.fixture
def glue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A Hub that can be reached, and serves GLUE."""
    made = Repository(tmp_path / "glue")
    monkeypatch.setattr(hub, "snapshot_download", made.download)
    return made


def test_sst2_is_the_training_and_the_validation_split_with_the_names_of_glue(glue: Repository) -> None:
    task = Task.load("sst2")
    ((name, options),) = glue.asked
    assert (name, options["repo_type"]) == ("nyu-mll/glue", "dataset")
    assert {str(file.relative_to(glue.path)) for file in glue.path.rglob("*.*")} == {TRAIN, VALIDATION}
    assert task.label_names == ("negative", "positive")
    assert list(task.train.texts) == ["fine ", "dull ", "so so "]
    assert list(task.evaluation.texts) == ["warm ", "cold ", "new "]
    assert task.train.labels.tolist() == task.evaluation.labels.tolist() == [1, 0, 0]


def test_a_split_in_several_files_is_read_in_their_order(glue: Repository) -> None:
    glue.files[TRAIN.replace("00000-of-00001", "00001-of-00002")] = _parquet(["last "], [1])
    glue.files[TRAIN.replace("of-00001", "of-00002")] = glue.files.pop(TRAIN)
    task = Task.load("sst2")
    assert list(task.train.texts) == ["fine ", "dull ", "so so ", "last "]
    assert task.train.labels.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("error", [ConnectionError("no"), FileNotFoundError("no"), TimeoutError("no")])
def test_a_hub_that_fails_while_loading_is_told_the_same(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: str, **__: object) -> None:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(NotFound) as told:
        Task.load("sst2")
    first, second = str(told.value).splitlines()
    absent = "task sst2: the Hub's nyu-mll/glue cannot be reached and no copy is cached"
    assert (first, second) == (f"{absent} ({type(error).__name__}).", WAY_ROUND)


@pytest.mark.parametrize("missing", [TRAIN, VALIDATION])
def test_half_a_copy_is_no_copy(glue: Repository, missing: str) -> None:
    del glue.files[missing]
    with raises(NotFound, code="hub.unreachable", repository="nyu-mll/glue"):
        Task.load("sst2")


def test_a_damaged_copy_is_named(glue: Repository) -> None:
    glue.files[VALIDATION] = b"not parquet"
    with raises(InvalidData, code="data.file-damaged", path="validation-00000-of-00001.parquet"):
        Task.load("sst2")


def test_other_tasks_do_not_import_the_hub() -> None:
    heavy = "{'torch', 'huggingface_hub', 'pyarrow'}"
    check = f"import sys, afina.data.task; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
