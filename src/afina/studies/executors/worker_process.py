"""`WorkerProcess`: a process on this machine that executes one request, such as a run.

A `ForkServer` forks the process; if no server can be started, the process is started by `python -m`. Because each run
has its own process, its peak memory can be measured, and a crash does not affect other runs. The module can be imported
without torch.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO

from afina import allocator, meter
from afina.errors import RunFailed
from afina.events import Listener
from afina.studies.executors import fork_server, problems
from afina.studies.executors.executor import Cancelled, Overrun
from afina.studies.executors.fork_server import ForkedWorker
from afina.studies.executors.worker import Failed, Foresee, Message, Progressed, Request, Stop, decode, encode


def variables(threads: int | None, replaced: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the environment of a worker; `replaced` changes this process's variables, and None removes one."""
    given = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    found: dict[str, str | None] = {**given, **allocator.environment_of_one_run(), **(replaced or {})}
    return {name: value for name, value in found.items() if value is not None}


class WorkerProcess:
    """A process that executes one request, and ends with the `with` block or at the time `until`.

    None as `threads`: torch's default. `environment` replaces variables, and None removes one. `most` is the largest
    number of workers that ran at the same time, this worker included.
    """

    def __init__(
        self,
        request: Request,
        until: float | None,
        threads: int | None,
        *,
        environment: Mapping[str, str | None] | None = None,
        errors: IO[bytes] | None = None,
    ) -> None:
        self.request, self.until, self.threads = request, until, threads
        self.environment, self.errors = environment, errors
        self.timer: threading.Timer | None = None
        self.problem: Failed | None = None
        self.most, self.told, self.cancelled = 1, threading.Lock(), False
        self.started: subprocess.Popen[str] | ForkedWorker | None = None

    @property
    def process(self) -> subprocess.Popen[str] | ForkedWorker:
        assert self.started is not None
        return self.started

    def __enter__(self) -> WorkerProcess:
        module = "afina.studies.executors.worker"
        environment = variables(self.threads, self.environment)
        self.started = fork_server.start(module, environment, self._is_wanted, self.errors)
        if self.until is not None:
            seconds = min(max(0.0, self.until - meter.now()), threading.TIMEOUT_MAX / 2)
            # A timer and not the progress messages: a process that loads or saves sends none for a long time.
            self.timer = threading.Timer(seconds, self.process.kill)
            self.timer.daemon = True
            self.timer.start()
        if self.cancelled:
            self.process.kill()
        return self

    def _is_wanted(self) -> bool:
        return not self.cancelled and (self.until is None or meter.now() < self.until)

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.timer is not None:
            self.timer.cancel()
        try:
            if kind is not None and self.until is not None:
                self.process.kill()  # a run with a limit is not continued
            elif kind is not None and issubclass(kind, KeyboardInterrupt):
                self.send(Stop())  # the worker writes a checkpoint; a second Ctrl-C ends it at once
                for _ in self.process.stdout:
                    pass  # the worker cannot end while its lines are not read
        finally:
            self._end()

    def _end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # the worker ends when its standard input closes, also after an interrupt
        self.process.wait()
        self.process.stdout.close()

    def send(self, message: Message) -> None:
        """Write a message to the process; do nothing if the process has ended."""
        assert self.process.stdin is not None
        with self.told, suppress(BrokenPipeError, ValueError):  # ValueError: closed
            self.process.stdin.write(encode(message))
            self.process.stdin.flush()

    def cancel(self, *, at_once: bool) -> None:
        """Ask the process to stop after its current step, or kill it; from another thread."""
        asked, self.cancelled = self.cancelled, True
        if self.started is None:
            return
        if at_once:
            self.process.kill()
        elif not asked:
            self.send(Stop())

    def answers(self, listen: Listener) -> Iterator[Message]:
        """Yield the process's messages; `listen` receives the progress, and an error is kept in `problem`."""
        assert self.process.stdout is not None
        self.send(self.request)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # the worker was killed while it wrote this line
            message = decode(line)
            if isinstance(message, Progressed):
                listen(message.progress)
            elif isinstance(message, Failed):
                self.problem = message
            else:
                yield message

    def failure(self) -> RunFailed | Overrun | Cancelled:
        """Return the error of the process; call it after the `with` block."""
        title = "memory forecast" if isinstance(self.request, Foresee) else self.request.run.title
        if self.cancelled:
            return Cancelled()
        if self.until is not None and meter.now() >= self.until:
            return Overrun()
        if self.problem is not None:
            return self.problem.of_run(title)
        status = self.process.returncode
        if status < 0:
            return problems.KILLED(run=title, signal=-status)
        return problems.RUN_FAULT(run=title, _seen="The traceback is above.")
