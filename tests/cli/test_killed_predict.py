"""A `predict` that is killed: its file is absent or complete, and the next run succeeds and removes what was left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from afina import Study, file_io
from command import PROGRAM, HereExecutor
from fakes import Backbones, sentences, write_csv

ROWS = 200


@pytest.fixture(scope="module")
def adapter(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("texts")
    rows = [(text, " ".join(text.split()[:3])) for text, _ in sentences(40)]
    content = {
        "name": "texts",
        "backbone": str(backbones.path("gpt2")),
        "task": str(write_csv(where / "rows.csv", rows, ("text", "summary"))),
        "data": {"kind": "text", "label": "summary"},
        "train": {"max_steps": 2, "batch_size": 8, "dtype": "float32"},
        "methods": {"lora": {}},
    }
    results = Study.parse(content, "here").run(where / "out", executor=HereExecutor())
    return results.out / results.records[0].adapter


HELD = """
import sys, time
from pathlib import Path
from afina import file_io

with file_io.replacing(Path(sys.argv[1])) as fresh:
    fresh.write_text("half")
    print("there", flush=True)
    time.sleep(600)
"""


def temporaries(where: Path) -> list[Path]:
    return [each for each in where.iterdir() if each.name.startswith(file_io.TEMPORARY)]


def test_the_temporaries_of_the_killed_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    with subprocess.Popen([sys.executable, "-c", HELD, str(out)], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"there\n"
        file_io.sweep_killed(out)
        assert len(temporaries(tmp_path)) == 1
        killed.kill()
    other = tmp_path / f"{file_io.TEMPORARY}more.csv-abc"
    other.mkdir()
    with file_io.replacing(out) as fresh:
        file_io.sweep_killed(out)
        assert temporaries(tmp_path) != []
        fresh.write_text("whole")
    assert temporaries(tmp_path) == [other]
    assert out.read_text() == "whole"


@pytest.mark.slow
def test_a_killed_prediction_leaves_no_file_or_a_whole_one(adapter: Path, tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "more.csv", [(f"{text} {n}",) for n, (text, _) in enumerate(sentences(ROWS))], ("text",)
    )
    where = tmp_path / "answers"
    where.mkdir()
    command = [*PROGRAM, "predict", str(adapter), "--file", str(file), "--max-new-tokens", "12"]
    whole = where / "whole.jsonl"
    began = time.monotonic()
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    took, expected = time.monotonic() - began, whole.read_bytes()
    whole.unlink()
    assert expected.count(b"\n") == ROWS
    out, chance = where / "answers.jsonl", random.Random(0)
    outcomes = set()
    for begun in (True, False):  # killed when it has begun to write, and at any time
        out.unlink(missing_ok=True)
        process = subprocess.Popen(
            [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        end = time.monotonic() + chance.uniform(0.6, 1.0) * took
        while process.poll() is None and (not temporaries(where) if begun else time.monotonic() < end):
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not out.exists() or out.read_bytes() == expected
        assert len(temporaries(where)) <= 1
        outcomes.add(out.exists())
    assert False in outcomes
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    assert out.read_bytes() == expected
    assert list(where.iterdir()) == [out]
