"""A studio in this process, with a browser that is signed in; and the answers of its commands without a process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from stores_of_studios import TEXT, publish, served

from afina import Backbone
from afina.events import STATE_DIRECTORY
from afina.studio.access import Access
from afina.studio.app import make_app
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.page import Studio
from afina.studio.run_queue import RunQueue
from command import Command
from crowd import adapter
from servers import predictor, probed

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
        monkeypatch.setenv(STATE_DIRECTORY, str(process.directory))
        found = afina(*arguments)
        monkeypatch.delenv(STATE_DIRECTORY)
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


@pytest.fixture(scope="module")
def two(gpt2: Backbone) -> list[Any]:
    """Adapters with random weights that give TEXT different labels."""
    made = [adapter(gpt2, "lora", {"r": 2}, labels=("good", "bad")), adapter(gpt2, "lora", {"r": 4})]
    labels = [predictor(one, gpt2)([TEXT])[0]["label"] for one in made]
    assert labels == ["bad", "good"]
    return [probed(one, gpt2) for one in made]


@pytest.fixture(scope="module")
def begun(two: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A studio's store with both versions, which is copied and otherwise left alone."""
    folder = StudioFolder(tmp_path_factory.mktemp("begun"))
    folder.own.mkdir()
    for one in two:
        publish(folder, one, "studio/reviews")
    return folder.store


@pytest.fixture
def reviews(studio: Studio, project: Callable[..., Project], begun: Path) -> Project:
    """A project with two versions, which do not agree on TEXT."""
    made = project(b"text,label\na,bad\nb,good\n")
    assert made.adapters == "studio/reviews"
    shutil.copytree(begun, studio.folder.store)
    return made


@pytest.fixture
def url(studio: Studio, reviews: Project, gpt2: Backbone) -> Iterator[str]:
    with served(studio.folder, gpt2) as found:
        yield found


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, answered: Answered) -> None:
    """Commands of pages are carried out in this process, before the form is answered."""

    def start(
        process: CommandProcess, arguments: Sequence[str], environment: dict[str, str] | None = None, **_: Any
    ) -> None:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        answered(process, arguments)

    monkeypatch.setattr(CommandProcess, "start", start)
