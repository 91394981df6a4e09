"""`torchrun -m afina train`: rank 0 prints, all compute, and a lost process leaves a run that continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from afina import Results
from afina.cli import torchrun
from afina.studies.runs.record import Record
from command import PROGRAM, Command
from fakes import Backbones
from workers import alive, checkpoints_below, until

TORCHRUN = str(Path(sys.executable).with_name("torchrun"))

STEPS = 400


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, count: int = 2) -> None:
    for name, value in {"RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("line", [("study", "quickstart"), ("predict", "results/train", "A text."), ("show", "out")])
def test_other_commands_are_refused_once(
    afina: Command, monkeypatch: pytest.MonkeyPatch, line: Sequence[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    as_rank(monkeypatch, 0)
    assert f"`afina {line[0]}` was started as 2 processes" in afina(*line).error
    as_rank(monkeypatch, 1)
    answer = afina(*line)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_help_is_printed_once(afina: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0)
    assert "torchrun" in afina("train", "--help").out
    as_rank(monkeypatch, 1)
    assert afina("train", "--help").out == ""


@pytest.mark.parametrize(
    "option", [("--executor", "ray"), ("--storage", "shared"), ("--ship-backbone",), ("--devices", "2")]
)
def test_options_of_other_executors_are_refused(
    afina: Command, monkeypatch: pytest.MonkeyPatch, toy: str, option: Sequence[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torchrun, "begin", lambda arguments: None)
    monkeypatch.setattr(torchrun, "executor", lambda: object())
    message = afina("train", "--task", toy, "--out", tmp_path / "out", *option).error
    assert message.startswith(f"{option[0]}: has no effect") or message.startswith(f"{option[0]} has no effect")


def test_a_process_of_one_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0, count=1)
    torchrun.begin(["study", "quickstart"])
    assert torchrun.executor() is None
    assert torchrun.command(["train"]) == ["afina", "train"]
    as_rank(monkeypatch, 0, count=4)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert torchrun.command(["train"]) == ["torchrun", "--nnodes", "2", "--nproc-per-node", "2", "-m", "afina", "train"]


class Started:
    """`torchrun -m afina train` of so many processes; 0: `afina train`."""

    def __init__(self, line: Sequence[str], count: int, out: Path) -> None:
        before = [TORCHRUN, "--nproc-per-node", str(count), *PROGRAM[1:]] if count else PROGRAM
        self.out = out
        self.process = subprocess.Popen(
            [*before, *line, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ranks(self) -> dict[int, psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return {int(one.environ()["RANK"]): one for one in children if "RANK" in one.environ()}

    def wait_for_checkpoint(self) -> dict[int, psutil.Process]:
        until(lambda: checkpoints_below(self.out), self.process)
        return self.ranks()

    def end(self) -> tuple[str, str]:
        return self.process.communicate(timeout=300)

    def record(self) -> Record:
        out, err = self.end()
        assert self.process.returncode == 0, err[-2000:]
        (record,) = Results.read(self.out).records
        assert json.loads(out)["records"][0]["digest"] == record.digest
        return record


def tensors(out: Path, record: Record) -> dict[str, np.ndarray]:
    (adapter,) = (out / str(record.adapter)).glob("*.safetensors")
    return {**load_file(adapter), **load_file(out / record.predictions)}


@pytest.mark.slow  # torchrun, its processes and the imports of torch, six times
def test_a_killed_or_interrupted_run_continues_with_another_number_of_processes(
    backbones: Backbones, toy: str, tmp_path: Path
) -> None:
    line = ["train", "--task", toy, "--backbone", str(backbones.path("gpt2", dropout=0.0)), "--json"]
    for setting in ("dtype=float32", f"max_steps={STEPS}", "products=float", "dropout=0.0", "checkpoint_seconds=0"):
        line += ["--set", setting]
    whole = Started(line, 0, tmp_path / "whole")
    expected = tensors(whole.out, whole.record())
    lost = "another process of the run was lost"
    for number, (count, killed, said, then) in enumerate(
        [(2, [1], lost, 3), (2, [0, 1], "", 0), (2, None, "Interrupted. To continue", 2)]
    ):
        out = tmp_path / str(number)
        first = Started(line, count, out)
        ranks = first.wait_for_checkpoint()
        for rank in killed or ():
            ranks[rank].kill()
        if killed is None:
            first.process.send_signal(signal.SIGINT)
        _, err = first.end()
        assert first.process.returncode != 0
        assert err.count(said or "SIGKILL") >= 1
        assert said != lost or err.count(lost) == 1, err
        assert "To continue from the last checkpoint: torchrun --nproc-per-node 2 -m afina train" in err or killed
        assert not any(map(alive, ranks.values()))
        assert checkpoints_below(out)
        again = Started(line, then, out)
        record = again.record()
        assert record.steps == STEPS
        assert (record.devices.count if record.devices else 0) == then
        found = tensors(out, record)
        for name, tensor in expected.items():
            assert np.abs(found[name] - tensor).max() <= 1e-5 * max(1.0, float(np.abs(tensor).max())), (number, name)
