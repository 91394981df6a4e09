"""Data: what was recognised in the texts of a project, every doubt with what mends it, and the reading options.

The texts are read by `afina inspect` in a process of its own, so a large file delays no page.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from afina import meter
from afina.allocator import LEAST_ADDRESS_SPACE
from afina.data.addresses import named
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import OF_FILES, OPTIONS
from afina.errors import OutOfMemory
from afina.sentence import Json, Sentence
from afina.studies.labelling.doubtful_kinds import DOUBTFUL_KINDS
from afina.studio import problems
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project
from afina.studio.forms import Form, safe_name
from afina.studio.kept_answer import KeptAnswer
from afina.studio.option_labels import OPTION_LABELS, in_words
from afina.studio.page import ComputedFacts, PageRouter, Visit
from afina.studio.run_queue import INTERRUPTED
from afina.studio.text_changes import WITHOUT, TextChanges

TEMPLATE = "data.html.j2"

GROUPS: Mapping[str, Sequence[str]] = {
    "Columns": ("text", "text_pair", "label", "target", "sheet", "encoding"),
    "Labels": ("kind", "labels", "positive", "separator", "merge_labels", "repair"),
    "Rows": ("missing", "duplicates", "long", "evaluation", "without", "allow_leakage"),
}
"""The reading options that the page's form has, by the legend above them."""

COLUMNS = ("text", "text_pair", "label", "target")
"""Options whose values are columns of the file."""

SPACED = (*COLUMNS, "sheet", "separator")
"""Options in whose values spaces at the ends count."""

HINTS: Mapping[str, str] = {
    "label": "Several columns with 0 and 1, one for each label: their names with commas between.",
    "labels": "With commas between. The second of two labels is the positive label.",
    "encoding": "Such as shift_jis or windows-1251, if the file is not UTF-8.",
    "separator": "Such as ; between the labels of one text.",
    "evaluation": "A path on this machine. All texts of the project are then used for training.",
    "without": "A path on this machine, such as that of the doubts.csv of afina doubts.",
}
"""Hints on the text to write into a field without choices."""

_WORDS: Mapping[str, Mapping[str, str]] = {
    "kind": {"": "recognise it"} | {kind: f"{kind}: {made.means}" for kind, made in TARGETS.items()},
    "missing": {
        "": "refuse: an error with the row",
        "skip": "skip: leave such rows out",
        "keep": "keep: read words such as NA as texts and labels",
    },
    "duplicates": {
        "": "keep all",
        "once": "once: leave out rows that repeat a text and its label, or a held-out text",
        "agreed": "agreed: leave out texts with different labels, too",
    },
    "long": {"": "refuse: an error with the row", "skip": "skip: leave such targets out"},
}
"""The choices of an option in words; the first is the default."""

MOST_INSPECTIONS = 2
"""Files that are read at once; each takes memory."""

WAITS = "they wait until one of two other files is read"
TOO_LARGE = (
    "The texts need more memory than one reading may use (half of what is free). Close other programs, or divide them."
)
STOPPED = "The reading was stopped. Read the texts again, or choose other options."

_beginning = threading.Lock()

router = PageRouter()


@dataclass(frozen=True)
class Field:
    """A reading option in the form.

    Attributes:
        choices: Each `value`, and the `words` that the form shows for it; without choices, any text can be written.
    """

    name: str
    label: str
    value: str
    hint: str = ""
    choices: Sequence[Mapping[str, str]] = ()
    is_flag: bool = False


@dataclass(frozen=True)
class DataFacts(ComputedFacts):
    """The columns, labels and texts that were recognised.

    Attributes:
        found: The answer of `afina inspect --json`, whose sentences name fields of the form; None while texts are
            read.
        fields: The fields of the form by legend.
        share: The share of the file that was read; None if not known.
        changes: The facts of `TextChanges`.
    """

    project: Project
    command: str
    found: Mapping[str, Any] | None
    problem: str
    fields: Mapping[str, Sequence[Field]]
    said: str = ""
    share: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_doubts(self) -> bool:
        """Whether the labels can be looked through for doubtful ones."""
        return self.found is not None and self.found["kind"] in DOUBTFUL_KINDS


