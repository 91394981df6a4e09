"""Every line of standard error has time, level and message, whoever writes it; what an error says is in none."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from afina.server import logs_and_traces

ALL = """
    import asyncio, gc, json, logging, sys, threading, warnings

    theirs = logging.getLogger("theirs")
    theirs.addHandler(logging.StreamHandler())
    theirs.propagate = False

    from afina.server import logs_and_traces as logs

    logs.begin_logging(sys.argv[1])
    logs.adopt_loggers()

    def soup(*_):
        raise ZeroDivisionError("the soup\\nwas bright.")

    logging.getLogger("uvicorn.error").info("Started %s\\nhere", "process")
    theirs.warning("theirs")
    logging.getLogger("theirs.quiet").info("not told")
    logs.note("request", route="/predict", method="A B", client=None)
    warnings.warn("old\\nfashioned")

    thread = threading.Thread(target=soup)
    thread.start()
    thread.join()

    class Finalised:
        __del__ = soup

    Finalised()

    async def loop():
        asyncio.get_running_loop().call_soon(soup, "the soup was bright.")
        asyncio.create_task(asyncio.to_thread(soup))
        await asyncio.sleep(0.2)
        gc.collect()

    asyncio.run(loop())
    soup()
"""


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def written(form: str) -> list[str]:
    """The lines of a process that ends by an error."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(ALL), form], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "bright" not in done.stderr
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in written("json")]


def test_every_line_says_when_how_grave_and_who_wrote_it(lines: list[dict[str, Any]]) -> None:
    assert all(re.fullmatch(TIME, line.pop("time")) for line in lines)
    assert lines[0] == {"level": "info", "logger": "uvicorn.error", "message": "Started process\nhere"}
    assert lines[1] == {"level": "warning", "logger": "theirs", "message": "theirs"}
    assert lines[2] == {
        **{"level": "info", "logger": "afina.server", "message": "request"},
        **{"route": "/predict", "method": "A B", "client": None},
    }
    assert (lines[3]["logger"], "old\nfashioned" in lines[3]["message"]) == ("py.warnings", True)


def test_in_the_format_for_people_a_record_is_one_line_too() -> None:
    lines = written("text")
    assert all(re.match(rf"{TIME} (INFO|WARNING|ERROR) [\w.]+: ", line) for line in lines)
    said = [line.partition(" ")[2] for line in lines]
    assert said[0] == r'INFO uvicorn.error: "Started process\nhere"'
    assert said[1:3] == ["WARNING theirs: theirs", 'INFO afina.server: request route=/predict method="A B"']
    assert said[-1] == "ERROR python: uncaught unforeseen=ZeroDivisionError at=<string>:14"


def test_of_an_error_that_nobody_caught_type_and_place_are_told(lines: list[dict[str, Any]]) -> None:
    unforeseen = [(one["logger"], one["message"]) for one in lines[4:] if one.get("unforeseen") == "ZeroDivisionError"]
    assert unforeseen == [
        ("python", "uncaught"),
        ("python", "uncaught"),
        ("asyncio", "Exception in callback soup"),
        ("asyncio", "Task exception was never retrieved"),
        ("python", "uncaught"),
    ]
    assert {one["at"] for one in lines[4:]} == {"<string>:14"}


def test_of_a_traceback_that_a_library_writes_as_its_message_the_type_is_told() -> None:
    said = 'Traceback (most recent call last):\n  File "a.py", line 1, in b\nValueError: the soup was bright.\n'
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "a.py", 1, said, (), None)
    assert logs_and_traces.fields_of(record)["message"] == "traceback of ValueError"
