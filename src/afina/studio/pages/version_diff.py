"""The differences between two versions of a project's adapters, which `afina store diff` computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from afina.report.formatting import value_in_words
from afina.studio.folder import Project
from afina.studio.forms import Form
from afina.studio.kept_answer import KeptAnswer
from afina.studio.option_labels import label
from afina.studio.page import ComputedFacts, PageRouter, Visit
from afina.studio.pages.data import arguments_of
from afina.studio.pages.keep import reference_of

TEMPLATE = "keep_diff.html.j2"

_OF_TRAINING = ("evaluation", "kind", "positive", "without")
"""Reading options that `afina store diff` lacks: only a training needs them, or the versions have them."""

router = PageRouter()


@dataclass(frozen=True)
class DiffFacts(ComputedFacts):
    """The differences between two versions.

    Attributes:
        found: The answer of `afina store diff --json`; None while it is computed.
        with_texts: Whether the predictions for the held-out texts are compared too.
        settings: The settings, figures, labels and sizes that differ, in words: `name`, `first` and `second`, which are
            empty for a version without the setting.
    """

    project: Project
    command: str
    first: int
    second: int
    with_texts: bool
    found: Mapping[str, Any] | None = None
    problem: str = ""
    settings: Sequence[Mapping[str, str]] = ()


@router.live("/{project}/keep/diff/live", "keep_diff_live.html.j2")
@router.page("/{project}/keep/diff", TEMPLATE)
def diff(visit: Visit, project: str) -> DiffFacts:
    """Return the differences between two versions, which a command computes; each pair has a process of its own."""
    opened = visit.project(project)
    comparison = _comparison(visit, opened)
    comparison.begin()
    found = comparison.found
    return DiffFacts(
        project=opened,
        command=comparison.command,
        first=int(visit.query["first"]),
        second=int(visit.query["second"]),
        with_texts=bool(visit.query.get("texts")),
        found=found,
        problem=comparison.problem.named(label),
        settings=_settings(found) if found else [],
    )


def _settings(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what differs between two versions, of the JSON of `afina store diff`."""
    changed: list[tuple[str, str, str]] = []
    for group, entries in found["fields"].items():
        for key, value in entries.items():
            if key in ("added", "removed"):  # of labels
                words = ", ".join(value)
                changed.append((f"labels {key}", words * (key == "removed"), words * (key == "added")))
            else:
                first, second = map(_in_words, value)
                changed.append((f"{group}: {key}", first, second))
    if len({*found["bytes"]}) > 1:
        first, second = (f"{size:,}" for size in found["bytes"])
        changed.append(("size in bytes", first, second))
    return [{"name": name, "first": first, "second": second} for name, first, second in changed]


def _in_words(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value_in_words(value)


def _comparison(visit: Visit, project: Project) -> KeptAnswer:
    """Return the comparison of the two versions in the query of the address. Raises NotFound."""
    numbers, texts = [visit.query.get(name, "") for name in ("first", "second")], visit.query.get("texts")
    pair = [reference_of(visit, project, number) for number in numbers]
    arguments = ["store", "diff", *pair, *(_held_out(project) if texts else [])]
    process = project.process(f"diff-{'-'.join(numbers)}{'-texts' if texts else ''}")
    return KeptAnswer(process, [*arguments, "--store", str(visit.folder.store.absolute())])


def _held_out(project: Project) -> list[str]:
    """Return the arguments that name the held-out texts of a project, as `afina store diff` has them."""
    options = {name: value for name, value in project.options.items() if name not in _OF_TRAINING}
    evaluation = project.options.get("evaluation")
    compared = replace(project, task=evaluation, uploaded=False) if evaluation else project
    return arguments_of(replace(compared, options=options))


@router.form("/{project}/keep/diff/again", diff, TEMPLATE)
def compare_again(visit: Visit, form: Form, project: str) -> str:
    """Compare two versions again, after the comparison has failed."""
    _comparison(visit, visit.project(project)).compute()
    return f"/{project}/keep/diff?{urlencode(visit.query)}"
