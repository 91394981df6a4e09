"""Studies in processes of their own, and the workers that they start: wait for a moment, disturb, see that all end."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 180.0
"""Seconds that a busy machine may take for what takes two or three on an idle one."""


SERVER, ALONE = "afina.studies.executors.fork_server", "afina.studies.executors.worker"


def is_worker(process: psutil.Process) -> bool:
    """Whether it was forked by a server, or started for one run."""
    try:
        parent = process.parent()
        forked = SERVER in process.cmdline() and parent is not None and SERVER in parent.cmdline()
        return forked or ALONE in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def workers(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    return list(filter(is_worker, psutil.Process(process.pid).children(recursive=True)))


def until(condition: Callable[[], Any], process: subprocess.Popen[Any]) -> Any:
    """What `condition` gives as soon as it gives something; the process must be alive until then."""
    start = time.monotonic()
    while not (found := condition()):
        assert process.poll() is None, "the study ended before it could be disturbed"
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.01)
    return found


def paths_below(root: Path) -> Iterator[Path]:
    """Also while others write there: `rglob` ends with an error where a directory goes away under it."""
    return (Path(place, name) for place, folders, files in os.walk(root) for name in [*folders, *files])


def checkpoints_below(root: Path) -> list[Path]:
    """In the scratch of runs that are under way, or taken back from it."""
    return [path for path in paths_below(root) if path.parent.name == "checkpoints" and path.suffix == ".safetensors"]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_ended(processes: Sequence[psutil.Process], seconds: float = 2.0) -> None:
    start = time.monotonic()
    while any(map(alive, processes)):
        assert time.monotonic() - start < seconds, "a worker outlived its study"
        time.sleep(0.01)
