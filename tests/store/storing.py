"""What processes do with a store in tests; and adapters for them, made before. Without pytest."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import sqlalchemy as sa

from afina.errors import NotFound, Refused
from afina.models.adapter import Adapter
from afina.store import adapter_parts, audit_log
from afina.store.adapter_store import AdapterStore
from afina.store.database.tables import BLOBS, LEASES, PARTS, metadata

WHY = "a test"


# Adapters


class Adapters(NamedTuple):
    """Small adapters that share bodies and heads: `b0h1` is a directory there, and has that digest."""

    directory: Path
    digests: dict[str, str]


def invent(made: Path, directory: Path, bodies: int, heads: int) -> dict[str, str]:
    """Adapters of the shapes of one that was trained, in `directory`: by name, the digest.

    `b0h1` has body 0 and head 1; so that versions share what they are made of.
    """
    import torch

    from afina import digest

    trained, digests = Adapter.load(made), {}
    halves: dict[bool, list[dict[str, torch.Tensor]]] = {True: [], False: []}
    for is_head, many in ((False, bodies), (True, heads)):
        mine = {name: tensor for name, tensor in trained.tensors.items() if adapter_parts.is_head(name) == is_head}
        halves[is_head] = [{name: tensor + number for name, tensor in mine.items()} for number in range(many)]
    for b, body in enumerate(halves[False]):
        for h, head in enumerate(halves[True]):
            tensors = {**body, **head}
            manifest = trained.manifest.model_copy(update={"tensors_digest": digest.of_tensors(tensors)}).sealed()
            one = replace(trained, manifest=manifest, tensors=tensors)
            beside = [path for path in made.iterdir() if path.suffix == ".json" and path.name != "manifest.json"]
            one.save(directory / f"b{b}h{h}", lambda fresh, files=beside: [shutil.copy(file, fresh) for file in files])
            digests[f"b{b}h{h}"] = one.digest
    return digests


# What is in a store, beside what its door tells


def tables(store: AdapterStore) -> dict[str, list[dict[str, Any]]]:
    """All rows, by table."""
    with store._database.reading() as connection:
        return {
            name: [dict(row._mapping) for row in connection.execute(table.select())]
            for name, table in metadata.tables.items()
        }


def end_leases(store: AdapterStore) -> None:
    """As if an hour had passed since all processes died."""
    with store._database.writing() as connection:
        connection.execute(sa.update(LEASES).values(until=0.0))


def lying(store: AdapterStore) -> set[str]:
    """The places of all blobs that are there."""
    return {kept.place for kept in store._blobs.all()}


def held(store: AdapterStore) -> set[str]:
    """The places of the blobs that versions hold."""
    with store._database.reading() as connection:
        digests = sa.select(PARTS.c.digest)
        return set(connection.execute(sa.select(BLOBS.c.place).where(BLOBS.c.digest.in_(digests))).scalars())


def state(store: AdapterStore, client: str) -> dict[str, Any]:
    """Of a client's names: versions, live with their digest or None, and where aliases point to."""
    return states(store).get(client, {})


def states(store: AdapterStore) -> dict[str, dict[str, Any]]:
    """The state of every client, at one moment."""
    rows = tables(store)
    clients = {row["id"]: row["name"] for row in rows["clients"] if row["state"] == "live"}
    found: dict[str, dict[str, Any]] = {client: {} for client in clients.values()}
    for name in rows["names"]:
        client = clients[name["client"]]
        versions = [row for row in rows["versions"] if row["name"] == name["id"]]
        found[client][f"{client}/{name['task']}"] = {
            "versions": {str(row["number"]): row["digest"] if row["state"] == "live" else None for row in versions},
            "aliases": {row["alias"]: row["number"] for row in rows["aliases"] if row["name"] == name["id"]},
        }
    return found


def check_whole(store: AdapterStore, known: Mapping[str, str]) -> None:
    """Nothing is damaged, nothing live is lost, no alias dangles, no number is left out. `known`: all digests."""
    assert store.verify() == []
    for one in store.list():
        versions = store.versions(one.name)
        assert [version.number for version in versions] == list(range(1, len(versions) + 1))
        for version in versions:
            assert version.digest in known.values()
            assert not (version.deleted and version.aliases)
            if not version.deleted:
                assert store.adapter(str(version)).digest == version.digest
        for alias, number in one.aliases.items():
            assert store.show(f"{one.name}@{alias}").number == number


