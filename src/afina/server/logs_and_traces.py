"""Log lines of the server, and its OpenTelemetry traces of requests and batches. Knows no request's content.

Every line of standard error has a time, a level and a message, whoever wrote it. What an error says may hold a text of
a client, so that of one which nobody foresaw only type and place are written.

Traces are sent where OpenTelemetry is installed and its variables ask for it: times, counts, routes as templates and
codes, but no text, no client, no model, and no path or header that somebody made up. A trace begins here, whatever
`traceparent` a request has, since whoever sends one could choose what it is filed under.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from afina.store import publishing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from afina.server.queue import ComputedBatch


NAME = "afina.server"
"""The logger of what the server itself says."""

JSON, TEXT = "json", "text"
"""Formats: an object a line, for programs; words a line, for a person."""


def note(message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line of the server's own, with fields beside its message. No field may be a text or a secret."""
    logging.getLogger(NAME).log(level, "%s", message, extra={"fields": fields})


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says: time (UTC), level, logger, message, and the fields of a line of the server's own.

    asyncio's messages have what failed in their text, of which the beginning is enough; of a traceback that a library
    writes as its message, the type of the error is.
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
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        return json.dumps(fields_of(record))


class TextLines(logging.Formatter):
    """`TIME LEVEL LOGGER: MESSAGE name=value ...`; a value or message that could be taken for more is in quotes."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        line = fields_of(record)
        time, level, logger, message = (str(line.pop(name)) for name in ("time", "level", "logger", "message"))
        shown = message if message.isprintable() else json.dumps(message)
        named_values = [f"{name}={_shown(value)}" for name, value in line.items() if value is not None]
        return " ".join([time, level.upper(), f"{logger}:", shown, *named_values])


def _shown(value: Any) -> str:
    is_word = isinstance(value, str) and value.isprintable() and value and not set(value) & set(' "=')
    return value if is_word else json.dumps(value)


def error_place(error: BaseException) -> tuple[str, str]:
    """An error's type, and the line that raised it."""
    at, trace = "", error.__traceback__
    while trace is not None:
        at = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, at


def begin_logging(form: str = JSON) -> None:
    """From now on, in this process: warnings and errors that nobody catches too. form: JSON or TEXT."""
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
    """Take over libraries that have come with a handler of their own."""
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
    """A request on its way. wait: seconds, of the text that waited longest; compute: of all its batches."""

    span: Span
    tokens: int = 0
    wait: float = 0.0
    compute: float = 0.0


TRACED_REQUEST: ContextVar[TracedRequest | None] = ContextVar("afina-traced", default=None)
"""The request that a task is about."""


class Traces:
    """May be told by several threads."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("afina.server")

    def begin(self) -> TracedRequest:
        """A request has come; what its task, and those that it begins, let wait is of it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        made = TracedRequest(self._tracer.start_span("request", Context(), SpanKind.SERVER))
        TRACED_REQUEST.set(made)
        return made

    def end(self, traced: TracedRequest, method: str, route: str, status: int) -> None:
        """It was answered. route: the template."""
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
        """A batch was, of these requests, and perhaps of others that nobody traces."""
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
        """Send what was not sent yet, and no more."""
        self._provider.shutdown()


def traces_wanted() -> bool:
    """Whether OpenTelemetry's own variables ask for traces by OTLP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return "otlp" in exporters.split(",") and any(os.environ.get(name, "").strip() for name in ENDPOINTS)


def make_traces() -> Traces | None:
    """What the environment asks for, sent by OTLP over HTTP; None where it asks for nothing, or nothing can be sent."""
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
