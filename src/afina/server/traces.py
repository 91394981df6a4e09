"""Traces: what OpenTelemetry is told of requests and batches, where it is installed and its variables ask for it.

Times, counts, routes as templates and codes: no text, no client, no model, and no path or header that somebody made up.
A trace begins here, whatever `traceparent` a request has, since whoever sends one could choose what it is filed under.
"""

from __future__ import annotations

import logging
import os
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afina.store import publishing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from afina.server.batching import Computed

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_SECOND = 1_000_000_000


@dataclass(eq=False)
class Traced:
    """A request on its way. wait: seconds, of the text that waited longest; compute: of all its batches."""

    span: Span
    tokens: int = 0
    wait: float = 0.0
    compute: float = 0.0


CURRENT: ContextVar[Traced | None] = ContextVar("afina-traced", default=None)
"""The request that a task is about."""


class Traces:
    """May be told by several threads."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("afina.server")

    def begin(self) -> Traced:
        """A request has come; what its task, and those that it begins, let wait is of it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        made = Traced(self._tracer.start_span("request", Context(), SpanKind.SERVER))
        CURRENT.set(made)
        return made

    def end(self, traced: Traced, method: str, route: str, status: int) -> None:
        """It was answered. route: the template."""
        from opentelemetry.trace import StatusCode

        known = method if method in METHODS else "_OTHER"
        traced.span.update_name(f"{known} {route}")
        traced.span.set_attributes({"http.request.method": known, "http.route": route})
        traced.span.set_attribute("http.response.status_code", status)
        spent = {"tokens": traced.tokens, "wait_seconds": traced.wait, "compute_seconds": traced.compute}
        traced.span.set_attributes({f"afina.{name}": value for name, value in spent.items()})
        if status >= 500:
            traced.span.set_status(StatusCode.ERROR)
        traced.span.end()

    def computed(self, batch: Computed) -> None:
        """A batch was, of these requests, and perhaps of others that nobody traces."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        requests: dict[Traced, None] = {}
        for traced, waited, tokens in batch.asked:
            requests[traced] = None
            traced.tokens += tokens
            traced.wait = max(traced.wait, waited)
        for traced in requests:
            traced.compute += batch.seconds
        ended = int(publishing._seconds() * _SECOND)
        span = self._tracer.start_span(
            "batch",
            Context(),
            attributes={"afina.tokens": batch.tokens, "afina.texts": batch.texts, "afina.budget": batch.budget},
            links=[Link(traced.span.get_span_context()) for traced in requests],
            start_time=ended - int(batch.seconds * _SECOND),
        )
        span.end(ended)

    def close(self) -> None:
        """Send what was not sent yet, and no more."""
        self._provider.shutdown()


def wanted() -> bool:
    """Whether OpenTelemetry's own variables ask for traces by OTLP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return "otlp" in exporters.split(",") and any(os.environ.get(name, "").strip() for name in ENDPOINTS)


def make() -> Traces | None:
    """What the environment asks for, sent by OTLP over HTTP; None where it asks for nothing, or nothing can be sent."""
    if not wanted():
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        logging.getLogger(__name__).warning("no traces without %s: pip install 'afina[traces]'", error.name)
        return None
    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if is_named else {"service.name": "afina"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
