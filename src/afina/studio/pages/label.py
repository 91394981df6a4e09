"""Label: the texts that are worth most to a model, one after the other, with a button or a key for each label.

`afina next` chooses the texts in a process of its own. Labelled texts are training texts of the next run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.studio import problems
from afina.studio.folder import Project
from afina.studio.forms import Form, safe_name
from afina.studio.labelling import LabelledText, Labelling, Rounds, key_of
from afina.studio.option_labels import in_words
from afina.studio.page import PageRouter, Visit
from afina.studio.pages.data import arguments_of, recognised
from afina.studio.right_answer import right_answer
from afina.studio.text_changes import WITHOUT, TextChanges, changing

TEMPLATE = "label.html.j2"

COUNT = 20
"""The texts of a round that are suggested."""

MOST = 500
"""The most texts of a round."""

KEYS = 9
"""The labels that have a key: the digits from 1."""

SKIP, UNDO = "skip", "undo"
"""The decisions about a text that give no label."""

router = PageRouter()


@dataclass(frozen=True)
class LabelFacts:
    """The text to label, and how far the round is.

    Attributes:
        state: "unread" if the kind of task is not known yet, "none" without a file of texts, "running" while texts are
            chosen, "failed", or "found".
        key: The key of `text`, which is None if all texts of the round are labelled or skipped.
        labelled: The texts that were labelled in all rounds; `skipped` were skipped.
        last: What was done last.
        estimate: What the random texts say about a model on all texts.
    """

    project: Project
    command: str
    state: str
    kind: str = ""
    labels: Sequence[str] = ()
    problem: str = ""
    said: str = ""
    pool: str = ""
    key: str = ""
    text: Mapping[str, Any] | None = None
    done: int = 0
    texts: int = 0
    labelled: int = 0
    skipped: int = 0
    last: LabelledText | None = None
    estimate: str = ""
    count: int = COUNT
    most: int = MOST
    keys: int = KEYS

    @property
    def is_final(self) -> bool:
        return self.state != "running"


@router.live("/{project}/label/live", "label_live.html.j2")
@router.page("/{project}/label", TEMPLATE)
def label(visit: Visit, project: str) -> LabelFacts:
    """Return the text to label next."""
    opened = visit.project(project)
    kept = Labelling(opened).read()
    command = shlex.join(["afina", *next_arguments(opened, kept.pool or "POOL", COUNT)])
    if not kept.pool:
        kind = recognised(opened).get("kind") or ""
        return LabelFacts(opened, command, "none" if kind else "unread", kind)
    process = Labelling(opened).process(kept)
    labelled = sum(one.answer is not None for one in kept.texts)
    made = LabelFacts(
        opened,
        command,
        "running",
        kept.kind,
        kept.labels,
        pool=Path(kept.pool).name,
        labelled=labelled,
        skipped=len(kept.texts) - labelled,
        last=kept.texts[-1] if kept.texts else None,
    )
    if process.is_running:
        return replace(made, said=in_words(opened, process.last_words))
    if process.status != 0:
        return replace(
            made, state="failed", problem=in_words(opened, process.problem or "The choice was not finished.")
        )
    rows = _rows(opened, kept)
    waiting = [key for key in rows if key not in {one.key for one in kept.texts}]
    return replace(
        made,
        state="found",
        key=waiting[0] if waiting else "",
        text=rows[waiting[0]] if waiting else None,
        done=len(rows) - len(waiting),
        texts=len(rows),
        estimate=process.answer().get("random", {}).get("words", ""),
    )


def _rows(project: Project, kept: Rounds) -> dict[str, Mapping[str, Any]]:
    """Return the texts of the present round by their keys."""
    return {key_of(row): row for row in Labelling(project).process(kept).answer().get("rows", ())}


def next_arguments(project: Project, pool: str, count: int) -> list[str]:
    """Return the arguments of `afina next` for a project: with all its changes, also those that runs do not read."""
    changes = TextChanges(project)
    given = {name: one for name, one in project.options.items() if name not in ("positive", "long", WITHOUT)}
    given |= {WITHOUT: str(changes.list)} if changes.rows else {}
    options = arguments_of(replace(project, options=given))[2:]
    return ["next", pool, "--labelled", project.address, *options, f"--count={count}"]


@router.form("/{project}/label/next", label, TEMPLATE)
def choose(visit: Visit, form: Form, project: str) -> str:
    """Choose the texts of the next round, of an uploaded file or of that of the last round."""
    opened, count = visit.project(project), form.number("count") or COUNT
    if count != int(count) or not 1 <= count <= MOST:
        raise problems.COUNT_OF_TEXTS(found=form.get("count"), most=MOST)
    labelling, changes = Labelling(opened), TextChanges(opened)
    kept, found = labelling.read(), recognised(opened)
    if kept.pool and labelling.process(kept).is_running:
        return f"/{project}/label"
    pool = opened.keep("pool", form.upload.path, safe_name(form.upload.name)) if form.upload else kept.pool
    if not pool:
        raise problems.NO_FILE()
    changes.check()
    changes.write()
    names = [one["label"] for one in found.get("labels") or ()]
    kept = labelling.begin(pool, found.get("kind") or kept.kind, names or kept.labels)
    process = labelling.process(kept)
    out = str((process.directory / "next.csv").absolute())
    process.start([*next_arguments(opened, pool, int(count)), "--out", out, "--json"])
    return f"/{project}/label"


@router.form("/{project}/label/stop", label, TEMPLATE)
def stop(visit: Visit, form: Form, project: str) -> str:
    """End the choice of texts."""
    labelling = Labelling(visit.project(project))
    labelling.process(labelling.read()).kill()
    return f"/{project}/label"


@router.form("/{project}/label/decide", label, TEMPLATE)
def decide(visit: Visit, form: Form, project: str) -> str:
    """Keep the label of a text, skip the text, or take back what was done last."""
    opened, decision = visit.project(project), form.get("decision")
    labelling = Labelling(opened)
    with changing(opened):
        if decision == UNDO:
            labelling.undo()
            return f"/{project}/label"
        kept, key = labelling.read(), form["key"]
        row = _rows(opened, kept).get(key)
        if row is None:
            raise problems.TEXT_MISSING(project=opened.name)
        answer = None if decision == SKIP else right_answer(form, kept.kind, kept.labels, _separator(kept), row["text"])
        labelling.label(key, row, answer)
    return f"/{project}/label"


def _separator(kept: Rounds) -> str:
    return "," if any(";" in name for name in kept.labels) else ";"
