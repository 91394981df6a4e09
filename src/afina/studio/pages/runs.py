"""Runs: a recommendation or a study of the project's texts: its start, its progress, its end."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

from afina.events import Progress
from afina.models.backbone_spec import BGE, EMBEDDED, MINILM
from afina.report.formatting import listed, metric_figure
from afina.report.plots.race import EndedTraining, race
from afina.report.plots.svg import Plot
from afina.report.progress import clock, doing, figures
from afina.report.recommendation import so_far, title
from afina.stats.intervals import wilson
from afina.stats.metrics import METRICS
from afina.studies.event_file import read_events
from afina.studies.runs.inputs import is_encoder
from afina.studies.runs.output_directory import OutputDirectory
from afina.studio import problems
from afina.studio.answer_kinds import ANSWER_KINDS
from afina.studio.folder import MINUTES, MOST_TITLE, Project
from afina.studio.forms import Form
from afina.studio.option_labels import in_words
from afina.studio.page import PageRouter, Visit
from afina.studio.pages.answer import content_of, has_results
from afina.studio.pages.data import arguments_of, recognised, study_arguments
from afina.studio.run_queue import ENDED, ProjectRun, State, run_of, runs_of

TEMPLATE, ONE = "runs.html.j2", "run.html.j2"

ABOUT: Mapping[str, str] = {
    EMBEDDED: "a language model with 135 million parameters, which can also be asked in words and write texts",
    BGE: "an encoder with 33 million parameters for English texts, which needs the fewest labels",
    MINILM: "an encoder with 23 million parameters, which trains and answers faster",
}
"""A description of each pretrained model from the package index, which needs no Hub."""

PRESETS = {"quickstart": "nothing, LoRA, PreLayer and full fine-tuning", "methods": "all methods, once each"}
"""Studies of the form: a preset, and what it compares."""

MOST_MINUTES = 1440
"""The most minutes of a recommendation: a day."""

SAID = 12
"""The last sentences about the steps of a run that are shown."""

router = PageRouter()


@dataclass(frozen=True)
class RunsFacts:
    """The runs of a project, the newest first, and the choices of the form that starts another one.

    Attributes:
        runs: `number`, `title` (empty if nobody has named the run), `command`, `state` and `asked` (when) of each; its
            `answer` as a headline, empty if there is none yet; and whether the answer `is_computed` now.
        bytes: The size of the project on disk.
        suited: The project's pretrained models that can learn its kind of task.
    """

    project: Project
    command: str
    runs: Sequence[Mapping[str, Any]]
    bytes: int
    backbones: Sequence[str]
    suited: Sequence[str]
    presets: Mapping[str, str] = field(default_factory=lambda: PRESETS)
    minutes: int = MINUTES


@dataclass(frozen=True)
class RunFacts:
    """A run: what was done, what is being done, and what it has found so far.

    Attributes:
        about: What the run computes, in a sentence.
        minutes: Those that were asked for; None: the run has no limit.
        left: The seconds of these minutes that are left; None if the run is not carried out.
        said: The last sentences about the steps of the run.
        trainings: Those in progress: `title`, what each is `doing`, `share` of its steps (None: unknown), `figures`,
            its `place` among all, and its `losses` so far.
        ended: `title` and the figure, or the error (`failed`), in `words`.
        answer: The best answer so far of a recommendation, with which the run can be ended; empty before the first.
        plot: The trainings so far, as SVG; empty without trainings.
        memory: Resident memory of the run's processes now, in bytes.
        problem: Why the run has failed; empty otherwise. `log` is the end of what its command has said.
        repeats: Why the run would fail again; empty if it may succeed.
        has_results: Whether at least one training has a result.
        bytes: The size of its results on disk, when it has ended.
    """

    project: Project
    number: int
    title: str
    command: str
    state: State
    about: str = ""
    minutes: float | None = None
    left: float | None = None
    said: Sequence[str] = ()
    trainings: Sequence[Mapping[str, Any]] = ()
    ended: Sequence[Mapping[str, Any]] = ()
    answer: str = ""
    plot: str = ""
    plot_words: str = ""
    memory: int = 0
    seconds: float = 0.0
    problem: str = ""
    log: str = ""
    repeats: str = ""
    has_results: bool = False
    bytes: int = 0

    @property
    def is_final(self) -> bool:
        return self.state in ENDED

    @staticmethod
    def curve(losses: Sequence[float]) -> str:
        """Return the points of the losses, as SVG's `polyline` has them, in a box of 100 by 30."""
        low, high = min(losses), max(losses)
        across, up = 100 / max(1, len(losses) - 1), 28 / ((high - low) or 1)
        return " ".join(f"{across * place:.1f},{29 - up * (loss - low):.1f}" for place, loss in enumerate(losses))


