"""Nodes of a cluster without a cluster: Ray tasks are executed in threads of this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from afina import digest
from afina.cluster import nodes
from afina.cluster.nodes import Node, Room
from afina.studies.executors import ray_run, ray_task
from afina.studies.executors.ray_executor import RayExecutor
from afina.studies.executors.reservation import NodeReservations

NODES = [Node(key * 16, f"10.0.0.{number}", "host", Room(1)) for number, key in enumerate("ab", start=1)]


class Task(threading.Thread):
    """A task in a thread, and Ray's generator of its events; `die` is as if its node had died."""

    def __init__(self, work: Callable[..., Iterator[object]], arguments: tuple[object, ...]) -> None:
        super().__init__(daemon=True)
        self.work, self.arguments = work, arguments
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.is_dead = False
        self.is_cancelled = False
        self.start()

    def run(self) -> None:
        try:
            for event in self.work(*self.arguments):
                self._put(event)
            self._put(StopIteration())
        except KeyboardInterrupt:
            self._put(ray.exceptions.TaskCancelledError())
        except Exception as error:  # noqa: BLE001 - as Ray does with every error of a task
            self._put(ray.exceptions.RayTaskError(self.work.__name__, "traceback", error))

    def _put(self, event: object) -> None:
        if not self.is_dead:
            self.events.put(event)

    def die(self) -> None:
        self.is_dead = True
        self.events.put(ray.exceptions.WorkerCrashedError())

    def __next__(self) -> object:
        event = self.events.get(timeout=60)
        if isinstance(event, StopIteration):
            raise event
        return event

    def completed(self) -> Task:
        return self


def _wait(tasks: Sequence[Task], timeout: float) -> tuple[list[Task], list[Task]]:
    until = time.monotonic() + timeout
    while not (ready := [task for task in tasks if not task.events.empty()]) and time.monotonic() < until:
        time.sleep(0.001)
    return ready[:1], [task for task in tasks if task not in ready[:1]]


def _get(event: object) -> object:
    if isinstance(event, Exception):
        raise event
    return event


def _cancel(task: Task, *, force: bool) -> None:
    task.is_cancelled = True


def _next(messages: queue.SimpleQueue[Any]) -> Any:
    """Wait as the task does, and raise KeyboardInterrupt if it is cancelled.

    An asynchronous exception could meet the thread that the task has started: until that thread runs, CPython takes it
    by the identifier of the thread that starts it. Ray interrupts the main thread of a process.
    """
    task = threading.current_thread()
    assert isinstance(task, Task)
    while not task.is_cancelled:
        with suppress(queue.Empty):
            return messages.get(timeout=0.01)
    task.is_cancelled = False
    raise KeyboardInterrupt


class Places(NodeReservations):
    """Reservations of `rooms` on NODES, and the `tasks` that were started there."""

    def __init__(self, devices: int = 1) -> None:
        super().__init__(devices)
        self.rooms: list[Room] = []
        self.tasks: list[Task] = []

    @contextmanager
    def reserved(self, room: Room, waits: Callable[[str], object], check: Callable[[], object]) -> Iterator[Any]:
        check()
        self.rooms.append(room)
        yield SimpleNamespace(nodes=NODES[: self.devices], start=self._start)

    def _start(self, work: Any, number: int, *arguments: object) -> Task:
        self.tasks.append(Task(work, arguments))
        return self.tasks[-1]


def without_cluster(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Execute Ray tasks in threads, on nodes with this cache directory."""
    fake = {"remote": lambda work: work, "wait": _wait, "get": _get, "cancel": _cancel, "exceptions": ray.exceptions}
    monkeypatch.setattr(ray_run, "ray", SimpleNamespace(**fake))
    monkeypatch.setattr(ray_task, "_next", _next)
    monkeypatch.setattr(ray_task.assets, "cache_directory", lambda: cache)
    monkeypatch.setattr(nodes, "living", lambda: NODES)
    monkeypatch.setattr(nodes, "on_each", lambda of, work, *rest, **_: {node.key: work(*rest) for node in of})


def on_places(executor: RayExecutor, places: Places) -> RayExecutor:
    """Let the executor execute its runs in the places, without a connection."""
    executor._reservations = places
    executor._connection = SimpleNamespace(address="there", found="", ours=False)  # type: ignore[assignment]
    executor._checked = {(node.key, "") for node in NODES}
    return executor


def stored(storage: Path) -> set[str]:
    """Digests of the files in the storage."""
    return {digest.of_file(path) for path in storage.rglob("*") if path.is_file()}
