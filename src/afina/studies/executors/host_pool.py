"""`HostPool`: Ray actors (hosts) that execute runs on nodes, and are used again for runs with the same resources.

A run has a group of hosts, one for each of its devices, in one placement group. Each host reserves processors and
memory until it ends. An idle group ends if a waiting run needs other resources. Ray restarts no host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

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
    """A host that has started on a node; `actor` is Ray's handle."""

    actor: Any
    node: Node

    def call(self, method: str, *arguments: object) -> Any:
        return self.get(getattr(self.actor, method).remote(*arguments))

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        """Wait for the value of a call of the actor. Raises RayTaskError, HostDied or GetTimeoutError."""
        try:
            return ray.get(ref, timeout=timeout)
        except (ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError):
            raise  # the method itself raised an error, or takes too long
        except ray.exceptions.RayError as error:
            raise death(self.node, error) from None


@dataclass(eq=False)
class HostGroup:
    """The hosts that execute one run together, in the order of the ranks.

    `room` is for each host. `beside` is the largest number of groups that executed runs on a node of the group at the
    same time, this group included.
    """

    hosts: tuple[Host, ...]
    room: Room
    placement: PlacementGroup | None = None
    beside: int = 1

    @property
    def first(self) -> Host:
        return self.hosts[0]

    @property
    def keys(self) -> set[str]:
        return {host.node.key for host in self.hosts}


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
    """A run that waits for hosts with the resources `room`; `given` are hosts that another run has released for it."""

    room: Room
    given: HostGroup | None = None


@dataclass(frozen=True)
class _New:
    """New Ray actors that start, and their placement group; None if there is only one actor."""

    actors: tuple[Any, ...]
    placement: PlacementGroup | None

    def kill(self) -> None:
        for actor in self.actors:
            with suppress(Exception):  # the host may have died in any way
                ray.kill(actor)
        _remove(self.placement)


def _remove(placement: PlacementGroup | None) -> None:
    if placement is not None:
        with suppress(Exception):  # the cluster may have ended
            remove_placement_group(placement)


