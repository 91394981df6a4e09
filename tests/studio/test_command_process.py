"""A command in a process of its own, which outlives the studio: real and small commands, ended in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from waiting import endless, family, is_up, kill, nothing_left_below, until

import afina
from afina.studio.command_process import LOCK, TOLD, CommandProcess, supervise


@pytest.fixture
def process(tmp_path: Path) -> Iterator[CommandProcess]:
    with nothing_left_below(tmp_path):
        yield CommandProcess(tmp_path / "command")


@pytest.fixture
def running(process: CommandProcess, tmp_path: Path) -> CommandProcess:
    """A command that runs until it is ended."""
    process.start(endless(tmp_path / "inner"))
    assert process.is_running
    until(lambda: is_up(process))
    return process


def ended(process: CommandProcess) -> CommandProcess:
    until(lambda: not process.is_running)
    return process


def supervisors(process: CommandProcess) -> list[int]:
    """The process ids of this process's children that supervise the command and have not ended."""
    found = []
    for one in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it ends while it is looked at; a ZombieProcess is one of these
            if str(process.directory) in one.cmdline():
                found.append(one.pid)
    return found


def test_a_command_that_was_not_started_is_neither_running_nor_lost(tmp_path: Path) -> None:
    process = CommandProcess(tmp_path / "none")
    assert (process.was_started, process.is_running, process.was_lost) == (False, False, False)
    assert (process.status, process.pid, process.memory, process.log) == (None, None, 0, "")
    assert (process.answer(), process.arguments) == ({}, [])
    process.interrupt()
    process.kill()
    assert not (tmp_path / "none").exists()


def test_a_command_has_the_limit_of_memory_with_which_it_was_started(process: CommandProcess, tmp_path: Path) -> None:
    process.start(endless(tmp_path / "inner"), memory=8 << 30)
    until(lambda: is_up(process))
    supervisor, command, *_ = family(process.pid or 0)
    assert command.rlimit(psutil.RLIMIT_AS) == (8 << 30, 8 << 30)
    assert supervisor.rlimit(psutil.RLIMIT_AS) == psutil.Process().rlimit(psutil.RLIMIT_AS)


def test_a_command_leaves_its_output_its_status_and_its_log(process: CommandProcess) -> None:
    process.start(["--version"])
    assert process.is_running
    assert ended(process).status == 0
    assert (process.directory / "output").read_text(encoding="utf-8").strip().endswith(afina.__version__)
    assert (process.arguments, process.log, process.was_lost) == (["--version"], "", False)
    process.start(["no-such-command"])
    assert ended(process).status == 2
    assert "no-such-command" in process.log
    assert process.problem.startswith("No such command 'no-such-command'.")
    assert process.answer() == {}
    process.start(["inspect", "--task", "missing.csv", "--json"])
    ended(process)
    assert process.answer()["error"]["code"] == "task.missing"
    assert process.problem == process.answer()["error"]["message"]
    assert process.arguments[0] == "inspect"


def test_the_time_of_a_command_is_from_its_start_to_its_end(tmp_path: Path) -> None:
    process = CommandProcess(tmp_path)
    assert process.seconds == 0
    for name, at in {"command.json": 1000, "exit.json": 1075}.items():
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (at, at))
    assert process.seconds == 75


