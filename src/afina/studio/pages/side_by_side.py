"""Side by side: the answers of some runs of a project beside each other, with a verdict on each two of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.report.arms import Arm
from afina.report.recommendation import NOT_KEPT
from afina.report.report import Report
from afina.report.verdicts import trained_on_sentence, verdicts
from afina.studies.results import Results
from afina.studies.runs.output_directory import OutputDirectory
from afina.studio.folder import Project
from afina.studio.option_labels import in_words
from afina.studio.page import PageRouter, Visit
from afina.studio.pages.answer import content_of, has_results
from afina.studio.run_queue import ProjectRun, runs_of

TEMPLATE = "side_by_side.html.j2"

MOST = 4
"""The most runs that are shown beside each other: the newest of those that are chosen."""

router = PageRouter()


@dataclass(frozen=True)
class SideBySideFacts:
    """Some runs beside each other.

    Attributes:
        runs: `number`, `title` and `state` of each; its answer's `headline` and `figures`, and the `problem` that kept
            it from an answer, both empty while the answer is computed or if there are no results.
        query: The part of the address that names the runs.
        said: Sentences: which run is better, or why two runs cannot be compared.
    """

    project: Project
    command: str
    runs: Sequence[Mapping[str, Any]]
    query: str
    said: Sequence[str]
    is_final: bool


@router.live("/{project}/side-by-side/live", "side_by_side_live.html.j2")
@router.page("/{project}/side-by-side", TEMPLATE)
def side_by_side(visit: Visit, project: str) -> SideBySideFacts:
    """Return the answers of the runs that the query of the address names; begin to compute those that are missing."""
    opened = visit.project(project)
    chosen = [run for run in runs_of(opened) if f"run-{run.number}" in visit.query][:MOST][::-1]
    answered = [run for run in chosen if has_results(run)]
    for run in answered:
        content_of(run).begin()
    is_final = all(content_of(run).found or content_of(run).problem for run in answered)
    return SideBySideFacts(
        project=opened,
        command=" && ".join(shlex.join(["afina", "show", str(run.out.absolute())]) for run in answered),
        runs=[_facts(run) for run in chosen],
        query="&".join(f"run-{run.number}=yes" for run in chosen),
        said=_said(opened, answered) if is_final and len(answered) > 1 else [],
        is_final=is_final,
    )


def _facts(run: ProjectRun) -> dict[str, Any]:
    content = content_of(run) if has_results(run) else None
    found = content.found if content else None
    return {
        "number": run.number,
        "title": run.title or run.command,
        "state": run.state,
        "headline": found["headline"] if found else "",
        "figures": found["figures"] if found else [],
        "problem": in_words(run.project, content.problem) if content else "",
    }


def _said(project: Project, runs: Sequence[ProjectRun]) -> Sequence[str]:
    try:
        return _verdicts(tuple((run.number, run.out, _changed(run.out)) for run in runs))
    except AfinaError as error:  # results that are damaged or of another version
        return [in_words(project, error.sentence)]


def _changed(out: Path) -> tuple[int, ...]:
    directory = OutputDirectory(out)
    files = (directory.records, directory.recommendation)
    return tuple(path.stat().st_mtime_ns for path in files if path.is_file())


@lru_cache(maxsize=16)
def _verdicts(given: tuple[tuple[int, Path, tuple[int, ...]], ...]) -> Sequence[str]:
    """Return a sentence on each two runs; runs without the answers to single texts are named with the reason."""
    said, arms = list[str](), list[Arm]()
    for number, out, _ in given:
        report = Report.of(Results.read(out))
        used = next((arm for arm in report.arms if report.of_use in arm.records), None)
        if used is None:
            said.append(f"Run {number} cannot be compared with another run: {NOT_KEPT}, or it has no method to use.")
        else:
            arms.append(replace(used, label=f"run {number} ({used.label})", place=len(arms)))
    found = verdicts(arms, one_study=False)
    said += [f"{one.sentence}." for one in found.compared]
    said += [f"{one.first} and {one.second} cannot be compared: {one.reason}." for one in found.not_comparable]
    if sizes := trained_on_sentence(found.trained_on):
        said.append(sizes)
    elif found.compared and len({arm.record.environment.train_digest for arm in arms}) > 1:
        said.append("The runs were trained on different texts. A part of a difference may come from the texts.")
    return [f"{one[0].upper()}{one[1:]}" for one in said]
