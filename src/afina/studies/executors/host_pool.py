"""`HostPool`: Ray actors (hosts) that execute runs on nodes, and are used again for runs with the same resources.

Each host (Ray actor) reserves processors and memory until it ends. An idle host ends if a waiting run needs other
resources. Ray does not restart a host that has died; the caller of the pool executes the run again.
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
"""The number of remote calls that a host (Ray actor) executes at the same time."""

QUIET = 2.0
"""The seconds after which the user is told that a new host (Ray actor) waits for free resources."""

SLOW = 15.0
"""The seconds after which the user is told that a new host (Ray actor) waits although resources seem to be free."""

GONE = 300.0
"""The seconds for which a run waits for a large enough node, if the cluster had a large enough node before."""

_STEP = 0.05
"""The seconds between two checks whether a new host has started."""

_KNOWN_LATE = 2.0
"""The seconds within which Ray reports the death of a node whose processes have ended."""


class HostDied(Exception):
    """Raised when the process of a host has ended; `of_node` is true if the host's node has left the cluster."""

    def __init__(self, reason: str, *, of_node: bool) -> None:
        super().__init__(reason)
        self.of_node = of_node


@dataclass(eq=False)
class Host:
    """A host (Ray actor) that has started on a node.

    Attributes:
        actor: The handle of the Ray actor; `actor.method.remote(...)` calls a method.
        beside: The largest number of hosts that executed runs on the node at the same time, this host included.
    """

    actor: Any
    room: Room
    node: Node
    beside: int = 1

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the actor and return its value.

        Raises RayTaskError if the method raised an error, and RayActorError if the Ray actor died.
        """
        return ray.get(getattr(self.actor, method).remote(*arguments))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise HostDied if the `with` block fails because the host's Ray actor or node died."""
        try:
            yield
        except ray.exceptions.RayTaskError:
            raise  # the method itself raised an error
        except ray.exceptions.RayError as error:
            raise death(self.node, error) from None


def death(node: Node, error: Exception) -> HostDied:
    """Return a HostDied for a host on `node`, after waiting until Ray knows whether also the node has died."""
    of_node, until = "node" in str(error) and "died" in str(error) and not nodes.is_alive(node.key), meter.now()
    until += _KNOWN_LATE
    pause = threading.Event()
    while not of_node and meter.now() < until:
        of_node = not nodes.is_alive(node.key)
        pause.wait(_STEP)
    return HostDied(f"node {node.name} died" if of_node else f"its host on node {node.name} died", of_node=of_node)


@dataclass(eq=False)
class _Waiting:
    """A run that waits for a host with the resources `room`; `given` is a host that another run has released for it."""

    room: Room
    given: Host | None = None


class HostPool:
    """Ray actors of one class on the nodes of a cluster.

    Args:
        kind: The class of the actors, with the methods `hello`, which returns the id of the node, and `leave`, which
            ends a run and removes its files.
    """

    def __init__(self, kind: type) -> None:
        self._remote: Any = ray.remote(kind)
        self._lock = threading.Lock()
        self._idle: list[Host] = []
        self._busy: list[Host] = []
        self._waiting: list[_Waiting] = []
        self._held: set[Room] = set()

    def acquire(self, room: Room, waits: Callable[[str], object], check: Callable[[], object]) -> Host:
        """Return a host (Ray actor) with the resources `room`, which the caller gives back with `release` or `discard`.

        Args:
            room: The processors, memory and GPUs that the host reserves.
            waits: A function that is called with a clause such as "a node with 4 processors" when the missing resource
                changes.
            check: A function that is called often while the host waits for resources, and may raise an error that ends
                the waiting.

        Raises:
            HostDied: The new host's process ended, or its node left the cluster, before the host was ready.
            RunFailed: No node is large enough for the host.
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
        """Wait until the new Ray actor is ready; return its host, or a released host with the same resources."""
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
            raise HostDied("its host, or the node of the host, died before the run began", of_node=True) from None
        node = next((node for node in nodes.living() if node.key == key), None)
        if node is None:
            raise HostDied("its node died before the run began", of_node=True)
        self._held.add(waiting.room)
        return Host(actor, waiting.room, node)

    def _missing(self, room: Room, waited: float) -> str:
        """Return a clause on the resources for which a new Ray actor waits; empty if the actor is probably starting.

        Raises RunFailed if no node is large enough for the resources.
        """
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
        """Return whether all Ray actors that wait for `room` fit on the nodes, if no other Ray job uses the nodes."""
        with self._lock:
            waiting = sum(other.room == room for other in self._waiting)
            started = [*self._busy, *self._idle]
        left = [node.room.less([one.room for one in started if one.node.key == node.key]) for node in nodes.living()]
        return sum(one.times(room) for one in left) >= waiting

    def _used(self, host: Host) -> Host:
        """Move a host (Ray actor) to the busy hosts and return the host; the caller must have locked `_lock`."""
        self._busy.append(host)
        here = [other for other in self._busy if other.node.key == host.node.key]
        host.beside = 1
        for other in here:
            other.beside = max(other.beside, len(here))
        return host

    def release(self, host: Host) -> None:
        """Give a host (Ray actor) back to the pool, so that the host can execute another run."""
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
        """End a host that cannot be used for another run."""
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
    """Let an idle Ray actor remove its files, and end it, so that its resources become free."""
    with suppress(Exception):  # the host may have died in any way
        ray.wait([actor.leave.remote()], timeout=QUIET)
        ray.kill(actor)
