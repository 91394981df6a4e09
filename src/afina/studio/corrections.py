"""Corrections: texts whose answer was wrong, each with the right label, in a csv file of the project."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from afina import file_io
from afina.spreadsheet_cells import harmless, restored
from afina.studio.answer_kinds import ANSWER_KINDS
from afina.studio.folder import Project

_lock = threading.Lock()


@dataclass(frozen=True)
class Correction:
    """A text, or a pair of texts, with its right answer."""

    text: str
    answer: str
    pair: str = ""


@dataclass(frozen=True)
class Corrections:
    """The corrections of a project."""

    project: Project

    @property
    def path(self) -> Path:
        return self.project.directory / "corrections.csv"

    def read(self) -> list[Correction]:
        """Return the corrections, the oldest first; empty if there is no file."""
        with suppress(FileNotFoundError), self.path.open(newline="", encoding="utf-8") as file:
            rows = [[restored(cell) for cell in row] for row in csv.reader(file)][1:]
            return [Correction(row[0], row[-1], row[1] if len(row) > 2 else "") for row in rows if len(row) > 1]
        return []

    def add(self, made: Correction, kind: str) -> None:
        """Keep a correction; it takes the place of an earlier one of the same text."""
        with _lock:
            others = [one for one in self.read() if (one.text, one.pair) != (made.text, made.pair)]
            file_io.write_text(self.path, written([*others, made], kind))

    def remove(self, made: Correction, kind: str) -> None:
        """Remove the correction of this text with this answer, if the file has this correction."""
        with _lock:
            found = self.read()
            if made in found:
                file_io.write_text(self.path, written([one for one in found if one != made], kind))


def written(found: Sequence[Correction], kind: str) -> str:
    """Return corrections as csv, in which no cell is a formula for a spreadsheet."""
    pairs = any(one.pair for one in found)
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["text", *(["text_pair"] if pairs else []), ANSWER_KINDS[kind].column])
    rows = ([one.text, *([one.pair] if pairs else []), one.answer] for one in found)
    writer.writerows([harmless(value) for value in row] for row in rows)
    return content.getvalue()
