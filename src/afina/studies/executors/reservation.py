"""Reserve resources on the nodes of a Ray cluster for the processes of a run, with a placement group of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from afina import meter
from afina.cluster import nodes
from afina.cluster.nodes import Node, Room
from afina.studies.executors import problems
from afina.studies.executors.executor import Lost

QUIET = 2.0
"""The seconds after which the user is told that a run waits for free resources."""

GONE = 300.0
"""The seconds for which a run waits for a large enough node, if the cluster had a large enough node before."""

_PAUSE = 1
"""The seconds, an integer for Ray, between two checks whether a run that waits is cancelled."""


@dataclass(frozen=True)
class ReservedNodes:
    """Resources on `nodes`, one for each process of a run in the order of the ranks; nodes may be equal."""

    nodes: tuple[Node, ...]
    room: Room
    placement: PlacementGroup

    def start(self, task: Any, number: int, *arguments: object) -> Any:
        """Start a Ray task, which yields, in the place of a rank; return Ray's generator."""
        return task.options(
            num_cpus=self.room.cpus,
            memory=self.room.memory or None,
            num_gpus=self.room.gpus,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.placement, number),
        ).remote(*arguments)


@dataclass
class NodeReservations:
    """Reserves resources for runs of `devices` processes; `_fitted` are rooms for which the cluster had large nodes."""

    devices: int
    _fitted: set[Room] = field(default_factory=set)

    @contextmanager
    def reserved(
        self, room: Room, waits: Callable[[str], object], check: Callable[[], object]
    ) -> Iterator[ReservedNodes]:
        """Yield resources, `room` for each process, which are free again after the `with` block.

        Args:
            waits: is called with a clause such as "a node with 4 processors" when the missing resource changes.
            check: is called often while the run waits, and may raise an error that ends the waiting.

        Raises Lost if a node leaves the cluster, and RunFailed if no node is large enough for a process, or the nodes
        together for all processes.
        """
        needed = {"CPU": room.cpus, "memory": room.memory, "GPU": room.gpus}
        bundle = {name: float(amount) for name, amount in needed.items() if amount}
        placement = placement_group([bundle] * self.devices, strategy="PACK")
        try:
            began, note = meter.now(), ""
            check()
            while not placement.wait(_PAUSE):
                check()
                waited = meter.now() - began
                if waited >= QUIET and (missing := self._missing(room, waited)) != note:
                    waits(note := missing)
            self._fitted.add(room)
            keys = placement_group_table(placement)["bundles_to_node_id"]
            living = {node.key: node for node in nodes.living()}
            if not all(key in living for key in keys.values()):
                raise Lost("its node died before the run began", of_node=True)
            yield ReservedNodes(tuple(living[keys[number]] for number in range(self.devices)), room, placement)
        finally:
            with suppress(ray.exceptions.RayError, RuntimeError):  # the cluster may have ended
                remove_placement_group(placement)

    def _missing(self, room: Room, waited: float) -> str:
        """Return a clause on the resources for which a run waits. Raises RunFailed if they will not exist."""
        rooms = [node.room for node in nodes.living()] or [Room(0)]
        places, devices = sum(node.times(room) for node in rooms), self.devices
        waited_for = f"a node with {room}" if devices == 1 else f"nodes with {devices} times {room}"
        if places >= devices:
            self._fitted.add(room)
            return waited_for
        refuses = not nodes.scales() and (room not in self._fitted or waited > GONE)
        largest = max(rooms, key=lambda node: (node.gpus >= room.gpus, node.cpus >= room.cpus, node.memory, node.cpus))
        short = Room(largest.cpus, largest.memory if room.memory else 0, largest.gpus if room.gpus else 0)
        missing = f"{waited_for}; " + (f"all have room for {places}" if places else f"the largest has {short}")
        if refuses:
            needed = {"needed": str(room), "devices": devices}
            raise problems.NO_PLACE(_missing=missing, **needed, largest=str(short), found=places)
        return missing
