"""A process may be killed at any step of what it does to a store: what was acknowledged stays, the rest goes on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
import storing
from lives import Life
from processes import Crew
from storing import Adapters

from afina.errors import Conflict, NotFound, Refused
from afina.store import audit_log, deletion
from afina.store.adapter_store import AdapterStore
from afina.store.database.tables import STORE
from grid import some_slow
from services import Postgres

REACHED = {
    "init": [step for step in audit_log.CRASH_POINTS if step.startswith("init:")],
    "publish": [step for step in audit_log.CRASH_POINTS if step.startswith("publish:")],
    "alias": ["alias: in the transaction", "alias: committed"],
    "rollback": ["alias: in the transaction", "alias: committed"],
    "unalias": ["alias: in the transaction", "alias: committed"],
    "delete": ["delete: in the transaction", "delete: committed"],
    "gc": [step for step in audit_log.CRASH_POINTS if step.startswith("gc:")],
    "erase": [step for step in audit_log.CRASH_POINTS if step.startswith("erase:")]
    + ["gc: one removed", "gc: removed"],
}
"""The steps that an operation comes to."""

IN_POSTGRES = [
    ("init", "init: in the transaction"),
    ("publish", "publish: in the transaction"),
    ("gc", "gc: condemned"),
    ("erase", "erase: committed"),
]
"""Of each kind of step one: together, all take long."""

PAIRS = [(operation, step) for operation, reached in REACHED.items() for step in reached]

DONE_AGAIN: dict[tuple[str, str], type[Exception]] = {
    ("init", "init: committed"): Refused,
    ("alias", "alias: committed"): Conflict,
    ("rollback", "alias: committed"): NotFound,
    ("unalias", "alias: committed"): NotFound,
    ("delete", "delete: committed"): NotFound,
    ("erase", "erase: ended"): NotFound,
}
"""What an operation that was done but not acknowledged says when it is done again; where it says it at all."""


@pytest.fixture(scope="module")
def begun(adapters: Adapters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a store in SQLite with what every operation needs."""
    directory = tmp_path_factory.mktemp("begun") / "store"
    storing.begin(AdapterStore(directory, who="tester"), adapters.directory)
    return directory


