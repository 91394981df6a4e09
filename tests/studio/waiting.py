"""Waiting for what another process does, and a command that runs until it is ended."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from afina.studio import command_process
from afina.studio.command_process import CommandProcess

PATIENCE = 120.0


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `condition` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def endless(folder: Path) -> list[str]:
    """The arguments of a command that starts in a second, and runs until it is ended: a studio within the studio."""
    return ["studio", str(folder), "--port", str(free_port())]


def is_up(process: CommandProcess) -> bool:
    """Whether an endless command runs and hears signals."""
    return b"studio: http" in read(process.directory / "output")


def read(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def running() -> list[Any]:
    """The supervisors that this process has started and not seen the end of."""
    with command_process._locking:
        command_process._reap()
        return [*command_process._started]


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants, without those that have ended and that nobody has waited for."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [one for one in (first, *first.children(recursive=True)) if one.status() != psutil.STATUS_ZOMBIE]
    return []


def kill(*processes: psutil.Process) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(processes, timeout=PATIENCE)


@contextmanager
def nothing_left_below(folder: Path) -> Iterator[None]:
    """After the block, end every command that was started in a folder."""
    try:
        yield
    finally:
        for path in folder.rglob("process.json"):
            process = CommandProcess(path.parent)
            pid = process.pid
            found = family(pid) if pid is not None else []
            with suppress(ProcessLookupError):
                if pid is not None and process.is_running:
                    os.killpg(pid, signal.SIGKILL)
            kill(*found)
            until(lambda: not any(Path(one.args[-2]) == path.parent for one in running()))  # noqa: B023
