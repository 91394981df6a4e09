"""StudioFolder: the folder of a studio, with its projects, its store and its lock. Project: a task and its runs.

The results of a run are an ordinary results directory, and the store is an ordinary store: the commands open both.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from afina import digest, file_io
from afina.errors import CorruptAdapter
from afina.models.backbone_spec import BGE, EMBEDDED
from afina.studio import problems
from afina.studio.command_process import CommandProcess

PROJECT = "project.json"

MINUTES = 5
"""The minutes that are suggested for a recommendation."""

USUAL = (BGE, EMBEDDED)
"""The pretrained models that are suggested: those that `afina choose` compares by default."""

KEPT = {"title": str, "task": str, "options": dict, "backbones": list, "created": str, "uploaded": bool, "minutes": int}
"""The fields of a project in its file, with their types."""

MOST_TITLE = 100
"""The most characters of a title; a longer one is cut."""

CLIENT = "studio"
"""The client's name in the studio's store: a project's adapters are `studio/PROJECT`."""

STEM = 40
"""The most characters of a project's name that come from its title; a number may follow."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?")

_RESERVED = {"store", "new", "login", "static", "example"}
"""Names of addresses and of folders that no project can have."""


@dataclass(frozen=True)
class Project:
    """A task with its reading options, and a directory with its runs.

    Attributes:
        task: The address of the task; for an uploaded file, its name in the directory `data`.
        options: The reading options that differ from their defaults, by name.
    """

    directory: Path
    title: str
    task: str
    options: Mapping[str, Any] = field(default_factory=dict)
    backbones: Sequence[str] = USUAL
    minutes: int = MINUTES
    created: str = ""
    uploaded: bool = False

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def data(self) -> Path:
        """The directory of uploaded files."""
        return self.directory / "data"

    @property
    def address(self) -> str:
        """The task's address for a command that runs in any folder."""
        return str((self.data / self.task).absolute()) if self.uploaded else self.task

    @property
    def adapters(self) -> str:
        """The name of the project's adapters in the store."""
        return f"{CLIENT}/{self.name}"

    def keep(self, purpose: str, upload: Path, name: str) -> str:
        """Move an uploaded file into a directory of its own, and return its path; no upload replaces another."""
        place = (self.directory / purpose / secrets.token_hex(4)).absolute()
        with file_io.writing(place):
            place.mkdir(parents=True)
            return str(upload.replace(place / name))

    def process(self, name: str, *inputs: Any) -> CommandProcess:
        """Return the process of a command of this project that is no run; other JSON `inputs` have another process."""
        key = f"-{digest.of_json([*inputs]).removeprefix(digest.PREFIX)[:12]}" if inputs else ""
        return CommandProcess(self.directory / "processes" / f"{name}{key}")

    def save(self) -> Project:
        content = {key: value for key, value in asdict(self).items() if key != "directory"}
        file_io.write_text(self.directory / PROJECT, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        return self

    def with_options(self, changes: Mapping[str, Any]) -> Project:
        """Save and return the project with changed reading options; None removes an option."""
        options = {key: value for key, value in {**self.options, **changes}.items() if value not in (None, "", False)}
        return replace(self, options=options).save()

    @classmethod
    def read(cls, directory: Path) -> Project:
        """Raises CorruptAdapter if there is no project in the directory, or its file is damaged."""
        path = directory / PROJECT
        found = file_io.read_object(path)
        for name, kind in KEPT.items():
            if not isinstance(found.get(name), kind):
                raise problems.PROJECT_DAMAGED(path=path, reason=f"`{name}` is missing, or is no {kind.__name__}")
        return cls(directory, **{name: found[name] for name in KEPT} | {"title": found["title"] or directory.name})


@dataclass(frozen=True)
class StudioFolder:
    """The folder that a studio works in."""

    root: Path

    @property
    def own(self) -> Path:
        """The directory of the studio itself: sessions, password, uploads in progress, the server's process."""
        return self.root / ".studio"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def server(self) -> CommandProcess:
        """The process of `afina serve` on the studio's store."""
        return CommandProcess(self.own / "server")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other studios out of it; uploads of a studio that was killed are removed.

        Raises Busy if another studio has the folder open, and NotFound if it cannot be used, such as a file.
        """
        try:
            self.own.mkdir(parents=True, exist_ok=True)
            for private in (self.own, self.store, *(path.parent for path in self.root.glob(f"*/{PROJECT}"))):
                if private.is_dir():
                    private.chmod(0o700)
            lock = FileLock(self.own / "lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise problems.FOLDER_OCCUPIED(folder=self.root) from None
        except OSError as error:
            raise problems.FOLDER_INVALID(folder=self.root, reason=file_io.reason(error)) from None
        try:
            shutil.rmtree(self._uploads, ignore_errors=True)
            file_io.sweep(self.own)
            yield
        finally:
            lock.release()

    @property
    def _uploads(self) -> Path:
        return self.own / "uploads"

    def projects(self) -> list[Project]:
        """Return the projects, the newest first; directories that hold no project are left out."""
        found = []
        for path in self.root.glob(f"*/{PROJECT}"):
            try:
                found.append(Project.read(path.parent))
            except CorruptAdapter:
                continue
        return sorted(found, key=lambda one: one.created, reverse=True)

    def project(self, name: str) -> Project:
        """Raises NotFound, or CorruptAdapter if the project's file is damaged."""
        if not _NAME.fullmatch(name) or not (self.root / name / PROJECT).is_file():
            raise problems.PROJECT_MISSING(project=name, folder=self.root)
        return Project.read(self.root / name)

    def create(
        self,
        title: str,
        task: str,
        upload: Path | None = None,
        backbones: Sequence[str] = USUAL,
        minutes: int = MINUTES,
    ) -> Project:
        """Make a project, whose name comes from the title, with a number if the name is taken.

        An upload is moved into it.
        """
        with file_io.writing(self.root):
            scratch = self.upload()
            try:
                scratch.mkdir()
                made = Project(
                    scratch,
                    title[:MOST_TITLE],
                    task,
                    backbones=tuple(backbones),
                    minutes=minutes,
                    created=datetime.now(UTC).isoformat(timespec="milliseconds"),
                    uploaded=upload is not None,
                ).save()
                if upload is not None:
                    made.data.mkdir()
                    upload.replace(made.data / task)
                return replace(made, directory=self._placed(scratch, slug(title) or "project"))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _placed(self, complete: Path, stem: str) -> Path:
        """Move a directory to the first free name that begins with `stem`, and return its path."""
        number = 1
        while True:
            path = self.root / (stem if number == 1 else f"{stem}-{number}")
            number += 1
            if path.name not in _RESERVED:
                with suppress(FileExistsError):
                    path.mkdir()
                    return complete.rename(path)  # takes the place of the empty directory, at once

    def copy(self, project: Project) -> Project:
        """Make a project with the data, the models and the reading options of another one, without its runs.

        Options that name files of the other project, such as its corrections, are not copied.
        """
        upload = None
        with file_io.writing(self.root):
            if project.uploaded:
                upload = self.upload()
                shutil.copyfile(project.data / project.task, upload)
        made = self.create(f"{project.title} (copy)", project.task, upload, project.backbones, project.minutes)
        own = str(project.directory.absolute())
        return made.with_options({k: value for k, value in project.options.items() if own not in str(value)})

    def delete(self, project: Project) -> None:
        """Remove a project with all its files, at once."""
        gone = self.upload()
        with file_io.writing(self.root):
            project.directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def upload(self) -> Path:
        """Return the path of a new file for an upload in progress."""
        self._uploads.mkdir(exist_ok=True)
        return self._uploads / secrets.token_hex(8)


def slug(title: str) -> str | None:
    """Return a project's name for a title: lower-case ASCII letters, digits and hyphens; None if nothing is left."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[:STEM].strip("-")
    return name or None
