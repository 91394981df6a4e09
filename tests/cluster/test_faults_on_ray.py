"""Clusters on which a study cannot go on, or only later: sentences that say why. Most runs of these tests sleep."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone
from command import study_file
from drivers import driving
from raylets import SITE, SOURCE, Raylets
from sleeping import Sleeping
from workers import until

pytestmark = pytest.mark.slow

TRIES = 3
"""How often the process of a run may die."""


@pytest.fixture
def study(place: Path, toy: str, gpt2: Backbone) -> Callable[..., Path]:
    """A study file for so many seeds of LoRA."""
    shutil.copy(toy, place / "toy.csv")

    def written(seeds: int) -> Path:
        content = {"name": "sleeps", "backbone": gpt2.address, "task": "toy.csv", "seeds": list(range(seeds))}
        return study_file(place / "study.toml", **content, train={"max_steps": 2}, methods={"lora": {}})

    return written


@pytest.fixture
def slept(cluster: Raylets, tmp_path: Path) -> Callable[..., Sleeping]:
    """Make the runs of a cluster's first two nodes, which are its only ones, and of a driver sleep."""

    def made(seeds: int, seconds: float, nodes: int = 2, **settings: Any) -> Sleeping:
        sleeping = Sleeping(tmp_path / "sleeping", seeds, seconds, **settings)
        cluster.keep(0)
        for _ in range(nodes):
            cluster.add(env_vars=sleeping.environment)
        return sleeping

    return made


def asleep(cluster: Raylets, place: Path, source: Path, sleeping: Sleeping, *more: object) -> Any:
    """A driver whose forecast of memory is that of the runs that sleep."""
    environment = {**sleeping.environment, "PYTHONPATH": f"{SITE}:{SOURCE}"}
    return driving(cluster, place / "out", source, "--ship-backbone", *more, environment=environment)


# Processes that die


def test_a_run_whose_process_dies_three_times_fails_with_its_reason_and_the_others_go_on(
    cluster: Raylets, place: Path, study: Callable[..., Path], slept: Callable[..., Sleeping]
) -> None:
    sleeping = slept(4, 0.5, dies=[1])
    with asleep(cluster, place, study(4), sleeping) as driver:
        driver.end(2)
    assert driver.recorded == ["lora"] * 3
    assert [seed for seed, _ in sleeping.starts].count(1) == TRIES
    assert len(sleeping.starts) == 3 + TRIES
    assert "Error: lora, seed 1: the process of this run was lost (signal 9 killed its process on node " in driver.told
    assert f", {TRIES} times in all" in driver.told
    assert "1 of 4 runs failed" in driver.told


# Room


def test_a_run_waits_for_a_node_with_room_and_says_for_how_large_a_node(
    cluster: Raylets, place: Path, study: Callable[..., Path], slept: Callable[..., Sleeping]
) -> None:
    sleeping = slept(3, 2.0)
    with asleep(cluster, place, study(3), sleeping, "--jobs", 3) as driver:
        driver.end()
    assert re.search(r"lora, seed \d: waits for a node with \d\.\d GiB and 1 CPU\n", driver.told), driver.told
    assert driver.recorded == ["lora"] * 3


def test_a_run_that_no_node_could_ever_hold_is_an_error(
    cluster: Raylets, place: Path, study: Callable[..., Path], slept: Callable[..., Sleeping]
) -> None:
    sleeping = slept(2, 0.5, needs=3 * 2**30)
    with asleep(cluster, place, study(2), sleeping) as driver:
        driver.end(2)
    assert re.search(r"needs a node with 3\.\d GiB and 1 CPU; the largest has 2.0 GiB and 1 CPU", driver.told)
    assert not (sleeping.folder / "starts").exists()


def test_a_node_that_joins_is_used(
    cluster: Raylets, place: Path, study: Callable[..., Path], slept: Callable[..., Sleeping]
) -> None:
    sleeping = slept(12, 1.5, nodes=1)
    with asleep(cluster, place, study(12), sleeping) as driver:
        until(lambda: driver.recorded, driver.process)
        joined = cluster.add(env_vars=sleeping.environment)
        driver.end()
    assert [place for _, place in sleeping.starts].count(str(joined.cache)) >= 2
    assert driver.recorded == ["lora"] * 12


# Nodes that do not suit


def test_a_node_of_another_version_is_refused_by_name(
    cluster: Raylets, place: Path, study: Callable[..., Path]
) -> None:
    odd = cluster.add(env_vars={"AFINA_TEST_VERSION": "peft=9.9"})
    with driving(cluster, place / "out", study(1), "--ship-backbone") as driver:
        error = driver.error
    assert odd.address in error
    assert "peft" in error
    assert "9.9" in error


def test_a_node_that_lacks_a_directory_backbone_is_named_before_anything_runs(
    cluster: Raylets, place: Path, study: Callable[..., Path], gpt2: Backbone
) -> None:
    own = shutil.copytree(gpt2.address, place / "own")
    with driving(cluster, place / "out", study(1), "--backbone", own) as driver:
        error = driver.error
    assert str(own) in error
    assert "--ship-backbone" in error
    for node in cluster.nodes:
        assert node.address in error


@pytest.mark.parametrize("given", [True, False])
def test_nodes_that_do_not_see_the_storage_are_named_before_anything_runs(
    cluster: Raylets, place: Path, study: Callable[..., Path], given: bool
) -> None:
    storage = ["--storage", str(place / "storage")] if given else []
    with driving(cluster, place / "out", study(1), "--ship-backbone", storage=storage) as driver:
        error = driver.error
    assert "storage" in error
    for node in cluster.nodes:
        assert node.address in error


# Authentication


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    """A cluster that asks for a token."""
    with Raylets(tmp_path / "nodes", tmp_path / "driver", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="right" * 8) as running:
        (running.hidden / "work").mkdir()
        yield running


def test_a_cluster_with_token_authentication_takes_the_right_token_alone(
    guarded: Raylets, tmp_path: Path, toy: str, gpt2: Backbone
) -> None:
    place = guarded.hidden / "work"
    sleeping = Sleeping(tmp_path / "sleeping", 1, 0.5)
    guarded.add(env_vars=sleeping.environment)
    source = place / "study.toml"
    source.write_text(f"name = 'one'\nbackbone = {gpt2.address!r}\ntask = {toy!r}\n[methods.lora]\n")
    with asleep(guarded, place, source, sleeping) as driver:
        driver.end()
    assert driver.recorded == ["lora"]
    for wrong in ({"RAY_AUTH_TOKEN": "wrong" * 8}, {"RAY_AUTH_MODE": "disabled"}):
        with driving(guarded, place / "out", source, environment=wrong) as driver:
            assert "token" in driver.error
