"""A study that is killed or interrupted at any moment goes on to the same adapter, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from afina import Backbone, Study
from afina.events import Progress
from afina.studies.results import Results
from afina.studies.runs.record import Record
from command import PROGRAM, Command, left_behind, study_file
from fakes import Runs, sentences, write_csv
from workers import PATIENCE, assert_ended, checkpoints_below, until, workers

STEPS = 400

IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@dataclass(frozen=True)
class Case:
    """A study of one method in a file, and its undisturbed record, made in this process."""

    source: Path
    reference: Record

    def command(self, out: Path) -> list[str]:
        return [*PROGRAM, "study", str(self.source), "--out", str(out)]


@pytest.fixture(scope="module")
def case(gpt2: Backbone, toy: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """The case of a method."""
    made: dict[str, Case] = {}

    def of(name: str) -> Case:
        if name not in made:
            root, (method, _, texts) = tmp_path_factory.mktemp("case"), name.partition(" on ")
            content: dict[str, Any] = {"name": "resumed", "backbone": gpt2.address, "task": toy}
            if texts:
                rows = [(text, " ".join(text.split()[:3])) for text, _ in sentences(120)]
                content["task"] = str(write_csv(root / "rows.csv", rows, ("text", "first")))
                content["data"] = {"kind": "text", "label": "first"}
            train = {"max_steps": STEPS, "batch_size": 4, "checkpoint_seconds": 0}
            source = study_file(root / "study.toml", **content, train=train, methods={method: {}})
            (run,) = Study.load(str(source)).runs()
            made[name] = Case(source, run.execute(root / "undisturbed"))
        return made[name]

    return of


def account(out: Path) -> dict[str, Any]:
    """What the one checkpoint says of the run so far; empty where there is none."""
    for path in checkpoints_below(out):
        with contextlib.suppress(FileNotFoundError), safe_open(path, framework="pt") as file:  # taken back meanwhile
            return json.loads(file.metadata()["account"])
    return {}


def assert_same(results: Results, reference: Record) -> Record:
    """Same adapter, same losses, every step and token counted once."""
    (record,) = results.records
    same = {"digest", "losses", "steps", "tokens", "metrics", "predictions_digest", "key"}
    assert record.model_dump(include=same) == reference.model_dump(include=same)
    assert left_behind(results.out) >= {"records.jsonl", Path(record.adapter).name}
    assert not list((results.out / "checkpoints").iterdir())
    assert not list(results.out.rglob(".tmp-*"))
    return record


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kills"), [("lora", 3), ("lora on texts", 2)])
def test_killed_at_random_moments_it_ends_in_the_same_adapter(
    method: str, kills: int, case: Callable[[str], Case], tmp_path: Path
) -> None:
    this, chance = case(method), random.Random(method)
    steps, phases = 0, []
    for kill in range(kills):
        process = subprocess.Popen(this.command(tmp_path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        (worker,) = until(lambda: workers(process), process)  # noqa: B023 - called at once
        if kill:  # the first moment is anywhere in starting, loading and training
            until(lambda: account(tmp_path).get("step", 0) > steps, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.3 if kill else 4))
        assert process.poll() is None
        process.kill()
        process.wait()
        assert_ended([worker])
        assert not (tmp_path / "records.jsonl").exists()
        assert account(tmp_path).get("step", 0) >= steps
        phases.append(account(tmp_path).get("seconds", {}))
        steps = account(tmp_path).get("step", 0)
    assert 0 < steps < STEPS

    done = subprocess.run([*this.command(tmp_path), "--json"], capture_output=True, text=True, check=True)
    record = assert_same(Results.read(tmp_path), this.reference)
    assert json.loads(done.stdout)["records"][0]["digest"] == this.reference.digest
    # Times are summed over the parts.
    seconds = record.seconds.model_dump()
    for before, after in zip(phases[1:], [*phases[2:], seconds], strict=True):
        assert all(before[phase] < after[phase] for phase in ("load", "encode", "train")), (before, after)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_removes_the_bar_and_says_how_to_go_on(
    case: Callable[[str], Case], tmp_path: Path, afina: Command
) -> None:
    this, out = case("lora"), tmp_path / "out"
    shown = tmp_path / "terminal"
    with shown.open("wb") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, *this.command(out)],
            stdin=subprocess.PIPE,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        assert process.stdin is not None
        running = until(lambda: workers(process), process)
        until(lambda: b"tokens/s" in shown.read_bytes() and account(out), process)
        process.stdin.write(b"\x03")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 130
        process.stdin.close()
    assert_ended(running)
    text = shown.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert re.search(r"\[1/1\] lora, seed 0: train.*\d+%.*loss \d\.\d{3}, [\d,]+ tokens/s, \d+:\d\d left", text)
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor stays hidden"
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("^C", "").rstrip().splitlines()[-1]
    assert last.strip() == f"Interrupted. To continue from the last checkpoint: afina study {this.source} --out {out}"
    assert 0 < account(out)["step"] < STEPS

    assert afina("study", this.source, "--out", out).code == 0
    assert_same(Results.read(out), this.reference)


@pytest.mark.slow
def test_interrupted_before_it_trains_it_says_how_to_go_on(case: Callable[[str], Case], tmp_path: Path) -> None:
    this = case("lora")
    process = subprocess.Popen(
        this.command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    running = until(lambda: workers(process), process)
    for worker in running:  # a forked run could reach its first step before the study hears the signal
        worker.suspend()
        worker.send_signal(signal.SIGINT)  # a run that heard it by itself would end with a traceback
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    for worker in running:
        worker.resume()
    out, err = process.communicate(timeout=PATIENCE)
    assert_ended(running)
    assert (process.returncode, out) == (130, "")
    lines = err.strip().splitlines()
    said = f"Interrupted before there was a checkpoint. To continue: afina study {this.source} --out {tmp_path}"
    assert lines[-1] == said
    assert "Traceback" not in err
    assert left_behind(tmp_path) == set()


def test_ctrl_c_in_a_notebook_leaves_a_checkpoint_of_the_step_under_way(runs: Runs, tmp_path: Path) -> None:
    run, reference = runs.run("gpt2", "lora"), runs.record("gpt2", "lora")

    def interrupt(progress: Progress) -> None:
        if (progress.phase, progress.step) == ("train", 2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run.execute(tmp_path, listen=interrupt)
    assert account(tmp_path)["step"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps: list[int] = []
    record = run.execute(tmp_path, listen=lambda now: steps.append(now.step) if now.phase == "train" else None)
    assert (record.digest, record.losses) == (reference.digest, reference.losses)
    assert steps == [3, 4, 5, 6]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_ctrl_c_where_nothing_is_trained_is_obeyed_at_once(runs: Runs, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "evaluate":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(PATIENCE)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runs.run("gpt2", "lora").execute(tmp_path, listen=interrupt)
    assert time.monotonic() - began < PATIENCE
    assert account(tmp_path) == {}


@pytest.mark.slow
def test_terminated_before_its_first_checkpoint_a_run_leaves_one(
    case: Callable[[str], Case], tmp_path: Path, afina: Command
) -> None:
    this, out = case("lora"), tmp_path / "out"
    command = [*this.command(out), "--set", "train.checkpoint_seconds=3600"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if ": train" in line:
            break
    running = workers(process)
    time.sleep(0.8)  # a busy machine takes its time for the first step
    assert account(out) == {}
    os.killpg(process.pid, signal.SIGTERM)  # all its processes, as systemd does
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(PATIENCE) == 143
    assert_ended(running)
    assert err.strip().splitlines()[-1].startswith("Interrupted. To continue from the last checkpoint: afina study")
    assert 0 < account(out)["step"] < STEPS
    assert afina("study", this.source, "--out", out).code == 0
    assert_same(Results.read(out), this.reference)
