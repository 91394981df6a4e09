"""Which stores replicas on several machines can share, and the resources of a replica."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import AdapterStore
from afina.errors import Refused
from raises import raises

pytest.importorskip("ray.serve", reason="needs the extra afina[ray]")

from afina.cluster.nodes import Node, Room
from afina.server.ray_serve.deployment import DeploymentOptions
from afina.server.ray_serve.placement import check_machines, planned_options


def node(address: str, host: str = "one", cpus: int = 4, gpus: int = 0) -> Node:
    return Node(key=f"{address} {host}", address=address, host=host, room=Room(cpus, 0, gpus))


def test_a_store_in_a_directory_serves_the_nodes_of_one_machine_only(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    check_machines([node("10.0.0.1"), node("10.0.0.1")], store)
    check_machines([node("127.0.0.2"), node("127.0.0.3")], store)
    with raises(Refused, code="store.not-shared"):
        check_machines([node("10.0.0.1", "one"), node("10.0.0.2", "two")], store)


def planned(*nodes: Node, replicas: str = "2", free: dict[str, float] | None = None) -> DeploymentOptions:
    return planned_options(DeploymentOptions(backbone="embedded", replicas=replicas), nodes, free or {})


def test_replicas_share_the_processors_of_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    head = node("10.0.0.1", cpus=0)
    assert planned(head, node("10.0.0.2")).threads == 2
    assert planned(head, node("10.0.0.2"), node("10.0.0.3")).threads == 4
    assert planned(head, node("10.0.0.2"), node("10.0.0.3", cpus=2), replicas="1:4").threads == 1
    assert planned(node("10.0.0.2", cpus=1), replicas="8").threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert planned(head, node("10.0.0.2")).threads == 3


def test_each_replica_has_a_gpu_where_the_cluster_has_any() -> None:
    assert planned(node("10.0.0.2")).gpus == 0
    assert planned(node("10.0.0.2"), node("10.0.0.3", gpus=2)).gpus == 1


def test_a_new_replica_starts_before_an_old_one_ends_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert planned(node("10.0.0.2"), free={"CPU": 2.0}).surge == 1
    assert planned(node("10.0.0.2"), free={"CPU": 1.0}).surge == 0
    assert planned(node("10.0.0.2", gpus=2), free={"CPU": 4.0}).surge == 0
