"""TextChanges: the decisions and corrections of a project as a list that each command of the project reads.

The list is a file for the reading option `without`. Its name comes from its content, so a run keeps the list that it
was started with, and what was computed with another list is computed anew. No file of texts is changed.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from afina import digest, file_io
from afina.data.readers.further_files import CORRECTED, FILE, LISTED, ROW, TEXT, TEXT_PAIR
from afina.data.readers.target_kinds import NO_LABELS
from afina.spreadsheet_cells import harmless
from afina.studio import problems
from afina.studio.corrections import Corrections
from afina.studio.folder import Project
from afina.studio.label_decisions import LabelDecisions
from afina.studio.labelling import Labelling

WITHOUT = "without"
"""The reading option with the list of changes."""

CHOSEN = "chosen"
"""The column that says why `afina next` chose a text."""


_lock = threading.RLock()


@dataclass(frozen=True)
class TextChanges:
    """The changes of the texts of a project as they are now."""

    project: Project

    @cached_property
    def rows(self) -> list[Mapping[str, str]]:
        """The texts to leave out, and then the right labels; their last row of a text counts."""
        labels = [one.label for one in LabelDecisions(self.project).read().values() if one.is_left_out]
        out = [
            {FILE: one.file, ROW: str(one.row), TEXT: one.text, TEXT_PAIR: one.text_pair or "", LISTED: one.label}
            for one in labels
        ]
        chosen = {(one.text, one.pair): one.chosen for one in Labelling(self.project).read().texts}
        right = [
            {TEXT: one.text, TEXT_PAIR: one.pair, CORRECTED: one.answer or NO_LABELS}
            | ({CHOSEN: chosen[one.text, one.pair]} if (one.text, one.pair) in chosen else {})
            for one in Corrections(self.project).read()
        ]
        return [*out, *right]

    def facts(self) -> dict[str, Any]:
        """Return what pages show: the numbers of texts that are `left_out` and `corrected`, and what commands read.

        `used`: they read the texts with these changes. `reads_list`: with these or earlier ones.
        """
        gone = sum(CORRECTED not in row for row in self.rows)
        counts = {"left_out": gone, "corrected": len(self.rows) - gone}
        return {**counts, "used": self.is_used, "reads_list": self.has_own_list, "list": str(self.list)}

    @cached_property
    def _content(self) -> str:
        pairs = any(row[TEXT_PAIR] for row in self.rows)
        chosen = any(CHOSEN in row for row in self.rows)
        names = [FILE, ROW, TEXT, *([TEXT_PAIR] if pairs else []), LISTED, CORRECTED, *([CHOSEN] if chosen else [])]
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([harmless(row.get(name, "")) for name in names] for row in self.rows)
        return content.getvalue()

    @property
    def list(self) -> Path:
        """The path of the list of these changes."""
        name = digest.of_strings([self._content]).removeprefix(digest.PREFIX)[:12]
        return (self.project.directory / "changes" / f"{name}.csv").absolute()

    @property
    def is_used(self) -> bool:
        """Whether the commands of the project read the texts with these changes."""
        return self.project.options.get(WITHOUT) == str(self.list)

    @property
    def has_own_list(self) -> bool:
        """Whether the commands of the project read a list of these or of earlier changes."""
        given = self.project.options.get(WITHOUT)
        places = (self.list.parent, self.project.directory.absolute())  # the second of projects of earlier versions
        return given is not None and Path(str(given)).parent in places

    def check(self) -> None:
        """Raise Conflict if the project leaves out the texts of a list of the user, which no list replaces."""
        given = self.project.options.get(WITHOUT)
        if given is not None and not self.has_own_list:
            raise problems.OTHER_TEXTS_LEFT_OUT(project=self.project.name, path=given, field=WITHOUT)

    def use(self) -> None:
        """Let the commands of the project read the texts with these changes. Raises Conflict as `check`."""
        self.check()
        self.write()
        self.project.with_options({WITHOUT: str(self.list) if self.rows else None})

    def write(self) -> None:
        """Write the list, if there are changes."""
        if self.rows:
            self.list.parent.mkdir(exist_ok=True)
            file_io.write_text(self.list, self._content)

    def withdraw(self) -> None:
        """Let the commands of the project read the texts as they stand in the file."""
        if self.has_own_list:
            self.project.with_options({WITHOUT: None})


@contextmanager
def changing(project: Project) -> Iterator[None]:
    """Use the changes at the end of the block, if earlier changes are used or if the project had no changes."""
    with _lock:
        before = TextChanges(Project.read(project.directory))
        follows = before.has_own_list or not (before.rows or WITHOUT in before.project.options)
        yield
        if follows:
            TextChanges(before.project).use()
