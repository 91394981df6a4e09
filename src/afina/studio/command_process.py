"""CommandProcess: an `afina` command in a process of its own, with its state in a directory.

The process goes on when the studio ends or is killed. A supervisor (this module as a program) starts the command,
holds a lock for as long as the command runs, and writes the exit status. So another studio finds the command running,
or ended, or gone without an exit status because the machine or the supervisor was stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from afina import file_io, meter
from afina.errors import CannotWrite, CorruptAdapter
from afina.events import STATE_DIRECTORY
from afina.sentence import Sentence

LOCK = ".lock"
"""The file that the supervisor and the command have locked; the operating system unlocks it when both have ended."""

ENDING = 1.0
"""Seconds within which a supervisor ends after it has written the exit status."""

TOLD = 4000
"""Characters at the end of the log that are shown."""


@dataclass(frozen=True)
class CommandProcess:
    """The directory of a command: `command.json`, `output` (stdout), `log` (stderr), and `exit.json` when it has ended.

    The command leaves `progress.json`, and `error.json` if it ends with an error.
    """

    directory: Path

    def start(
        self, arguments: Sequence[str], environment: dict[str, str] | None = None, memory: int | None = None
    ) -> None:
        """Start `afina ARGUMENTS` unless it runs already; its earlier output is removed. The process outlives this one.

        `environment` has the variables that differ from those of this process, and `memory` is the most address space
        in bytes that the command may use.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / LOCK).open("w") as lock:
            if not self._taken(lock):
                return
            for name in ("exit.json", "error.json", "progress.json", "output", "process.json"):
                (self.directory / name).unlink(missing_ok=True)
            command = {"arguments": [*arguments], "environment": environment or {}, "memory": memory}
            file_io.write_text(self._command, json.dumps(command))
            with (self.directory / "log").open("ab") as log:
                supervisor = subprocess.Popen(
                    [sys.executable, "-P", "-m", MODULE, str(self.directory.absolute()), str(lock.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(lock.fileno(),),  # it has the lock from its first moment
                )
        with _locking:
            _started.append(supervisor)
        with suppress(CannotWrite):  # the supervisor writes it too; this one is at once
            self._say_pid(supervisor.pid)

    def _taken(self, lock: IO[str]) -> bool:
        """Lock the open file, and return True; False if the command runs. A supervisor that ends is waited for."""
        until = meter.now() + ENDING
        while True:
            with _locking:
                if _locked(lock, fcntl.LOCK_EX):
                    return True
            if meter.now() > until or not (self.directory / "exit.json").is_file():
                return False
            threading.Event().wait(0.01)

    def _say_pid(self, pid: int) -> None:
        file_io.write_text(self.directory / "process.json", json.dumps({"pid": pid}))

    def forget(self) -> None:
        """Remove what a command that has ended left, as if it had never been started."""
        if not self.is_running:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _command(self) -> Path:
        return self.directory / "command.json"

    @property
    def was_started(self) -> bool:
        return self._command.is_file()

    @property
    def arguments(self) -> list[str]:
        return texts(_read(self._command).get("arguments"))

    @property
    def is_running(self) -> bool:
        """Whether the command runs."""
        with _locking:
            _reap()
        if (self.directory / "exit.json").is_file():
            return False
        with suppress(OSError), _locking, (self.directory / LOCK).open() as lock:
            return not _locked(lock, fcntl.LOCK_SH)
        return False

    @property
    def status(self) -> int | None:
        """The exit status; None while the command runs, and if it ended without one."""
        found = _read(self.directory / "exit.json").get("status")
        return found if isinstance(found, int) else None

    @property
    def seconds(self) -> float:
        """Seconds from the start of the command to its end, or until now while it runs; 0 if it was not started."""
        with suppress(FileNotFoundError):
            begun, end = self._command.stat().st_mtime, self.directory / "exit.json"
            return max(0.0, (end.stat().st_mtime if end.is_file() else datetime.now(UTC).timestamp()) - begun)
        return 0.0

    @property
    def was_lost(self) -> bool:
        """Whether the command was started and is gone without an exit status: killed, or the machine was stopped."""
        return self.was_started and not self.is_running and self.status is None

    @property
    def pid(self) -> int | None:
        """The id of the supervisor's process; its descendants are the command's processes."""
        found = _read(self.directory / "process.json").get("pid")
        return found if isinstance(found, int) else None

    @property
    def memory(self) -> int:
        """Resident memory of the command's processes now, in bytes; 0 if it does not run."""
        return meter.rss_of(self.pid) if self.pid is not None and self.is_running else 0

    @property
    def log(self) -> str:
        """The last TOLD characters that the command wrote on standard error."""
        try:
            with (self.directory / "log").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 4 * TOLD))
                return file.read().decode("utf-8", "replace")[-TOLD:]
        except FileNotFoundError:
            return ""

    def answer(self) -> dict[str, Any]:
        """Return the JSON object that the command printed; empty if there is none."""
        with suppress(CorruptAdapter):
            return file_io.read_object(self.directory / "output")
        return {}

    @property
    def last_words(self) -> Sentence:
        """The last message of the command about its progress."""
        return Sentence.from_json(_read(self.directory / "progress.json").get("parts", ()))

    @property
    def share_done(self) -> float | None:
        """The share of the work that is done, of the last message; None if not known."""
        return _read(self.directory / "progress.json").get("share")

    @property
    def problem(self) -> Sentence:
        """Why the command has failed; empty if it runs or has not failed."""
        if self.is_running or self.status in (0, None):
            return Sentence()
        if error := self.error:
            return Sentence.from_json(error["parts"])
        return Sentence([_message_at_end(self.log) or "the command has ended without a message."])

    @property
    def error(self) -> Mapping[str, Any]:
        """The error with which the command has ended, as `AfinaError.as_json`; empty if the command left none."""
        return _read(self.directory / "error.json").get("error") or self.answer().get("error") or {}

    def interrupt(self) -> None:
        """Send what Ctrl-C sends: the command ends after it has saved a checkpoint."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End all processes of the command at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, sent: signal.Signals) -> None:
        if self.is_running and (pid := self.pid) is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, sent)


MODULE = "afina.studio.command_process"

_locking = threading.Lock()
"""Held while a lock is tried, so that a look at a command in one thread does not keep another from starting it."""

_started: list[subprocess.Popen[bytes]] = []
"""Supervisors that this process has started and that have not ended."""


def _reap() -> None:
    _started[:] = [one for one in _started if one.poll() is None]


def _locked(file: IO[str], kind: int) -> bool:
    """Lock an open file, and return whether that was possible at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def texts(found: object) -> list[str]:
    """Return the texts of a list in a state file; empty if the file was damaged and there is no list."""
    return [str(one) for one in found] if isinstance(found, list) else []