class HostPool:
    """Groups of `devices` Ray actors of the class `kind`, which has the methods `hello` (the node's id) and `leave`."""

    def __init__(self, kind: type, devices: int = 1) -> None:
        self._remote: Any = ray.remote(kind)
        self._devices = devices
        self._lock = threading.Lock()
        self._idle: list[HostGroup] = []
        self._busy: list[HostGroup] = []
        self._waiting: list[_Waiting] = []
        self._held: set[Room] = set()

    def acquire(self, room: Room, waits: Callable[[str], object], check: Callable[[], object]) -> HostGroup:
        """Return hosts with the resources `room` each, to be given back with `release` or `discard`.

        Args:
            waits: is called with a clause such as "a node with 4 processors" when the missing resource changes.
            check: is called often while the hosts wait, and may raise an error that ends the waiting.

        Raises:
            HostDied: The process of a new host ended, or its node left the cluster, before all hosts were ready.
            RunFailed: No node is large enough for a host, or the nodes together for all hosts.
        """
        waiting = _Waiting(room)
        with self._lock:
            found = next((group for group in self._idle if group.room == room), None)
            if found is not None:
                self._idle.remove(found)
                return self._used(found)
            others, self._idle = self._idle, []
            self._waiting.append(waiting)
        for other in others:
            end(other)
        new = self._new(room)
        try:
            group = self._started(new, waiting, waits, check)
        except BaseException:
            with self._lock:
                self._waiting.remove(waiting)
                self._idle += [waiting.given] if waiting.given else []
            new.kill()
            raise
        with self._lock:
            self._waiting.remove(waiting)
            if waiting.given and group is not waiting.given:
                self._idle.append(waiting.given)
            return self._used(group)

    def _new(self, room: Room) -> _New:
        options: dict[str, Any] = {
            "num_cpus": room.cpus,
            "memory": room.memory or None,
            "num_gpus": room.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": CALLS,
        }
        if self._devices == 1:
            return _New((self._remote.options(**options).remote(),), None)
        needed = {"CPU": room.cpus, "memory": room.memory, "GPU": room.gpus}
        bundle = {name: float(amount) for name, amount in needed.items() if amount}
        placement = placement_group([bundle] * self._devices, strategy="PACK")
        places = [PlacementGroupSchedulingStrategy(placement, number) for number in range(self._devices)]
        actors = [self._remote.options(**options, scheduling_strategy=place).remote() for place in places]
        return _New(tuple(actors), placement)

    def _started(
        self,
        new: _New,
        waiting: _Waiting,
        waits: Callable[[str], object],
        check: Callable[[], object],
    ) -> HostGroup:
        began, note = meter.now(), ""
        ready = [actor.hello.remote() for actor in new.actors]
        while len(keys := _keys(ready)) < len(ready):
            check()
            if waiting.given is not None:
                new.kill()
                return waiting.given
            waited = meter.now() - began
            if waited >= QUIET and (now := self._missing(waiting.room, waited)) not in ("", note):
                waits(note := now)
        there = {node.key: node for node in nodes.living()}
        if not all(key in there for key in keys):
            raise HostDied("its node died before the run began", of_node=True)
        self._held.add(waiting.room)
        hosts = [Host(actor, there[key]) for actor, key in zip(new.actors, keys, strict=True)]
        return HostGroup(tuple(hosts), waiting.room, new.placement)

    def _missing(self, room: Room, waited: float) -> str:
        """Return a clause on the missing resources; empty if the actors are probably starting. Raises RunFailed."""
        rooms = [node.room for node in nodes.living()] or [Room(0)]
        places, devices = sum(one.times(room) for one in rooms), self._devices
        waited_for = f"a node with {room}" if devices == 1 else f"nodes with {devices} times {room}"
        if places >= devices:
            self._held.add(room)
            return waited_for if waited >= SLOW or not self._has_place(room) else ""
        refuses = not nodes.scales() and (room not in self._held or waited > GONE)
        if places:
            if refuses:
                raise problems.RUN_TOO_WIDE(devices=devices, needed=str(room), found=places)
            return f"{waited_for}; all have room for {places}"
        largest = max(rooms, key=lambda one: (one.gpus >= room.gpus, one.cpus >= room.cpus, one.memory, one.cpus))
        short = Room(largest.cpus, largest.memory if room.memory else 0, largest.gpus if room.gpus else 0)
        if refuses:
            raise problems.RUN_TOO_LARGE(needed=str(room), largest=str(short))
        return f"{waited_for}; the largest has {short}"

    def _has_place(self, room: Room) -> bool:
        """Return whether all Ray actors that wait for `room` fit on the nodes, if no other Ray job uses the nodes."""
        with self._lock:
            waiting = sum(other.room == room for other in self._waiting) * self._devices
            groups = [*self._busy, *self._idle]
        started = [(host.node.key, group.room) for group in groups for host in group.hosts]
        left = [node.room.less([one for key, one in started if key == node.key]) for node in nodes.living()]
        return sum(one.times(room) for one in left) >= waiting

    def _used(self, group: HostGroup) -> HostGroup:
        """Move a group to the busy groups and return the group; the caller must have locked `_lock`."""
        self._busy.append(group)
        group.beside = 1
        for key in group.keys:
            here = [other for other in self._busy if key in other.keys]
            for other in here:
                other.beside = max(other.beside, len(here))
        return group

    def release(self, group: HostGroup) -> None:
        with self._lock:
            self._busy.remove(group)
            for waiting in self._waiting:
                if waiting.room == group.room and waiting.given is None:
                    waiting.given = group
                    return
            if not self._waiting:
                self._idle.append(group)
                return
        end(group)

    def discard(self, group: HostGroup) -> None:
        with self._lock:
            self._busy.remove(group)
        _kill(group)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        _leave([host for group in idle for host in group.hosts])
        for group in idle:
            _kill(group)


def _keys(ready: list[Any]) -> list[str]:
    """Return the ids of the nodes of those Ray actors that have started, after waiting a moment for all."""
    done, _ = ray.wait(ready, num_returns=len(ready), timeout=_STEP)
    try:
        return [ray.get(ref) for ref in ready if ref in done]
    except ray.exceptions.RayActorError as error:
        if error.actor_init_failed:
            raise problems.HOST_CANNOT_START(_reason=error) from None
        raise HostDied("its host, or the node of the host, died before the run began", of_node=True) from None


def end(group: HostGroup) -> None:
    with suppress(Exception):  # the hosts may have died in any way
        _leave(group.hosts)
    _kill(group)


def _leave(hosts: Sequence[Host]) -> None:
    """Let Ray actors remove their files; an actor that does not answer is not waited for."""
    if left := [host.actor.leave.remote() for host in hosts]:
        ray.wait(left, num_returns=len(left), timeout=QUIET)


def _kill(group: HostGroup) -> None:
    _New(tuple(host.actor for host in group.hosts), group.placement).kill()
