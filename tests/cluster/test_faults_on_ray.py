"""Clusters on which a study cannot go on, or only later: sentences that say why."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone
from command import study_file
from drivers import driving
from raylets import Raylets
from sleeping import Sleeping
from workers import until

pytestmark = pytest.mark.slow

TRIES = 3
"""How often the process of a run may die."""


@pytest.fixture
def study(place: Path, toy: str, gpt2: Backbone) -> Callable[..., Path]:
    """A study file for so many seeds of methods."""
    shutil.copy(toy, place / "toy.csv")

    def written(seeds: int, *methods: str) -> Path:
        content = {"name": "sleeps", "backbone": gpt2.address, "task": "toy.csv", "seeds": list(range(seeds))}
        named: dict[str, Any] = {name: {} for name in methods}
        return study_file(place / "study.toml", **content, train={"max_steps": 2}, methods=named)

    return written


def test_a_run_that_dies_or_is_too_large_fails_alone_and_another_waits_for_room_until_a_node_joins(
    cluster: Raylets, place: Path, study: Callable[..., Path]
) -> None:
    sleeping = Sleeping(cluster.sleeping, 5, 300.0, dies=[1])
    with driving(cluster, place / "out", study(5, "lora", "ia3"), "--ship-backbone", "--jobs", 10) as driver:
        until(lambda: "waits for a node with" in driver.told, driver.process)
        joined = cluster.add()
        until(lambda: str(joined.cache) in [where for _, where in sleeping.starts], driver.process)
        sleeping.set(seconds=0.0)
        driver.end(2)
    assert driver.recorded == ["lora"] * 4
    assert re.search(r"lora, seed \d: waits for a node with \d\.\d GiB and 1 CPU\n", driver.told), driver.told
    assert re.search(
        r"ia3, seed 4: .*needs a node with 3\.\d GiB and 1 CPU; the largest has 2.0 GiB and 1 CPU",
        driver.told,
    )
    assert "Error: lora, seed 1: the process of this run was lost (signal 9 killed its process on node " in driver.told
    assert f", {TRIES} times in all" in driver.told
    assert "6 of 10 runs failed" in driver.told
    assert Counter(seed for seed, _ in sleeping.starts) == {0: 1, 1: TRIES, 2: 1, 3: 1, 4: 1}


def test_a_node_of_another_version_is_refused_by_name(
    cluster: Raylets, place: Path, study: Callable[..., Path]
) -> None:
    odd = cluster.add(env_vars={"AFINA_TEST_VERSION": "peft=9.9"})
    with driving(cluster, place / "out", study(1, "lora"), "--ship-backbone") as driver:
        error = driver.error
    assert odd.address in error
    assert "peft" in error
    assert "9.9" in error


def test_a_node_that_lacks_a_directory_backbone_is_named_before_anything_runs(
    cluster: Raylets, place: Path, study: Callable[..., Path], gpt2: Backbone
) -> None:
    own = shutil.copytree(gpt2.address, place / "own")
    with driving(cluster, place / "out", study(1, "lora"), "--backbone", own) as driver:
        error = driver.error
    assert str(own) in error
    assert "--ship-backbone" in error
    for node in cluster.nodes:
        assert node.address in error
