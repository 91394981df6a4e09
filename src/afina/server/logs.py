"""Logs: every line of standard error has a time, a level and a message, whoever wrote it. Knows no request.

What an error says may hold a text of a client, so that of one which nobody foresaw only type and place are written.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

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
        line["unforeseen"], line["at"] = named(record.exc_info[1])
    return {**line, **getattr(record, "fields", {})}


class Objects(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        return json.dumps(fields_of(record))


class Words(logging.Formatter):
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


def named(error: BaseException) -> tuple[str, str]:
    """An error's type, and the line that raised it."""
    at, trace = "", error.__traceback__
    while trace is not None:
        at = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, at


def begin(form: str = JSON) -> None:
    """From now on, in this process: warnings and errors that nobody catches too. form: JSON or TEXT."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": {"()": Words if form == TEXT else Objects}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {NAME: {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
        }
    )
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def adopt() -> None:
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
