"""Hosts: Ray actors on nodes that are used again for work of the same size, and what is said while one has no place.

A host keeps the processors and the memory that it was made for. An idle host ends if work of another size waits. No
host is started again by Ray: the caller repeats its work. Does not know what a host does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray

from afina import meter
from afina.cluster import nodes
from afina.cluster.nodes import Node, Room
from afina.studies.executors import problems

CALLS = 16
"""Calls that a host answers at the same time."""

QUIET = 2.0
"""Seconds for which nothing is said about a host without a place."""

SLOW = 15.0
"""Seconds after which a host that may only be starting is said to wait."""

GONE = 300.0
"""Seconds for which work waits for a node that could hold it, after such a node was there."""

_STEP = 0.05
"""Seconds between two looks at a host that has no place yet."""

_KNOWN_LATE = 2.0
"""Seconds after which the cluster knows of a node's death, if the node's processes ended with the node."""


class HostDied(Exception):
    """Raised when a host ended. `of_node`: its node died."""

    def __init__(self, reason: str, *, of_node: bool) -> None:
        super().__init__(reason)
        self.of_node = of_node


@dataclass(eq=False)
class Host:
    """A host that has started.

    Attributes:
        actor: The handle; `actor.method.remote(...)` calls a method.
        beside: The largest number of hosts that worked on the node at the same time, this host included.
    """

    actor: Any
    room: Room
    node: Node
    beside: int = 1

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method and return its value. Raises RayTaskError, and RayActorError if the host died."""
        return ray.get(getattr(self.actor, method).remote(*arguments))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise HostDied if the block fails because the host or its node died."""
        try:
            yield
        except ray.exceptions.RayTaskError:
            raise  # the method itself raised an error
        except ray.exceptions.RayError as error:
            raise death(self.node, error) from None


def death(node: Node, error: Exception) -> HostDied:
    """Return why a host on `node` ended; waits until the cluster knows whether the node died too."""
    of_node, until = "node" in str(error) and "died" in str(error) and not nodes.is_alive(node.key), meter.now()
    until += _KNOWN_LATE
    pause = threading.Event()
    while not of_node and meter.now() < until:
        of_node = not nodes.is_alive(node.key)
        pause.wait(_STEP)
    return HostDied(f"node {node.name} died" if of_node else f"its host on node {node.name} died", of_node=of_node)


@dataclass(eq=False)
class _Waiting:
    """Work that waits for a host with this room; `given`: a host that was released meanwhile."""

    room: Room
    given: Host | None = None


class HostPool:
    """Hosts of one class.

    Args:
        kind: The class; it has a method `hello` that returns the id of its node, and `leave`, which ends its work.
    """

    def __init__(self, kind: type) -> None:
        self._remote: Any = ray.remote(kind)
        self._lock = threading.Lock()
        self._idle: list[Host] = []
        self._busy: list[Host] = []
        self._waiting: list[_Waiting] = []
        self._held: set[Room] = set()

    def acquire(self, room: Room, waits: Callable[[str], object], check: Callable[[], object]) -> Host:
        """Return a host with this room, which the caller gives back with `release` or `discard`.

        Args:
            waits: Called with what the host waits for, when that changes.
            check: Called often while the host has no place; may raise an error that ends the waiting.

        Raises:
            HostDied: The host died before it had started.
            RunFailed: No node can ever hold the host.
        """
        waiting = _Waiting(room)
        with self._lock:
            found = next((host for host in self._idle if host.room == room), None)
            if found is not None:
                self._idle.remove(found)
                return self._used(found)
            others, self._idle = self._idle, []
            self._waiting.append(waiting)
        for other in others:
            end(other.actor)
        actor = self._remote.options(
            num_cpus=room.cpus,
            memory=room.memory or None,
            num_gpus=room.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=CALLS,
        ).remote()
        try:
            host = self._started(actor, waiting, waits, check)
        except BaseException:
            with self._lock:
                self._waiting.remove(waiting)
                self._idle += [waiting.given] if waiting.given else []
            ray.kill(actor)
            raise
        with self._lock:
            self._waiting.remove(waiting)
            if waiting.given and host is not waiting.given:
                self._idle.append(waiting.given)
            return self._used(host)

    def _started(
        self,
        actor: Any,
        waiting: _Waiting,
        waits: Callable[[str], object],
        check: Callable[[], object],
    ) -> Host:
        """Return the host when it answers, or another host of the same room that was released meanwhile."""
        began, ready, note = meter.now(), actor.hello.remote(), ""
        while not ray.wait([ready], timeout=_STEP)[0]:
            check()
            if waiting.given is not None:
                ray.kill(actor)
                return waiting.given
            waited = meter.now() - began
            if waited >= QUIET and (now := self._missing(waiting.room, waited)) not in ("", note):
                waits(note := now)
        try:
            key = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise problems.HOST_CANNOT_START(_reason=error) from None
            raise HostDied("its node died before the run began", of_node=True) from None
        node = next((node for node in nodes.living() if node.key == key), None)
        if node is None:
            raise HostDied("its node died before the run began", of_node=True)
        self._held.add(waiting.room)
        return Host(actor, waiting.room, node)

    def _missing(self, room: Room, waited: float) -> str:
        """Return what is missing for a place. Raises RunFailed if no node can ever have it."""
        rooms = [node.room for node in nodes.living()] or [Room(0)]
        if any(one.holds(room) for one in rooms):
            self._held.add(room)
            return f"a node with {room}" if waited >= SLOW or not self._has_place(room) else ""
        largest = max(rooms, key=lambda one: (one.gpus >= room.gpus, one.cpus >= room.cpus, one.memory, one.cpus))
        short = Room(largest.cpus, largest.memory if room.memory else 0, largest.gpus if room.gpus else 0)
        if not nodes.scales() and (room not in self._held or waited > GONE):
            raise problems.RUN_TOO_LARGE(needed=str(room), largest=str(short))
        return f"a node with {room}; the largest has {short}"

    def _has_place(self, room: Room) -> bool:
        """Return whether the nodes hold all hosts that wait, as far as other jobs do not use the nodes."""
        with self._lock:
            waiting = sum(other.room == room for other in self._waiting)
            started = [*self._busy, *self._idle]
        left = [node.room.less([one.room for one in started if one.node.key == node.key]) for node in nodes.living()]
        return sum(one.times(room) for one in left) >= waiting

    def _used(self, host: Host) -> Host:
        """Count a host as busy; the lock is held."""
        self._busy.append(host)
        here = [other for other in self._busy if other.node.key == host.node.key]
        host.beside = 1
        for other in here:
            other.beside = max(other.beside, len(here))
        return host

    def release(self, host: Host) -> None:
        """Give a host back that can be used again."""
        with self._lock:
            self._busy.remove(host)
            for waiting in self._waiting:
                if waiting.room == host.room and waiting.given is None:
                    waiting.given = host
                    return
            if not self._waiting:
                self._idle.append(host)
                return
        end(host.actor)

    def discard(self, host: Host) -> None:
        """Give a host back that cannot be used again."""
        with self._lock:
            self._busy.remove(host)
        with suppress(Exception):  # the host may have died in any way
            ray.kill(host.actor)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        left = [host.actor.leave.remote() for host in idle]
        if left:
            ray.wait(left, num_returns=len(left), timeout=QUIET)
        for host in idle:
            ray.kill(host.actor)


def end(actor: Any) -> None:
    """End an idle host after it has removed its files; its room becomes free."""
    with suppress(Exception):  # the host may have died in any way
        ray.wait([actor.leave.remote()], timeout=QUIET)
        ray.kill(actor)