@pytest.fixture(scope="module")
def begun_in_postgres(
    postgres: Postgres, adapters: Adapters, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The same in PostgreSQL: the database's URL, and the directory of the blobs."""
    blobs, url = tmp_path_factory.mktemp("begun") / "blobs", postgres.database()
    store = AdapterStore(url, who="tester")
    store.init(str(blobs))
    storing.begin(store, adapters.directory)
    return url, blobs


def copy_of(begun: Path, to: Path) -> AdapterStore:
    shutil.copytree(begun, to)
    return AdapterStore(to, who="tester")


def copy_in_postgres(postgres: Postgres, begun: tuple[str, Path], to: Path) -> AdapterStore:
    url = postgres.database(like=begun[0])
    shutil.copytree(begun[1], to)
    store = AdapterStore(url, who="tester")
    with store._database.writing() as connection:
        connection.execute(sa.update(STORE).values(blobs=str(to)))
    return store


@pytest.mark.parametrize("operation", REACHED)
def test_every_step_is_reached_by_an_operation(
    operation: str, adapters: Adapters, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    assert {step for _, step in PAIRS} == set(audit_log.CRASH_POINTS)
    store = AdapterStore(tmp_path / "store") if operation == "init" else copy_of(begun, tmp_path / "store")
    monkeypatch.setattr(audit_log, "crash_point", reached.append)
    storing.OPERATIONS[operation](store, adapters.directory)
    assert set(reached) == set(REACHED[operation])


@pytest.fixture(scope="module")
def after(adapters: Adapters, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By operation, what there is after it, where nobody was killed."""
    made: dict[str, dict[str, Any]] = {"init": {}}
    for operation in REACHED.keys() - {"init"}:
        store = copy_of(begun, tmp_path_factory.mktemp("after") / "store")
        storing.OPERATIONS[operation](store, adapters.directory)
        made[operation] = storing.states(store)
    assert made["gc"] == storing.states(AdapterStore(begun))
    return made


def killed(
    crew: Crew, store: AdapterStore, url: str, after: dict[str, Any], operation: str, step: str, adapters: Adapters
) -> None:
    """Kill a process that does the operation at the step, look, do it again, look, and clean up."""
    before = storing.states(store) if operation != "init" else {}

    (ended,) = crew.run(storing.killed_at, 1, url, operation, step, str(adapters.directory))
    assert ended.status == -9, ended
    if operation == "init":
        assert AdapterStore(url)._database.exists() == (step == "init: committed")
    else:
        storing.check_whole(store, adapters.digests)
        found = storing.states(store)
        assert found in (before, after)
        if (
            "transaction" in step
            or step in audit_log.CRASH_POINTS[: audit_log.CRASH_POINTS.index("publish: in the transaction")]
        ):
            assert found == before
        if step.endswith("committed"):
            assert found == after

    error = DONE_AGAIN.get((operation, step))
    if error:
        with pytest.raises(error):
            storing.OPERATIONS[operation](store, adapters.directory)
    else:
        storing.OPERATIONS[operation](store, adapters.directory)
    assert storing.states(store) == after
    storing.check_clean(store)
    storing.check_whole(store, adapters.digests)


@pytest.mark.parametrize(("operation", "step"), some_slow(PAIRS, PAIRS[::3]))
def test_killed_at_a_step_it_keeps_what_it_had_and_the_same_again_comes_to_the_end(
    operation: str,
    step: str,
    adapters: Adapters,
    begun: Path,
    after: dict[str, dict[str, Any]],
    tmp_path: Path,
    crew: Crew,
) -> None:
    store = AdapterStore(tmp_path / "store") if operation == "init" else copy_of(begun, tmp_path / "store")
    killed(crew, store, str(tmp_path / "store"), after[operation], operation, step, adapters)


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "step"), IN_POSTGRES)
def test_on_postgres_too(
    operation: str,
    step: str,
    adapters: Adapters,
    postgres: Postgres,
    after: dict[str, dict[str, Any]],
    begun_in_postgres: tuple[str, Path],
    tmp_path: Path,
    crew: Crew,
) -> None:
    if operation == "init":
        store = AdapterStore(postgres.database())
    else:
        store = copy_in_postgres(postgres, begun_in_postgres, tmp_path / "blobs")
    url = store.address.url.replace("+psycopg", "")
    killed(crew, store, url, after[operation], operation, step, adapters)


# Killed at random


def _check_shared(store: AdapterStore, acknowledged: list[Any]) -> None:
    """Every version and move that a process was told of is in the log once, and each move begins where one ended."""
    if not acknowledged:
        return
    versions = {version.number: version.digest for version in store.versions("shared/all")}
    for made, _ in acknowledged:
        assert versions[made["version"]] == made["digest"]
    created = [made["version"] for made, _ in acknowledged if made["created"]]
    assert len(created) == len(set(created))
    moves = [(one.details["from"], one.details["to"]) for one in store.history("shared/all", alias="production")]
    assert [start for start, _ in moves] == [None, *(to for _, to in moves[:-1])]
    for move in {(move["from"], move["to"]) for _, move in acknowledged}:
        assert moves.count(move) >= sum((told["from"], told["to"]) == move for _, told in acknowledged)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, pytest.param(60, marks=pytest.mark.endurance)])
def test_killed_at_random_nothing_acknowledged_is_lost(
    store: AdapterStore, url: str, adapters: Adapters, crew: Crew, seconds: float
) -> None:
    """Processes do what they like for so long, each killed and another put in its place again and again."""
    random = Random(1)
    clients = ["anna", "bert", "cleo"]
    told = {client: Life(adapters.digests) for client in clients}
    shared: list[Any] = []
    running: dict[str, tuple[Any, float]] = {}

    def end(client: str) -> None:
        worker, _ = running.pop(client)
        worker.kill()
        ended = worker.wait()
        assert ended.status == -9, (ended.values[-1], ended.error, ended.message, ended.said)
        told[client].told(ended.values)
        shared.extend(value[5] for value in ended.values if value[:2] == ["done", "share"])

    start = time.monotonic()
    acknowledged = 0
    while acknowledged < 20 or time.monotonic() - start < seconds:
        acknowledged = sum(life.acknowledged for life in told.values())
        assert time.monotonic() - start < seconds + 60, "next to nothing is acknowledged"
        for client in clients:
            if client in running and time.monotonic() > running[client][1]:
                end(client)
            if client not in running:
                arguments = (url, str(adapters.directory), client, random.getrandbits(32))
                (worker,) = crew.start(storing.live, 1, *arguments)
                running[client] = worker, time.monotonic() + random.uniform(0.1, 2)
        time.sleep(0.02)
    for client in list(running):
        end(client)

    storing.check_whole(store, adapters.digests)
    for client in clients:
        told[client].found(storing.state(store, client))
    _check_shared(store, shared)
    storing.check_clean(store)
    storing.check_whole(store, adapters.digests)


def test_what_a_killed_process_made_beside_the_blobs_is_swept(
    crew: Crew, adapters: Adapters, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of(begun, tmp_path / "store")
    url = str(tmp_path / "store")
    crew.run(storing.killed_at, 1, url, "publish", "publish: files made", str(adapters.directory))
    blobs = tmp_path / "store" / "blobs"
    assert list(blobs.glob(".tmp-*"))
    store.gc()
    assert list(blobs.glob(".tmp-*")), "it may be another's that still runs"
    monkeypatch.setattr(deletion, "_HALF_WRITTEN", 0.0)
    store.gc()
    assert list(blobs.glob(".tmp-*")) == []
