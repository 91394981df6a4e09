"""Nodes of a cluster without a cluster: room in words, addresses that cannot be used, versions that differ."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from afina.cluster import connection, nodes
from afina.cluster.nodes import Node, Room
from afina.errors import InvalidStudy, NotFound, Refused

GIB = 2**30


def node(key: str, room: Room) -> Node:
    return Node(key * 16, f"10.0.0.{len(key)}", f"host-{key}", room)


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (Room(1), "1 CPU"),
        (Room(2, int(3.1 * GIB)), "3.1 GiB and 2 CPUs"),
        (Room(4, 16 * GIB, 1), "16.0 GiB, 4 CPUs and 1 GPU"),
    ],
)
def test_room_in_words(room: Room, said: str) -> None:
    assert str(room) == said


def test_how_often_work_fits_into_a_node() -> None:
    place = Room(8, 10 * GIB)
    assert place.times(Room(1)) == 8
    assert place.times(Room(2, 3 * GIB)) == 3
    assert place.times(Room(1, GIB, 1)) == 0
    assert nodes.together([place, Room(1, GIB, 2)]) == Room(9, 11 * GIB, 2)


def test_nodes_with_other_versions_are_named_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"torch": "2.9.0", "peft": "0.17.0", "afina": "1 (sources 12)"}
    versions = {"a" * 16: here, "b" * 16: {**here, "torch": "2.8.0", "peft": None}}
    there = [node(key, Room(1)) for key in "abc"]  # the third died before it answered
    monkeypatch.setattr(nodes, "versions_here", lambda: here)
    monkeypatch.setattr(nodes, "on_each", lambda asked, function: versions)
    with pytest.raises(Refused) as caught:
        nodes.check_versions(there)
    assert caught.value.code == "cluster.versions-differ"
    assert caught.value.fields["nodes"] == [
        "node host-b (10.0.0.1, bbbbbbbb) has torch 2.8.0",
        "node host-b (10.0.0.1, bbbbbbbb) has peft not installed",
    ]
    nodes.check_versions(there[:1])


def test_a_node_that_does_not_answer_in_time_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(refs: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert (num_returns, timeout) == (2, 2.0)
        return refs[:1], refs[1:]

    def get(ref: str) -> str:
        assert ref == "of a"
        return ref

    task = SimpleNamespace(options=lambda scheduling_strategy, **_: task_on[scheduling_strategy])
    task_on = {key * 16: SimpleNamespace(remote=lambda key=key: f"of {key}") for key in "ab"}
    monkeypatch.setattr(nodes, "NodeAffinitySchedulingStrategy", lambda key, soft: key)
    fake = SimpleNamespace(remote=lambda function: task, wait=wait, get=get, exceptions=ray.exceptions)
    monkeypatch.setattr(nodes, "ray", fake)
    there = [node(key, Room(1)) for key in "ab"]
    assert nodes.on_each(there, lambda: None, timeout=2.0) == {"a" * 16: "of a"}


def test_the_versions_of_this_machine_are_those_of_every_package_that_decides_results() -> None:
    found = nodes.versions_here()
    assert found.keys() == {"torch", "transformers", "peft", "afina"}
    assert None not in found.values()
    assert "sources" in str(found["afina"])


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265", "somewhere", "10.0.0.1:"])
def test_an_address_that_cannot_be_a_clusters_is_refused_before_anything_is_asked(address: str) -> None:
    with pytest.raises(InvalidStudy) as caught:
        connection.connect(address)
    assert caught.value.code == "cluster.address-invalid"


def test_where_no_cluster_answers_the_error_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connection.ADDRESS, "127.0.0.1:1")
    with pytest.raises(NotFound, match="from RAY_ADDRESS") as caught:
        connection.connect()
    assert caught.value.code == "cluster.unreachable"
