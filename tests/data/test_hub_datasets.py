"""Data sets of the Hub by its own parquet files of them: which are read, and what their columns are taken for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError

from afina import Task
from afina.data.addresses import check_address, is_at_hand
from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.reading_options import ReadingOptions
from afina.errors import InvalidData, NotFound
from hubs import CONVERTED, Hub, classes, several, written
from raises import raises

SET, MOODS = "someone/some-set", {"label": classes("sad", "glad", "angry")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that can be reached, and has nothing yet."""
    return Hub(tmp_path / "hub").install(monkeypatch)


def put(hub: Hub, place: str, columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> None:
    """A file of the conversion."""
    hub.sets.setdefault((SET, CONVERTED), {})[f"{place}/0000.parquet"] = written(columns, features)


def moods(hub: Hub, place: str, count: int, word: str = "") -> None:
    """Texts of three classes, whose names are not in the order of the alphabet."""
    texts = [f"{word or place} {i}" for i in range(count)]
    put(hub, place, {"text": texts, "label": [i % 3 for i in range(count)]}, MOODS)


def refused(address: str, **options: Any) -> str:
    with pytest.raises(NotFound) as caught:
        Task.load(address, **options)
    return str(caught.value)


def test_classes_have_the_names_and_the_order_of_the_data_set(hub: Hub) -> None:
    moods(hub, "default/train", 9)
    moods(hub, "default/validation", 6)
    moods(hub, "default/test", 3)
    task = Task.load(f"hub:{SET}")
    assert (task.kind, task.label_names, task.metric) == ("classes", ("sad", "glad", "angry"), None)
    assert list(task.train.texts) == [f"default/train {i}" for i in range(9)]
    assert list(task.evaluation.texts) == [f"default/validation {i}" for i in range(6)]
    assert task.train.labels.tolist() == [0, 1, 2] * 3
    assert hub.asked == [(SET, CONVERTED, ["default/train/*.parquet", "default/validation/*.parquet"])]
    turned = Task.load(f"hub:{SET}", labels=("angry", "glad", "sad"))
    assert turned.train.labels.tolist() == [2, 1, 0] * 3


def test_a_class_that_does_not_occur_is_none(hub: Hub) -> None:
    put(hub, "default/train", {"text": ["a", "b"], "label": [2, 0]}, MOODS)
    put(hub, "default/validation", {"text": ["c"], "label": [0]}, MOODS)
    assert Task.load(f"hub:{SET}").label_names == ("sad", "angry")


def test_names_that_look_like_numbers_are_names(hub: Hub) -> None:
    stars = {"label": classes("0.5", "1.0", "1.5")}
    for split in ("train", "validation"):
        put(hub, f"default/{split}", {"text": [f"{split} {i}" for i in range(3)], "label": [0, 1, 2]}, stars)
    task = Task.load(f"hub:{SET}")
    assert (task.kind, task.label_names) == ("classes", ("0.5", "1.0", "1.5"))
    as_number = Task.load(f"hub:{SET}", kind="number")
    assert (as_number.kind, as_number.train.labels.tolist()) == ("number", [0.0, 1.0, 2.0])


def test_numbers_are_a_number(hub: Hub) -> None:
    for split in ("train", "validation"):
        texts = {"sentence1": [f"{split} {i}" for i in range(4)], "sentence2": list("wxyz")}
        put(hub, f"default/{split}", texts | {"score": [0.5, 1.25, 3.0, 4.75]})
    task = Task.load(f"hub:{SET}")
    assert (task.kind, task.label_names) == ("number", ("score",))
    assert task.evaluation.labels.tolist() == [0.5, 1.25, 3.0, 4.75]
    assert list(task.train.pairs or ()) == list("wxyz")


@pytest.mark.parametrize("feature", [several("warm", "loud", "new"), [classes("warm", "loud", "new")]])
def test_lists_of_classes_are_several_labels_in_the_order_of_the_data_set(hub: Hub, feature: Any) -> None:
    for split in ("train", "validation"):
        columns = {"text": [f"{split} {i}" for i in range(4)], "labels": [[0], [2, 1], [], [1]]}
        put(hub, f"default/{split}", columns, {"labels": feature})
    task = Task.load(f"hub:{SET}")
    assert (task.kind, task.label_names) == ("labels", ("warm", "loud", "new"))
    assert task.train.labels.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 1, 0]]


