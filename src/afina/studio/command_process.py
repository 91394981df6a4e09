"""CommandProcess: an `afina` command in a process of its own, with its state in a directory.

The process goes on when the studio ends or is killed. A supervisor (this module as a program) starts the command,
holds a lock for as long as the command runs, and writes the exit status. So another studio finds the command running,
or ended, or gone without an exit status because the machine or the supervisor was stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina import file_io, meter
from afina.errors import CorruptAdapter

LOCK = ".lock"
"""The file that the supervisor and the command have locked; the operating system unlocks it when both have ended."""

TOLD = 4000
"""Characters at the end of the log that are shown."""


@dataclass(frozen=True)
class CommandProcess:
    """The directory of a command: `command.json`, `output`, `log`, and `exit.json` when it has ended.

    `output` is what the command wrote on standard output, `log` what it wrote on standard error.
    """

    directory: Path

    def start(self, arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Start `afina ARGUMENTS`; its earlier output is removed. The process outlives this one.

        Args:
            environment: Variables that differ from those of this process.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("exit.json", "output", "process.json"):
            (self.directory / name).unlink(missing_ok=True)
        file_io.write_text(self._command, json.dumps({"arguments": [*arguments], "environment": environment or {}}))
        with (self.directory / "log").open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-P", "-m", "afina.studio.command_process", str(self.directory.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _started[self.directory.absolute()] = supervisor

    @property
    def _command(self) -> Path:
        return self.directory / "command.json"

    @property
    def was_started(self) -> bool:
        return self._command.is_file()

    @property
    def arguments(self) -> list[str]:
        return [str(one) for one in _read(self._command).get("arguments", [])]

    @property
    def is_running(self) -> bool:
        """Whether the command runs, or is being started by this process."""
        _reap()
        if not self.was_started or (self.directory / "exit.json").is_file():
            return False
        if self.directory.absolute() in _started:
            return True
        with suppress(FileNotFoundError), (self.directory / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def status(self) -> int | None:
        """The exit status; None while the command runs, and if it ended without one."""
        found = _read(self.directory / "exit.json").get("status")
        return found if isinstance(found, int) else None

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


_started: dict[Path, subprocess.Popen[bytes]] = {}
"""Supervisors that this process has started and that have not ended, by the directory of their command."""


def _reap() -> None:
    for directory, one in list(_started.items()):
        if one.poll() is not None:
            _started.pop(directory, None)


def _read(path: Path) -> dict[str, Any]:
    with suppress(CorruptAdapter):
        return file_io.read_object(path)
    return {}


def supervise(directory: Path) -> None:
    """Run the command of a directory to its end; the body of the supervisor's process."""
    found = _read(CommandProcess(directory)._command)
    with (directory / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another supervisor has the command
            return
        file_io.write_text(directory / "process.json", json.dumps({"pid": os.getpid()}))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command, in the same process group, decides what it does
        with (directory / "output").open("wb") as output, (directory / "log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "afina", *found["arguments"]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=os.environ | found["environment"],
                pass_fds=(lock.fileno(),),  # the command keeps the lock if only its supervisor is killed
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            status = child.wait()
        file_io.write_text(directory / "exit.json", json.dumps({"status": status}))


if __name__ == "__main__":
    supervise(Path(sys.argv[1]))
