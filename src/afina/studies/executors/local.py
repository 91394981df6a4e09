"""A run in a process of its own (`worker.py`): starting it, hearing it, ending it. Starts without torch.

So that its peak memory is its own, a crash takes nothing else with it, and it ends when whoever asked for it does.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from afina import meter
from afina.errors import LESS_MEMORY, RunFailed
from afina.events import Listener, Progress, Score
from afina.studies.record import Record
from afina.studies.run import Run


class Overrun(Exception):
    """A process had not answered when its time was up, and was ended."""


class Worker:
    """One process at work on a request; the end of the block ends it, and so does the clock at `until`."""

    def __init__(self, run: Run, until: float | None = None, **request: Any) -> None:
        self.run, self.until = run, until
        self.timer: threading.Timer | None = None
        self.request = {"run": run.model_dump(mode="json"), **request}
        self.problem: str | None = None

    def __enter__(self) -> Worker:
        with _ctrl_c_later():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "afina.studies.executors.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        if self.until is not None:
            # Not by what it tells: a process that loads or saves is silent for long.
            self.timer = threading.Timer(max(0.0, self.until - meter.now()), self.process.kill)
            self.timer.daemon = True
            self.timer.start()
        return self

    def __exit__(self, *raised: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.timer is not None:
            self.timer.cancel()
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # the worker ends when this closes, also when we were interrupted
        self.process.wait()
        self.process.stdout.close()

    def send(self, message: object) -> None:
        """Write one line to it; it may be gone."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def messages(self, listen: Listener) -> Iterator[dict[str, Any]]:
        """Send the request; yield what is neither progress nor an error."""
        assert self.process.stdout is not None
        self.send(self.request)
        for line in self.process.stdout:
            if not line.endswith("\n"):
                break  # it was killed while it wrote
            message = json.loads(line)
            if "progress" in message:
                listen(Progress(**message["progress"]))
            elif "error" in message:
                self.problem = message["error"]
            else:
                yield message

    def failure(self) -> RunFailed | Overrun:
        """Why it ended without an answer; for after the block."""
        if self.until is not None and meter.now() >= self.until:
            return Overrun()
        if self.problem is not None:
            return RunFailed(self.problem)
        status, title = self.process.returncode, self.run.title
        if status < 0:
            return RunFailed(
                f"run {title}: its process was killed by signal {-status}, most likely for want of memory. "
                f"{LESS_MEMORY}, then start again."
            )
        return RunFailed(f"run {title}: a fault in afina (above). Please report it; the other runs are not affected.")


def carry_out(run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
    """The record of `run`, whose adapter then lies under `out`.

    Raises RunFailed; Overrun at `until` by `meter.now()`.
    """
    made: Record | None = None
    with Worker(run, until, out=str(out), study=study) as worker:
        for message in worker.messages(listen):
            made = Record.model_validate(message["record"])
    if made is None:
        raise worker.failure()
    return made


def try_out(
    run: Run,
    shares: tuple[float, ...],
    limit: int | None,
    goes_on: Callable[[Score], bool],
    listen: Listener,
    until: float | None = None,
) -> Score:
    """The last score of `run`: the one after which `goes_on` said no, or after its last step.

    Raises RunFailed; Overrun at `until` by `meter.now()`.

    shares, limit  as in `afina.studies.trial.try_out`
    """
    with Worker(run, until, shares=shares, limit=limit) as worker:
        for message in worker.messages(listen):
            score = Score(**message["score"])
            if not goes_on(score) or message["last"]:
                return score
            worker.send("go on")
    raise worker.failure()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C reaches the whole process group. A process started in the block never hears it; this one does after it.

    So it is the study alone that decides what becomes of a run, however early in its life.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