def check_clean(store: AdapterStore) -> None:
    """Once all leases have ended and `gc` ran, what versions hold is there and nothing else."""
    end_leases(store)
    store.gc()
    rows = tables(store)
    assert lying(store) == held(store) == {row["place"] for row in rows["blobs"]}
    assert (rows["garbage"], rows["leases"]) == ([], [])
    assert all(client["state"] == "live" for client in rows["clients"])


# Processes that are killed at a step


def killed_at(number: int, url: str, operation: str, step: str, adapters: str) -> None:
    """Do the operation, and end by SIGKILL when it reaches the step for the first time."""
    audit_log.crash_point = lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == step else None
    OPERATIONS[operation](AdapterStore(url, who="tester"), Path(adapters))


def _init(store: AdapterStore, adapters: Path) -> None:
    store.init(None if store.address.directory else str(adapters.parent / "blobs-of-init"))


OPERATIONS: dict[str, Callable[[AdapterStore, Path], object]] = {
    "init": _init,
    "publish": lambda store, adapters: store.publish(adapters / "b1h1", "acme/reviews", message=WHY),
    "alias": lambda store, adapters: store.alias("acme/reviews@2", expected=1),
    "rollback": lambda store, adapters: store.rollback("beta/other"),
    "unalias": lambda store, adapters: store.unalias("beta/other", "production"),
    "delete": lambda store, adapters: store.delete("acme/reviews@2", reason=WHY),
    "gc": lambda store, adapters: store.gc(),
    "erase": lambda store, adapters: store.erase("acme", reason=WHY),
}
"""By name, what is done to a store as `begin` leaves it."""


def begin(store: AdapterStore, adapters: Path) -> None:
    """A store with what every operation needs: shared blobs, an alias that was moved, and garbage for `gc`."""
    store.publish(adapters / "b0h0", "acme/reviews", message=WHY)
    store.publish(adapters / "b0h1", "acme/reviews", message=WHY)
    store.publish(adapters / "b2h2", "acme/reviews", message=WHY)
    store.alias("acme/reviews@1")
    store.publish(adapters / "b0h0", "beta/other", message=WHY)
    store.publish(adapters / "b0h1", "beta/other", message=WHY)
    store.alias("beta/other@1")
    store.alias("beta/other@2")
    store.publish(adapters / "b3h3", "beta/third", message=WHY)
    store.delete("beta/third@1", reason=WHY)


# Processes that are killed at random


def live(number: int, url: str, adapters: str, mine: str, seed: int) -> Iterator[list[Any]]:
    """Do at random what a store can do, to a client of its own and to a name that all share, without end.

    Yields what was found at the start, what is begun, and what was acknowledged. See `lives.Life`.
    """
    random, store = Random(seed), AdapterStore(url, who=mine)
    names = sorted(path.name for path in Path(adapters).iterdir())
    yield ["found", state(store, mine)]
    while True:
        action = random.choices(list(ACTIONS), weights=[weight for weight, _ in ACTIONS.values()])[0]
        name = f"{mine}/{random.choice(['one', 'two'])}"
        told = [action, name, random.choice(names), random.randrange(1, 6)]
        yield ["begun", *told]
        try:
            yield ["done", *told, ACTIONS[action][1](store, Path(adapters), *told[1:])]
        except (NotFound, Refused) as error:
            if action == "publish" and isinstance(error, Refused):  # a killed process left the erasure half done
                yield ["begun", "erase", *told[1:]]
                with suppress(NotFound):  # another's gc has come to its end meanwhile
                    ACTIONS["erase"][1](store, Path(adapters), *told[1:])
                yield ["done", "erase", *told[1:], None]
            else:
                yield ["refused", *told, str(error)]


def _publish(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    return store.publish(adapters / which, name, message=WHY).as_json()


def _share(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    made = store.publish(adapters / which, "shared/all", message=WHY).as_json()
    return [made, store.alias(f"shared/all@{made['version']}").as_json()]


def _gc(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    return store.gc().as_json()


def _alias(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    return store.alias(f"{name}@{number}").as_json()


def _rollback(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    return store.rollback(name).as_json()


def _delete(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    return store.delete(f"{name}@{number}", reason=WHY).number


def _erase(store: AdapterStore, adapters: Path, name: str, which: str, number: int) -> Any:
    return store.erase(name.partition("/")[0], reason=WHY).as_json()


ACTIONS: dict[str, tuple[int, Callable[[AdapterStore, Path, str, str, int], Any]]] = {
    "publish": (8, _publish),
    "share": (3, _share),
    "alias": (5, _alias),
    "rollback": (2, _rollback),
    "delete": (4, _delete),
    "gc": (3, _gc),
    "erase": (1, _erase),
}
"""By name, how often it is done and what is done."""
