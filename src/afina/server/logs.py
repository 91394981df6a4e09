"""Logs: every line of standard error is a JSON object, whoever wrote it. Knows no request.

What an error says may hold a text of a client, so that of one which nobody foresaw only type and place are written.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import threading
from pathlib import Path
from types import TracebackType

NAME = "afina.server"
"""The logger of lines that are JSON already."""


class Lines(logging.Formatter):
    """One object a record; asyncio's have what failed in their text, of which the beginning is enough."""

    def format(self, record: logging.LogRecord) -> str:
        """A line without its end."""
        message = record.getMessage()
        if record.name == NAME:
            return message
        if record.name == "asyncio":
            message = message.partition("\n")[0].partition("(")[0].strip()
        line = {"level": record.levelname.lower(), "logger": record.name, "message": message}
        if record.exc_info and record.exc_info[1] is not None:
            line["unforeseen"], line["at"] = named(record.exc_info[1])
        return json.dumps(line)


def named(error: BaseException) -> tuple[str, str]:
    """An error's type, and the line that raised it."""
    at, trace = "", error.__traceback__
    while trace is not None:
        at = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__, at


def begin() -> None:
    """From now on, in this process: warnings and errors that nobody catches too."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": {"()": Lines}},
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
