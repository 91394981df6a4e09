"""Directory: where everything lies that a study or a recommendation makes; the only place that names its files.

Knows paths and the files of records; not what is in an adapter or a checkpoint. Starts without torch.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from afina import file_io
from afina.errors import CannotWrite, InvalidStudy, NotFound
from afina.studies import record
from afina.studies.record import Record

ADAPTERS, PREDICTIONS, CHECKPOINTS = "adapters", "predictions", "checkpoints"

SCRATCH = ".scratch"
"""Where executors write; it has a directory for each run, with the same places in it."""

_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of characters, and ends of lines and paragraphs."""

LONGEST_NAME = 100
"""Characters of a name that becomes part of a file's; file systems take 255 bytes."""


def check_name(name: str, what: str) -> None:
    """Raise InvalidStudy for what cannot be part of a file's name; `what` begins the message."""
    odd = next((letter for letter in name if letter in "/\\" or unicodedata.category(letter) in _UNSEEN), None)
    problem = None
    if odd is not None:
        problem = f"it holds {odd!r}"
    elif name.startswith(".") or name != name.strip():
        problem = "it begins with a dot, or begins or ends with a space"
    elif len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        problem = f"it has more than {LONGEST_NAME} bytes"
    elif not name:
        problem = "it is empty"
    if problem:
        raise InvalidStudy(
            f"{what} {name[:LONGEST_NAME]!r}: files are named after it, and {problem}. "
            "Give a name of letters, digits, spaces and marks such as - and _.",
            code="run.name-invalid",
            what=what,
            name=name[:LONGEST_NAME],
        )


def make(out: Path) -> None:
    """Make a directory to write to, where it is missing. Raises NotFound, CannotWrite."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"`out` {out}: cannot be made a directory ({getattr(error, 'strerror', error)}).",
            code="out.not-directory",
            path=out,
        ) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise CannotWrite(f"`out` {out}", "permission denied")


@dataclass(frozen=True)
class Directory:
    """The places under `out`. None of them need be there.

    What a record names is relative to `out`, so that the whole may be moved.
    """

    out: Path

    @property
    def lock(self) -> Path:
        """Who holds the directory locks it."""
        return self.out / ".lock"

    @property
    def records(self) -> Path:
        """A line for each finished run."""
        return self.out / "records.jsonl"

    @property
    def study(self) -> Path:
        """What the study that was last carried out here asked for (`results.Request`)."""
        return self.out / "study.json"

    @property
    def recommendation(self) -> Path:
        """The recommendation that was last made here."""
        return self.out / "recommendation.json"

    @property
    def tuning(self) -> Path:
        """What tuning has come to."""
        return self.out / "tuning.json"

    @property
    def tuning_memory(self) -> Path:
        """The database of what was tried."""
        return self.out / "tuning.db"

    def adapter(self, label: str) -> Path:
        """The directory of a run's adapter."""
        return self.out / ADAPTERS / label

    def predictions(self, label: str) -> Path:
        """The file of what a run predicted."""
        return self.out / PREDICTIONS / f"{label}.safetensors"

    def checkpoint(self, label: str) -> Path:
        """Where a run that goes on keeps its one checkpoint."""
        return self.out / CHECKPOINTS / f"{label}.safetensors"

    def scratch(self, label: str) -> Directory:
        """Where an executor leaves what a run makes, before the record of it is kept."""
        return Directory(self.out / SCRATCH / label)

    @property
    def holds_results(self) -> bool:
        """Whether a study or a recommendation left something here; False for what can be no path."""
        return any(os.path.isfile(path) for path in (self.recommendation, self.records))

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return any((self.out / CHECKPOINTS).glob("*.safetensors"))

    def discard(self, label: str) -> None:
        """Remove a run's adapter and its predictions; a checkpoint stays, to go on from."""
        shutil.rmtree(self.adapter(label), ignore_errors=True)
        self.predictions(label).unlink(missing_ok=True)

    def relative(self, path: Path) -> str:
        """A path under `out`, as a record names it."""
        return path.relative_to(self.out).as_posix()

    def read(self) -> list[Record]:
        """Every record; none where there is no file of them. Raises InvalidData with the line."""
        return record.read(self.records)

    def write(self, records: Iterable[Record]) -> None:
        """Replace the file of records."""
        record.write(self.records, records)

    def is_whole(self, one: Record) -> bool:
        """Whether a record's adapter and its file of predictions are there."""
        return (self.out / one.adapter).is_dir() and (self.out / one.predictions).is_file()

    @property
    def empty(self) -> bool:
        """Whether nothing lies here that somebody could make use of."""
        worth = (self.records, self.tuning, self.recommendation)
        return not any(path.exists() for path in worth) and not self.has_checkpoint

    def take_back(self, label: str) -> None:
        """Move the checkpoint that a run left in its scratch to the others; all else in its scratch goes."""
        scratch = self.scratch(label).out
        for checkpoint in (scratch / CHECKPOINTS).glob("*.safetensors"):
            file_io.take(checkpoint, self.out / CHECKPOINTS / checkpoint.name)
        shutil.rmtree(scratch, ignore_errors=True)

    def clear(self) -> None:
        """Leave no scratch of any run; their checkpoints stay, to go on from."""
        for scratch in (self.out / SCRATCH).glob("*"):
            self.take_back(scratch.name)
        shutil.rmtree(self.out / SCRATCH, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed process left half-written."""
        for place in ("", ADAPTERS, PREDICTIONS, CHECKPOINTS):
            file_io.sweep(self.out / place)
