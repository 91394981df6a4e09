"""SST-2 from the Hub: its splits and names, and a quick answer where the Hub cannot be reached."""

import subprocess
import sys
import time
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from afina.errors import NotFound


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A Hub that can be reached; the list is of the data sets asked for."""
    asked: list[tuple[str, ...]] = []
    columns = {"sentence": ["fine ", "dull ", "so so "], "label": [1, 0, 0], "idx": [0, 1, 2]}
    features = datasets.Features(
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=["negative", "positive"]),
        idx=datasets.Value("int32"),
    )
    parts = {
        "train": datasets.Dataset.from_dict(columns, features=features),
        "validation": datasets.Dataset.from_dict(columns | {"sentence": ["warm ", "cold ", "new "]}, features=features),
        "test": datasets.Dataset.from_dict(columns | {"label": [-1, -1, -1]}, features=features),
    }

    def load_dataset(*names: str) -> datasets.DatasetDict:
        asked.append(names)
        return datasets.DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: "")
    return asked


def test_sst2_is_the_training_and_the_validation_split_with_the_names_of_glue(hub: list[tuple[str, ...]]) -> None:
    task = Task.load("sst2")
    assert hub == [("nyu-mll/glue", "sst2")]
    assert task.label_names == ("negative", "positive")
    assert list(task.train.texts) == ["fine ", "dull ", "so so "]
    assert list(task.evaluation.texts) == ["warm ", "cold ", "new "]
    assert task.train.labels.tolist() == task.evaluation.labels.tolist() == [1, 0, 0]


def test_sst2_has_the_digests_of_the_same_data_in_a_directory(hub: list[tuple[str, ...]], tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nfine \t1\ndull \t0\nso so \t0\n", encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nwarm \t1\ncold \t0\nnew \t0\n", encoding="utf-8")
    there, here = Task.load("sst2"), Task.load(str(tmp_path))
    assert (here.train.digest, here.evaluation.digest) == (there.train.digest, there.evaluation.digest)
    assert here.label_names == there.label_names


def test_labels_set_the_order_and_limits_the_number(hub: list[tuple[str, ...]]) -> None:
    task = Task.load("sst2", labels=("positive", "negative"), evaluation_examples=2)
    assert task.label_names == ("positive", "negative")
    assert task.train.labels.tolist() == [0, 1, 1]
    assert len(task.evaluation) == 2


@pytest.mark.parametrize("offline", [False, True])
def test_without_the_hub_the_answer_is_quick_and_names_the_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    # A process of its own: the Hub's libraries read these variables when they are imported.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    script = "from afina import Task, errors\ntry: Task.load('sst2')\nexcept errors.NotFound as error: print(error)"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    first, second = done.stdout.splitlines()
    assert first.startswith("task sst2: the Hub's nyu-mll/glue cannot be reached and no copy is cached (")
    assert second == (
        "Give a directory with GLUE's train.tsv and dev.tsv (columns sentence and label) as the task instead."
    )
    assert time.monotonic() - start < 20  # load_dataset alone retries for 24 s


@pytest.mark.parametrize("error", [ConnectionError("no"), ValueError("Couldn't find cache"), FileNotFoundError("no")])
def test_a_hub_that_fails_while_loading_is_told_the_same(
    hub: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: str) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(NotFound, match=rf"cannot be reached and no copy is cached \({type(error).__name__}\)"):
        Task.load("sst2")


def test_other_tasks_do_not_import_datasets() -> None:
    heavy = "{'datasets', 'torch', 'huggingface_hub', 'pyarrow'}"
    check = f"import sys, afina.data.task; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
