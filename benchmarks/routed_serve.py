"""`afina serve --ray` with another way of routing requests to replicas: `python routed_serve.py ROUTER serve ...`.

    resident     afina's own: a replica with the adapter in memory, unless it is much busier than another one
    random       Ray Serve's default: the less busy one of two random replicas ("power of two choices")
    multiplexed  Ray Serve's model multiplexing: replicas report their adapters every 0.1 s as multiplexed models

All else is as with `afina serve`. `serve_cluster.py` measures them beside each other.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from typing import Any

from ray.serve._private.common import RequestRoutingInfo
from ray.serve.config import RequestRouterConfig
from ray.serve.context import _get_global_client, _get_internal_replica_context
from ray.serve.request_router import FIFOMixin, MultiplexMixin, PendingRequest, RunningReplica
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from afina.server.ray_serve import affinity, answers, proxy
from afina.server.ray_serve.application import Replica
from afina.server.ray_serve.routing import ResidencyRouter

PUSHED = 0.1
"""Seconds between two reports of a replica, as in Ray Serve (PUSH_MULTIPLEXED_MODEL_IDS_INTERVAL_S)."""

MODEL = b"serve_multiplexed_model_id"
"""Ray Serve's header with the model of a request."""


class RandomRouter(ResidencyRouter):
    """Power of two choices; what the proxy needs to know of a request is as with ResidencyRouter."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Two random replicas, of which Ray Serve takes the less busy one."""
        if pending_request is None or _target(pending_request) is not None:
            return await super().choose_replicas(candidate_replicas, pending_request)
        pending_request.routing_context.should_backoff = True
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


class MultiplexedRouter(FIFOMixin, MultiplexMixin, RandomRouter):  # type: ignore[misc]
    """Ray Serve's own multiplexing, as its PowerOfTwoChoicesRequestRouter does it."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Two random ones of the replicas that Ray Serve names."""
        model = pending_request.metadata.multiplexed_model_id if pending_request else ""
        if pending_request is None or _target(pending_request) is not None or not model:
            return await super().choose_replicas(candidate_replicas, pending_request)
        named = [self.curr_replicas[one] for one in self.apply_multiplex_routing(pending_request)]
        return [random.sample(named, min(2, len(named)))]


def _target(pending: PendingRequest) -> str | None:
    request = affinity.PROXY.requests.get(pending.metadata.request_id)
    return None if request is None else request.target


class ReportingReplica(Replica):
    """A replica that reports its adapters as multiplexed models."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        threading.Thread(target=self._report, daemon=True).start()

    def _report(self) -> None:
        context = _get_internal_replica_context()
        assert context is not None
        before: list[str] = []
        waiting = threading.Event()
        while not waiting.wait(PUSHED):
            held = sorted(map(affinity.affinity_key, self.core.held_names))
            if held != before:
                report = RequestRoutingInfo(replica_id=context.replica_id, multiplexed_model_ids=held)
                _get_global_client().record_request_routing_info(report)
                before = held


class ModelHeader:
    """Inside afina's middleware: names the model of a request to Ray Serve."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        request = answers.header(scope.get("headers", ()), answers.ID) or b""
        routed = affinity.PROXY.requests.get(request.decode())
        if routed is not None and routed.key is not None:
            scope = {**scope, "headers": [*scope["headers"], (MODEL, routed.key.encode())]}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """The middleware of a proxy for Ray Serve's multiplexing."""
    return [Middleware(ModelHeader), *proxy.middlewares()]


def main() -> None:
    """Let the router be the one that is named, and go on as `afina`."""
    router = sys.argv.pop(1)
    from afina import cli
    from afina.server.ray_serve import deployment, lifecycle

    # The processes of replicas and proxies import this module by its name.
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    if router != "resident":
        named = {"random": RandomRouter, "multiplexed": MultiplexedRouter}[router].__name__

        def config(**settings: Any) -> RequestRouterConfig:
            return RequestRouterConfig(**settings | {"request_router_class": f"routed_serve.{named}"})

        vars(deployment)["RequestRouterConfig"] = config
    if router == "multiplexed":
        import routed_serve

        vars(deployment)["Replica"] = routed_serve.ReportingReplica
        vars(lifecycle)["CALLBACK"] = dict.fromkeys(proxy.CALLBACK, "routed_serve.middlewares")
    cli.main()


if __name__ == "__main__":
    main()
