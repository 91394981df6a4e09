"""The request router of the Ray Serve deployment, which prefers replicas that have the request's adapter in memory.

Ray Serve pickles this module by value into the processes that route requests. Objects that this module shares with
other modules of the process must therefore be read as attributes (`affinity.PROXY`), and not imported by name.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.exceptions import RayError
from ray.serve._private.replica_result import ReplicaResult
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from afina.server.ray_serve import affinity, liveness

RECENT = 4096  # the models for which a router remembers the replica of the last request
LATE = 2.0  # seconds after which a replica's statistics contain an adapter that the replica has loaded


class ResidencyRouter(RequestRouter):
    """A request router that tries replicas in the order of `affinity.ordered`.

    Ray Serve's own `PowerOfTwoChoicesRequestRouter` with model multiplexing is not used: it keeps a frequently
    requested model on one replica until this replica rejects requests, it needs an LRU cache that is limited by the
    number of models, and it lets a second request for an unknown model wait.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sent: dict[str, str] = {}
        self._held: dict[str, frozenset[str]] = {}
        self._new: Counter[str] = Counter()
        self._since = 0.0
        self._watching: asyncio.Task[None] | None = None

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._held = {_name(replica): frozenset(replica.routing_stats.get(affinity.HELD, ())) for replica in replicas}
        affinity.PROXY.replicas = tuple(sorted(self._held))
        limits = [replica.routing_stats.get(affinity.LIMITS) for replica in replicas]
        affinity.PROXY.limits = affinity.RequestLimits.highest(filter(None, limits))
        if replicas and (self._watching is None or self._watching.done()):
            self._watching = self._event_loop.create_task(self._watch())

    async def _watch(self) -> None:
        """Update the names of late replicas (`PROXY.late`) at intervals, as long as there are replicas."""
        checks = liveness.Liveness()
        while self.curr_replicas:
            questions = {_name(replica): partial(_responds, replica) for replica in self.curr_replicas.values()}
            affinity.PROXY.late = checks.round(questions)
            await asyncio.sleep(liveness.ROUND)
        checks.round({})

    def create_replica_wrapper(self, replica_info: Any) -> RunningReplica:
        """Return a wrapper of a replica that records each request which is sent to the replica."""
        replica = super().create_replica_wrapper(replica_info)
        replica.try_send_request = partial(_noted, replica.try_send_request, _name(replica))  # type: ignore[method-assign]
        return replica

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Remove a replica that died at once, without waiting for Ray Serve's controller."""
        super().on_replica_actor_died(replica_id)
        affinity.PROXY.replicas = tuple(sorted(map(_name, self.curr_replicas.values())))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [[*candidate_replicas]]
        pending_request.routing_context.should_backoff = True
        request = affinity.PROXY.requests.get(pending_request.metadata.request_id)
        by_name = {
            _name(replica): replica for replica in candidate_replicas if _name(replica) not in affinity.PROXY.late
        }
        if request is not None and request.target is not None:  # no other replica may answer for it
            return [[by_name[request.target]]] if request.target in by_name else []
        if request is not None and request.sent is not None and not request.repeats:
            request.lost = True  # Serve would send it again: it knows only that the first replica has ended
            return []
        key = None if request is None else request.key
        ranked = [self._ranked(key, name, replica) for name, replica in by_name.items()]
        return [[by_name[name]] for name in affinity.ordered(key, ranked)]

    def _ranked(self, key: str | None, name: str, replica: RunningReplica) -> affinity.RankedReplica:
        known = self._held.get(name, frozenset())
        holds = key is not None and (key in known or self._sent.get(key) == name)
        load = self.replica_queue_len_cache.get(replica.replica_id) or 0
        return affinity.RankedReplica(name, holds, load, len(known) + self._new[name])

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        request, name = affinity.PROXY.requests.get(pending_request.metadata.request_id), replica_id.unique_id
        if request is None:
            return
        request.placed = name
        if request.key is None or request.target is not None:
            return
        if request.key not in self._held.get(name, ()) and self._sent.get(request.key) != name:
            self._count_new(name)
        self._sent.pop(request.key, None)
        self._sent[request.key] = name
        if len(self._sent) > RECENT:
            del self._sent[next(iter(self._sent))]

    def _count_new(self, name: str) -> None:
        """Count an adapter that a replica is loading and that the replica's statistics do not contain yet."""
        now = self._get_curr_time_s()
        if now - self._since > LATE:
            self._new.clear()
            self._since = now
        self._new[name] += 1


async def _responds(replica: RunningReplica) -> bool:
    try:
        await replica.get_queue_len(deadline_s=liveness.ROUND)
    except RayError:
        return False
    return True


def _noted(send: Callable[..., ReplicaResult], name: str, pending: PendingRequest, **how: Any) -> ReplicaResult:
    """Send a request to a replica, and record that the request may have reached the replica."""
    if (request := affinity.PROXY.requests.get(pending.metadata.request_id)) is not None:
        request.sent = name
    return send(pending, **how)


def _name(replica: RunningReplica) -> str:
    name: str = replica.replica_id.unique_id
    return name
