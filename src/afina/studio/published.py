"""Adapters that a project has published (versions in the studio's store), and adapters of its finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from afina.data.kinds import CLASSES
from afina.errors import AfinaError, NotFound
from afina.report.formatting import in_words, metric_figure, value_in_words
from afina.report.recommendation import title
from afina.store.adapter_store import AdapterStore
from afina.store.versions import Version
from afina.studies.descriptions import read_recommendation
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.run_queue import ENDED, runs_of

_PAIR = "{text_pair}"
"""The place of a second text in a template, as in `afina.data.tokenize`, which imports transformers."""

UNTRAINED = "zero-shot"
"""The method of an untrained language model."""


@dataclass(frozen=True)
class FinishedAdapter:
    """An adapter of a finished run.

    Attributes:
        place: The number of the run, and the adapter's directory in the results of the run.
        words: The run, the method with its settings, and the headline metric.
    """

    place: str
    words: str
    recommended: bool
    method: str


@dataclass(frozen=True)
class PublishedVersion:
    """A version of a project's adapters, as the pages show it.

    Attributes:
        reference: `client/task@number`.
        figure: The headline metric in words; empty if the manifest has none.
        settings: The hyperparameters in words.
        separator: The separator of the labels of one text, for tasks with several labels a text.
        backbone: The address of the backbone; empty if the adapter needs none or does not say.
    """

    reference: str
    number: int
    method: str
    settings: str
    figure: str
    message: str
    who: str
    created: str
    aliases: Sequence[str]
    kind: str
    labels: Sequence[str]
    pairs: bool
    separator: str
    backbone: str
    bytes: int

    @property
    def at(self) -> str:
        """The time of publication (UTC), to the minute."""
        return minute(self.created)


def minute(time: str) -> str:
    """Return an ISO 8601 time without its seconds."""
    return time[:16].replace("T", " ")


def base_of(project: Project) -> str:
    """Return the name in the store of the project's untrained model; a dot is in no project's name."""
    return f"{project.adapters}.base"


def versions_of(folder: StudioFolder, name: str) -> list[PublishedVersion]:
    """Return the versions of a name that are not deleted, the newest first; empty if nothing was published."""
    store = AdapterStore(folder.store)
    if not store.exists():
        return []
    with suppress(NotFound):
        return [_version(one) for one in reversed(store.versions(name)) if not one.deleted]
    return []


def _version(one: Version) -> PublishedVersion:
    manifest = one.manifest
    template, data = manifest.get("template"), manifest.get("data") or {}
    kind = (manifest.get("objective") or {}).get("kind", CLASSES)
    figure = next((metric_figure(name, value) for name, value in manifest["metrics"].items() if value is not None), "")
    return PublishedVersion(
        reference=str(one),
        number=one.number,
        method=manifest["method"],
        settings=in_words(_flat(manifest["hyperparameters"])),
        figure=figure,
        message=one.why or "",
        who=one.who or "",
        created=one.created,
        aliases=one.aliases,
        kind=kind,
        labels=manifest["label_names"],
        pairs=bool(_PAIR in template if template else manifest.get("pairs") or data.get("text_pair")),
        separator=data.get("separator") or ",",
        backbone=manifest.get("backbone") or "",
        bytes=one.size,
    )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value_in_words(value) for key, value in settings.items() if not isinstance(value, Mapping)}


def directory_of(project: Project, found: FinishedAdapter) -> Path:
    """Return the directory of an adapter of a finished run."""
    return project.directory / "runs" / found.place


def finished_adapters(project: Project) -> list[FinishedAdapter]:
    """Return the adapters of a project's finished runs: of the newest run first, the recommended one before others."""
    found: list[FinishedAdapter] = []
    for run in runs_of(project):
        if run.state in ENDED:  # one that was stopped or has failed keeps the trainings that have ended
            with suppress(AfinaError):  # a damaged results directory is the matter of the page of the run
                results = OutputDirectory(run.out)
                files = [path for path in (results.records, results.recommendation) if path.is_file()]
                found += _of_results(run.out, run.number, tuple(path.stat().st_mtime_ns for path in files))
    return [one for one in found if directory_of(project, one).is_dir()]


@lru_cache(maxsize=256)
def _of_results(out: Path, number: int, changed: tuple[int, ...]) -> Sequence[FinishedAdapter]:
    """Return the adapters of a run's results; they are read once for each change of their files."""
    results = OutputDirectory(out)
    advice = read_recommendation(results.recommendation) if results.recommendation.is_file() else None
    advised = advice.adapter if advice else None
    made = [
        FinishedAdapter(f"{number}/{one.adapter}", _words(number, one), one.adapter == advised, one.method)
        for one in results.read()
        if one.adapter is not None
    ]
    if advice and advised and not any(one.recommended for one in made):  # a baseline, which has no record
        fitted = next(one for one in advice.contenders if one.name == advice.recommended)
        words = f"Run {number}: {fitted.name}, {metric_figure(advice.metric, fitted.metrics[advice.metric])}"
        made.append(FinishedAdapter(f"{number}/{advised}", words, recommended=True, method=fitted.method or ""))
    return sorted(made, key=lambda one: not one.recommended)


def _words(number: int, one: Record) -> str:
    value = one.metrics[one.metric]
    named = one.title
    if one.name != one.method:
        named = f"{one.title} ({one.name})" if title(one.name) == one.name else title(one.name)
    return f"Run {number}: {named}, seed {one.seed}, {metric_figure(one.metric, value, one.label_names)}"


def publish(folder: StudioFolder, project: Project, directory: Path, message: str, name: str) -> None:
    """Start to publish an adapter, or the only one of a results directory, as the next version of a name."""
    command = ["store", "publish", str(directory.absolute()), name, "--message", message]
    publishing(project).start([*command, "--store", str(folder.store.absolute()), "--json"])


def publishing(project: Project) -> CommandProcess:
    """Return the process that publishes an adapter of a project."""
    return project.process("publish")