@router.page("/{project}/runs", TEMPLATE)
def runs(visit: Visit, project: str) -> RunsFacts:
    """Return the runs of a project."""
    opened = visit.project(project)
    found: list[dict[str, Any]] = []
    for run in runs_of(opened):
        is_free = not any(one["is_computed"] for one in found)
        facts = {
            "number": run.number,
            "title": run.title,
            "command": run.command,
            "state": run.state,
            "asked": run.asked,
        }
        found.append(facts | _answer(run, begins=is_free))
    command = shlex.join(["afina", "choose", *arguments_of(opened)])
    return RunsFacts(
        opened,
        command,
        found,
        bytes_below(opened.directory),
        [*offered(opened)],
        suited(opened),
        minutes=asked_minutes(opened, visit.query.get("minutes", "")),
    )


def _answer(run: ProjectRun, *, begins: bool) -> dict[str, Any]:
    """Return a run's answer as a headline, and whether the answer is being computed; `begins`: compute it if needed."""
    kept = content_of(run) if has_results(run) else None
    if kept is not None and begins and kept.found is None and not kept.problem:
        kept.begin()
    found = kept.found if kept is not None else None
    return {
        "answer": found["headline"] if found else "",
        "is_computed": kept is not None and kept.process.is_running,
    }


def asked_minutes(project: Project, given: str) -> int:
    """Return the minutes in the query of an address: a whole number up to a day, else those of the project."""
    found = int(given) if given.isascii() and given.isdecimal() and len(given) < 5 else project.minutes
    return max(1, min(found, MOST_MINUTES))


def writes_texts(project: Project) -> bool:
    """Return whether a project learns to write texts, which no encoder does."""
    known = ANSWER_KINDS.get(recognised(project).get("kind", ""))
    return "target" in project.options or (known is not None and known.writes)


def offered(project: Project) -> Mapping[str, str]:
    """Return the pretrained models of a project's forms, with a description."""
    return {name: about for name, about in ABOUT.items() if not (writes_texts(project) and is_encoder(name))}


def suited(project: Project) -> list[str]:
    """Return the pretrained models of a project: `embedded` in place of encoders if it learns to write texts."""
    return [one for one in project.backbones if not (writes_texts(project) and is_encoder(one))] or [EMBEDDED]


def chosen_backbones(visit: Visit, form: Form, project: Project) -> list[str]:
    """Return the pretrained models that a form names: those that are ticked, and the addresses in its field.

    Raises InvalidData for an encoder in a project that learns to write texts, and Refused for a path that the pages may
    not name.
    """
    ticked = [name for name in ABOUT if form.get(f"backbone-{name}")]
    others = [address.strip() for address in form.get("others").split(",") if address.strip()]
    for address in others:
        if address.startswith(("/", "~", ".")) or ".." in address or os.path.exists(address):
            visit.check_path(address)
    chosen = [*ticked, *others]
    for one in chosen if writes_texts(project) else ():
        if is_encoder(one):
            raise problems.ENCODER_CHOSEN(backbone=one)
    return chosen


@router.form("/{project}/runs", runs, TEMPLATE)
def begin(visit: Visit, form: Form, project: str) -> str:
    """Put a recommendation or a study into the queue."""
    opened = visit.project(project)
    backbones = chosen_backbones(visit, form, opened) or suited(opened)
    chosen = [word for address in backbones for word in ("--backbone", address)]
    if _one_of(form, "what", "What to find out", ("choose", "study")) == "study":
        command = ["study", _one_of(form, "preset", "Study", PRESETS), *study_arguments(opened), *chosen]
    else:
        minutes = form.number("minutes")
        if minutes is not None and not 0 < minutes <= MOST_MINUTES:
            raise problems.OUT_OF_RANGE(field="Minutes", found=minutes, least=0, most=MOST_MINUTES)
        given = str(opened.minutes) if minutes is None else form.get("minutes")
        command = ["choose", *arguments_of(opened), *chosen, "--minutes", given]
    return f"/{project}/runs/{visit.studio.queue.add(opened, command).number}"


def _one_of(form: Form, name: str, field: str, expected: Iterable[str]) -> str:
    """Return a field of a form whose values can be chosen only; the first one if it is missing. Raises InvalidData."""
    found = form.get(name) or next(iter(expected))
    if found not in expected:
        raise problems.CHOICE_UNKNOWN(field=field, found=found, expected=", ".join(expected))
    return found