def arguments_of(project: Project) -> list[str]:
    """Return the arguments that name a project's task and say how it is read, for every command."""
    made = ["--task", project.address]
    for name, value in project.options.items():
        flag = {"evaluation": "--eval"}.get(name, f"--{name.replace('_', '-')}")
        given = ",".join(value) if isinstance(value, list) else str(value)
        if value is True:
            made.append(flag)
        else:
            made += [f"{flag}={given}"] if given.startswith("-") else [flag, given]
    return made


def study_arguments(project: Project) -> list[str]:
    """Return the arguments of `arguments_of` for `afina study`, whose reading options are settings of the study."""
    settings = (f"data.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in project.options.items())
    return ["--task", project.address, *(word for one in settings for word in ("--set", one))]


def inspection_of(project: Project) -> CommandProcess:
    """Return the process that reads the texts with the present options; each set of options has one of its own."""
    return project.process("inspect", project.address, dict(project.options), list(project.backbones))


def recognised(project: Project) -> Mapping[str, Any]:
    """Return the last answer of `afina inspect`, also while the texts are not read with the latest changes yet."""
    unchanged = replace(project, options={name: one for name, one in project.options.items() if name != WITHOUT})
    return inspection_of(project).answer() or inspection_of(unchanged).answer()


def inspect_arguments(project: Project) -> list[str]:
    """Return the arguments of `afina inspect` for a project, with lengths for each backbone."""
    backbones = [word for address in project.backbones for word in ("--backbone", address)]
    return ["inspect", *arguments_of(project), *backbones]


def _inspection(project: Project) -> KeptAnswer:
    memory = max(LEAST_ADDRESS_SPACE, meter.memory_available() // MOST_INSPECTIONS)
    return KeptAnswer(inspection_of(project), inspect_arguments(project), memory=memory)


def _begin(visit: Visit, inspection: KeptAnswer) -> bool:
    """Begin to read the texts, and return whether they wait, because MOST_INSPECTIONS other files are being read."""
    with _beginning:
        every = map(CommandProcess, visit.folder.root.glob("*/processes/inspect-*"))
        waits = inspection.process.status is None and not inspection.process.is_running
        if waits and sum(one.is_running for one in every) >= MOST_INSPECTIONS:
            return True
        inspection.begin()
        return False


@router.live("/{project}/data/live", "data_live.html.j2")
@router.page("/{project}/data", TEMPLATE)
def data(visit: Visit, project: str) -> DataFacts:
    """Return what was recognised in the texts of a project; begin to read them if nothing has read them yet."""
    opened = visit.project(project)
    inspection = _inspection(opened)
    waits = _begin(visit, inspection)
    answer = inspection.found
    found = None if answer is None else _in_words(opened, answer)
    process = inspection.process
    is_reading = process.status is None
    said = WAITS if waits else in_words(opened, process.last_words) if is_reading else ""
    if process.status in INTERRUPTED:
        problem = STOPPED
    elif process.error.get("code") == OutOfMemory.code:
        problem = TOO_LARGE
    else:
        problem = in_words(opened, inspection.problem)
    return DataFacts(
        project=opened,
        command=inspection.command,
        found=found,
        problem=problem,
        fields=_fields(opened, found),
        said=said,
        share=process.share_done if is_reading else None,
        changes=TextChanges(opened).facts(),
    )


def _in_words(project: Project, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an inspection whose sentences name fields of the form."""

    def named(parts: Sequence[Json]) -> str:
        return in_words(project, Sentence.from_json(parts))

    doubts = [{**doubt, "words": named(doubt["parts"])} for doubt in found["doubts"]]
    return {**found, "doubts": doubts, "words": [named(parts) for parts in found["parts"]]}


def _fields(project: Project, found: Mapping[str, Any] | None) -> dict[str, list[Field]]:
    """Return the fields of the form by legend, without those that cannot apply to the project's address."""
    origin = named(project.address)
    has_columns = origin is None or origin.chooses
    has_sheets = found is not None and bool(found["sheets"])
    made: dict[str, list[Field]] = {}
    for legend, names in GROUPS.items():
        fits = {name: has_columns or name not in OF_FILES for name in names} | {"sheet": has_sheets}
        shown = [name for name in names if fits[name] or name in project.options]
        if shown:
            made[legend] = [_field(name, project.options.get(name), found) for name in shown]
    return made


def _field(name: str, value: Any, found: Mapping[str, Any] | None) -> Field:
    said = ",".join(value) if isinstance(value, list) else "" if value is None else str(value)
    choices = _choices(name, found)
    if said and choices and said not in choices:  # such as `a,b` for several columns
        choices[said] = said
    shown = [{"value": choice, "words": words} for choice, words in choices.items()]
    return Field(name, OPTION_LABELS[name], said, HINTS.get(name, ""), shown, OPTIONS[name].default is False)


def _choices(name: str, found: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the words for each value to choose from; empty if any text may be written."""
    if name in _WORDS:
        words = dict(_WORDS[name])
        if name == "kind" and found is not None and found["kind"]:
            words[""] = f"recognised: {found['kind']}"
        return words
    if found is None or found["further_columns"]:
        return {}
    if name == "sheet":
        return {"": "the only sheet that is not empty", **{sheet: sheet for sheet in found["sheets"]}}
    if name not in COLUMNS or not found["file_columns"]:
        return {}
    usual = "none" if name in ("text_pair", "target") else "recognise it"
    recognised = found["columns"].get(name)
    names = [column["name"] for column in found["file_columns"]]  # one is empty if pandas wrote its index
    return {"": f"recognised: {recognised}" if recognised else usual, **{name: name for name in names if name}}


@router.form("/{project}/data/options", data, TEMPLATE)
def set_options(visit: Visit, form: Form, project: str) -> str:
    """Set the reading options of a project, from the form or from the button of a doubt."""
    opened = visit.project(project)
    changes = _remedy(form.get("remedy")) if form.get("remedy") else _changes(form)
    for name in ("evaluation", "without"):
        if changes.get(name):
            visit.check_path(str(changes[name]), opened)
    _read_with(opened, changes)
    return f"/{project}/data"


def _read_with(project: Project, changes: Mapping[str, Any]) -> None:
    process = inspection_of(project)
    if process.is_running:  # nobody waits for the answer with the earlier options
        process.kill()
    project.with_options(changes)


@router.form("/{project}/data/evaluation", data, TEMPLATE)
def evaluate_on(visit: Visit, form: Form, project: str) -> str:
    """Evaluate all later runs on an uploaded file."""
    opened = visit.project(project)
    if form.upload is None:
        raise problems.NO_FILE()
    _read_with(opened, {"evaluation": opened.keep("evaluation", form.upload.path, safe_name(form.upload.name))})
    return f"/{project}/data"


def _remedy(text: str) -> dict[str, Any]:
    """Return the options of a doubt's button."""
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise problems.FORM_MALFORMED(reason="its remedy is none of this page")
    kept = {name: value for name, value in given.items() if name in OPTION_LABELS}
    return kept | ({"label": None} if kept.get("target") else {})


def _changes(form: Form) -> dict[str, Any]:
    names = [name for group in GROUPS.values() for name in group]
    changes: dict[str, Any] = {}
    for name in names:
        value = form.fields.get(name, "") if name in SPACED else form.get(name)
        changes[name] = bool(value) if OPTIONS[name].default is False else value
    changes["labels"] = [one.strip() for one in form.get("labels").split(",") if one.strip()] or None
    return changes


@router.form("/{project}/data/changes", data, TEMPLATE)
def use_changes(visit: Visit, form: Form, project: str) -> str:
    """Let the next run read the texts with the decisions and corrections, or as they stand in the file."""
    changes = TextChanges(visit.project(project))
    changes.use() if form.get("use") else changes.withdraw()
    return f"/{project}/data#changes"


@router.form("/{project}/data/stop", data, TEMPLATE)
def stop(visit: Visit, form: Form, project: str) -> str:
    """Stop the reading of the texts."""
    inspection_of(visit.project(project)).interrupt()
    return f"/{project}/data"


@router.form("/{project}/data/again", data, TEMPLATE)
def read_again(visit: Visit, form: Form, project: str) -> str:
    """Read the texts again, after the file was changed."""
    inspection_of(visit.project(project)).forget()
    return f"/{project}/data"
