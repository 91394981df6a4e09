"""Studies on a cluster whose nodes share only the storage with the driver: the same digests as on one machine.

Also when a node is killed, and when the driver is.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Study
from afina.studies.results import Results
from afina.studies.runs.output_directory import SCRATCH
from command import HereExecutor, study_file
from drivers import Checkpoints, Driver, digests, driving
from raylets import Raylets, wait_until_ended
from workers import until

pytestmark = pytest.mark.slow

RUNS = 4
"""Of the study whose drivers are ended."""


def here(out: Path, source: object, *changes: str) -> dict[str, tuple[str, str]]:
    """The digests of a study whose runs are carried out in this process, with one thread."""
    results = Study.load(str(source), changes).run(out, executor=HereExecutor())
    assert not results.failed
    return digests([json.loads(one.model_dump_json()) for one in results.records])


@pytest.fixture
def task(place: Path, toy: str) -> Path:
    """The task, where no node sees it."""
    return Path(shutil.copy(toy, place / "toy.csv"))


@pytest.fixture
def backbone(place: Path, gpt2: Backbone) -> Path:
    """The backbone, where no node sees it."""
    return Path(shutil.copytree(gpt2.address, place / "gpt2"))


def four_runs(source: Path, task: object, backbone: object) -> Path:
    """A study of four runs that train for some seconds and write a checkpoint after each step."""
    content = {"name": "several", "backbone": str(backbone), "task": str(task), "seeds": [0, 1]}
    train = {"max_steps": 200, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0}
    return study_file(source, **content, train=train, methods={"full": {}, "lora": {}})


def assert_whole(out: Path) -> None:
    """Assert that all that is in `out` belongs to a record, or is a checkpoint."""
    # Results.read raises an error if files do not agree with their records.
    records = Results.read(out).records if (out / "records.jsonl").exists() else ()
    assert {path.name for path in (out / "adapters").glob("*")} == {Path(one.adapter).name for one in records}
    assert {path.name for path in (out / "predictions").glob("*")} == {Path(one.predictions).name for one in records}


def test_a_tuned_study_tries_and_chooses_as_on_one_machine(
    cluster: Raylets, place: Path, task: Path, backbone: Path, tmp_path: Path
) -> None:
    content = {"name": "tuned", "backbone": str(backbone), "task": str(task), "methods": {"baseline": {}, "lora": {}}}
    train = {"max_steps": 8, "batch_size": 4, "dtype": "float32"}
    tune = {"candidates": 4, "at_once": 4, "validation": 0.2, "pruner": "median"}
    source = study_file(place / "tuned.toml", **content, train=train, tune=tune)
    found = here(tmp_path, source)
    expected = tried(tmp_path)
    assert sum(len(trials) for _, trials in expected) >= 4
    with driving(cluster, place / "ray", source, "--ship-backbone", "--json", "--jobs", 2) as driver:
        assert driver.digests() == found
    assert tried(place / "ray") == expected
    assert_whole(place / "ray")
    assert not (place / "ray" / SCRATCH).exists()


def tried(out: Path) -> list[Any]:
    """The settings, steps and scores of all trials, and which setting was chosen."""
    return [
        (tuned.setting, [(one.setting, one.steps, one.value) for one in tuned.trials])
        for tuned in Results.read(out).tuned
    ]


def test_ended_drivers_and_a_killed_node_leave_no_run_and_change_no_digest(
    cluster: Raylets, place: Path, task: Path, backbone: Path, tmp_path: Path
) -> None:
    """One study: Ctrl-C ends its first driver, SIGKILL the second, and a node dies under the third."""
    told = (cluster, place / "ray", source := four_runs(place / "several.toml", task, backbone))
    told += ("--ship-backbone", "--json", "--jobs", 2)  # each node that is used imports torch anew
    checkpoints = Checkpoints(cluster, source)

    def until_trained(driver: Driver, runs: int) -> None:
        before = checkpoints.written()
        until(lambda: len(checkpoints.written() - before) >= runs, driver.process)
        assert any(node.runs for node in cluster.nodes)

    for sent, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with driving(*told) as driver:
            until_trained(driver, 2)
            driver.process.send_signal(sent)
            driver.end(code)
            assert len(driver.recorded) < RUNS
        cluster.assert_tidy()
        assert_whole(place / "ray")
        assert len(checkpoints.written()) >= 2
    assert driver.told.count("Interrupted. To continue: afina study") == 1

    with driving(*told) as driver:
        until_trained(driver, 1)
        others = cluster.kill(next(node for node in cluster.nodes if node.runs))
        assert others, "nothing was left to end"
        wait_until_ended(others)
        found = driver.digests()
    assert "the machine of this run was lost" in driver.told
    assert found == here(tmp_path / "out", source)
    assert checkpoints.written() == set()
    assert_whole(place / "ray")
