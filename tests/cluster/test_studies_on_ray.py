"""Studies on a cluster whose nodes share only the storage with the driver: the same digests as on one machine.

Also when nodes are killed, and when the driver is.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Study
from afina.models.backbone_spec import files_digest
from afina.studies.executors.ray_host import checkpoint_name
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.results import Results
from afina.studies.runs.inputs import facts_of
from afina.studies.runs.output_directory import SCRATCH
from command import HereExecutor, study_file
from drivers import digests, driving
from raylets import Raylets, wait_until_ended
from workers import until

pytestmark = pytest.mark.slow

KILLS = 2
"""Nodes that are killed during a study."""

PAUSE = 4.0
"""Seconds from one kill to the next, while runs are in progress."""


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


def six_runs(source: Path, task: object, backbone: object) -> Path:
    """A study of six runs, four of which train for some seconds and write checkpoints."""
    content = {"name": "several", "backbone": str(backbone), "task": str(task), "seeds": [0, 1]}
    train = {"max_steps": 300, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0}
    return study_file(source, **content, train=train, methods={"full": {}, "lora": {}, "baseline": {}})


@pytest.fixture
def several(place: Path, task: Path, backbone: Path) -> Path:
    """The study of six runs, where no node sees it."""
    return six_runs(place / "several.toml", task, backbone)


@pytest.fixture(scope="module")
def expected(toy: str, gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The digests of `several` on one machine; they are the same at other addresses."""
    folder = tmp_path_factory.mktemp("one-machine")
    return here(folder / "out", six_runs(folder / "several.toml", toy, gpt2.address))


def checkpoints(cluster: Raylets, source: Path) -> list[str]:
    """Names of the runs of a study whose checkpoint is in the storage."""
    storage = SharedStorage(str(cluster.storage))
    runs = [
        run.on_files(files_digest(run.backbone)).on(facts_of(run).data_digest) for run in Study.load(str(source)).runs()
    ]
    return [run.title for run in runs if storage.has(checkpoint_name(run))]


def assert_whole(out: Path) -> None:
    """Assert that all that is in `out` belongs to a record, or is a checkpoint."""
    # Results.read raises an error if files do not agree with their records.
    records = Results.read(out).records if (out / "records.jsonl").exists() else ()
    assert {path.name for path in (out / "adapters").glob("*")} == {Path(one.adapter).name for one in records}
    assert {path.name for path in (out / "predictions").glob("*")} == {Path(one.predictions).name for one in records}


def test_nodes_that_are_killed_and_replaced_change_no_digest(
    cluster: Raylets, place: Path, several: Path, expected: dict[str, tuple[str, str]]
) -> None:
    drawn = random.Random(31)
    killed = []
    with driving(cluster, place / "ray", several, "--ship-backbone", "--json") as driver:
        for _ in range(KILLS):
            until(lambda: any(node.runs for node in cluster.nodes), driver.process)
            time.sleep(PAUSE * drawn.random())
            if driver.process.poll() is None:
                busy = [node for node in cluster.nodes if node.runs] or cluster.nodes
                node = drawn.choice(busy)
                killed.append(bool(node.runs))
                others = cluster.kill(node)
                cluster.add()
                wait_until_ended(others)
        found = driver.digests()
        told = driver.told
    assert killed.count(True) == KILLS, "a node was killed that carried out no run, so this test shows nothing"
    assert told.count("the machine of this run was lost") >= KILLS
    assert found == expected
    assert_whole(place / "ray")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_ended_half_way_leaves_no_run_and_goes_on_when_it_is_started_again(
    cluster: Raylets, place: Path, several: Path, expected: dict[str, tuple[str, str]], sent: signal.Signals
) -> None:
    told = (cluster, place / "ray", several, "--ship-backbone", "--json")
    with driving(*told) as driver:
        until(lambda: len(checkpoints(cluster, several)) >= 2, driver.process)
        assert any(node.runs for node in cluster.nodes)
        driver.process.send_signal(sent)
        driver.end({signal.SIGINT: 130, signal.SIGKILL: -9}[sent])
        before = driver.recorded
    cluster.assert_tidy()
    assert len(before) < 6
    assert_whole(place / "ray")
    if sent == signal.SIGINT:
        assert "Interrupted. To continue: afina study" in driver.told
        assert len(checkpoints(cluster, several)) >= 2
        return  # from here on, it is the other test
    with driving(*told) as driver:
        assert driver.digests() == expected
    assert checkpoints(cluster, several) == []


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
    with driving(cluster, place / "ray", source, "--ship-backbone", "--json") as driver:
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