@router.live("/{project}/runs/{number}/live", "run_live.html.j2")
@router.page("/{project}/runs/{number}", ONE)
def run(visit: Visit, project: str, number: str) -> RunFacts:
    """Return the state of a run."""
    found = run_of(visit.project(project), number)
    return _facts(found)


@router.form("/{project}/runs/{number}/stop", run, ONE)
def stop(visit: Visit, form: Form, project: str, number: str) -> str:
    """Let a run end: a study after its next checkpoint, a recommendation with the best so far."""
    run_of(visit.project(project), number).stop()
    return f"/{project}/runs/{number}"


@router.form("/{project}/runs/{number}/resume", run, ONE)
def resume(visit: Visit, form: Form, project: str, number: str) -> str:
    """Go on with a run that was stopped or has failed."""
    run_of(visit.project(project), number).resume()
    return f"/{project}/runs/{number}"


@router.form("/{project}/runs/{number}/name", run, ONE)
def name_run(visit: Visit, form: Form, project: str, number: str) -> str:
    """Give a run another name; an empty one removes it."""
    run_of(visit.project(project), number).rename(form.get("title"))
    return f"/{project}/runs/{number}"


@router.form("/{project}/runs/{number}/copy", run, ONE)
def copy_run(visit: Visit, form: Form, project: str, number: str) -> str:
    """Put the same command into the queue as a new run."""
    opened = visit.project(project)
    arguments = run_of(opened, number).arguments
    if not arguments:
        raise problems.RUN_STATE(run=number, found="damaged", asked="be copied")
    return f"/{project}/runs/{visit.studio.queue.add(opened, arguments[: arguments.index('--out')]).number}"


@router.form("/{project}/runs/{number}/delete", run, ONE)
def delete_run(visit: Visit, form: Form, project: str, number: str) -> str:
    """Remove a run with its results."""
    run_of(visit.project(project), number).delete()
    return f"/{project}/runs"


@router.form("/{project}/name", runs, TEMPLATE)
def name_project(visit: Visit, form: Form, project: str) -> str:
    """Give a project another title; its address stays."""
    if not form.get("title"):
        raise problems.FIELD_MISSING(field="Name of the project")
    replace(visit.project(project), title=form["title"][:MOST_TITLE]).save()
    return f"/{project}/runs"


@router.form("/{project}/copy", runs, TEMPLATE)
def copy_project(visit: Visit, form: Form, project: str) -> str:
    """Make a project of the same data, without runs."""
    return f"/{visit.folder.copy(visit.project(project)).name}/data"


@router.form("/{project}/delete", runs, TEMPLATE)
def delete_project(visit: Visit, form: Form, project: str) -> str:
    """Remove a project with its runs; what it has published stays."""
    visit.studio.queue.delete(visit.project(project))
    return "/"


