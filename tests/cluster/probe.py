"""A driver that starts an actor on each node and prints what the actors see, in a line of JSON.

    python probe.py ADDRESS FILE

`FILE` is a file of the driver, which the nodes must not see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def error(action: Callable[[], object]) -> str:
    """The name of the error that `action` ends in; empty if it ends in none."""
    try:
        action()
    except OSError as raised:
        return type(raised).__name__
    return ""


def look(secret: str) -> dict[str, Any]:
    """What this process sees."""
    child = [sys.executable, "-c", f"open({secret!r})"]
    folder = Path(secret).parent
    return {
        "address": ray.util.get_node_ip_address(),
        "folder": str(Path.cwd()),
        "cache": os.environ["AFINA_CACHE"],
        "listed": sorted(map(str, folder.iterdir())) if folder.exists() else [],
        "open": error(lambda: Path(secret).read_text()),
        "open in C++": error(lambda: pyarrow.OSFile(secret).read()),
        "write": error(lambda: (folder / "new").write_text("new")),
        "child": subprocess.run(child, capture_output=True).returncode,
    }


if __name__ == "__main__":
    _, address, secret = sys.argv
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    remote = ray.remote(num_cpus=1)(look)
    seen = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(secret)
        for node in nodes
    ]
    print(json.dumps(ray.get(seen, timeout=60)))
