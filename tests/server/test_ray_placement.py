"""What a cluster must have for replicas, and what a replica gets of it. Without a cluster."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from afina import AdapterStore, openmp
from afina.errors import InvalidStudy, NotFound, Refused

pytest.importorskip("ray.serve", reason="needs the extra afina[ray]")

from afina.cli.serving import _on_ray
from afina.cluster.nodes import Node, Room
from afina.server.ray_serve import affinity, lifecycle
from afina.server.ray_serve.application import PRELOADING, Replica, ReplicaOptions
from afina.server.ray_serve.deployment import DeploymentOptions, ReplicaRange, application, planned_options
from afina.server.settings import Settings
from raises import raises


def _node(host: str, address: str, cpus: int = 4, gpus: int = 0) -> Node:
    return Node(f"{host}{address}", address, host, Room(cpus, 0, gpus))


@pytest.mark.parametrize("name", [one.name for one in fields(Settings)])
def test_every_setting_of_the_server_reaches_a_replica_with_its_type(name: str) -> None:
    value = getattr(Settings(), name)
    match value:
        case bool():
            changed: Any = not value
        case None:
            changed = 7
        case tuple():
            changed = ["acme/reviews"]
        case _:
            changed = value + 1
    given = DeploymentOptions(backbone="x", settings={name: changed})
    found = ReplicaOptions(**json.loads(given.model_dump_json(include=set(ReplicaOptions.model_fields)))).settings[name]
    assert (found, type(found)) == (changed, type(changed))


def test_changed_limits_reach_the_proxy() -> None:
    settings = Settings(body_bytes=5 << 20, body_seconds=3.0, window=7)
    core = SimpleNamespace(settings=settings, held_names=[])
    said = asyncio.run(Replica.record_routing_stats(SimpleNamespace(core=core)))  # type: ignore[arg-type]
    found = affinity.RequestLimits.highest([json.loads(json.dumps(said))[affinity.LIMITS]])
    assert {name: getattr(settings, name) for name in found._fields} == found._asdict()


@pytest.mark.parametrize(("text", "expected"), [("2", (2, 2)), ("1:4", (1, 4)), (" 3:3 ", (3, 3))])
def test_replicas_are_a_number_or_a_range(text: str, expected: tuple[int, int]) -> None:
    assert ReplicaRange.parse(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "4:1", "0:2", "two", "1:2:3", "", "1.5"])
def test_other_words_for_replicas_are_refused(text: str) -> None:
    with raises(InvalidStudy, code="option.invalid", option="replicas"):
        application(DeploymentOptions(backbone="embedded", replicas=text))


def test_a_store_in_a_directory_is_of_one_machine_however_many_nodes_that_has(tmp_path: Path) -> None:
    directory, database = AdapterStore(tmp_path), AdapterStore("postgresql://db.example/adapters")
    one = [_node("a", "127.0.0.1"), _node("a", "127.0.0.2")]
    two = [_node("a", "10.0.0.1"), _node("a", "10.0.0.2")]
    lifecycle.check_machines(one, directory)
    lifecycle.check_machines(two, database)
    with raises(Refused, code="store.not-shared", machines=["a 10.0.0.1", "a 10.0.0.2"]):
        lifecycle.check_machines(two, directory)


def test_blobs_that_a_node_does_not_see_are_refused_by_the_nodes_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store := AdapterStore(tmp_path / "store")).init()
    there = [_node("a", "127.0.0.1"), _node("a", "127.0.0.2"), _node("a", "127.0.0.3")]
    answers = {there[0].key: True, there[1].key: False}  # the third node has died meanwhile
    monkeypatch.setattr(lifecycle, "check_versions", lambda nodes: None)
    monkeypatch.setattr(lifecycle, "on_each", lambda nodes, function, path: answers)
    with raises(Refused, code="store.not-shared", nodes=[there[1].name]):
        lifecycle.check_cluster(there, store)


@pytest.mark.parametrize(
    ("replicas", "threads", "expected"),
    [("1", None, 4), ("2", None, 4), ("3", None, 2), ("16", None, 1), ("2", "3", 3), ("2", "0", 4)],
)
def test_replicas_share_the_processors_of_their_node_unless_threads_are_given(
    monkeypatch: pytest.MonkeyPatch, replicas: str, threads: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    nodes = [_node("head", "10.0.0.1", 0), _node("a", "10.0.0.2", 4), _node("b", "10.0.0.3", 8)]
    found = planned_options(DeploymentOptions(backbone="embedded", replicas=replicas), nodes, {"CPU": 12.0})
    assert (found.threads, found.gpus, found.surge) == (expected, 0, 1)


def test_a_new_replica_comes_before_an_old_one_ends_only_if_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    nodes = [_node("a", "10.0.0.2", 4, gpus=1)]
    options = DeploymentOptions(backbone="embedded")
    surges = [planned_options(options, nodes, free).surge for free in ({"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0}, {})]
    assert surges == [1, 0, 0]
    assert planned_options(options, nodes, {}).gpus == 1


def test_replicas_that_do_not_start_are_an_error_with_their_own_reason() -> None:
    trace = (
        "A replica failed to start with exception. Retrying 1 more time(s). Error:\n"
        "Traceback (most recent call last):\n"
        '  File "engine.py", line 70, in __init__\n'
        "afina.errors.NotFound: backbone x: there is no directory x.\n"
    )
    found = lifecycle._failed(trace)
    assert (found.code, found.fields) == (
        "server.replicas-failed",
        {"reason": "backbone x: there is no directory x."},
    )
    assert lifecycle._failed("").fields == {"reason": "no reason is known"}


def test_a_cluster_that_is_lost_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(options: DeploymentOptions, signals: object) -> bool:
        raise lifecycle.ray.exceptions.ActorDiedError()

    ended: list[bool] = []
    monkeypatch.setattr(lifecycle, "_connected", lambda address: nullcontext(SimpleNamespace(address=address)))
    monkeypatch.setattr(lifecycle, "living", lambda: [_node("a", "127.0.0.1")])
    monkeypatch.setattr(lifecycle, "check_cluster", lambda nodes, store: None)
    monkeypatch.setattr(lifecycle.ray, "available_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(lifecycle, "_begin_serve", lambda host, port: bool(port))
    monkeypatch.setattr(lifecycle, "_deploy", lost)
    monkeypatch.setattr(lifecycle.serve, "shutdown", lambda: ended.append(True))
    with raises(NotFound, code="cluster.unreachable", address="10.0.0.1:6379"):
        lifecycle.serve_on_ray(DeploymentOptions(backbone="embedded"), "10.0.0.1:6379", "127.0.0.1", 0)
    assert ended == [True]


def test_the_threads_of_a_replica_wait_as_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "variables", lambda: {"OMP_WAIT_POLICY": "passive"})
    options = application(DeploymentOptions(backbone="embedded", threads=3))._bound_deployment.ray_actor_options
    assert options["runtime_env"]["env_vars"] == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"}


def test_a_replica_is_complete_once_it_has_tried_to_preload_its_models() -> None:
    """Before, Ray Serve sends it no requests, and keeps the replica that it replaces."""

    async def checked() -> None:
        replica = SimpleNamespace(core=SimpleNamespace(tried_preloading=False))
        going = asyncio.create_task(Replica.reconfigure(replica, {}))  # type: ignore[arg-type]
        await asyncio.sleep(2 * PRELOADING)
        assert not going.done()
        replica.core.tried_preloading = True
        await asyncio.wait_for(going, 5)

    asyncio.run(checked())


def test_replicas_get_the_models_to_preload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[DeploymentOptions]()
    monkeypatch.setattr(lifecycle, "serve_on_ray", lambda options, *rest: given.append(options))
    chosen = Settings(preload=("acme/reviews",))
    _on_ray(AdapterStore(tmp_path), {"backbone": "embedded"}, chosen, None, "127.0.0.1", 0)
    (options,) = given
    replica = ReplicaOptions(**options.model_dump(include={"backbone", "settings"}))
    sent = ReplicaOptions.model_validate_json(replica.model_dump_json())
    assert [*Settings(**sent.settings).preload] == ["acme/reviews"]  # type: ignore[arg-type]
