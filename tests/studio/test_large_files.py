"""Large files in a studio that runs as a user starts it: pages stay quick, and its memory stays flat."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rubbish_files import RUBBISH

from afina.meter import now
from afina.studio.command_process import CommandProcess
from command import PROGRAM
from servers import within
from services import free_port

pytestmark = pytest.mark.slow

ROWS = 60_000
GROWTH = 40 * 2**20
"""The most bytes by which the studio's memory may grow; each of the files has at least as many on disk or in memory."""

SECONDS = 0.3
"""The most seconds of a page on the server."""


def large() -> bytes:
    return b"text,label\n" + b"".join(
        b"row %d %s,%s\n" % (row, b"of many words " * 10, (b"bad", b"good")[row % 2]) for row in range(ROWS)
    )


def long() -> bytes:
    return b"text,label\n" + b"".join(
        b"%d %s,%s\n" % (row, b"lorem ipsum " * 90_000, (b"bad", b"good")[row % 2]) for row in range(12)
    )


def many_classes() -> bytes:
    return b"text,label\n" + b"".join(b"text %d,class number %d\n" % (row, row % 1000) for row in range(5000))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[httpx2.Client, int]]:
    """A browser that is signed in at a studio of its own process, and the id of this process."""
    port, folder = free_port(), tmp_path / "studio"
    command = [*PROGRAM, "studio", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().rpartition(" ")[2].strip()
            origin = f"http://127.0.0.1:{port}"
            with httpx2.Client(base_url=origin, headers={"Origin": origin}, timeout=60) as client:
                client.get(address)
                yield client, process.pid
        finally:
            for directory in folder.glob("*/processes/*"):
                CommandProcess(directory).kill()
            process.send_signal(signal.SIGINT)


def resident(pid: int) -> int:
    """The memory of a process without its children, in bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def upload(client: httpx2.Client, title: str, content: bytes) -> None:
    answer = client.post("/", files={"file": ("a.csv", content)}, data={"title": title})
    assert answer.headers["location"] == f"/{title}/data", answer.text


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of another process in /proc")
def test_pages_are_quick_and_memory_is_flat_while_and_after_a_large_file_is_read(
    started: tuple[httpx2.Client, int],
) -> None:
    client, pid = started
    upload(client, "small", RUBBISH["spellings of a label"][1])
    for page in ("/", "/small/data", "/small/data.json"):
        assert client.get(page).status_code == 200
    check_quick_and_flat(client, pid, "large", large(), {"train": 48_000, "evaluation": 12_000})
    check_quick_and_flat(client, pid, "long", long(), {"train": 10, "evaluation": 2})
    check_quick_and_flat(client, pid, "many", many_classes(), {"train": 4000, "further": 0})


def check_quick_and_flat(client: httpx2.Client, pid: int, title: str, content: bytes, expected: dict[str, Any]) -> None:
    """Upload a file, and look at pages until its texts have been read."""
    before = resident(pid)
    upload(client, title, content)
    took: list[float] = []
    facts: dict[str, Any] = {}

    def look() -> bool:
        for page in ("/", f"/{title}/data", "/small/data"):
            began = now()
            assert client.get(page).status_code == 200
            took.append(now() - began)
        facts.update(client.get(f"/{title}/data.json").json())
        return facts["found"] is not None or bool(facts["problem"])

    assert within(120, look)
    assert facts["found"] is not None, facts["problem"]
    assert {name: facts["found"][name] for name in expected} == expected
    look()
    assert statistics.median(took) < SECONDS
    assert resident(pid) - before < GROWTH
    assert len(client.get(f"/{title}/data").content) < 500_000