def test_a_command_gets_variables_and_imports_nothing_from_the_current_folder(
    process: CommandProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "csv.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    process.start(["--version"], {"PYTHONVERBOSE": "1"})
    assert ended(process).status == 0
    assert "import 'afina'" in (process.directory / "log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_command_is_not_started_twice_by_threads_that_look_and_start_at_once(
    process: CommandProcess, tmp_path: Path
) -> None:
    arguments = endless(tmp_path / "inner")
    barrier = threading.Barrier(8)
    started: list[bool] = []

    def start() -> None:
        barrier.wait()
        for _ in range(20):
            if not process.is_running:
                process.start(arguments)
        started.append(process.is_running)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [True] * 8
    until(lambda: is_up(process))
    until(lambda: supervisors(process) == [process.pid])
    before = process.pid
    process.start(["--version"])
    assert (process.pid, process.arguments) == (before, arguments)


def test_an_interrupt_reaches_the_command_from_its_first_moment(process: CommandProcess, tmp_path: Path) -> None:
    process.start(endless(tmp_path / "inner"))
    process.interrupt()
    ended(process)
    assert process.status in (None, 0, 130, -signal.SIGINT)
    until(lambda: not family(process.pid or 0))  # its supervisor ends after it has written the status


def test_ctrl_c_ends_a_command_in_good_order_and_its_supervisor_says_the_status(running: CommandProcess) -> None:
    assert running.memory > 2**20
    running.interrupt()
    assert ended(running).status == 0
    assert running.memory == 0


@pytest.mark.slow
def test_a_command_that_is_killed_has_the_signal_as_its_status(running: CommandProcess) -> None:
    (child,) = psutil.Process(running.pid).children()
    child.kill()
    assert ended(running).status == -signal.SIGKILL
    assert not running.was_lost


@pytest.mark.slow
def test_a_command_runs_on_without_its_supervisor_and_can_still_be_interrupted(running: CommandProcess) -> None:
    supervisor, child = family(running.pid or 0)
    kill(supervisor)
    assert running.is_running
    assert not running.was_lost
    assert child.is_running()
    running.interrupt()
    ended(running)
    assert (running.status, running.was_lost) == (None, True)


@pytest.mark.slow
def test_a_command_all_of_whose_processes_are_killed_is_lost_and_can_start_again(running: CommandProcess) -> None:
    found = family(running.pid or 0)
    running.kill()
    psutil.wait_procs(found, timeout=60)
    assert (ended(running).status, running.was_lost) == (None, True)
    running.start(["--version"])
    assert (ended(running).status, running.was_lost) == (0, False)


STARTS = """
import os, signal, sys
from pathlib import Path
from afina.studio.command_process import CommandProcess
CommandProcess(Path(sys.argv[1])).start(sys.argv[2:])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_command_goes_on_if_the_process_that_started_it_is_killed_at_once(
    process: CommandProcess, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-c", STARTS, str(process.directory), *endless(tmp_path / "inner")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert process.is_running  # before the supervisor has done anything
    until(lambda: is_up(process))
    assert process.is_running
    process.interrupt()
    assert ended(process).status == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"pid": "x", "status": "y", "arguments": 5}', b"\xff"]
)
def test_damaged_state_files_are_a_sane_state(tmp_path: Path, content: bytes) -> None:
    process = CommandProcess(tmp_path)
    for name in ("command.json", "process.json", "exit.json", "output", LOCK):
        (tmp_path / name).write_bytes(content)
    assert (process.was_started, process.is_running) == (True, False)
    assert (process.status, process.pid, process.arguments, process.answer()) == (None, None, [], process.answer())
    process.interrupt()
    (tmp_path / "exit.json").unlink()
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    assert not process.is_running
    assert process.was_lost


def test_a_supervisor_whose_command_file_is_damaged_ends_with_a_status(process: CommandProcess) -> None:
    process.directory.mkdir()
    (process.directory / "command.json").write_text('{"arguments": 5, "environment": 6}')
    with (process.directory / LOCK).open("w") as lock:
        pid = os.fork()
        if not pid:  # the supervisor, with a file that somebody has damaged meanwhile
            supervise(process.directory, lock.fileno())
            os._exit(0)
        os.waitpid(pid, 0)
    assert process.status is not None


def test_the_log_that_is_shown_is_the_end_of_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 10**6 + "é".encode()[1:] + "é".encode() * TOLD)
    assert CommandProcess(tmp_path).log == "é" * TOLD


@pytest.mark.parametrize(
    ("output", "log", "said"),
    [
        ('{"error": {"parts": ["no such file"]}}', "reading\nError: another", "no such file"),
        ("", "reading\nError: one\nreading\nError: two\nlines\n", "two\nlines"),
        ("", "Traceback\n  File x\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        ("", "\n", "the command has ended without a message."),
    ],
)
def test_a_command_that_left_no_error_is_explained_by_the_end_of_what_it_said(
    tmp_path: Path, output: str, log: str, said: str
) -> None:
    for name, content in {"output": output, "log": log, "exit.json": '{"status": 2}'}.items():
        (tmp_path / name).write_text(content)
    assert CommandProcess(tmp_path).problem == said


def test_an_answer_is_a_json_object_and_nothing_else(tmp_path: Path) -> None:
    process = CommandProcess(tmp_path)
    for content, found in (('{"a": 1}', {"a": 1}), ("[1]", {}), ("words", {}), ('{"a": 1}\n{"b": 2}', {}), ("", {})):
        (tmp_path / "output").write_text(content, encoding="utf-8")
        assert process.answer() == found
