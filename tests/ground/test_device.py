"""Where something is computed."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from afina import device
from afina.errors import NotFound


def test_a_thread_that_opens_something_has_ended_when_it_is_open() -> None:
    opener = device.in_thread_that_ends(threading.current_thread)
    assert opener is not threading.current_thread()
    assert not opener.is_alive()


def test_an_error_in_the_thread_is_raised() -> None:
    def missing() -> None:
        raise NotFound("no such backbone", code="backbone.missing")

    with pytest.raises(NotFound, match="no such backbone"):
        device.in_thread_that_ends(missing)


def test_the_state_of_a_repository_is_read_without_the_programs_that_the_repository_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert device.git_state() == (None, None)
    of = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    ran = tmp_path / "ran"
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one", "--allow-empty"]):
        (tmp_path / "file").write_text("one")
        subprocess.run([*of, *words], check=True)
    for program in (tmp_path / "program", tmp_path / ".git" / "hooks" / "post-index-change"):
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho ran >> {ran}\n")
        program.chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(tmp_path / "program")], check=True)
    os.utime(tmp_path / "file", (1, 1))
    subprocess.run(["git", "update-index", "--refresh"], check=True)
    assert ran.exists(), "git runs no program here, so this test shows nothing"
    ran.unlink()
    os.utime(tmp_path / "file", (2, 2))
    commit, changed = device.git_state()
    assert commit
    assert changed is False
    assert not ran.exists()
    (tmp_path / "file").write_text("two")
    assert device.git_state() == (commit, True)
