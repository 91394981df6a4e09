"""What processes do to a store at the same time as others, in tests. Without pytest."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from storing import WHY

from afina.errors import AfinaError, Conflict, NotFound, Refused
from afina.store.adapter_store import AdapterStore


def begin(number: int, url: str, blobs: str | None) -> None:
    AdapterStore(url, who=f"process {number}").init(blobs)


def publish_all(number: int, url: str, adapters: str, names: int, most: int) -> list[list[Any]]:
    """Each adapter to one name, so that of all processes one publishes it to each name."""
    store, made = AdapterStore(url, who=f"process {number}"), []
    for each, path in enumerate(sorted(Path(adapters).iterdir())[:most]):
        published = store.publish(path, f"acme/task{(number + each) % names}", message=WHY)
        made.append([published.version.name, published.version.number, published.version.digest, published.created])
    return made


def publish_one(number: int, url: str, adapter: str) -> list[Any]:
    made = AdapterStore(url, who=f"process {number}").publish(adapter, "acme/same", message=WHY)
    return [made.version.number, made.created]


def increment(number: int, url: str, last: int) -> list[int]:
    """Move the alias from each version to the next, until the last: those moves that were this process's."""
    store, mine = AdapterStore(url, who=f"process {number}"), []
    while True:
        now = store.show("acme/reviews@production").number
        if now == last:
            return mine
        try:
            mine.append(store.alias(f"acme/reviews@{now + 1}", expected=now).after)
        except Conflict:
            continue


# All at the same time, for some seconds


def take_part(number: int, url: str, adapters: str, seconds: float) -> dict[str, int]:
    """In one of the parts that there are, by number: how often it was done, and how often that was refused."""
    part, random, end = PARTS[number % len(PARTS)], Random(number), time.monotonic() + seconds
    store, done = AdapterStore(url, who=f"process {number}"), Counter[str]()
    while time.monotonic() < end:
        try:
            part(store, sorted(Path(adapters).iterdir()), random, number)
            done[part.__name__] += 1
        except NotFound:
            done["not found"] += 1
    return dict(done)


def _churn(store: AdapterStore, adapters: list[Path], random: Random, number: int) -> None:
    """What others hold too is published, read and deleted: its blobs come and go."""
    made = store.publish(random.choice(adapters), f"churn/task{number}", message=WHY).version
    assert store.adapter(str(made)).digest == made.digest
    store.delete(str(made), reason=WHY)


def _collect(store: AdapterStore, adapters: list[Path], random: Random, number: int) -> None:
    store.gc()


def _move(store: AdapterStore, adapters: list[Path], random: Random, number: int) -> None:
    """A new version becomes production, and the one before is deleted."""
    made = store.publish(random.choice(adapters), "acme/moving", message=WHY).version
    with suppress(NotFound, Refused):  # of two who move it, one may delete what the other moves to, or move it back
        moved = store.alias(str(made))
        if moved.before is not None and moved.before != moved.after:
            store.delete(f"acme/moving@{moved.before}", reason=WHY)


def _read(store: AdapterStore, adapters: list[Path], random: Random, number: int) -> None:
    """An alias points to a version that is there, and what is there reads as it was published."""
    for one in store.list():
        versions = {version.number: version for version in store.versions(one.name)}
        assert sorted(versions) == list(range(1, len(versions) + 1))
        for version in versions.values():
            assert not (version.deleted and version.aliases)
    found = store.show("acme/moving@production")
    assert "production" in found.aliases
    assert not found.deleted
    assert store.adapter(str(found)).digest == found.digest


def _verify(store: AdapterStore, adapters: list[Path], random: Random, number: int) -> None:
    damage = store.verify()
    assert damage == [], damage


PARTS: list[Callable[[AdapterStore, list[Path], Random, int], None]] = [
    *(_churn, _churn, _churn, _collect, _move, _read, _read, _verify)
]


# Two machines, a fork


def share(number: int, url: str, adapters: str, cache: str) -> list[str]:
    """On a machine of its own: publish one, then read all that others published; their digests."""
    os.environ["AFINA_CACHE"] = f"{cache}/{number}"
    os.environ["TMPDIR"] = f"{cache}/{number}"
    Path(cache, str(number)).mkdir()
    store, paths = AdapterStore(url, who=f"machine {number}"), sorted(Path(adapters).iterdir())
    store.publish(paths[number], f"acme/task{number}", message=WHY)
    read: dict[str, str] = {}
    while len(read) < 2:
        for one in store.list():
            read[one.name] = store.adapter(one.name).digest
    return sorted(read.values())


def fork(number: int, url: str, adapters: str) -> list[list[Any]]:
    """Use a store, fork, and use it in both."""
    store, paths = AdapterStore(url, who="parent"), sorted(Path(adapters).iterdir())
    store.publish(paths[0], "acme/reviews", message=WHY)
    child = os.fork()
    mine = paths[1:5] if child else paths[5:9]
    try:
        for path in mine:
            store.publish(path, "acme/reviews", message=WHY)
    except AfinaError:
        if not child:
            os._exit(1)
        raise
    if not child:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return [[status], [version.number for version in store.versions("acme/reviews")]]


def publish_on(number: int, url: str, adapters: str, seconds: float) -> Iterator[list[Any]]:
    """Publish for so long, now and then what makes garbage too: each version, once it is acknowledged."""
    store, random, end = AdapterStore(url, who=f"process {number}"), Random(number), time.monotonic() + seconds
    paths, turn = sorted(Path(adapters).iterdir()), 0
    while time.monotonic() < end:
        turn += 1
        made = store.publish(random.choice(paths), f"acme/task{number}-{turn}", message=WHY).version
        yield [str(made), made.digest]
        if random.random() < 0.2:
            loose = store.publish(random.choice(paths), f"loose/task{number}-{turn}", message=WHY).version
            store.delete(str(loose), reason=WHY)
            store.gc()
