"""A studio in this process, with a browser that is signed in; and the answers of its commands without a process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina.errors import ERROR_FILE
from afina.studio.access import Access
from afina.studio.app import make_app
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.page import Studio
from afina.studio.run_queue import RunQueue
from command import Command

PORT = 8765


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    folder = StudioFolder(tmp_path / "studio")
    folder.own.mkdir(parents=True)
    return Studio(folder, Access(folder, "127.0.0.1", PORT), RunQueue(folder), upload_limit=2 * 10**6)


@pytest.fixture
def web(studio: Studio) -> TestClient:
    """A browser with a session, which follows no redirect; forms come from the studio's own pages."""
    address = f"http://127.0.0.1:{PORT}"
    client = TestClient(make_app(studio), base_url=address, follow_redirects=False, headers={"Origin": address})
    client.cookies.set(studio.access.cookie, studio.access.open_session())
    return client


Answered = Callable[[CommandProcess, Sequence[str]], dict[str, Any]]


@pytest.fixture
def answered(afina: Command, monkeypatch: pytest.MonkeyPatch) -> Answered:
    """Carry out a command in this process, and leave what a process of its own would leave."""

    def carry_out(process: CommandProcess, arguments: Sequence[str]) -> dict[str, Any]:
        process.directory.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(ERROR_FILE, str(process.directory / "error.json"))
        found = afina(*arguments)
        monkeypatch.delenv(ERROR_FILE)
        contents = {
            "command.json": json.dumps({"arguments": [*arguments], "environment": {}}),
            "output": found.out,
            "log": found.err,
            "exit.json": json.dumps({"status": found.code}),
        }
        for name, content in contents.items():
            (process.directory / name).write_text(content, encoding="utf-8")
        return process.answer()

    return carry_out


@pytest.fixture
def project(studio: Studio, tmp_path: Path) -> Callable[..., Project]:
    """Return a function that makes a project of the bytes of a file, without a page; no backbone unless given."""

    def made(content: bytes, name: str = "reviews.csv", backbones: Sequence[str] = ()) -> Project:
        upload = tmp_path / "upload"
        upload.write_bytes(content)
        found = studio.folder.create(name.partition(".")[0], name, upload)
        return Project(**{**vars(found), "backbones": tuple(backbones)}).save()

    return made


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, answered: Answered) -> None:
    """Commands of pages are carried out in this process, before the form is answered."""

    def start(process: CommandProcess, arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        answered(process, arguments)

    monkeypatch.setattr(CommandProcess, "start", start)
