"""Hosts of a cluster without a cluster: calls of hosts are made in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from afina import digest
from afina.cluster.nodes import Node, Room
from afina.studies.executors.host_pool import Host, HostGroup
from afina.studies.executors.ray_host import RunHost


class Calls:
    """A handle of a host: a call runs in a thread, and its reference is a future. A dead host answers nothing."""

    def __init__(self, host: RunHost) -> None:
        self.host, self.dead = host, threading.Event()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(getattr(self.host, method), arguments))

    def _call(self, work: Callable[..., object], arguments: tuple[object, ...]) -> Future[object]:
        made: Future[object] = Future()

        def answer() -> None:
            try:
                made.set_result(work(*arguments))
            except Exception as error:  # noqa: BLE001 - as Ray does with every error of a method
                made.set_exception(ray.exceptions.RayTaskError(work.__name__, "traceback", error))

        threading.Thread(target=answer, daemon=True).start()
        return made


def get(ref: Future[object], timeout: float | None = None) -> object:
    try:
        return ref.result(60 if timeout is None else timeout)
    except TimeoutError:
        raise ray.exceptions.GetTimeoutError from None


class Pool:
    """Hosts as they are asked for, `devices` in a group, and those that were given back."""

    def __init__(self) -> None:
        self.idle: list[HostGroup] = []
        self.discarded: list[HostGroup] = []
        self.rooms: list[Room] = []
        self.made, self.devices = 0, 1

    def acquire(self, room: Room, waits: Callable[[str], object], check: Callable[[], object]) -> HostGroup:
        check()
        self.rooms.append(room)
        if self.idle:
            return self.idle.pop()
        self.made += 1
        names = [(key * 16, f"10.0.0.{number}") for number, key in enumerate("abc"[: self.devices], start=1)]
        return HostGroup(
            tuple(Host(Calls(RunHost()), Node(key, address, "host", Room(1))) for key, address in names), room
        )

    def release(self, group: HostGroup) -> None:
        self.idle.append(group)

    def discard(self, group: HostGroup) -> None:
        self.discarded.append(group)


def stored(storage: Path) -> set[str]:
    """Digests of the files in the storage."""
    return {digest.of_file(path) for path in storage.rglob("*") if path.is_file()}