def test_questions_of_the_hub_are_texts_to_write(hub: Hub) -> None:
    for split in ("train", "validation"):
        columns: dict[str, list[Any]] = {
            "id": [f"{i}" for i in range(4)],
            "title": ["one", "one", "two", "two"],
            "context": [f"{split} {i // 2}" for i in range(4)],
            "question": [f"{split} why {i}" for i in range(4)],
            "answers": [{"text": [f"{split}", f"so {i}"], "answer_start": [0, 1]} for i in range(4)],
        }
        put(hub, f"default/{split}", columns)
    task = Task.load(f"hub:{SET}")
    assert (task.kind, task.label_names, len(task.train)) == ("text", ("answers",), 8)
    assert task.train.groups == ["one"] * 4 + ["two"] * 4
    assert list(task.evaluation.pairs or ()) == [f"validation why {i}" for i in range(4)]
    assert task.evaluation.labels.tolist() == [("validation", f"so {i}") for i in range(4)]
    assert Task.load(f"hub:{SET}", target="title", text="question").train[0].label == ("one",)


def test_a_question_of_the_hub_without_an_answer_is_refused_or_skipped(hub: Hub) -> None:
    answers = [{"text": [f"{i}"] if i else [], "answer_start": [0] if i else []} for i in range(9)]
    numbered = {name: [f"{name} {i}" for i in range(9)] for name in ("context", "question")}
    put(hub, "default/train", {**numbered, "answers": answers})
    with raises(InvalidData, code="data.value-missing", where="someone/some-set, train, row 1: column 'answers'"):
        Task.load(f"hub:{SET}")
    task = Task.load(f"hub:{SET}", missing="skip")
    assert len(task.train) + len(task.evaluation) == 8


def test_columns_without_names_are_read_as_those_of_a_file(hub: Hub) -> None:
    for split in ("train", "validation"):
        put(
            hub,
            f"default/{split}",
            {"review": [f"{split} {i}" for i in range(4)], "mood": ["x", "y"] * 2, "label": [0, 1, 2, 3]},
        )
    assert Task.load(f"hub:{SET}").label_names == ("0", "1", "2", "3")
    chosen = Task.load(f"hub:{SET}", text="review", label="mood")
    assert chosen.label_names == ("x", "y")
    with raises(InvalidData, code="data.column-missing", column="gone", field="text", where="someone/some-set, train"):
        Task.load(f"hub:{SET}", text="gone")


def test_without_a_validation_split_the_test_split_is_evaluated(hub: Hub) -> None:
    moods(hub, "default/train", 6)
    moods(hub, "default/test", 3)
    assert list(Task.load(f"hub:{SET}").evaluation.texts) == [f"default/test {i}" for i in range(3)]


@pytest.mark.parametrize("with_test", [False, True])
def test_without_either_a_part_is_kept_aside_also_where_the_test_labels_are_kept_back(
    hub: Hub, with_test: bool
) -> None:
    moods(hub, "default/train", 60)
    if with_test:
        put(hub, "default/test", {"text": ["a", "b"], "label": [-1, -1]}, MOODS)
    task = Task.load(f"hub:{SET}")
    assert (len(task.train), len(task.evaluation), task.leaked) == (48, 12, 0)
    assert all(text.startswith("default/train") for text in task.evaluation.texts)


def test_rows_whose_class_is_kept_back_are_left_out(hub: Hub) -> None:
    put(hub, "default/train", {"text": ["a", "b", "c"], "label": [0, -1, 2]}, MOODS)
    put(hub, "default/validation", {"text": ["d", "e"], "label": [-1, 2]}, MOODS)
    task = Task.load(f"hub:{SET}")
    assert (list(task.train.texts), list(task.evaluation.texts)) == (["a", "c"], ["e"])


