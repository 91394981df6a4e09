"""Read the JSON of Label Studio: tasks with `data`, and annotations (earlier: completions) of one or more annotators.

An annotation is a list of results, each with the control that gave it (`from_name`), a type, and a value. The types in
TYPES become cells of a column. The spans of a control of type "labels" become one cell, which is an empty list if an
annotator marked nothing. Predictions are the answers of a model, and are never read as labels. The format is
described at https://labelstud.io/guide/task_format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.data import problems

UNIT = "task"
"""The unit of the rows of a table of tasks: a task has no label if nobody has annotated it."""

_ANNOTATIONS = ("annotations", "completions")
_OF_TASKS = {*_ANNOTATIONS, "predictions"}
_IN_TABLES = {"annotation_id", "annotator"}
"""Keys of each object in the export JSON-MIN, which has one object for each annotation, without `data`."""

TYPES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "choices": lambda value: list(value["choices"]),
    "taxonomy": lambda value: [" / ".join(path) for path in value["taxonomy"]],
    "rating": lambda value: value["rating"],
    "number": lambda value: value["number"],
    "textarea": lambda value: value["text"][0] if len(value["text"]) == 1 else list(value["text"]),
}
"""The type of a result, and the function that returns its value: a list for choices, else a number or a text."""


SPANS = "labels"
"""The type of a result that is a span of the text, with `start`, `end`, `text` and `labels` as its value."""


def is_tasks(items: Sequence[Mapping[str, Any]]) -> bool:
    return bool(items) and all(
        isinstance(one.get("data"), dict) and (one.keys() == {"data"} or bool(one.keys() & _OF_TASKS)) for one in items
    )


def without_wrappers(items: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the objects of the export JSON-MIN with a list in place of {"choices": [...]}; others unchanged."""
    if not all(one.keys() >= _IN_TABLES for one in items):
        return items
    return [{name: _unwrapped(cell) for name, cell in one.items()} for one in items]


def _unwrapped(cell: Any) -> Any:
    return cell["choices"] if isinstance(cell, dict) and cell.keys() == {"choices"} else cell


@dataclass
class LabelStudioTasks:
    """The tasks of a file of Label Studio.

    Attributes:
        places: The id of each task in Label Studio; if some tasks have no id of their own, their numbers from 1.
        answers: For each task, the answer by control. Empty: the task has no label.
        spans: The controls whose answers are spans.
        reasons: The number of tasks without a label, by reason.
        first: The first task whose annotators disagree.
    """

    path: Path
    items: Sequence[Mapping[str, Any]]
    places: list[int] = field(init=False)
    answers: list[dict[str, Any]] = field(init=False)
    spans: list[str] = field(init=False)
    reasons: Counter[str] = field(default_factory=Counter)
    first: int | None = None

    def __post_init__(self) -> None:
        found = [one.get("id") for one in self.items]
        own = all(type(one) is int for one in found) and len(set(found)) == len(found)
        self.places = [int(one) for one in found if one is not None] if own else list(range(1, len(found) + 1))
        self.spans = _controls_of_spans(self.path, self.places, self.items)
        self.answers = [self._answer(place, one) for place, one in zip(self.places, self.items, strict=True)]
        lists = [(name, cell) for one in self.answers for name, cell in one.items() if name not in self.spans]
        if not any(isinstance(cell, list) and len(cell) > 1 for _, cell in lists):  # each task has a single choice
            for one in self.answers:
                one |= {n: cell[0] for n, cell in one.items() if n not in self.spans and isinstance(cell, list)}

    @property
    def controls(self) -> list[str]:
        return list(dict.fromkeys(name for one in self.answers for name in one))

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield each task's id with its data, and its answers; None stands for a missing answer."""
        controls = self.controls
        for place, item, answer in zip(self.places, self.items, self.answers, strict=True):
            data = {f"data.{name}" if name in controls else name: cell for name, cell in item["data"].items()}
            yield place, data | {name: answer.get(name) for name in controls}

    def notes(self) -> tuple[str, ...]:
        controls = self.controls
        said = [f"{self.path}: tasks of Label Studio."]
        if controls:
            columns = ", ".join(map(repr, controls))
            said.append(f"The answers of annotators are the column{'s' * (len(controls) > 1)} {columns}.")
        if controls and self.reasons:
            counts = "; ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
            where = "" if self.first is None else f" (first: task {self.first})"
            said.append(f"Tasks without a label: {counts}{where}.")
        return (" ".join(said),)

    def _answer(self, place: int, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's answer by control, on which all its annotations agree, or those of its ground truth."""
        given: Sequence[Mapping[str, Any]] = next((item[name] for name in _ANNOTATIONS if item.get(name)), [])
        try:
            kept = [one for one in given if not one.get("was_cancelled") and not one.get("skipped")]
            kept = [one for one in kept if one.get("ground_truth")] or kept
            made = [_values(one["result"], self.spans) for one in kept]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            problem = f"{type(error).__name__} {error}"
            raise problems.LABEL_STUDIO_MALFORMED(path=self.path, task=place, _problem=problem) from None
        if not given:
            self.reasons["not annotated"] += 1
        elif not kept:
            self.reasons["skipped"] += 1
        elif any(_compared(one) != _compared(made[0]) for one in made):
            self.reasons["on which the annotators disagree"] += 1
            self.first = place if self.first is None else self.first
        elif not made[0]:
            self.reasons["annotated without an answer"] += 1
        else:
            return made[0]
        return {}


def _controls_of_spans(path: Path, places: Sequence[int], items: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for place, item in zip(places, items, strict=True):
        try:
            results = [one for key in _ANNOTATIONS for given in item.get(key) or () for one in given["result"]]
            found |= dict.fromkeys(one["from_name"] for one in results if one["type"] == SPANS)
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__} {error}"
            raise problems.LABEL_STUDIO_MALFORMED(path=path, task=place, _problem=problem) from None
    return list(found)


def _values(results: Sequence[Mapping[str, Any]], spans: Sequence[str]) -> dict[str, Any]:
    known = (one for one in results if one["type"] in TYPES)
    made: dict[str, Any] = {name: [] for name in spans}
    for one in results:
        if one["type"] == SPANS:
            value = one["value"]
            made[one["from_name"]].append({name: value.get(name) for name in ("start", "end", "labels", "text")})
    return made | {one["from_name"]: TYPES[one["type"]](one["value"]) for one in known}


def _compared(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer in a form in which the order of choices does not matter."""
    return {name: sorted(map(str, cell)) if isinstance(cell, list) else cell for name, cell in answer.items()}
