"""Output directory of a study, a recommendation or a run: its places (OutputDirectory), and who writes there
(OutputLock: one process alone, which leaves nothing half-written or useless).

The only module that names these files. Knows the files of records; not what a study or a recommendation is, nor what is
in an adapter or a checkpoint. Starts without torch.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from afina import file_io
from afina.errors import Busy, CannotWrite, CorruptAdapter, InvalidStudy, NotFound
from afina.models.manifest import MANIFEST
from afina.models.objective import Predictions
from afina.studies.runs import record
from afina.studies.runs.record import Record, Result

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


def make_output(out: Path) -> None:
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
class OutputDirectory:
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
        """What the study that was last carried out here asked for (`StudyRequest`)."""
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

    def scratch(self, label: str) -> OutputDirectory:
        """Where an executor leaves what a run makes, before the record of it is kept."""
        return OutputDirectory(self.out / SCRATCH / label)

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
        return record.read_records(self.records)

    def write(self, records: Iterable[Record]) -> None:
        """Replace the file of records."""
        record.write_records(self.records, records)

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


@dataclass
class OutputLock:
    """An output directory that this process alone writes to, and the records there."""

    directory: OutputDirectory
    records: list[Record] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """Where it is."""
        return self.directory.out

    def known(self, key: str) -> Result | None:
        """The run of that key, if it is recorded and its adapter and predictions are there. Raises InvalidData."""
        found = self._whole(key)
        return None if found is None else self.result(found)

    def has(self, key: str) -> bool:
        """Whether that run is known; its predictions are not read."""
        return self._whole(key) is not None

    def _whole(self, key: str) -> Record | None:
        return next((one for one in self.records if one.key == key and self._is_whole(one)), None)

    def _is_whole(self, one: Record) -> bool:
        """Whether the record's files are there, and its adapter is the one that it is about."""
        if not self.directory.is_whole(one):
            return False
        try:
            manifest = file_io.read_object(self.out / one.adapter / MANIFEST)
        except CorruptAdapter:
            return False
        return manifest.get("digest") == one.digest

    def begin(self, label: str) -> Path:
        """An executor's scratch for a run; in it is the checkpoint, where there is one to go on from.

        Raises CannotWrite.
        """
        scratch, checkpoint = self.directory.scratch(label), self.directory.checkpoint(label)
        shutil.rmtree(scratch.out, ignore_errors=True)
        with file_io.writing(scratch.out):
            scratch.out.mkdir(parents=True)
        if checkpoint.is_file():
            file_io.take(checkpoint, scratch.checkpoint(label))
        return scratch.out

    def keep(self, made: Record, label: str, before: Collection[str] = ()) -> Result:
        """Take in what a finished run left in its scratch, and record it in the place of one of the same key.

        before  keys of records that it is to stand before; else it is the last
        Raises CannotWrite; then its adapter and predictions are not there either.
        """
        scratch = self.directory.scratch(label).out
        others = [one for one in self.records if one.key != made.key]
        place = next((number for number, one in enumerate(others) if one.key in before), len(others))
        records = [*others[:place], made, *others[place:]]
        try:
            for name in (made.adapter, made.predictions):
                file_io.take(scratch / name, self.out / name)
            self.directory.write(records)
        except CannotWrite:
            self.directory.discard(label)
            raise
        self.records = records
        self.abandon(label)
        return self.result(made)

    def abandon(self, label: str) -> None:
        """Remove the scratch and the checkpoint of a run that is not gone on with."""
        shutil.rmtree(self.directory.scratch(label).out, ignore_errors=True)
        self.directory.checkpoint(label).unlink(missing_ok=True)

    def give_up(self, label: str, message: str) -> str:
        """Keep the checkpoint of a run that ended in an error, and nothing else of it; the message for the user.

        What the executor says of its scratch is said of the directory that the user knows.
        """
        self.directory.take_back(label)
        return message.replace(str(self.directory.scratch(label).out), str(self.out))

    def forget(self, made: Record, label: str) -> None:
        """Remove a record with its adapter and predictions, which another has taken the place of."""
        self.records = [one for one in self.records if one.key != made.key]
        self.directory.write(self.records)
        self.directory.discard(label)

    def result(self, made: Record) -> Result:
        """A record with what the run predicted. Raises InvalidData, also where one is not what the other says."""
        found = Result(made, Predictions.read(self.out / made.predictions, made.predictions_digest))
        found.check_shapes(self.out / made.predictions)
        if made.content_digest is None:
            found.check(self.directory.records)
        return found

    def describe(self, path: Path, text: str) -> None:
        """Write the one description of what the directory holds; that of anything else which was made here goes."""
        for other in {self.directory.study, self.directory.recommendation} - {path}:
            other.unlink(missing_ok=True)
        file_io.write_text(path, text)


@contextmanager
def lock_output(out: Path) -> Iterator[OutputLock]:
    """Make `out` where it is missing, and hold it for the block; if nothing comes of that, it is not there afterwards.

    Raises NotFound where it cannot be made, CannotWrite, Busy where another process holds it, InvalidData for damaged
    records.
    """
    directory, fresh = OutputDirectory(out), not os.path.exists(out)
    make_output(out)
    lock = FileLock(directory.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(
            f"`out` {out}: another study or recommendation is writing there. Wait for it, or name another `out`.",
            code="out.occupied",
            path=out,
        ) from None
    except OSError as error:
        if fresh:
            shutil.rmtree(out)
        raise CannotWrite(f"`out` {out}", file_io.reason(error)) from None
    try:
        directory.clear()
        directory.sweep()
        yield OutputLock(directory, directory.read())
        directory.clear()
    except BaseException:
        with suppress(CannotWrite):  # the next one that holds the directory clears it
            directory.clear()
        raise
    finally:
        # While it is held: who waits for it sees that the file is gone, and makes a new one.
        directory.lock.unlink(missing_ok=True)
        lock.release()
        if fresh and directory.empty:
            shutil.rmtree(out)