def test_the_beginning_of_a_large_split_is_read_in_the_order_of_its_files(hub: Hub) -> None:
    moods(hub, "default/partial-train", 3, "first")
    files = hub.sets[SET, CONVERTED]
    files["default/partial-train/0001.parquet"] = written({"text": ["last"], "label": [1]}, MOODS)
    moods(hub, "default/validation", 3)
    assert list(Task.load(f"hub:{SET}").train.texts) == ["first 0", "first 1", "first 2", "last"]


def test_a_configuration_is_the_one_given_or_the_only_one_or_the_default(hub: Hub) -> None:
    for split in ("train", "validation"):
        moods(hub, f"plain_text/{split}", 3, f"plain {split}")
    assert Task.load(f"hub:{SET}").train.texts[0] == "plain train 0"
    for split in ("train", "validation"):
        moods(hub, f"[odd] one/{split}", 3, f"odd {split}")
    assert refused(f"hub:{SET}") == (
        f"task hub:{SET}: the Hub's {SET} has several configurations. Found: [odd] one, plain_text. "
        f"Name one: hub:{SET}:NAME."
    )
    assert Task.load(f"hub:{SET}:plain_text").train.texts[0] == "plain train 0"
    assert "has no configuration 'plain'. Found: [odd] one, plain_text." in refused(f"hub:{SET}:plain")
    moods(hub, "default/train", 30, "default")
    assert Task.load(f"hub:{SET}").train.texts[0].startswith("default")


def test_a_file_may_stand_in_for_the_evaluation_split(hub: Hub, tmp_path: Path) -> None:
    moods(hub, "default/train", 9)
    moods(hub, "default/validation", 3)
    (tmp_path / "mine.csv").write_text("text,label\nmine,glad\n", encoding="utf-8")
    task = Task.load(f"hub:{SET}", evaluation=str(tmp_path / "mine.csv"))
    assert (len(task.train), list(task.evaluation.texts), task.evaluation.labels.tolist()) == (9, ["mine"], [1])


def test_an_adapter_is_measured_on_the_evaluation_split(hub: Hub) -> None:
    moods(hub, "default/train", 9)
    moods(hub, "default/validation", 6)
    task = Task.load(f"hub:{SET}", text="text")
    about = TrainingInfo(3, ("angry", "glad", "sad"), f"hub:{SET}", ReadingOptions(text="text"), task.train.digest)
    found = EvaluationSet.read(f"hub:{SET}", about)
    assert (found.split.labels.tolist(), found.leaked) == ([2, 1, 0, 2, 1, 0], 0)


# What cannot be had


@pytest.mark.parametrize("address", ["hub:", "hub:name", "hub:owner/", "hub:a/b/c", "hub:no such/name"])
def test_what_is_no_name_is_told_before_anything_is_asked(hub: Hub, address: str) -> None:
    for ask in (check_address, Task.load):
        with raises(NotFound, code="task.missing"):
            ask(address)


def test_a_set_that_is_not_there_is_told(hub: Hub) -> None:
    check_address("hub:no/where")
    assert refused("hub:no/where") == (
        "task hub:no/where: the Hub's no/where: the data set does not exist or is private. Check the name, or "
        "log in with `hf auth login`."
    )


def test_a_set_that_the_hub_did_not_convert_is_told(hub: Hub) -> None:
    hub.sets[SET, None] = {"data.zip": b""}
    assert refused(f"hub:{SET}") == (
        f"task hub:{SET}: the Hub has no parquet files of {SET}; only public data sets without a loading script "
        "have them. Save its splits as train.csv and validation.csv, and give their directory."
    )
    hub.sets[SET, CONVERTED] = {"README.md": b""}
    assert f"has no parquet files of {SET} on its branch refs/convert/parquet. Save its splits as" in refused(
        f"hub:{SET}"
    )


