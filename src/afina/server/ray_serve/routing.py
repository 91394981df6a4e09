"""The request router of a Serve deployment that prefers replicas with the adapter in memory.

Serve pickles this module by value into the processes that route. So everything that it shares with other modules of
such a process is read through a module (`affinity.PROXY`), and never imported by name.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private.replica_result import ReplicaResult
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from afina.server.ray_serve import affinity

RECENT = 4096
"""Number of models for which a router remembers where it sent the last request."""


class ResidencyRouter(RequestRouter):
    """Tries replicas in the order of `affinity.ordered`.

    Serve's own routers and mixins are not used. `PowerOfTwoChoicesRequestRouter` with its multiplexing keeps a hot
    model on one replica until that replica rejects requests, needs an LRU cache by number of models, and lets a second
    request for an unknown model wait.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._sent: dict[str, str] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take over the running replicas."""
        super().update_replicas(replicas)
        affinity.PROXY.replicas = tuple(sorted(one.replica_id.unique_id for one in replicas))

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Leave out a replica that died, before the controller knows of it."""
        super().on_replica_actor_died(replica_id)
        affinity.PROXY.replicas = tuple(sorted(one.unique_id for one in self.curr_replicas))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return replicas one by one, the best first."""
        if pending_request is None:
            return [[*candidate_replicas]]
        pending_request.routing_context.should_backoff = True
        request = affinity.PROXY.requests.get(pending_request.metadata.request_id)
        by_name = {one.replica_id.unique_id: one for one in candidate_replicas}
        if request is not None and request.target in by_name:
            return [[by_name[request.target]]]
        key = None if request is None else request.key
        found = [self._candidate(key, name, one) for name, one in by_name.items()]
        return [[by_name[name]] for name in affinity.ordered(key, found)]

    def _candidate(self, key: str | None, name: str, replica: RunningReplica) -> affinity.RankedReplica:
        held = key is not None and (key in replica.routing_stats.get(affinity.HELD, ()) or self._sent.get(key) == name)
        load = self.replica_queue_len_cache.get(replica.replica_id) or 0
        return affinity.RankedReplica(name, held, load)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Remember that a replica accepted a request, and therefore holds its adapter soon."""
        request = affinity.PROXY.requests.get(pending_request.metadata.request_id)
        if request is None:
            return
        request.placed = replica_id.unique_id
        if request.key is not None and request.target is None:
            self._sent.pop(request.key, None)
            self._sent[request.key] = replica_id.unique_id
            if len(self._sent) > RECENT:
                del self._sent[next(iter(self._sent))]
