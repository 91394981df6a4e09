"""A disk that takes no more: one line that says so, and nothing half-made is left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter, Backbone, file_io
from afina.studies.results import Results
from command import PROGRAM, Command
from full_disk import no_file_above

OUT = Path("out")
FULL = "cannot be written (the disk is full). Free disk space there, or choose another place; then try again."


@pytest.fixture
def train(afina: Command, gpt2: Backbone, toy: str) -> Callable[[], Any]:
    return lambda: afina(
        *(
            "train",
            "--task",
            toy,
            "--backbone",
            gpt2.address,
            "--out",
            OUT,
            "--set",
            "max_steps=2",
            "--set",
            "dtype=float32",
        )
    )


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the disk be full for files that have a word in their path."""
    sync = file_io.sync

    def refuse(word: str) -> None:
        def refused(path: Path) -> None:
            if word in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(path)

        monkeypatch.setattr(file_io, "sync", refused)

    return refuse


def files(root: Path) -> set[str]:
    return {path.name if path.is_file() else f"{path.name}/" for path in root.rglob("*")}


def test_where_no_adapter_can_be_saved_nothing_is_left(train: Callable[[], Any], full: Callable[[str], None]) -> None:
    full("/adapters/")
    error = train().error
    assert error.startswith("lora, seed 0: out/adapters/lora-seed0-")
    assert error.endswith(FULL)
    assert not OUT.exists()


@pytest.mark.parametrize("place", ["/predictions/", "records.jsonl"])
def test_an_adapter_without_predictions_or_record_is_not_left(
    train: Callable[[], Any], full: Callable[[str], None], place: str
) -> None:
    full(place)
    assert train().error.endswith(FULL)
    assert not OUT.exists()


def test_what_is_recorded_stays_where_its_report_cannot_be_written(
    train: Callable[[], Any], full: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    full("report.md")
    assert train().error == f"out/report.md: {FULL}"
    (record,) = Results.read(OUT).records
    assert Adapter.load(OUT / record.adapter).digest == record.digest
    assert not files(OUT) & {".lock", "report.md", "report.html"}
    monkeypatch.undo()


def test_a_limit_on_the_size_of_files_is_such_a_disk_for_the_file_of_tensors_too(train: Callable[[], Any]) -> None:
    with no_file_above(4_000):
        error = train().error
    assert error.startswith("lora, seed 0: out/adapters/lora-seed0-")
    assert "cannot be written (file too large)" in error
    assert not OUT.exists()


def test_tuning_says_that_its_database_finds_no_room(afina: Command, gpt2: Backbone, toy: str) -> None:
    Path("tune.toml").write_text(
        f'name = "t"\nbackbone = "{gpt2.address}"\ntask = "{toy}"\n'
        "[train]\nmax_steps = 2\n[tune]\ncandidates = 1\n[methods.lora]\n"
    )
    with no_file_above(2_000):
        answer = afina("study", "tune.toml", "--out", OUT)
    assert answer.code == 2
    assert "out/tuning.db: cannot be written (disk I/O error)" in answer.err, answer.err
    assert not OUT.exists()


def test_messages_that_find_no_room_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setattr(sys, "__stderr__", full)
        file_io.drop_unwritable_messages()
        print("Train on 3 texts.", file=sys.stderr, flush=True)


@pytest.mark.slow
def test_a_study_whose_messages_find_no_room_has_its_results(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    task, out = ["--task", toy, "--backbone", gpt2.address], ["--out", tmp_path / "out"]
    with Path("/dev/full").open("w") as nowhere:
        done = subprocess.run(
            [*PROGRAM, "train", *task, "--method", "head", "--set", "max_steps=1", *out],
            stderr=nowhere,
            stdout=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 0
    assert (tmp_path / "out" / "records.jsonl").is_file()


@pytest.mark.slow
def test_an_output_that_takes_nothing_is_an_error_in_one_line() -> None:
    for arguments in (["methods"], ["--version"]):
        with Path("/dev/full").open("w") as nowhere:
            done = subprocess.run(
                [*PROGRAM, *arguments], stdout=nowhere, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (done.returncode, done.stderr) == (2, f"Error: standard output: {FULL}\n")