def test_a_set_whose_terms_are_to_be_agreed_to_is_told(hub: Hub) -> None:
    from unittest.mock import Mock

    hub.raised = GatedRepoError("403", response=Mock())
    assert "is gated. Accept the terms on its page and log in with" in refused(f"hub:{SET}")


def test_a_set_without_a_training_split_is_told(hub: Hub) -> None:
    moods(hub, "default/test", 6)
    assert f"the Hub's {SET} has no training split in default. Found: test. Expected one called train." in refused(
        f"hub:{SET}"
    )


def test_shards_with_other_columns_are_told(hub: Hub) -> None:
    moods(hub, "default/train", 6)
    hub.sets[SET, CONVERTED]["default/train/0001.parquet"] = written({"body": ["x"], "label": [0]}, MOODS)
    with raises(InvalidData, code="data.columns-differ", path="0001.parquet"):
        Task.load(f"hub:{SET}")


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"info": null}', b'{"info": {"features": {"label": []}}}'])
def test_a_schema_of_another_make_is_no_error(hub: Hub, metadata: bytes) -> None:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"text": [f"text {i}" for i in range(20)], "label": [0, 1] * 10})
    parquet.write_table(table.replace_schema_metadata({b"huggingface": metadata}), sink)
    hub.sets[SET, CONVERTED] = {"default/train/0000.parquet": bytes(sink.getvalue())}
    assert Task.load(f"hub:{SET}").label_names == ("0", "1")


# Without a network


def test_what_was_read_once_is_read_again_where_the_hub_does_not_answer(hub: Hub) -> None:
    moods(hub, "plain_text/train", 6)
    moods(hub, "plain_text/test", 3)
    assert not is_at_hand(f"hub:{SET}")
    there = Task.load(f"hub:{SET}")
    asked = len(hub.asked)
    hub.answers = False
    for address in (f"hub:{SET}", f"hub:{SET}:plain_text"):
        assert is_at_hand(address)
        for offline in (False, True):
            here = Task.load(address, offline=offline)
            assert (here.train.digest, here.evaluation.digest) == (there.train.digest, there.evaluation.digest)
            assert here.label_names == there.label_names
    assert not is_at_hand(f"hub:{SET}:other")
    assert len(hub.asked) == asked


def test_what_is_not_cached_is_told_where_the_hub_does_not_answer(hub: Hub) -> None:
    hub.answers = False
    assert refused(f"hub:{SET}") == (
        f"task hub:{SET}: the Hub's {SET} cannot be reached and no copy is cached (ConnectionError)."
    )
    assert "cannot be reached and no copy is cached (LocalEntryNotFoundError)." in refused(f"hub:{SET}", offline=True)


def test_the_real_client_gives_up_quickly_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process of its own: the Hub's library reads these variables when it is imported.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    script = (
        f"from afina import Task, errors\ntry: Task.load('hub:{SET}')\nexcept errors.NotFound as error: print(error)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"task hub:{SET}: the Hub's {SET} cannot be reached and no copy is cached ("), done
    assert time.monotonic() - start < 20


def test_the_real_client_finds_what_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    copy, commit = tmp_path / "hub/datasets--someone--some-set", "a" * 40
    files = {
        f"default/{split}/0000.parquet": written(
            {"text": [f"{split} {i}" for i in range(3)], "label": [0, 1, 2]}, MOODS
        )
        for split in ("train", "validation")
    }
    for name, content in files.items():
        (copy / "snapshots" / commit / name).parent.mkdir(parents=True)
        (copy / "snapshots" / commit / name).write_bytes(content)
    (copy / "refs" / CONVERTED).parent.mkdir(parents=True)
    (copy / "refs" / CONVERTED).write_text(commit)
    script = (
        "from afina import Task; from afina.data.addresses import is_at_hand\n"
        f"print(is_at_hand('hub:{SET}'), is_at_hand('hub:{SET}:x'), Task.load('hub:{SET}').label_names)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True False ('sad', 'glad', 'angry')\n", "")
