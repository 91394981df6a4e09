"""One run over several nodes: the same result as in one process, also when a process or a node is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from afina import Study
from afina.studies.runs.record import read_records
from command import HereExecutor, study_file
from drivers import Checkpoints, driving
from fakes import Backbones
from raylets import Raylets, wait_until_ended
from sleeping import Sleeping
from workers import until

pytestmark = pytest.mark.slow


def written(place: Path, toy: str, backbones: Backbones, **content: object) -> Path:
    """A study of one method without dropout, where no node sees its files."""
    shutil.copy(toy, place / "toy.csv")
    named: dict[str, object] = {"name": "wide", "methods": {"lora": {"dropout": 0.0}}}
    named |= {"backbone": str(backbones.path("gpt2", dropout=0.0)), "task": str(place / "toy.csv")}
    return study_file(place / "wide.toml", **named | content)


def test_runs_wait_for_two_nodes_each_and_a_lost_rank_is_a_lost_run(
    cluster: Raylets, place: Path, toy: str, backbones: Backbones
) -> None:
    source = written(place, toy, backbones, seeds=[0, 1], train={"max_steps": 2})
    sleeping = Sleeping(cluster.sleeping, 2, 300.0)
    with driving(cluster, place / "out", source, "--ship-backbone", "--devices", 2) as driver:
        until(lambda: len(sleeping.starts) == 2, driver.process)
        seeds, places = zip(*sleeping.starts, strict=True)
        assert len({*seeds}) == 1, "both processes execute one run"
        assert len({*places}) == 2, "on two nodes"
        until(lambda: re.search(r"waits for nodes with 2 times \d\.\d GiB and 1 CPU\n", driver.told), driver.process)
        os.kill(next(node for node in cluster.nodes if node.runs).runs[0].pid, signal.SIGKILL)
        until(lambda: len(sleeping.starts) >= 4, driver.process)
        assert "the process of this run was lost (signal 9 killed its process on node " in driver.told
        sleeping.set(seconds=0.0)
        driver.end()
    assert driver.recorded == ["lora", "lora"]
    assert sorted(Counter(seed for seed, _ in sleeping.starts).values()) == [2, 4]

    with driving(cluster, place / "four", source, "--ship-backbone", "--devices", 4) as driver:
        driver.end(2)
    assert re.search(r"a run needs nodes with 4 times .* and 1 CPU; all have room for 3", driver.told)


def test_a_run_over_two_nodes_of_which_one_is_killed_has_the_result_of_one_process(
    cluster: Raylets, place: Path, toy: str, backbones: Backbones, tmp_path: Path
) -> None:
    train = {"max_steps": 200, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0}
    source = written(place, toy, backbones, train=train)
    (alone,) = Study.load(str(source)).run(tmp_path, executor=HereExecutor()).records
    checkpoints = Checkpoints(cluster, source)
    with driving(cluster, place / "ray", source, "--ship-backbone", "--devices", 2) as driver:
        early = until(checkpoints.written, driver.process)
        until(lambda: checkpoints.written() - early, driver.process)
        (_, second) = [node for node in cluster.nodes if node.runs]
        others = cluster.kill(second)
        wait_until_ended(others)
        driver.end()
    (found,) = read_records(place / "ray" / "records.jsonl")
    assert found.devices is not None
    assert (found.steps, found.devices.count) == (alone.steps, 2)
    assert "the machine of this run was lost" in driver.told
    events = [json.loads(line) for line in (place / "ray" / "events.jsonl").read_text().splitlines()]
    lost = next(number for number, one in enumerate(events) if "was lost" in one.get("words", ""))
    assert next(one["step"] for one in events[lost:] if one.get("phase") == "train" and one["step"]) > 1, "began anew"
    assert checkpoints.written() == set(), "its checkpoint stays"
    torch.testing.assert_close(
        load_file(next((place / "ray" / str(found.adapter)).glob("*.safetensors"))),
        load_file(next((tmp_path / str(alone.adapter)).glob("*.safetensors"))),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(found.losses, alone.losses, rtol=1e-5, atol=1e-5)
