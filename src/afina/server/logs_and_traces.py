"""Log lines of the server, and OpenTelemetry traces of requests and batches, without the content of requests.

Every line on standard error has a time, a level and a message, including lines of other libraries. The message of an
unexpected error may contain a client's text, so only its type and place are written.

Traces are sent if OpenTelemetry is installed and its environment variables are set. They contain times, counts, route
templates, status codes and the ids of requests, but no text, client, model, raw path or other header. A request's
`traceparent` is ignored, since clients could otherwise choose the trace that their requests belong to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
import os
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from afina.store import publishing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from afina.server.metrics import ComputedBatch, Metrics


NAME = "afina.server"
"""Name of the logger for the server's own lines."""

JSON, TEXT = "json", "text"
"""Formats of log lines: a JSON object for programs, or text for people."""


def note(message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a log line of the server, with `fields` besides the message.

    No field may contain a client's text or a secret.
    """
    logging.getLogger(NAME).log(level, "%s", message, extra={"fields": fields})


RARELY = 10.0
"""Seconds between two lines of a `RareLine`."""


class RareLine:
    """A log line for events that strangers can cause at any rate: written at once, then at most every `RARELY` seconds.

    The field `count` of a line has the number of events since the line before. For one event loop.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        self._message, self._fields = message, fields
        self._count, self._waits, self._last = 0, False, dict[str, Any]()

    def note(self, **fields: Any) -> None:
        """Count an event. Its fields are written if the event is the last before the next line."""
        self._count, self._last = self._count + 1, fields
        if not self._waits:
            self._write()

    def _write(self) -> None:
        self._waits = self._count > 0
        if self._waits:
            note(self._message, count=self._count, **self._fields, **self._last)
            self._count = 0
            asyncio.get_running_loop().call_later(RARELY, self._write)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a log line: time (UTC), level, logger, message, and the fields passed to `note`.

    Messages of asyncio contain the failed object, so only the beginning of such a message is kept. If a library logs a
    traceback as its message, only the type of the error is kept.
    """
    message = record.getMessage()
    if record.name == "asyncio":
        message = message.partition("\n")[0].partition("(")[0].strip()
    elif message.startswith("Traceback (most recent call last)"):
        message = "traceback of " + message.strip().rpartition("\n")[2].partition(":")[0]
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": message}
    if record.exc_info and record.exc_info[1] is not None:
        line["unforeseen"], line["at"] = error_place(record.exc_info[1])
    return {**line, **getattr(record, "fields", {})}


class JsonLines(logging.Formatter):
    """A logging formatter: one JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(fields_of(record))


class TextLines(logging.Formatter):
    """A logging formatter: `TIME LEVEL LOGGER: MESSAGE name=value ...`. Ambiguous messages and values are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        line = fields_of(record)
        time, level, logger, message = (str(line.pop(name)) for name in ("time", "level", "logger", "message"))
        shown = message if message.isprintable() else json.dumps(message)
        named_values = [f"{name}={_shown(value)}" for name, value in line.items() if value is not None]
        return " ".join([time, level.upper(), f"{logger}:", shown, *named_values])


def _shown(value: Any) -> str:
    is_word = isinstance(value, str) and value.isprintable() and value and not set(value) & set(' "=')
    return value if is_word else json.dumps(value)


def error_place(error: BaseException) -> tuple[str, str]:
    """Return the type of an error, and the file and line that raised the error."""
    at, trace = "", error.__traceback__
    while trace is not None:
        at = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, at


def note_failure(metrics: Metrics, what: str, error: BaseException) -> None:
    """Count and log an unexpected error.

    The error's message may contain a client's text, so only type, file and line are logged.
    """
    metrics.failures.labels(what).inc()
    unforeseen, at = error_place(error)
    note("failed", logging.ERROR, what=what, unforeseen=unforeseen, at=at)


def begin_logging(form: str = JSON) -> None:
    """Configure logging for this process, including warnings and uncaught errors. `form`: JSON or TEXT."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": {"()": TextLines if form == TEXT else JsonLines}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {NAME: {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
        }
    )
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def adopt_loggers() -> None:
    """Remove the stream handlers of other libraries' loggers, so that their lines get this module's format."""
    for one in logging.root.manager.loggerDict.values():
        if isinstance(one, logging.Logger):
            for handler in [*one.handlers]:
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    one.removeHandler(handler)
                    one.propagate = True


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    found = kind() if error is None else error
    logging.getLogger("python").error("uncaught", exc_info=(kind, found, trace))


ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_SECOND = 1_000_000_000


@dataclass(eq=False)
class TracedRequest:
    """A request that is being traced.

    Attributes:
        tokens: tokens of the texts.
        wait: the longest time that a text of the request waited in the queue, in seconds.
        compute: seconds of computing all batches with a text of the request.
    """

    span: Span
    tokens: int = 0
    wait: float = 0.0
    compute: float = 0.0


class Traces:
    """Exports spans of requests and batches by OpenTelemetry. Thread-safe."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("afina.server")

    def begin(self, request: str) -> TracedRequest:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        made = TracedRequest(self._tracer.start_span("request", Context(), SpanKind.SERVER))
        made.span.set_attribute("afina.request", request)
        return made

    def end(self, traced: TracedRequest, method: str, route: str, status: int) -> None:
        """End the span of a request. `route`: the route's template."""
        from opentelemetry.trace import StatusCode

        known = method if method in HTTP_METHODS else "_OTHER"
        traced.span.update_name(f"{known} {route}")
        traced.span.set_attributes({"http.request.method": known, "http.route": route})
        traced.span.set_attribute("http.response.status_code", status)
        spent = {"tokens": traced.tokens, "wait_seconds": traced.wait, "compute_seconds": traced.compute}
        traced.span.set_attributes({f"afina.{name}": value for name, value in spent.items()})
        if status >= 500:
            traced.span.set_status(StatusCode.ERROR)
        traced.span.end()

    def computed(self, batch: ComputedBatch) -> None:
        """Add the span of a batch, linked to the traced requests in the batch."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        requests: dict[TracedRequest, None] = {}
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
        self._provider.shutdown()


def traces_wanted() -> bool:
    """Return whether OpenTelemetry's environment variables ask for traces by OTLP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return "otlp" in exporters.split(",") and any(os.environ.get(name, "").strip() for name in ENDPOINTS)


def make_traces() -> Traces | None:
    """Return an exporter of traces (OTLP over HTTP), configured by OpenTelemetry's environment variables.

    Returns None if the environment names no exporter, or a package is missing.
    """
    if not traces_wanted():
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        said = "no traces without %s: pip install 'afina[traces]'"
        logging.getLogger("afina.server.traces").warning(said, error.name)
        return None
    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if is_named else {"service.name": "afina"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
