"""Every line of standard error is a JSON object, whoever writes it, and what an error says is in none."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

ALL = """
    import asyncio, gc, json, logging, sys, threading, warnings

    theirs = logging.getLogger("theirs")
    theirs.addHandler(logging.StreamHandler())
    theirs.propagate = False

    from afina.server import logs

    logs.begin()
    logs.adopt()

    def soup(*_):
        raise ZeroDivisionError("the soup\\nwas bright.")

    logging.getLogger("uvicorn.error").info("Started %s\\nhere", "process")
    theirs.warning("theirs")
    logging.getLogger("theirs.quiet").info("not told")
    logging.getLogger("afina.server").info(json.dumps({"route": "/predict"}))
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


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(ALL)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "bright" not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_an_object_and_says_who_wrote_it(lines: list[dict[str, Any]]) -> None:
    assert lines[0] == {"level": "info", "logger": "uvicorn.error", "message": "Started process\nhere"}
    assert lines[1] == {"level": "warning", "logger": "theirs", "message": "theirs"}
    assert lines[2] == {"route": "/predict"}
    assert (lines[3]["logger"], "old\nfashioned" in lines[3]["message"]) == ("py.warnings", True)


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
