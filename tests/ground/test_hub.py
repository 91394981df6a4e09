"""Adapters to the Hub and from there: what is sent and fetched, and what is said where that cannot be."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from afina import hub
from afina.errors import AfinaError, CannotWrite, InvalidName, NotFound, Refused
from afina.events import Progress, downloads_told
from hubs import NoAnswer
from raises import raises


class Repositories:
    """Stands in for the Hub's API: repositories are directories, a branch is one in it.

    private  by repository, what was asked when it was made
    raised   what it answers with instead, if anything
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.raised: Exception | None = None

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        if self.raised is not None:
            raise self.raised
        assert exist_ok
        self.private.setdefault(repository, private)
        (self.root / repository / "main").mkdir(parents=True, exist_ok=True)

    def create_branch(self, repository: str, *, branch: str, exist_ok: bool) -> None:
        assert exist_ok
        (self.root / repository / branch).mkdir(exist_ok=True)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, revision: str | None, allow_patterns: list[str]
    ) -> Any:
        there = self.root / repo_id / (revision or "main")
        assert there.is_dir()
        for file in folder_path.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, there)
        self.messages.append(commit_message)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{len(self.messages)}")

    def download(self, name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        if self.raised is not None:
            raise self.raised
        assert repo_type == "model"
        there, copy = self.root / name / (revision or "main"), self.root / "cache" / name / (revision or "main")
        copy.mkdir(parents=True, exist_ok=True)
        for file in there.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, copy)
        return str(copy)


@pytest.fixture
def repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repositories:
    made = Repositories(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: made)
    monkeypatch.setattr(hub, "snapshot_download", made.download)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "version"
    made.mkdir()
    for name in ("manifest.json", "model.safetensors", "README.md", "merges.txt", "tokenizer.model", "chat.jinja"):
        (made / name).write_text(name)
    return made


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_a_download_of_more_than_a_megabyte_tells_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [400_000]

    def snapshot_download(repository: str, *, tqdm_class: Any, **_: Any) -> str:
        """As the Hub's client: a bar of files, and one of bytes whose total grows as files are found."""
        files, found = tqdm_class(total=len(sizes), desc="Fetching"), tqdm_class(total=0, unit="B", unit_scale=True)
        for size in sizes:
            found.total += size
            found.update(size)
            files.update(1)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    (tmp_path / "model.safetensors").touch()
    told: list[Progress] = []
    with downloads_told(told.append):
        hub.snapshot("someone/small")
        assert told == []
        sizes.append(2_000_000)
        hub.snapshot("someone/large")
    assert told == [Progress("download", 2_400_000, 2_400_000, note="someone/large"), Progress("load")]


def test_a_folder_is_sent_whole_and_comes_back(repositories: Repositories, folder: Path) -> None:
    assert hub.upload(folder, "acme/reviews", message="version 3") == "https://hub/acme/reviews/commit/1"
    assert names(repositories.root / "acme/reviews/main") == names(folder)
    assert (repositories.private, repositories.messages) == ({"acme/reviews": True}, ["version 3"])
    found = hub.download("acme/reviews")
    assert names(found) == names(folder) - {"README.md"}
    assert (found / "manifest.json").read_text() == "manifest.json"
    assert names(hub.download("acme/reviews@main", ["*.json"])) >= {"manifest.json"}


def test_a_branch_is_made_and_only_that_is_written(repositories: Repositories, folder: Path) -> None:
    hub.upload(folder, "acme/reviews", revision="v3", message="version 3", private=False)
    hub.upload(folder, "acme/reviews", revision="v3", message="again")
    assert names(repositories.root / "acme/reviews/v3") == names(folder)
    assert not names(repositories.root / "acme/reviews/main")
    assert repositories.private == {"acme/reviews": False}
    assert "manifest.json" in names(hub.download("acme/reviews@v3"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "data.pkl", "run.py", ".env", "weights/x.bin"])
def test_what_is_no_data_is_not_sent(repositories: Repositories, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with raises(Refused, code="hub.file-unsafe", path="version"):
        hub.upload(folder, "acme/reviews", message="m")
    assert not repositories.root.exists()


def test_an_empty_folder_is_not_sent(repositories: Repositories, tmp_path: Path) -> None:
    with raises(Refused, code="hub.file-unsafe", found="nothing"):
        hub.upload(tmp_path, "acme/reviews", message="m")


@pytest.mark.parametrize("pattern", ["*", "*.bin", "pytorch_model.pt", "*.pkl", "*.safetensors*"])
def test_what_is_no_data_is_not_fetched(repositories: Repositories, pattern: str) -> None:
    with raises(Refused, code="hub.file-unsafe", address="acme/reviews"):
        hub.download("acme/reviews", ["*.json", pattern])


def answered(status: int, told: str | None = None) -> HfHubHTTPError:
    return HfHubHTTPError("said", response=Mock(status_code=status), server_message=told)


def absent(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    return kind("no", response=Mock(status_code=404))


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (LocalTokenNotFoundError("no"), CannotWrite, "hub.login-needed"),
        (answered(401), CannotWrite, "hub.login-needed"),
        (answered(403), CannotWrite, "hub.write-refused"),
        (absent(RepositoryNotFoundError), CannotWrite, "hub.write-refused"),
        (answered(409, "too many files"), CannotWrite, "hub.write-refused"),
        (answered(503), NotFound, "hub.unreachable"),
        (HFValidationError("no"), InvalidName, "hub.name-malformed"),
        (NoAnswer("no"), NotFound, "hub.unreachable"),
    ],
)
def test_what_keeps_a_folder_from_being_sent_is_told(
    repositories: Repositories, folder: Path, raised: Exception, kind: type[AfinaError], code: str
) -> None:
    repositories.raised = raised
    with raises(kind, code=code) as error:
        hub.upload(folder, "acme/reviews", message="m")
    assert "acme/reviews" in str(error.value)


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (absent(RepositoryNotFoundError), NotFound, "hub.missing"),
        (absent(RevisionNotFoundError), NotFound, "hub.part-missing"),
        (HFValidationError("no"), InvalidName, "hub.name-malformed"),
        (LocalEntryNotFoundError("no"), NotFound, "hub.unreachable"),
        (answered(500), NotFound, "hub.unreachable"),
    ],
)
def test_what_keeps_files_from_being_fetched_is_told(
    repositories: Repositories, raised: Exception, kind: type[AfinaError], code: str
) -> None:
    repositories.raised = raised
    with raises(kind, code=code, repository="acme/reviews"):
        hub.download("acme/reviews@v9")


def test_a_repository_without_such_files_is_an_error(repositories: Repositories, folder: Path) -> None:
    hub.upload(folder, "acme/reviews", message="m")
    with raises(NotFound, code="hub.part-missing", expected=["adapter_config.json"], address="acme/reviews"):
        hub.download("acme/reviews", ["adapter_config.json"])


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (absent(RepositoryNotFoundError), "backbone.missing"),
        (HFValidationError("no"), "backbone.missing"),
        (LocalEntryNotFoundError("no"), "backbone.unreachable"),
        (answered(500), "backbone.unreachable"),
        (ConnectionError("no"), "backbone.unreachable"),
    ],
)
def test_what_keeps_a_backbone_from_being_fetched_is_told(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, code: str
) -> None:
    def download(*_: object) -> Path:
        raise raised

    monkeypatch.setattr(hub, "_download", download)
    with raises(NotFound, code=code, backbone="owner/name@main"):
        hub.snapshot("owner/name@main")
