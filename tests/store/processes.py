"""Many processes at once, which end by themselves or are killed: for tests of what processes do to one another.

An interpreter takes most of a second to import what a store needs. So one, which is this file as a program, imports it
once and forks a process whenever it is told to, which takes some milliseconds. It never does any work of its own, so it
has no thread, no connection and no open file that a fork would share.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

LONGEST_S = 60
"""What processes may take before a test fails that waits for them."""


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
    """A process at a function, on its own number and what it was given."""

    def __init__(self, crew: Crew, number: int, pid: int) -> None:
        self.number, self.pid = number, pid
        self._crew = crew

    @property
    def values(self) -> list[Any]:
        """What it has yielded so far."""
        lines = self._crew.path(self.number, "out").read_text().split("\n")[:-1]
        return [json.loads(line)["value"] for line in lines if "value" in json.loads(line)]

    def kill(self) -> None:
        """At once (SIGKILL), unless it has ended."""
        self._crew.kill(self)

    def wait(self, seconds: float = LONGEST_S) -> Ended:
        """How it ended."""
        status = self._crew.status(self, seconds)
        lines = self._crew.path(self.number, "out").read_text().split("\n")[:-1]
        found = [json.loads(line) for line in lines]
        error = next((each for each in found if "error" in each), {})
        said = self._crew.path(self.number, "err").read_text()
        return Ended(status, self.values, error.get("error"), error.get("message", ""), said)


class Crew:
    """Starts processes. `with Crew() as crew:`; those that run at the end of the block are killed.

    A function is one that a module has by its name; its first argument is the process's number, from 0, the others are
    anything that JSON holds. What it returns, or else what it yields, comes back as JSON, each value when it is
    yielded. It has the environment and the directory that this process has when `start` is called.
    """

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="afina-test-"))
        self._parent = subprocess.Popen(
            [sys.executable, __file__, str(self._directory), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._count = 0
        self._pids: dict[int, int] = {}
        self._status: dict[int, int] = {}
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, function: Callable[..., Any], count: int, *arguments: Any) -> list[Worker]:
        """So many processes at `function(number, *arguments)`, which all begin at the same moment."""
        numbers = list(range(self._count, self._count + count))
        self._count += count
        told = {
            "module": inspect.getmodulename(inspect.getfile(function)) or function.__module__,
            "function": function.__name__,
            "numbers": numbers,
            "arguments": arguments,
            "environment": dict(os.environ),
            "directory": str(Path.cwd()),
            "path": str(Path(inspect.getfile(function)).parent),
        }
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(told) + "\n")
        self._parent.stdin.flush()
        with self._changed:
            assert self._changed.wait_for(lambda: self._pids.keys() >= set(numbers), LONGEST_S), "no process came"
        return [Worker(self, number, self._pids[number]) for number in numbers]

    def run(self, function: Callable[..., Any], count: int, *arguments: Any) -> list[Ended]:
        """How so many processes ended, in the order of their numbers."""
        return [worker.wait() for worker in self.start(function, count, *arguments)]

    def kill_at_random(self, workers: Sequence[Worker], random: Random, within_s: float) -> None:
        """Kill each at a moment of its own within so many seconds; returns when all are killed or have ended."""
        start = time.monotonic()
        for moment, worker in sorted((random.uniform(0, within_s), worker.number) for worker in workers):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            next(each for each in workers if each.number == worker).kill()
        for each in workers:
            each.wait()

    def path(self, number: int, kind: str) -> Path:
        """Where the process of that number writes."""
        return self._directory / f"{number}.{kind}"

    def status(self, worker: Worker, seconds: float) -> int:
        """Once it has ended."""
        with self._changed:
            ended = self._changed.wait_for(lambda: worker.number in self._status, seconds)
        assert ended, f"process {worker.number} still runs after {seconds} s"
        return self._status[worker.number]

    def kill(self, worker: Worker) -> None:
        with self._changed:
            # Its number is not another's yet, as long as its parent has not said that it ended.
            if worker.number not in self._status:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Whatever runs."""
        running = [Worker(self, number, pid) for number, pid in self._pids.items() if number not in self._status]
        for worker in running:
            worker.kill()
        for worker in running:
            worker.wait()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(LONGEST_S)
        self._reader.join()
        self._parent.stdout.close()
        shutil.rmtree(self._directory)

    def _read(self) -> None:
        assert self._parent.stdout is not None
        for line in self._parent.stdout:
            told = json.loads(line)
            with self._changed:
                if "pid" in told:
                    self._pids[told["number"]] = told["pid"]
                else:
                    self._status[told["number"]] = told["status"]
                self._changed.notify_all()


def _parent(directory: Path) -> None:
    """Fork as told on standard input; say on standard output who came and who ended. Kill all once the input ends."""
    running: dict[int, int] = {}
    waiting = b""
    while True:
        if select.select([0], [], [], 0.005 if running else 60)[0]:
            read = os.read(0, 1 << 16)
            if not read:
                break
            *lines, waiting = (waiting + read).split(b"\n")
            for line in lines:
                _fork(json.loads(line), running, directory)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            _tell(number=running.pop(pid), status=os.waitstatus_to_exitcode(status))
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(told: dict[str, Any], running: dict[int, int], directory: Path) -> None:
    if told["path"] not in sys.path:
        sys.path.insert(0, told["path"])
    function = getattr(importlib.import_module(told["module"]), told["function"])
    gate, opens = os.pipe()
    for place, number in enumerate(told["numbers"]):
        pid = os.fork()
        if not pid:
            os.close(opens)
            os.environ.clear()
            os.environ.update(told["environment"])
            os.chdir(told["directory"])
            for descriptor, kind in ((1, "out"), (2, "err")):
                os.dup2(os.open(directory / f"{number}.{kind}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            # Read to its end, which comes once the last of them is forked.
            os.read(gate, 1)
            os._exit(_work(function, place, told["arguments"]))
        running[pid] = number
    # Made here too, so that whoever looks before the process has begun finds them.
    for number in told["numbers"]:
        for kind in ("out", "err"):
            os.close(os.open(directory / f"{number}.{kind}", os.O_CREAT | os.O_WRONLY))
    for pid, number in running.items():
        if number in told["numbers"]:
            _tell(number=number, pid=pid)
    os.close(gate)
    os.close(opens)


def _work(function: Callable[..., Any], number: int, arguments: Iterable[Any]) -> int:
    from afina.errors import AfinaError

    try:
        value = function(number, *arguments)
        if inspect.isgenerator(value):
            for each in value:
                _tell(value=each)
        else:
            _tell(value=value)
    except AfinaError as error:
        _tell(error=type(error).__name__, message=str(error))
    except BaseException:  # noqa: BLE001 - whatever it is, the process must end here and not go on as its parent
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def _tell(**said: Any) -> None:
    """In one write, so that a process that is killed leaves whole lines."""
    os.write(1, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[2])
    for name in ("afina.blobs.remote", "numpy", "pydantic", "sqlalchemy.orm", "sqlite3"):
        importlib.import_module(name)
    _parent(Path(sys.argv[1]))
