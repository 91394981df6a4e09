"""The server's log lines, and OpenTelemetry traces of requests and batches, without the texts of requests.

The message of an unexpected error may contain a client's text, so only the error's type, file and line are logged.

Traces contain times, counts, route templates, status codes and the ids of requests, but no texts, clients, models, raw
paths or further headers. The header `traceparent` of a request is ignored, since clients could otherwise choose the
trace of their requests.
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

from afina import meter

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from afina.server.metrics import ComputedBatch, FailedPart, Metrics


NAME = "afina.server"
"""Name of the logger for the server's own lines."""

JSON, TEXT = "json", "text"
"""The formats of log lines: JSON is an object for programs, TEXT is for people."""


def note(message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a log line of the server. No field may contain a client's text or a secret."""
    logging.getLogger(NAME).log(level, "%s", message, extra={"fields": fields})


RARELY = 10.0
"""Seconds between two lines of a `RareLine`."""


class RareLine:
    """A log line for events that anyone can cause at any rate, such as requests without an API key.

    After the first event, a line is logged at most every `RARELY` seconds, with the number of events as `count`.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        self._message, self._fields = message, fields
        self._count, self._waits, self._last = 0, False, dict[str, Any]()

    def note(self, **fields: Any) -> None:
        """Count an event. The next log line has the fields of the last event before the line."""
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

    A message of asyncio contains the failed object, so only the message's beginning is kept. If a library logs a
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
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(fields_of(record))


class TextLines(logging.Formatter):
    """A logging formatter that writes `TIME LEVEL LOGGER: MESSAGE name=value ...`, and quotes ambiguous values."""

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
    """Return the name of an error's type, and the place that raised the error as `file:line`."""
    at, trace = "", error.__traceback__
    while trace is not None:
        at = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, at


def note_failure(metrics: Metrics, what: FailedPart, error: BaseException) -> None:
    """Count and log an unexpected error: its type, file and line, as its message may contain a client's text."""
    metrics.failures.labels(what).inc()
    unforeseen, at = error_place(error)
    note("failed", logging.ERROR, what=what, unforeseen=unforeseen, at=at)


def begin_logging(form: str = JSON) -> None:
    """Configure logging to standard error for this process, including warnings and uncaught exceptions."""
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
    """Remove the stream handlers of other libraries' loggers, so that all log lines have this module's format."""
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
    """A request that is being traced. `wait` is the longest of its texts, `compute` that of all their batches."""

    span: Span
    tokens: int = 0
    wait: float = 0.0
    compute: float = 0.0


class Traces:
    """An exporter of OpenTelemetry spans of requests and batches. Thread-safe."""

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
        """Add a span for a computed batch, with links to the spans of the requests in the batch."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        requests: dict[TracedRequest, None] = {}
        for traced, waited, tokens in batch.asked:
            requests[traced] = None
            traced.tokens += tokens
            traced.wait = max(traced.wait, waited)
        for traced in requests:
            traced.compute += batch.seconds
        ended = int(meter.posix_time() * _SECOND)
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
    """Return whether OpenTelemetry's environment variables say that traces are exported by OTLP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return "otlp" in exporters.split(",") and any(os.environ.get(name, "").strip() for name in ENDPOINTS)


def make_traces() -> Traces | None:
    """Return an exporter of traces (OTLP over HTTP); None without an endpoint in the environment, or the package."""
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
