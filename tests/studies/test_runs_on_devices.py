"""Runs that real processes of this machine compute together: the result of one process, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afina import Study
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.runs.output_directory import SCRATCH
from afina.studies.runs.record import Record
from afina.tensorfile import read
from command import PROGRAM, HereExecutor, study_file
from fakes import Backbones
from scribe import Scribe
from workers import PATIENCE, assert_ended, checkpoints_below, until, workers

pytestmark = pytest.mark.slow

STEPS = 300


def content(backbones: Backbones, toy: str, **changes: Any) -> dict[str, Any]:
    """A study of one run without dropout, whose masks depend on the number of processes: one, or several."""
    train = {"max_steps": STEPS, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0}
    backbone, methods = str(backbones.path("gpt2", dropout=0.0)), {"lora": {"dropout": 0.0}}
    return {"name": "wide", "backbone": backbone, "task": toy, "train": train, "methods": methods} | changes


def tensors(out: Path, record: Record) -> Mapping[str, torch.Tensor]:
    assert record.adapter is not None
    return read(next((out / record.adapter).glob("*.safetensors")))[0]


def test_a_run_of_two_processes_goes_on_after_ctrl_c_and_a_killed_process_to_the_result_of_one(
    backbones: Backbones, toy: str, tmp_path: Path
) -> None:
    source, out = study_file(tmp_path / "wide.toml", **content(backbones, toy)), tmp_path / "out"
    (alone,) = Study.load(str(source)).run(tmp_path / "alone", executor=HereExecutor()).records
    command = [*PROGRAM, "study", str(source), "--out", str(out), "--devices", "2"]
    for sent, code in ((signal.SIGINT, 130), (signal.SIGKILL, 2)):
        before = {path.stat().st_mtime_ns for path in checkpoints_below(out)}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda kept=before: {path.stat().st_mtime_ns for path in checkpoints_below(out)} - kept, process)
            running = workers(process)
            assert len(running) == 2
            os.kill(process.pid if code == 130 else max(one.pid for one in running), sent)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert_ended(running, seconds=5.0)
        assert [path.parent for path in checkpoints_below(out)] == [out / "checkpoints"]
        assert not (out / SCRATCH).exists()
        said = "To continue from the last checkpoint: afina study" if code == 130 else "signal 9 killed its process"
        assert said in err

    scribe = Scribe()
    (found,) = Study.load(str(source)).run(out, scribe, executor=LocalExecutor(devices=2)).records
    assert scribe.steps, "it was done before, so this test shows nothing"
    assert 1 not in scribe.steps, "it began anew"
    assert found.devices is not None
    assert found.devices.count == 2
    np.testing.assert_allclose(found.losses, alone.losses, rtol=1e-5, atol=1e-5)
    assert found.metrics == pytest.approx(alone.metrics, abs=1e-5, nan_ok=True)
    torch.testing.assert_close(tensors(out, found), tensors(tmp_path / "alone", alone), rtol=1e-5, atol=1e-5)


def test_trials_of_two_processes_that_share_the_weights_are_scored_as_those_of_one(
    backbones: Backbones, toy: str, tmp_path: Path
) -> None:
    train = {"max_steps": 8, "batch_size": 4, "dtype": "float32"}
    tune = {"candidates": 2, "validation": 0.3}
    study = Study.parse(content(backbones, toy, train=train, tune=tune), "tuned")
    alone = study.run(tmp_path / "alone", executor=HereExecutor()).tuned
    made = study.run(tmp_path / "out", executor=LocalExecutor(devices=2, shard=True))
    found, (record,) = made.tuned, made.records
    assert record.devices is not None
    assert record.devices.shards
    scores = [[one.value for one in each[0].trials] for each in (alone, found)]
    assert len(scores[0]) >= 2
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
