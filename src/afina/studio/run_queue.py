"""ProjectRun: a study or a recommendation of a project, carried out by a command. RunQueue: one run after the other.

What is wanted of a run is on disk, so a studio that starts again goes on: a run whose process was killed, or whose
machine was stopped, is started again and continues from its last checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from afina import file_io
from afina.errors import AfinaError, CorruptAdapter
from afina.sentence import Sentence
from afina.studio import problems
from afina.studio.command_process import CommandProcess, texts
from afina.studio.folder import MOST_TITLE, Project, StudioFolder
from afina.studio.measurements import stop_measurements

State = Literal["queued", "running", "stopping", "stopped", "done", "failed"]

ENDED: tuple[State, ...] = ("done", "failed", "stopped")
"""States of a run whose results do not change."""

INTERRUPTED = (130, 143, -2, -15)
"""Exit statuses of a command that SIGINT or SIGTERM has ended."""

REPEATING = frozenset(
    {"InvalidData", "Leakage", "InvalidStudy", "UnknownName", "InvalidName", "WrongBackbone", "Diverged"}
)
"""Classes of errors whose cause is in the data and the settings, so that the same command fails again."""

TRIES = 5
"""How often a run is started whose process is lost each time."""

LOOK_SECONDS = 0.5
"""Seconds between two looks whether the next run can start."""

_DIRECTORY = re.compile(r"run-([1-9][0-9]{0,8})")

_changing = threading.RLock()
"""Held while what is wanted of a run is changed, so that a run that is stopped is not started meanwhile."""


@dataclass(frozen=True)
class _Request:
    """The wanted state of a run, as its file says; without arguments if there is no file, or the file is damaged.

    Attributes:
        wanted: Whether the run is to be carried out; False: it was stopped.
        starts: How often its process was started since the run was asked for or continued.
        asked: When the run was asked for, as ISO 8601 text: the order of the queue.
        title: The name that somebody gave the run; empty if nobody did.
        before: Why the run had failed when it was continued; empty if it was not.
    """

    arguments: Sequence[str] = ()
    wanted: bool = False
    starts: int = 0
    asked: str = ""
    title: str = ""
    before: str = ""

    @classmethod
    def read(cls, path: Path) -> _Request:
        found: dict[str, Any] = {}
        with suppress(CorruptAdapter):
            found = file_io.read_object(path)
        arguments, starts = texts(found.get("arguments")), found.get("starts")
        if not arguments:
            return cls()
        counted = starts if isinstance(starts, int) else 0
        words = (str(found.get(name, "")) for name in ("asked", "title", "before"))
        return cls(arguments, bool(found.get("wanted")), counted, *words)


@dataclass(frozen=True)
class ProjectRun:
    """A run of a project by its number.

    Its results are in `PROJECT/runs/NUMBER`, the state of its process in `PROJECT/processes/run-NUMBER`.
    """

    project: Project
    number: int

    @property
    def out(self) -> Path:
        """The results directory, which `afina show` and `afina report` read."""
        return self.project.directory / "runs" / str(self.number)

    @property
    def process(self) -> CommandProcess:
        return self.project.process(f"run-{self.number}")

    @property
    def _request(self) -> _Request:
        return _Request.read(self._file)

    @property
    def _file(self) -> Path:
        return self.process.directory / "request.json"

    @property
    def arguments(self) -> list[str]:
        """The arguments of `afina`; empty if the file of the run is damaged."""
        return [*self._request.arguments]

    @property
    def command(self) -> str:
        """The name of the command: choose, study or train."""
        return next(iter(self.arguments), "")

    @property
    def title(self) -> str:
        """The name that somebody gave the run; empty if nobody did."""
        return self._request.title

    @property
    def asked(self) -> str:
        """When the run was asked for, as ISO 8601 text: the order of the queue."""
        return self._request.asked

    @property
    def state(self) -> State:
        request, process = self._request, self.process
        if process.is_running:
            return "running" if request.wanted else "stopping"
        status = process.status
        if status == 0:
            return "done"
        if not request.arguments:
            return "failed"
        if not request.wanted:
            return "stopped"
        return "failed" if self._failed(status) or request.starts >= TRIES else "queued"

    @staticmethod
    def _failed(status: int | None) -> bool:
        return status is not None and status not in INTERRUPTED

    @property
    def failure(self) -> Sentence:
        """Why a run has failed: a sentence, or the end of what its command wrote on standard error."""
        request, status = self._request, self.process.status
        if not request.arguments:
            return problems.RUN_DAMAGED(path=self._file).sentence
        if status is not None and status < 0:
            return problems.RUN_KILLED(run=self.number, signal=-status).sentence
        if not self._failed(status):
            return problems.RUN_LOST(run=self.number, starts=request.starts).sentence
        return self.process.problem

    @property
    def would_repeat(self) -> str:
        """Why a run that has failed would fail again; empty if it may succeed."""
        if self.state != "failed":
            return ""
        if self.process.error.get("class") in REPEATING:
            return (
                "The cause is in the data or the settings, so the run would fail again. Change them and start another."
            )
        if self._request.before == self.failure:
            return "The run has failed twice for the same reason, so it would probably fail again."
        return ""

    def ask(self, arguments: Sequence[str]) -> None:
        """Put a new run into the queue. Raises CannotWrite."""
        with file_io.writing(self.process.directory):
            self.process.directory.mkdir(parents=True)
        self._save(_Request(arguments, wanted=True, asked=_now()))

    def _save(self, request: _Request) -> None:
        file_io.write_text(self._file, json.dumps(asdict(request), ensure_ascii=False))

    def start(self) -> None:
        """Start or continue the run's command, unless the run was stopped meanwhile."""
        with _changing:
            if self.state == "queued":
                request = self._request
                self._save(replace(request, starts=request.starts + 1))
                self.process.start(request.arguments)

    def stop(self) -> None:
        """Let the run end after a checkpoint. Raises Conflict if it has ended."""
        with _changing:
            state = self.state
            if state in ENDED:
                raise problems.RUN_STATE(run=self.number, found=state, asked="be stopped")
            self._save(replace(self._request, wanted=False))
            self.process.interrupt()

    def resume(self) -> None:
        """Put a stopped or failed run back into the queue. Raises Conflict for another run, and CorruptAdapter."""
        with _changing:
            state = self.state
            if state not in ("failed", "stopped"):
                raise problems.RUN_STATE(run=self.number, found=state, asked="be continued")
            if not self.arguments:
                raise problems.RUN_DAMAGED(path=self._file)
            before = self.failure if state == "failed" else ""
            (self.process.directory / "exit.json").unlink(missing_ok=True)
            self._save(replace(self._request, wanted=True, starts=0, asked=_now(), before=before))

    def rename(self, title: str) -> None:
        """Give the run another name. Raises CorruptAdapter if the file of the run is damaged."""
        with _changing:
            if not self.arguments:
                raise problems.RUN_DAMAGED(path=self._file)
            self._save(replace(self._request, title=title[:MOST_TITLE]))

    def delete(self) -> None:
        """Remove the run, its results and its answers. Raises Conflict while its process goes on."""
        with _changing:
            if (state := self.state) in ("running", "stopping"):
                raise problems.RUN_STATE(run=self.number, found=state, asked="be deleted")
            shutil.rmtree(self.out, ignore_errors=True)  # first, so that no new run of this number finds results
            own = re.compile(rf"(?!diff)[a-z]+-{self.number}(-.*)?")
            for path in self.process.directory.parent.iterdir():
                if own.fullmatch(path.name):
                    CommandProcess(path).kill()
                    shutil.rmtree(path, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def runs_of(project: Project) -> list[ProjectRun]:
    """Return the runs of a project, the newest first."""
    return [ProjectRun(project, number) for number in _numbers(project) if _is_run(project, number)]


def _numbers(project: Project) -> list[int]:
    """The numbers of the directories of runs, the largest first; a studio that was killed may have left one empty."""
    found = (_DIRECTORY.fullmatch(path.name) for path in (project.directory / "processes").glob("run-*"))
    return sorted((int(one[1]) for one in found if one), reverse=True)


def _is_run(project: Project, number: int) -> bool:
    return ProjectRun(project, number)._file.is_file()


def run_of(project: Project, number: str) -> ProjectRun:
    """Return a run by its number in an address. Raises NotFound."""
    found = next((one for one in runs_of(project) if str(one.number) == number), None)
    if found is None:
        raise problems.RUN_MISSING(project=project.name, run=number)
    return found


class RunQueue:
    """Starts one run at a time, in the order in which runs were asked for, in a thread of its own."""

    def __init__(self, folder: StudioFolder) -> None:
        self._folder = folder
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="afina-studio-queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Start no further run. A run that is carried out goes on."""
        self._ends.set()
        self._thread.join()

    def add(self, project: Project, command: Sequence[str]) -> ProjectRun:
        """Put a run of a project into the queue; `--out` is added to the command. Raises CannotWrite."""
        with _changing:
            made = ProjectRun(project, max(_numbers(project), default=0) + 1)
            made.ask([*command, "--out", str(made.out.absolute())])
        return made

    def delete(self, project: Project) -> None:
        """Remove a project with its runs. Raises Conflict while a run of it goes on or waits."""
        with _changing:
            for run in runs_of(project):
                if run.state not in ENDED:
                    raise problems.PROJECT_BUSY(project=project.title, run=run.number, state=run.state)
            for path in project.directory.rglob("command.json"):
                CommandProcess(path.parent).kill()
            self._folder.delete(project)

    def _go_on(self) -> None:
        while not self._ends.wait(LOOK_SECONDS):
            try:
                self.look()
            except (AfinaError, OSError):  # a full disk, or a project that is removed: the next look finds out
                continue

    def look(self) -> None:
        """Start the next run if none is carried out."""
        with _changing:
            every = [(one, one.state) for project in self._folder.projects() for one in runs_of(project)]
            waiting = sorted((one for one, state in every if state == "queued"), key=lambda one: one.asked)
            if waiting and not any(state in ("running", "stopping") for _, state in every):
                stop_measurements(self._folder)
                waiting[0].start()