def bytes_below(directory: Path) -> int:
    """Return the size of the files in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _values(arguments: Sequence[str], option: str) -> list[str]:
    return [value for name, value in pairwise(arguments) if name == option]


def _about(arguments: Sequence[str]) -> str:
    """Return what a run computes, in a sentence; empty if the file of the run is damaged."""
    command, *others = [*arguments, ""]
    named = _values(arguments, "--backbone")
    on = f" on {listed(named)}" if named else ""
    if command == "study":
        compared = f": {PRESETS[others[0]]}" if others[0] in PRESETS else ""
        return f"Compares methods{on}, each trained on the same texts{compared}."
    return f"Finds the method and learning rate that suit the texts best{on}." if command == "choose" else ""


_PHASES = {
    "load": "opens the pretrained model",
    "encode": "splits the texts into tokens",
    "train": "trains",
    "evaluate": "answers texts that it was not trained on",
    "save": "saves the adapter",
}
"""The phases of a training in plain words."""


def _facts(found: ProjectRun) -> RunFacts:
    state = found.state
    told = _Told()
    for event in read_events(OutputDirectory(found.out).events):
        told.hear(event)
    plot = _drawn(tuple(told.points), told.metric) if told.metric else None
    seconds = max(told.seconds, found.process.seconds)
    minutes = next(map(float, _values(found.arguments, "--minutes")), None)
    return RunFacts(
        project=found.project,
        number=found.number,
        title=found.title,
        command=shlex.join(["afina", *found.arguments]),
        state=state,
        about=_about(found.arguments),
        minutes=minutes,
        left=60 * minutes - seconds if minutes is not None and state == "running" else None,
        said=told.said[-SAID:],
        trainings=[*told.trainings.values()] if state == "running" else [],
        ended=told.ended,
        answer=told.answer,
        plot=plot.svg if plot else "",
        plot_words=plot.text if plot else "",
        memory=found.process.memory if state == "running" else 0,
        seconds=seconds,
        problem=in_words(found.project, found.failure) if state == "failed" else "",
        log=found.process.log if state == "failed" else "",
        repeats=found.would_repeat,
        has_results=OutputDirectory(found.out).holds_results,
        bytes=bytes_below(found.out) if state in ENDED else 0,
    )


_drawing = threading.Lock()
"""Held while a plot is drawn: the style of plots is set for the whole process."""


@lru_cache(maxsize=16)
def _drawn(points: tuple[EndedTraining, ...], metric: str) -> Plot | None:
    """Return the plot of the trainings so far; it is drawn again only when another training has ended."""
    with _drawing:
        return race(points, metric)


class _Told:
    """The state of a run, collected from its events."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.trainings: dict[str, dict[str, Any]] = {}
        self.ended: list[dict[str, Any]] = []
        self.points: list[EndedTraining] = []
        self.metric = self.answer = ""
        self._places: dict[str, str] = {}
        self._losses: dict[str, list[float]] = {}
        self.seconds = 0.0
        self._begun: datetime | None = None

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of `events.jsonl`."""
        at = datetime.fromisoformat(event["at"])
        self._begun = self._begun or at
        self.seconds = (at - self._begun).total_seconds()
        heard = {
            "begun": self._begins,
            "says": self._says,
            "started": self._starts,
            "progress": self._progress,
            "finished": self._finished,
            "failed": self._failed,
            "answered": self._answered,
        }.get(event["event"])
        if heard is not None:
            heard(event)

    def _begins(self, event: Mapping[str, Any]) -> None:
        self.trainings.clear()  # of a process that was killed
        self._losses.clear()

    def _says(self, event: Mapping[str, Any]) -> None:
        self.said.append(f"{clock(self.seconds)} {event['words']}")

    def _starts(self, event: Mapping[str, Any]) -> None:
        self._places[event["run"]] = f"{event['number']} of {event['total']}"

    def _progress(self, event: Mapping[str, Any]) -> None:
        names = Progress.__dataclass_fields__
        told = Progress(**{name: event[name] for name in names if name in event})
        done = told.step / told.steps if told.steps else None
        name, run = title(event["title"]), event["run"]
        losses = self._losses.setdefault(run, [])
        losses += [told.loss] if told.phase == "train" and told.loss is not None else []
        facts = {
            "title": name,
            "doing": _PHASES.get(told.phase) or doing(told),
            "share": done,
            "figures": figures(told),
        }
        self.trainings[run] = {**facts, "place": self._places.get(run, ""), "losses": losses}

    def _finished(self, event: Mapping[str, Any]) -> None:
        self.trainings.pop(event["run"], None)
        seen = event["selection"] or {"value": event["value"], "examples": None}
        self.metric, value = event["metric"], seen["value"]
        words = "undefined" if value is None else metric_figure(self.metric, value, ())
        on = "" if seen["examples"] is None else f" on {seen['examples']:,} texts set aside"
        trained = f", trained in {clock(event['train_seconds'])}" if event["train_seconds"] else ""
        self._end(event, f"{words}{on}{trained}", failed=False)
        if value is not None and event["train_seconds"]:
            interval = None
            if self.metric == "accuracy" and seen["examples"]:
                ends = wilson(round(value * seen["examples"]), seen["examples"])
                interval = (ends.low, ends.high)
            self.points.append(EndedTraining(title(event["title"]), self.seconds / 60, value, interval))

    def _answered(self, event: Mapping[str, Any]) -> None:
        name, metric, value, examples = (event[field] for field in ("name", "metric", "value", "examples"))
        ends = wilson(round(value * examples), examples).ends if METRICS[metric].counted and value is not None else None
        self.answer = so_far(name, metric, nan if value is None else value, examples, event["next"], ends)

    def _failed(self, event: Mapping[str, Any]) -> None:
        self.trainings.pop(event["run"], None)
        self._end(event, event["message"], failed=True)

    def _end(self, event: Mapping[str, Any], words: str, *, failed: bool) -> None:
        self.ended.append({"title": title(event["title"]), "words": words, "failed": failed})
