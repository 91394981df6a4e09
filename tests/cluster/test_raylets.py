"""The cluster of these tests: its nodes are like other machines, or the other tests show nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raylets import Raylets

pytestmark = pytest.mark.slow

PROBE = Path(__file__).with_name("probe.py")


def probed(cluster: Raylets, secret: Path) -> list[dict[str, Any]]:
    """What each node sees, in the order in which the nodes were started."""
    command = [sys.executable, str(PROBE), cluster.address, str(secret)]
    done = subprocess.run(command, env=cluster.driver, cwd=secret.parent, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    seen = {one["address"]: one for one in json.loads(done.stdout)}
    assert seen.keys() == {node.address for node in cluster.nodes}
    return [seen[node.address] for node in cluster.nodes]


def test_a_node_has_a_folder_of_its_own_and_does_not_see_the_drivers(cluster: Raylets, place: Path) -> None:
    secret = place / "secret"
    secret.write_text("of the driver")
    for node, one in zip(cluster.nodes, probed(cluster, secret), strict=True):
        assert one["folder"] == str(node.folder)
        assert one["cache"] == str(node.cache)
        assert one["listed"] == []
        assert one["open"]
        assert one["write"]
        assert one["child"] == 1
        if one["open"] == "FileNotFoundError":  # else only what Python opens is refused
            assert one["open in C++"] == "FileNotFoundError"
    assert [path.name for path in place.iterdir()] == ["secret"]


def test_what_a_node_keeps_beside_its_cache_is_told(cluster: Raylets) -> None:
    node = cluster.nodes[0]
    (node.cache / "kept").touch()
    cluster.assert_tidy(0)
    left = node.folder / "tmp" / "left"
    left.touch()
    with pytest.raises(AssertionError, match="left"):
        cluster.assert_tidy(0)
    left.unlink()
