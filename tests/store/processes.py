"""Many processes at once, which end by themselves or are killed: for tests of what processes do to one another.

An interpreter takes most of a second to import what a store needs. multiprocessing's fork server imports it once, and
forks each process, which takes some milliseconds. The server never does any work of its own, so it has no thread, no
connection and no open file that a fork would share.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

LONGEST_S = 60
"""What processes may take before a test fails that waits for them."""

STARTS = multiprocessing.get_context("forkserver")
STARTS.set_forkserver_preload(
    [
        *("pytest", "numpy", "pydantic", "torch", "safetensors.torch", "sqlite3", "sqlalchemy.orm"),
        *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg", "afina.blobs.remote"),
        *("afina.store.adapter_store", "afina.store.verify", "afina.store.intake.admission", "afina.models.adapter"),
    ]
)


class Ended(NamedTuple):
    """How a process ended.

    `values` are those it returned or yielded, `error` the name of the AfinaError that it raised, with its `message`;
    `status` is 0 where it returned or raised one, 1 where it raised another exception, and -9 where it was killed.
    """

    status: int
    values: list[Any]
    error: str | None
    message: str
    said: str

    @property
    def value(self) -> Any:
        """The only value of a process that returned one."""
        assert (self.status, self.error) == (0, None), self
        (value,) = self.values
        return value


class Worker:
    """A process at a function, which writes what it says beside `place`."""

    def __init__(self, process: Any, place: Path) -> None:
        self._process, self._place = process, place

    def _told(self) -> list[dict[str, Any]]:
        written = self._place.with_suffix(".out")
        return [json.loads(line) for line in written.read_text().split("\n")[:-1]] if written.exists() else []

    @property
    def values(self) -> list[Any]:
        """What it has yielded so far."""
        return [told["value"] for told in self._told() if "value" in told]

    def kill(self) -> None:
        """At once (SIGKILL), unless it has ended."""
        self._process.kill()

    def wait(self) -> Ended:
        """How it ended."""
        self._process.join(LONGEST_S)
        assert self._process.exitcode is not None, f"it still runs after {LONGEST_S} s"
        error = next((told for told in self._told() if "error" in told), {})
        said = self._place.with_suffix(".err")
        words = said.read_text() if said.exists() else ""
        return Ended(self._process.exitcode, self.values, error.get("error"), error.get("message", ""), words)


class Crew:
    """Starts processes. `with Crew() as crew:`; those that run at the end of the block are killed.

    A function is one that a module has by its name; its first argument is the process's number, from 0. What it
    returns, or else what it yields, comes back as JSON, each value when it is yielded. It has the environment and the
    directory that this process has when `start` is called.
    """

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="afina-test-"))
        self._workers: list[Worker] = []
        self._count = 0

    def start(self, function: Callable[..., Any], count: int, *arguments: Any) -> list[Worker]:
        """So many processes at `function(number, *arguments)`, which all begin at the same moment."""
        gate, opens = STARTS.Pipe(duplex=False)
        made = []
        for number in range(count):
            self._count += 1
            place = self._directory / str(self._count)
            given = (gate, place, dict(os.environ), str(Path.cwd()), function, number, arguments)
            process = STARTS.Process(target=_work, args=given, daemon=True)
            process.start()
            made.append(Worker(process, place))
        gate.close()
        opens.close()
        self._workers += made
        return made

    def run(self, function: Callable[..., Any], count: int, *arguments: Any) -> list[Ended]:
        """How so many processes ended, in the order of their numbers."""
        return [worker.wait() for worker in self.start(function, count, *arguments)]

    def kill_at_random(self, workers: Sequence[Worker], random: Random, within_s: float) -> None:
        """Kill each at a moment of its own within so many seconds; returns when all are killed or have ended."""
        start = time.monotonic()
        moments = sorted((random.uniform(0, within_s), place) for place in range(len(workers)))
        for moment, place in moments:
            time.sleep(max(0.0, start + moment - time.monotonic()))
            workers[place].kill()
        for each in workers:
            each.wait()

    def kill_all(self) -> None:
        """Whatever runs."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.wait()
        self._workers.clear()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        shutil.rmtree(self._directory)


def _work(
    gate: Connection,
    place: Path,
    environment: dict[str, str],
    directory: str,
    function: Callable[..., Any],
    number: int,
    arguments: Sequence[Any],
) -> None:
    from afina.errors import AfinaError

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for descriptor, kind in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(place.with_suffix(kind), os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    with contextlib.suppress(EOFError):  # which comes once the last of them is forked
        gate.recv_bytes()
    status = 0
    try:
        value = function(number, *arguments)
        for each in value if inspect.isgenerator(value) else [value]:
            _tell(value=each)
    except AfinaError as error:
        _tell(error=type(error).__name__, message=str(error))
    except BaseException:  # noqa: BLE001 - whatever it is, the process must end here
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def _tell(**said: Any) -> None:
    """In one write, so that a process that is killed leaves whole lines."""
    os.write(1, json.dumps(said).encode() + b"\n")
