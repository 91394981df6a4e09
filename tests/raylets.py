"""A Ray cluster of several raylets on this machine, each as much another machine as can be.

The head has no processors, so nothing runs there and no test kills it. Each other node has an address of its own, a
folder with its cache and its temporary files, and does not see the driver's folder (`node_site/sitecustomize.py`).

A guard, which is this file as a program, holds the cluster and ends it once nobody holds the guard's standard input any
more. So a cluster ends with the tests that started it, also where these are killed, and a node's environment is clean.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from workers import alive as is_alive
from workers import is_worker, paths_below

LONGEST_S = 60
"""What a node may take to start or to end on a busy machine."""

SITE = Path(__file__).with_name("node_site")
SOURCE = Path(__file__).resolve().parents[1] / "src"
MARK = ".driver"
"""A file in the driver's folder; a node that sees it is not another machine."""

STORE_BYTES = 150 * 2**20
"""Of a node's object store."""

MEMORY = 2**31
"""Bytes that a node says it has for runs."""


@dataclass
class Node:
    """A raylet: its folder, its process, its address, the name that Ray has for it, and its settings."""

    folder: Path
    pid: int
    address: str
    id: str
    settings: dict[str, Any]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def processes(self) -> list[psutil.Process]:
        """All processes of the node, the raylet first."""
        try:
            raylet = psutil.Process(self.pid)
            return [raylet, *raylet.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def children(self, part: str) -> list[psutil.Process]:
        """The node's processes that have `part` in their command line."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if any(part in word for word in process.cmdline()):
                    found.append(process)
        return found

    @property
    def runs(self) -> list[psutil.Process]:
        """Processes that carry out a run."""
        return list(filter(is_worker, self.processes()))


class Raylets:
    """A cluster in `folder`; `add` starts a node, `kill` ends one as a power cut would.

    `storage` is a folder that the driver and the nodes see. While there is a folder `sleeping`, with the material of
    `sleeping.py`, runs of the nodes sleep.

    Args:
        folder: The nodes get their folders here.
        hidden: The driver's folder, which is made.
        environment: More environment variables of all nodes, the head included.
    """

    def __init__(self, folder: Path, hidden: Path, **environment: str) -> None:
        self.folder, self.hidden, self.storage = folder, hidden.resolve(), folder / "storage"
        self.sleeping = folder / "sleeping"
        self.hidden.mkdir(parents=True, exist_ok=True)
        (self.hidden / MARK).touch()
        # Short: sockets lie below, and their paths have a limit.
        self.sockets = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self.nodes: list[Node] = []
        self.started = 0
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._made("home")),
            "RAY_TMPDIR": str(self.sockets),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join([str(SITE), str(SOURCE)]),
            "PYTHONWARNINGS": "ignore",
            "AFINA_TEST_HIDDEN": str(self.hidden),
            "AFINA_TEST_SLEEPING": str(self.sleeping),
            "RAY_AUTH_MODE": "disabled",
            # The death of a node is noticed after 1.5 s; a node that is only slow has 10 s for each answer.
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
            **environment,
        }
        self._guard = subprocess.Popen(
            [sys.executable, __file__],
            env=self.environment,
            cwd=self._made("head"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the tests alone, which then end the cluster
        )
        try:
            self.address: str = self._ask({"head": {}})["address"]
        except BaseException:
            self.stop()
            raise

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _ask(self, told: dict[str, Any]) -> dict[str, Any]:
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdin.write(json.dumps(told) + "\n")
        self._guard.stdin.flush()
        line = self._guard.stdout.readline()
        assert line, "the cluster did not start: its output is above"
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def driver(self) -> dict[str, str]:
        """Environment of a driver of this cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        names = ("RAY_TMPDIR", "RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
        shared = {name: self.environment[name] for name in names if name in self.environment}
        return kept | shared | {"PYTHONPATH": str(SOURCE)}

    def add(self, **settings: Any) -> Node:
        """Start a node with a new folder; `settings` are those of Ray, such as `num_cpus`, and `env_vars`."""
        self.started += 1
        folder = self._made(f"node-{self.started}")
        for name in ("cache", "tmp"):
            (folder / name).mkdir()
        address = f"127.0.0.{self.started + 1}"
        own = {"AFINA_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache" / "torch")  # else torch makes it below TMPDIR
        own |= settings.get("env_vars", {})
        whole = {"num_cpus": 1, "memory": MEMORY, "node_ip_address": address} | settings | {"env_vars": own}
        answer = self._ask({"node": whole, "folder": str(folder)})
        self.nodes.append(Node(folder, answer["pid"], address, answer["id"], settings))
        return self.nodes[-1]

    def assert_tidy(self, seconds: float = 10.0) -> None:
        """Assert that soon no node carries out a run, and that no node has a file but in its cache."""
        deadline = time.monotonic() + seconds
        while left := self._left():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def _left(self) -> list[str]:
        runs = [f"{node.address}: {run}" for node in self.nodes for run in node.runs]
        return runs + [
            str(path)
            for node in self.nodes
            for path in paths_below(node.folder)
            if node.cache not in path.parents and path not in (node.cache, node.folder / "tmp")
        ]

    def keep(self, count: int) -> None:
        """Let `count` plain nodes run: start what is missing, and kill what is beyond."""
        plain = [node for node in self.nodes if not node.settings][:count]
        for node in [node for node in self.nodes if node not in plain]:
            wait_until_ended(self.kill(node))
        for _ in range(len(plain), count):
            self.add()

    def kill(self, node: Node) -> list[psutil.Process]:
        """Kill the raylet with SIGKILL; return its other processes, which end by themselves soon after."""
        self.nodes.remove(node)
        _, *others = node.processes()
        os.kill(node.pid, signal.SIGKILL)
        self._ask({"reap": node.pid})
        return others

    def stop(self) -> None:
        """End all nodes, and remove the sockets and logs."""
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        try:
            self._guard.wait(LONGEST_S)
        finally:
            self._guard.kill()
            self._guard.stdout.close()
            shutil.rmtree(self.sockets, ignore_errors=True)

    def __enter__(self) -> Raylets:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()


def wait_until_ended(processes: list[psutil.Process], seconds: float = LONGEST_S) -> None:
    """Wait until all have ended; a process that outlives the seconds is an error."""
    _, alive = psutil.wait_procs(processes, seconds)
    assert not [process for process in alive if is_alive(process)], alive


def _guard() -> None:
    """Hold a cluster until standard input closes."""
    import ray
    from ray.cluster_utils import Cluster

    # Without what the dashboard asks, and without copies of logs, a node starts in half the time.
    ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("not needed")
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cluster, nodes = Cluster(shutdown_at_exit=True), {}
    try:
        for line in sys.stdin:
            told = json.loads(line)
            if "head" in told:
                none = {"include_dashboard": False, "include_log_monitor": False}
                cluster.add_node(num_cpus=0, object_store_memory=STORE_BYTES, **none)
                answer = {"address": cluster.address}
            elif "reap" in told:  # as init would; processes of a node end when its raylet has no entry any more
                os.waitpid(told["reap"], 0)
                cluster.worker_nodes.remove(nodes.pop(told["reap"]))
                answer = {}
            else:
                os.chdir(told["folder"])  # a process of a node starts here
                node = cluster.add_node(**told["node"], object_store_memory=STORE_BYTES)
                pid = node.all_processes["raylet"][0].process.pid
                nodes[pid], answer = node, {"pid": pid, "id": node.node_id}
            said.write(json.dumps(answer) + "\n")
            said.flush()
    finally:
        kinds = [kind for node in cluster.list_all_nodes() for kind in node.all_processes.values()]
        started = [psutil.Process(info.process.pid) for kind in kinds for info in kind]
        everything = psutil.Process().children(recursive=True)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(everything, 3)
        for process in everything:  # on a busy machine, some outlive their raylet for minutes
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    os._exit(0)  # Ray's own exit hooks would end each process again


if __name__ == "__main__":
    _guard()
