"""The command line as a user has it: in this process, for speed, or in processes of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from afina import cli
from afina.cli import option_names
from afina.data.task import Task
from afina.errors import AfinaError, RunFailed
from afina.events import Listener, ValidationScore
from afina.report.report import Report
from afina.studies.executors import by_name, fork_server
from afina.studies.executors.executor import Executor
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.executors.rendezvous import check_devices
from afina.studies.planning import forecast_runs
from afina.studies.runs.inputs import TaskFacts
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from records import carried_out, environment

PROGRAM = [sys.executable, "-m", "afina"]


def study_file(path: Path, **content: Any) -> Path:
    """A study file of these keys and tables; a value in JSON is one in TOML too."""

    def written(table: dict[str, Any], place: str) -> str:
        keys = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
        tables = [written(value, f"{place}{key}.") for key, value in table.items() if isinstance(value, dict)]
        return "\n".join([f"[{place[:-1]}]" if place else "", *keys, *tables])

    path.write_text(written(content, ""), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Answer:
    """Exit status and output."""

    code: int
    out: str
    err: str

    def object(self) -> Any:
        """What `--json` printed: one JSON object on one line, and nothing else."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """One JSON object a line."""
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.removesuffix("\n").split("\n")]

    @property
    def error(self) -> str:
        """The message of the one error, without `Error: ` and without the lines of progress before it."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        before, _, message = self.err.rpartition("Error: ")
        assert "Error" not in before
        assert 1 <= message.count("\n") <= 2, message
        return message.removesuffix("\n")


class Command:
    """`afina ...` in this process. Runs of a study take place here too, which saves four seconds each.

    Pages have no plots, which would take two thirds of the time of a command that trains; `tests/report` draws them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd
        without_workers(monkeypatch)
        monkeypatch.setattr(typer.main, "get_command", _command)
        monkeypatch.setattr(by_name, "LocalExecutor", _here)
        monkeypatch.setattr(Report, "_plots", lambda report, titles=(): {})

    def __call__(self, *arguments: object) -> Answer:
        self.monkeypatch.setattr(sys, "argv", ["afina", *map(str, arguments)])
        self.capfd.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            option_names.begin(None)  # as at the end of the process
        out, err = self.capfd.readouterr()
        return Answer(code, out, err)


@contextmanager
def running(words: str) -> Iterator[None]:
    """`afina WORDS` is the running command."""
    command = typer.main.get_command(cli.app)
    context = typer.Context(command)
    for word in words.split():
        command = command.commands[word]  # type: ignore[attr-defined]
        context = typer.Context(command, parent=context)
    option_names.begin(context)
    try:
        yield
    finally:
        option_names.begin(None)


_command = cache(typer.main.get_command)
"""The commands and their options, which typer takes 50 ms to build; the program builds them once."""


def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no worker before a run needs one, nor to measure how much memory it takes: its imports take seconds."""
    monkeypatch.setattr(fork_server, "prepare", lambda environment: None)
    monkeypatch.setattr(forecast_runs, "worker_memory", lambda: 2**28)


def _here(slots: int, *, devices: int = 1, shard: bool = False) -> Executor:
    check_devices(devices, shard=shard)
    return HereExecutor() if slots == devices == 1 else LocalExecutor(slots, devices=devices, shard=shard)


class HereExecutor(Executor):
    """What workers do, in this process; `until` is not looked at."""

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        from afina.studies.runs.execute import execute

        try:
            return execute(run, out, study=study, listen=listen)
        except AfinaError as error:
            raise RunFailed(error.sentence, run=run.title, cause=error.code, of_cause=error.fields) from None

    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[ValidationScore], bool],
        listen: Listener,
        until: float | None = None,
    ) -> ValidationScore:
        from afina.studies.runs.execute import try_out

        try:
            for score in try_out(run, shares, limit=limit, listen=listen):
                if not goes_on(score):
                    break
        except AfinaError as error:
            raise RunFailed(error.sentence, run=run.title, cause=error.code, of_cause=error.fields) from None
        return score


class InventedExecutor(HereExecutor):
    """Runs are invented at once, with what they leave in files; those whose title is in `failing` fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()

    def look(self, run: Run) -> TaskFacts | None:
        """Its data may not be there."""
        return None

    def count_texts(self, run: Run) -> int | None:
        """Its data may not be there."""
        return None

    def check(self, run: Run) -> list[str]:
        """There is nothing that it needs."""
        return []

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        if run.title in self.failing:
            raise RunFailed(f"run {run.title}: it was made to fail.")
        asked = {"key": run.key, "study": study, "name": run.title, "seed": run.seed, "task": run.task}
        asked["backbone"] = run.backbone
        return carried_out(out, [0, 1, 0, 0, 1], [0, 1, 1, 0, 1], run.method, run.label, **asked)


class GuessingExecutor(InventedExecutor):
    """Runs answer the held-out texts of their task at once; every fourth answer of a method is the next label."""

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        task = Task.load(run.task, run.data)
        targets, labels = task.evaluation.labels.tolist(), len(task.label_names)
        shift = sum(map(ord, run.method)) + run.seed
        answers = [(one + ((row + shift) % 4 == 0)) % labels for row, one in enumerate(targets)]
        asked = {"key": run.key, "study": study, "name": run.title, "seed": run.seed, "task": run.task}
        asked |= {"backbone": run.backbone, "label_names": tuple(task.label_names), "examples": len(targets)}
        asked |= {"environment": environment(evaluation_digest=task.evaluation.digest)}
        return carried_out(out, answers, targets, run.method, run.label, **asked, labels=labels)


def left_behind(out: Path) -> set[str]:
    """What is in `out` that a reader could take for a result, or that is only half of one."""
    harmless = {
        ".lock",
        "study.json",
        "events.jsonl",
        "report.md",
        "report.html",
        "tables.csv",
        "tables.json",
        "adapters",
        "predictions",
        "checkpoints",
    }
    return {path.name for path in out.rglob("*")} - harmless


def copy(adapter: Path, to: Path, change: Callable[[Path], object]) -> Path:
    """A copy of an adapter, changed."""
    shutil.copytree(adapter, to)
    change(to)
    return to
