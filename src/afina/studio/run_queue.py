"""ProjectRun: a study or a recommendation of a project, carried out by a command. RunQueue: one run after the other.

What is wanted of a run is on disk, so a studio that starts again goes on: a run whose process was killed, or whose
machine was stopped, is started again and continues from its last checkpoint.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from afina import file_io
from afina.errors import AfinaError, CorruptAdapter
from afina.studio import problems
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder

State = Literal["queued", "running", "stopping", "stopped", "done", "failed"]

INTERRUPTED = (130, 143, -2, -15)
"""Exit statuses of a command that SIGINT or SIGTERM has ended."""

TRIES = 5
"""How often a run is started whose process is lost each time."""

LOOK_SECONDS = 0.5
"""Seconds between two looks whether the next run can start."""


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
    def _request(self) -> dict[str, Any]:
        try:
            return file_io.read_object(self._file)
        except CorruptAdapter:
            return {}

    @property
    def _file(self) -> Path:
        return self.process.directory / "request.json"

    @property
    def arguments(self) -> list[str]:
        """The arguments of `afina`."""
        return [str(one) for one in self._request.get("arguments", [])]

    @property
    def command(self) -> str:
        """The name of the command: choose, study or train."""
        return next(iter(self.arguments), "")

    @property
    def asked(self) -> str:
        """When the run was asked for, as ISO 8601 text: the order of the queue."""
        return str(self._request.get("asked", ""))

    @property
    def state(self) -> State:
        wanted, process = bool(self._request.get("wanted")), self.process
        if process.is_running:
            return "running" if wanted else "stopping"
        if process.status == 0:
            return "done"
        if not wanted:
            return "stopped"
        failed = process.status is not None and process.status not in INTERRUPTED
        return "failed" if failed or self._request.get("starts", 0) >= TRIES else "queued"

    def ask(self, arguments: Sequence[str]) -> None:
        """Put a new run into the queue."""
        self.process.directory.mkdir(parents=True)
        self._save({"arguments": [*arguments]})

    def _save(self, request: dict[str, Any]) -> None:
        changed = {"wanted": True, "starts": 0, "asked": datetime.now(UTC).isoformat(), **request}
        file_io.write_text(self._file, json.dumps(changed, ensure_ascii=False))

    def start(self) -> None:
        """Start or continue the run's command."""
        request = self._request
        self._save({**request, "starts": request.get("starts", 0) + 1})
        self.process.start(self.arguments)

    def stop(self) -> None:
        """Let the run end after a checkpoint. Raises Conflict if it has ended."""
        state = self.state
        if state in ("done", "failed", "stopped"):
            raise problems.RUN_STATE(run=self.number, found=state, asked="be stopped")
        self._save({**self._request, "wanted": False})
        self.process.interrupt()

    def resume(self) -> None:
        """Put a stopped or failed run back into the queue. Raises Conflict for another run."""
        state = self.state
        if state not in ("failed", "stopped"):
            raise problems.RUN_STATE(run=self.number, found=state, asked="be continued")
        (self.process.directory / "exit.json").unlink(missing_ok=True)
        self._save({"arguments": self.arguments})


def runs_of(project: Project) -> list[ProjectRun]:
    """Return the runs of a project, the newest first."""
    found = (project.directory / "processes").glob("run-*/request.json")
    numbers = sorted((int(path.parent.name.removeprefix("run-")) for path in found), reverse=True)
    return [ProjectRun(project, number) for number in numbers]


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
        self._lock, self._ends = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="afina-studio-queue", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Start no further run. A run that is carried out goes on."""
        self._ends.set()
        self._thread.join()

    def add(self, project: Project, command: Sequence[str]) -> ProjectRun:
        """Put a run of a project into the queue; `--out` is added to the command."""
        with self._lock:
            number = max((one.number for one in runs_of(project)), default=0) + 1
            made = ProjectRun(project, number)
            made.ask([*command, "--out", str(made.out.absolute())])
        return made

    def _go_on(self) -> None:
        while not self._ends.wait(LOOK_SECONDS):
            try:
                self.look()
            except (AfinaError, OSError):  # a full disk, or a project that is removed: the next look finds out
                continue

    def look(self) -> None:
        """Start the next run if none is carried out."""
        with self._lock:
            every = [run for project in self._folder.projects() for run in runs_of(project)]
            states = [(one, one.state) for one in every if one.asked]
            waiting = sorted((one for one, state in states if state == "queued"), key=lambda one: one.asked)
            if waiting and not {"running", "stopping"} & {state for _, state in states}:
                waiting[0].start()
