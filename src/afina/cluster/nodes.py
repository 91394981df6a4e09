"""The nodes of a Ray cluster: their addresses and resources, and a check that all have the same package versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from afina.cluster import problems

GIB = 2**30

Value = TypeVar("Value")


class Room(NamedTuple):
    """Resources that a run or a server's replica needs, or that a node has. `memory` in bytes; 0: none is reserved."""

    cpus: int
    memory: int = 0
    gpus: int = 0

    def times(self, other: Room) -> int:
        return min((mine // needed for mine, needed in zip(self, other, strict=True) if needed), default=0)

    def __str__(self) -> str:
        parts = [f"{self.memory / GIB:.1f} GiB"] if self.memory else []
        parts.append(f"{self.cpus} CPU{'s' * (self.cpus != 1)}")
        if self.gpus:
            parts.append(f"{self.gpus} GPU{'s' * (self.gpus != 1)}")
        return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class Node:
    """A living node of a Ray cluster; `key` is Ray's id of the node."""

    key: str
    address: str
    host: str
    room: Room

    @property
    def name(self) -> str:
        return f"{self.host} ({self.address}, {self.key[:8]})"


def living() -> list[Node]:
    """Return the living nodes in a stable order."""
    found = [
        Node(
            one["NodeID"],
            one["NodeManagerAddress"],
            one["NodeManagerHostname"],
            Room(
                int(one["Resources"].get("CPU", 0)),
                int(one["Resources"].get("memory", 0)),
                int(one["Resources"].get("GPU", 0)),
            ),
        )
        for one in ray.nodes()  # type: ignore[no-untyped-call]
        if one["Alive"]
    ]
    return sorted(found, key=lambda node: node.key)


def working() -> list[Node]:
    """Return the living nodes of the Ray cluster that have processors for runs or replicas."""
    return [node for node in living() if node.room.cpus]


def elsewhere() -> list[Node]:
    """Return the living nodes with processors, except the node on which this process runs."""
    here = ray.get_runtime_context().get_node_id()
    return [node for node in working() if node.key != here]


def together(rooms: Iterable[Room]) -> Room:
    return Room(*map(sum, zip(Room(0), *rooms, strict=True)))


def is_alive(key: str) -> bool:
    return any(node.key == key for node in living())


def scales() -> bool:
    """Return whether the Ray cluster has an autoscaler that starts nodes when work waits."""
    config = ray._private.state.state.get_cluster_config()
    return config is not None and any(group.max_count for group in config.node_group_configs)


Versions = Mapping[str, str | None]
"""Package versions by name; None: the package is not installed. The version of afina includes a digest of its Python
files."""


def _make_finder() -> Callable[[], dict[str, str | None]]:
    """Return a function that finds the package versions on the machine on which it is called, without imports.

    Ray sends a nested function as code, so the function also runs on a node that has another version of afina, or none.
    """

    def find() -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for name in ("torch", "transformers", "peft"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        spec = importlib.util.find_spec("afina")
        found["afina"] = None
        if spec is not None and spec.origin is not None:
            root, sha = Path(spec.origin).parent, hashlib.sha256()
            for path in sorted(root.rglob("*.py")):
                inside = hashlib.sha256(path.read_bytes()).hexdigest()
                sha.update(f"{path.relative_to(root).as_posix()} {inside}\n".encode())
            try:
                version = importlib.metadata.version("afina")
            except importlib.metadata.PackageNotFoundError:
                version = "unknown"
            found["afina"] = f"{version} (sources {sha.hexdigest()[:12]})"
        return found

    return find


@cache
def versions_here() -> Versions:
    """Return the package versions on this machine; they are read once for each process."""
    return _make_finder()()


def on_each(
    nodes: Iterable[Node], function: Callable[..., Value], *arguments: object, timeout: float | None = None
) -> dict[str, Value]:
    """Call a function on several nodes at once; return the results by node id.

    There is no result of a node that died, or that has not answered after `timeout` seconds. None: no limit.
    """
    task, asked = ray.remote(function), {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.key, soft=False)
        asked[node.key] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)
    found = {}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout)
    for key, ref in asked.items():
        if ref not in ready:
            continue
        try:
            found[key] = ray.get(ref)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            continue  # the node has died
    return found


def sees(path: str) -> bool:
    """Return whether this machine can read and write the directory; a node that is asked imports only this module."""
    return Path(path).is_dir() and os.access(path, os.R_OK | os.W_OK)


def check_versions(nodes: Sequence[Node]) -> None:
    here = versions_here()
    there: Mapping[str, Versions] = on_each(nodes, _make_finder())
    wrong = [
        f"node {node.name} has {name} {found[name] or 'not installed'}"
        for node in nodes
        for found in [there.get(node.key, here)]  # a node that has ended meanwhile is not checked
        for name in here
        if found[name] != here[name]
    ]
    if wrong:
        mine = ", ".join(f"{name} {version or 'not installed'}" for name, version in here.items())
        raise problems.NODES_DIFFER(nodes=wrong, _here=mine)
