"""The class of a Ray Serve replica, which runs the whole server with its own engine and core."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import MutableMapping, Sequence
from typing import Any

from pydantic import Field
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afina import meter
from afina.engine.engine import Engine
from afina.schema import Frozen
from afina.server import logs_and_traces
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.ray_serve import affinity, answers, autoscaling
from afina.server.settings import Settings
from afina.store.adapter_store import AdapterStore

PRELOADING = 0.1  # seconds between two checks whether the models are preloaded


class ReplicaOptions(Frozen):
    """The options of a replica as JSON values.

    Attributes:
        backbone: The address of the backbone.
        store: The address of the store, with the password; None for the address in the environment variable AFINA_STORE
            of the replica's node.
        dtype: The precision of the computation: float32, bfloat16, int8 or auto.
        memory: The largest memory for adapters in MiB, in addition to the backbone. None: no limit.
        settings: The fields of `Settings` that differ from the defaults.
        log_format: The format of log lines: json or text.
        version: The version of afina. If the version changes, the running replicas are replaced.
    """

    backbone: str
    store: str | None = None
    dtype: str = "float32"
    memory: int | None = None
    settings: dict[str, bool | int | float | Sequence[str] | None] = Field(default_factory=dict)
    log_format: str = logs_and_traces.JSON
    version: str = ""


class Replica:
    """A server in a Ray Serve replica. Ray Serve calls the methods on the replica's event loop."""

    def __init__(self, values: dict[str, Any]) -> None:
        options = ReplicaOptions(**values)
        self.name: str = serve.get_replica_context().replica_id.unique_id
        logs_and_traces.begin_logging(options.log_format)
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._named)
        _name_traces(os.environ, self.name)
        store = AdapterStore(options.store)
        store.make_ready()
        limit = None if options.memory is None else options.memory << 20
        engine = Engine(options.backbone, store, dtype=options.dtype, limit=limit)
        self.core = Core(engine, store, Settings(**options.settings), logs_and_traces.make_traces())  # type: ignore[arg-type]
        self.core.open_backbone()
        self._measured = meter.now(), 0.0

    def _named(self, record: logging.LogRecord) -> bool:
        record.fields = {**getattr(record, "fields", {}), "replica": self.name}
        return True

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return NamedAnswers(make_app(self.core), self.name)

    async def reconfigure(self, configuration: dict[str, Any]) -> None:
        """Wait until the models are preloaded, and log the owner of the deployment from the user configuration.

        After this method has returned, Ray Serve sends requests to this replica, and ends the replica that it replaces.
        """
        while not self.core.tried_preloading:
            await asyncio.sleep(PRELOADING)
        logs_and_traces.note("deployed", owner=configuration.get("owner"))

    async def check_health(self) -> None:
        """Raise RuntimeError if a thread of the server has ended, so that Ray Serve replaces the replica.

        A replica whose store does not respond is still healthy, because it answers with the versions that it knows.
        """
        if not self.core.alive:
            raise RuntimeError("a thread of the server has ended")

    async def record_routing_stats(self) -> dict[str, Any]:
        """Return what the proxies need for routing: keys of the adapters in memory, and the limits on requests."""
        held = sorted(map(affinity.affinity_key, self.core.held_names))
        return {affinity.HELD: held, affinity.LIMITS: [*affinity.RequestLimits.of(self.core.settings)]}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the replica's number of waiting tokens, and the share of time that it computed since the last call."""
        (before, seconds), now = self._measured, (meter.now(), self.core.metrics.seconds)
        self._measured = now
        tokens, _ = self.core.batching.waiting
        busy = (now[1] - seconds) / max(now[0] - before, 1e-6)
        return {autoscaling.QUEUED: float(tokens), autoscaling.BUSY: min(1.0, busy)}

    async def drain(self) -> None:
        self.core.drain()


class NamedAnswers:
    """ASGI middleware that adds the header `answers.REPLICA` to each response."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app, self._header = app, (answers.REPLICA, name.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), self._header]}
            await send(message)

        request = answers.header(scope["headers"], answers.CLIENT_ID)
        await self._app({**scope, **({"afina.request": request.decode("latin-1")} if request else {})}, receive, named)


def _name_traces(environment: MutableMapping[str, str], name: str) -> None:
    """Set OpenTelemetry's resource attribute `service.instance.id` to the replica's name, unless it is set."""
    attributes = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "service.instance.id=" not in attributes:
        environment["OTEL_RESOURCE_ATTRIBUTES"] = ",".join(filter(None, [attributes, f"service.instance.id={name}"]))
