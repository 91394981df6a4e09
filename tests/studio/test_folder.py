"""The folder of a studio: its lock, its projects, and what is damaged or left behind in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from afina.errors import Busy, NotFound
from afina.studio.folder import PROJECT, StudioFolder
from afina.studio.page import Studio
from raises import raises


@pytest.fixture
def folder(tmp_path: Path) -> StudioFolder:
    made = StudioFolder(tmp_path / "studio")
    made.own.mkdir(parents=True)
    return made


PROJECT_FILES = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b"\xff",
    b'{"title": "x"}',
    b'{"title": 5, "task": "a", "options": {}, "backbones": [], "created": "", "uploaded": false}',
    b'{"title": "x", "task": "a", "options": [], "backbones": [], "created": "", "uploaded": false}',
    b'{"title": "x", "task": "a", "options": {}, "backbones": 5, "created": "", "uploaded": false}',
    b'{"title": "x", "task": "a", "options": {}, "backbones": [], "created": null, "uploaded": false}',
    b'{"title": "x", "task": "a", "options": {}, "backbones": [], "created": "", "uploaded": "no"}',
]


@pytest.mark.parametrize("content", PROJECT_FILES)
def test_a_damaged_project_is_said_on_its_pages_and_hides_no_other(
    studio: Studio, web: TestClient, content: bytes
) -> None:
    broken, other = studio.folder.create("broken", "sst2"), studio.folder.create("other", "sst2")
    (broken.directory / PROJECT).write_bytes(content)
    assert [one.name for one in studio.folder.projects()] == [other.name]
    assert "other" in web.get("/").text
    for path in ("/broken/data", "/broken/runs", "/broken/runs/1", "/broken/runs.json", "/broken/data/live"):
        answer = web.get(path)
        assert answer.status_code == 422
        assert PROJECT in answer.text
    studio.queue.look()


def test_a_second_studio_on_a_folder_is_refused_and_leftovers_of_a_killed_one_are_removed(folder: StudioFolder) -> None:
    left = folder.upload()
    left.write_bytes(b"half")
    with folder.locked():
        assert not left.exists()
        with raises(Busy, code="studio.folder-occupied"), StudioFolder(folder.root).locked():
            pytest.fail("two studios")
        fresh = folder.upload()
        fresh.write_bytes(b"an upload of the studio that runs")
        with raises(Busy, code="studio.folder-occupied"), StudioFolder(folder.root).locked():
            pytest.fail("two studios")
        assert fresh.exists()
    with folder.locked():
        assert folder.own.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "inside", Path("/proc/none")):
        with raises(NotFound, code="studio.folder-invalid"), StudioFolder(path).locked():
            pytest.fail("no folder")


def test_a_project_without_a_title_has_its_name_as_title(folder: StudioFolder) -> None:
    made = folder.create("", "reviews/")
    assert folder.project(made.name).title == made.name == "project"


def test_only_this_user_opens_the_directories_of_projects(folder: StudioFolder) -> None:
    made = folder.create("a", "reviews")
    folder.store.mkdir()
    made.directory.chmod(0o755)
    with folder.locked():
        found = [path.stat().st_mode & 0o777 for path in (made.directory, folder.store, folder.own)]
    assert found == [0o700] * 3


def test_titles_make_names_that_are_free_and_can_be_opened(folder: StudioFolder) -> None:
    titles = ["Reviews", "reviews!", "", "日本", "store", "login", "x" * 99, "x" * 99, "../..", "Été 2026", "-"]
    made = [folder.create(title, "sst2") for title in titles]
    assert [one.name for one in made] == [
        "reviews",
        "reviews-2",
        "project",
        "project-2",
        "store-2",
        "login-2",
        "x" * 40,
        f"{'x' * 40}-2",
        "project-3",
        "ete-2026",
        "project-4",
    ]
    assert [folder.project(one.name).directory for one in made] == [one.directory for one in made]
    assert {one.parent for one in folder.root.rglob(PROJECT)} == {one.directory for one in made}
    assert len(folder.create("y" * 10_000, "sst2").title) == 100
    for name in ("", ".", "..", ".studio", "Reviews", "reviews/../reviews", "reviews\n", "none", "x" * 300):
        with raises(NotFound, code="studio.missing"):
            folder.project(name)