def _message_at_end(log: str) -> str:
    """Return the last error in a log, else its last line: all that is known of a process that has left no error."""
    _, error, message = log.rpartition("Error: ")
    return message.strip() if error else log.strip().rpartition("\n")[2]


def _read(path: Path) -> dict[str, Any]:
    with suppress(CorruptAdapter):
        return file_io.read_object(path)
    return {}


def _prepare(memory: int | None) -> None:
    """Prepare the process of a command: Ctrl-C reaches it, and it has its limit of memory."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if memory is not None:
        with suppress(ValueError, OSError):  # a lower limit holds already, or the system knows none
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def supervise(directory: Path, lock: int) -> None:
    """Run the command of a directory to its end, with the locked file's descriptor; the supervisor's process."""
    early = list[int]()  # signals that came before there was a command
    signal.signal(signal.SIGINT, lambda number, frame: early.append(number))
    found = CommandProcess(directory)
    found._say_pid(os.getpid())
    command = _read(found._command)
    variables, memory = command.get("environment"), command.get("memory")
    environment = {name: str(value) for name, value in variables.items()} if isinstance(variables, dict) else {}
    with (directory / "output").open("wb") as output, (directory / "log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "afina", *found.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            env=os.environ | environment | {STATE_DIRECTORY: str(directory)},
            pass_fds=(lock,),  # the command keeps the lock if only its supervisor is killed
            preexec_fn=partial(_prepare, memory if isinstance(memory, int) else None),
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command, in the same process group, decides what it does
        if early:
            child.send_signal(signal.SIGINT)
        status = child.wait()
    file_io.write_text(directory / "exit.json", json.dumps({"status": status}))
    fcntl.flock(lock, fcntl.LOCK_UN)  # also for processes that the command has left behind


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), int(sys.argv[2]))
