"""Data: what was recognised in the texts of a project, every doubt with what mends it, and the reading options.

The texts are read by `afina inspect` in a process of its own, so a large file delays no page.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina import digest
from afina.data.kinds import KINDS
from afina.data.reading_options import OPTIONS
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project
from afina.studio.forms import Form
from afina.studio.page import PageRouter, Visit

TEMPLATE = "data.html.j2"

ASKED = ("text", "text_pair", "label", "kind", "separator", "missing", "merge_labels", "sheet", "labels", "positive")
"""The reading options that the page's form has."""

router = PageRouter()


@dataclass(frozen=True)
class Field:
    """A reading option in the form.

    Attributes:
        about: The option's help.
        choices: The values to choose from; empty: any text.
        is_flag: Whether the option is yes or no.
    """

    name: str
    value: str
    about: str
    choices: Sequence[str] = ()
    is_flag: bool = False


@dataclass(frozen=True)
class DataFacts:
    """What was recognised.

    Attributes:
        found: The answer of `afina inspect --json` (`Inspection`); None while the texts are read.
        problem: The error of the command, such as a file that does not exist.
    """

    project: Project
    command: str
    found: Mapping[str, Any] | None
    problem: str
    fields: Sequence[Field]

    @property
    def is_final(self) -> bool:
        return self.found is not None or bool(self.problem)


def arguments_of(project: Project) -> list[str]:
    """Return the arguments that name a project's task and say how it is read, for every command."""
    made = ["--task", project.address]
    for name, value in project.options.items():
        flag = {"evaluation": "--eval"}.get(name, f"--{name.replace('_', '-')}")
        given = ",".join(value) if isinstance(value, list) else str(value)
        made += [flag] if value is True else [flag, given]
    return made


def _process(project: Project) -> CommandProcess:
    """The process that reads the texts with the present options; each set of options has one of its own."""
    key = digest.of_json([project.address, dict(project.options)]).removeprefix(digest.PREFIX)[:12]
    return project.process(f"inspect-{key}")


@router.live("/{project}/data/live", "data_live.html.j2")
@router.page("/{project}/data", TEMPLATE)
def data(visit: Visit, project: str) -> DataFacts:
    """Return what was recognised in the texts of a project; begin to read them if nothing has read them yet."""
    opened = visit.project(project)
    arguments, process = ["inspect", *arguments_of(opened)], _process(opened)
    if not process.was_started or process.was_lost:
        process.start([*arguments, "--json"])
    found: Mapping[str, Any] | None = None
    problem = ""
    if process.status is not None:
        answer = process.answer()
        problem = answer["error"]["message"] if "error" in answer else "" if answer else process.log
        found = None if problem else answer
    return DataFacts(opened, shlex.join(["afina", *arguments]), found, problem, _fields(opened, found))


def _fields(project: Project, found: Mapping[str, Any] | None) -> list[Field]:
    columns = [column["name"] for column in found["file_columns"]] if found else []
    choices = dict.fromkeys(("text", "text_pair", "label"), columns)
    choices |= {"kind": list(KINDS), "missing": ["refuse", "skip", "keep"]}
    made = []
    for name in ASKED:
        value = project.options.get(name)
        said = ",".join(value) if isinstance(value, list) else "" if value is None else str(value)
        is_flag = OPTIONS[name].default is False
        made.append(Field(name, said, OPTIONS[name].metadata["description"], choices.get(name, ()), is_flag))
    return made


@router.form("/{project}/data/options", data, TEMPLATE)
def set_options(visit: Visit, form: Form, project: str) -> str:
    """Set the reading options of a project, from the form or from the button of a doubt."""
    opened = visit.project(project)
    if remedy := form.get("remedy"):
        changes = {name: value for name, value in json.loads(remedy).items() if name in OPTIONS}
    else:
        changes = {name: form.get(name) for name in ASKED}
        changes |= {"merge_labels": bool(form.get("merge_labels"))}
        if labels := form.get("labels"):
            changes["labels"] = [one.strip() for one in labels.split(",")]
    opened.with_options(changes)
    return f"/{project}/data"


@router.form("/{project}/data/again", data, TEMPLATE)
def read_again(visit: Visit, form: Form, project: str) -> str:
    """Read the texts again, after the file was changed."""
    process = _process(visit.project(project))
    if not process.is_running:
        process.start(["inspect", *arguments_of(visit.project(project)), "--json"])
    return f"/{project}/data"
