"""Write texts for a person who labels them: as csv, or as tasks of Label Studio in JSON.

This module does not know why texts were chosen. `readers/label_studio.py` reads what Label Studio exports.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from afina import file_io
from afina import problems as ground
from afina.data import problems
from afina.spreadsheet_cells import harmless

CSV, JSON = ".csv", ".json"

MODEL = "afina"
"""The model version of a suggestion in Label Studio."""


@dataclass(frozen=True)
class TextToLabel:
    """A text to label, as the cells of a row by column, and the label that a model suggests.

    Attributes:
        score: The probability that the suggestion is right. None: there is no suggestion.
        entities: The suggested entities, as JSON values with `start`, `end`, `label` and `text`. None: labels are of
            whole texts.
    """

    cells: Mapping[str, str]
    labels: Sequence[str] = ()
    score: float | None = None
    entities: Sequence[Mapping[str, Any]] | None = None

    @property
    def in_cell(self) -> str:
        """The suggestion as a table cell: labels separated by semicolons, or entities as JSON."""
        return ";".join(self.labels) if self.entities is None else json.dumps(self.entities, ensure_ascii=False)


def check_new(path: Path) -> None:
    """Raise InvalidData if `path` ends in no known suffix, and Refused if it exists: it may hold labels by now."""
    if path.suffix.lower() not in _WRITERS:
        raise problems.TEXTS_TO_LABEL_SUFFIX(path=path)
    if os.path.lexists(path):
        raise ground.OUT_EXISTS(path=path)


def write(path: Path, texts: Sequence[TextToLabel], text: str, label: str) -> int:
    """Write texts to a new csv or json file; return how many cells got an apostrophe before a formula.

    Raises the errors of `check_new`, and CannotWrite.
    """
    check_new(path)
    with file_io.replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        return _WRITERS[path.suffix.lower()](file, texts, text, label)


def _write_csv(file: TextIO, texts: Sequence[TextToLabel], text: str, label: str) -> int:
    suggests = any(one.score is not None for one in texts)
    writer, changed = csv.writer(file, lineterminator="\n"), 0
    for number, one in enumerate(texts):
        cells = dict(one.cells)
        if suggests:
            cells |= {"suggested": one.in_cell, "probability": "" if one.score is None else f"{one.score:.3f}"}
        if not number:
            writer.writerow(cells)
        safe = [harmless(cell) for cell in cells.values()]
        changed += sum(before != after for before, after in zip(cells.values(), safe, strict=True))
        writer.writerow(safe)
    return changed


def _write_tasks(file: TextIO, texts: Sequence[TextToLabel], text: str, label: str) -> int:
    """Write tasks of Label Studio. A suggestion needs a control with the name of the label's column."""
    json.dump([_task(one, text, label) for one in texts], file, ensure_ascii=False, indent=1)
    file.write("\n")
    return 0


def _task(one: TextToLabel, text: str, label: str) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {name: cell for name, cell in one.cells.items() if cell}}
    if one.score is not None:
        about = {"from_name": label, "to_name": text}
        if one.entities is None:
            results = [{**about, "type": "choices", "value": {"choices": list(one.labels)}}]
        else:
            results = [{**about, "type": "labels", "value": _span(each)} for each in one.entities]
        task["predictions"] = [{"model_version": MODEL, "score": round(one.score, 6), "result": results}]
    return task


def _span(entity: Mapping[str, Any]) -> dict[str, Any]:
    place = {name: entity[name] for name in ("start", "end", "text")}
    return {**place, "labels": [entity["label"]]}


_WRITERS: Mapping[str, Callable[[TextIO, Sequence[TextToLabel], str, str], int]] = {
    CSV: _write_csv,
    JSON: _write_tasks,
}
