"""Doubts: labels of a project that are probably wrong, with a decision about each.

`afina doubts` finds the labels in a process of its own. No file of texts is changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afina.data.readers.target_kinds import of_kind
from afina.errors import InvalidData, NotFound
from afina.report.doubts import sentences
from afina.studies.labelling.doubts import DoubtfulLabel, Doubts
from afina.studio import problems
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project
from afina.studio.forms import Form
from afina.studio.label_decisions import DECISIONS, KEPT, LabelDecisions, key_of
from afina.studio.option_labels import in_words
from afina.studio.page import PageRouter, Visit
from afina.studio.pages.data import arguments_of, recognised
from afina.studio.text_changes import WITHOUT, TextChanges, changing

TEMPLATE = "doubts.html.j2"

SHOWN = 50
"""The doubtful labels that are shown at once, of those without a decision."""

LATEST = 20
"""The latest decisions that are shown."""

MOST_CHARACTERS = 1000
"""The characters of a text that are shown."""

UNDO = "undo"
"""The button of a decision that takes it back."""

router = PageRouter()


@dataclass(frozen=True)
class DoubtsFacts:
    """The doubtful labels of a project, and the decisions about them.

    Of each label: the `key` that its buttons send, `where`, `text`, `pair`, `label`, `suggested`, `reason`, whether
    the text is for `training`, and the `decision`, which is empty until the user decides.

    Attributes:
        state: "none" if nothing has looked for doubtful labels yet, "running", "failed", or "found".
        waiting: The first doubtful labels without a decision, the most doubtful first, of `undecided` ones.
        decided: The latest of `decisions` decisions.
        changes: The facts of `TextChanges`.
    """

    project: Project
    command: str
    state: str
    problem: str = ""
    said: str = ""
    sentences: Sequence[str] = ()
    waiting: Sequence[Mapping[str, Any]] = ()
    undecided: int = 0
    decided: Sequence[Mapping[str, Any]] = ()
    decisions: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        return self.state != "running"


def _process(project: Project) -> CommandProcess:
    """Return the process that looks for doubtful labels of the texts as they are read now, also of left-out texts."""
    return project.process("doubts", project.address, _options(project))


def _options(project: Project) -> dict[str, Any]:
    """Return the reading options without the list of texts to leave out."""
    return {name: value for name, value in project.options.items() if name != WITHOUT}


def _results(project: Project) -> Path:
    return _process(project).directory / "results"


def doubts_arguments(project: Project) -> list[str]:
    """Return the arguments of `afina doubts` for a project, without the list of texts to leave out."""
    return ["doubts", *arguments_of(replace(project, options=_options(project)))[1:]]


@router.live("/{project}/doubts/live", "doubts_live.html.j2")
@router.page("/{project}/doubts", TEMPLATE)
def doubts(visit: Visit, project: str) -> DoubtsFacts:
    """Return the doubtful labels that were found, with the decisions about them."""
    opened = visit.project(project)
    process, command = _process(opened), shlex.join(["afina", *doubts_arguments(opened)])
    if process.is_running:
        return DoubtsFacts(opened, command, "running", said=in_words(opened, process.last_words))
    decided = LabelDecisions(opened).read()
    rows = [_shown(key, made.kind, made.label, made.decision) for key, made in decided.items()]
    made = DoubtsFacts(
        opened,
        command,
        "none",
        decided=rows[: -LATEST - 1 : -1],
        decisions=len(decided),
        changes=TextChanges(opened).facts(),
    )
    if not process.was_started:
        return made
    found = _found(opened)
    if found is None:
        why = process.problem or "The search was not finished."
        return replace(made, state="failed", problem=in_words(opened, why))
    waiting = {key: one for one in found.labels if (key := key_of(one)) not in decided}
    return replace(
        made,
        state="found",
        sentences=[in_words(opened, one) for one in sentences(found)],
        waiting=[_shown(key, found.kind, one) for key, one in [*waiting.items()][:SHOWN]],
        undecided=len(waiting),
    )


def _found(project: Project) -> Doubts | None:
    """Return the doubtful labels that were found; None if the command has not ended, or has failed."""
    if _process(project).status != 0:
        return None
    try:
        return Doubts.read(_results(project))
    except (NotFound, InvalidData):
        return None


def _shown(key: str, kind: str, label: DoubtfulLabel, decision: str = "") -> dict[str, Any]:
    in_words = of_kind(kind).answer_in_words
    return {
        "key": key,
        "where": f"{Path(label.file).name}, {label.row}",
        "text": label.text[:MOST_CHARACTERS],
        "pair": (label.text_pair or "")[:MOST_CHARACTERS],
        "label": in_words(label.label, label.text),
        "suggested": in_words(label.suggested, label.text),
        "reason": label.reason,
        "training": label.training,
        "decision": decision,
    }


@router.form("/{project}/doubts/find", doubts, TEMPLATE)
def find(visit: Visit, form: Form, project: str) -> str:
    """Look for doubtful labels."""
    opened = visit.project(project)
    _process(opened).start([*doubts_arguments(opened), "--out", str(_results(opened).absolute()), "--json"])
    return f"/{project}/doubts"


@router.form("/{project}/doubts/stop", doubts, TEMPLATE)
def stop(visit: Visit, form: Form, project: str) -> str:
    """End the search."""
    _process(visit.project(project)).kill()
    return f"/{project}/doubts"


@router.form("/{project}/doubts/decide", doubts, TEMPLATE)
def decide(visit: Visit, form: Form, project: str) -> str:
    """Keep the decision about a doubtful label, or take an earlier one back."""
    opened, key, decision = visit.project(project), form["key"], form["decision"]
    found, decisions = _found(opened), LabelDecisions(opened)
    seen = form.fields.get("seen")  # another tab may have decided since
    if decision == UNDO:
        with changing(opened):
            decisions.undo(key, seen=seen)
        return f"/{project}/doubts#decided"
    label = None if found is None else next((one for one in found.labels if key_of(one) == key), None)
    if found is None or label is None or decision not in DECISIONS:
        raise problems.DOUBT_MISSING(project=opened.name)
    names = [one["label"] for one in recognised(opened).get("labels") or ()]
    if decision != KEPT:
        TextChanges(opened).check()
    with changing(opened):
        decisions.decide(found, label, decision, names, seen=seen)
    return f"/{project}/doubts#doubts"
