"""The output directory of a study, a recommendation or a run: its paths (OutputDirectory) and its lock (OutputLock).

Only the process that has the lock writes to the directory, and removes half-written and unneeded files. This module
defines all file names in an output directory.
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
from afina.errors import CannotWrite, CorruptAdapter, NotFound
from afina.models.predictions import Predictions
from afina.sentence import Sentence
from afina.studies import problems
from afina.studies.runs import record
from afina.studies.runs.record import Record, Result

ADAPTERS, PREDICTIONS, CHECKPOINTS = "adapters", "predictions", "checkpoints"

SCRATCH = ".scratch"
"""The directory to which executors write; each run has a subdirectory with the layout of an output directory."""

_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""The Unicode categories of characters that a name must not contain: controls, surrogates, and separators of lines."""

LONGEST_NAME = 100
"""The largest number of bytes of a name that becomes part of a file name, which can have 255 bytes."""


def check_name(name: str, what: str) -> None:
    """Raise InvalidStudy if `name` cannot be part of a file name; the error message begins with `what`."""
    odd = next((letter for letter in name if letter in "/\\" or unicodedata.category(letter) in _UNSEEN), None)
    problem = None
    if odd is not None:
        problem = f"it contains {odd!r}"
    elif name.startswith(".") or name != name.strip():
        problem = "it begins with a dot, or begins or ends with a space"
    elif len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        problem = f"it has more than {LONGEST_NAME} bytes"
    elif not name:
        problem = "it is empty"
    if problem:
        raise problems.NAME_INVALID(problem=problem, what=what, name=name[:LONGEST_NAME])


def make_output(out: Path) -> None:
    """Create the directory `out` if it is missing. Raises NotFound or CannotWrite."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise problems.OUT_NOT_DIRECTORY(reason=getattr(error, "strerror", error), path=out) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise CannotWrite(Sentence.of("`out` {out}", out=out), "permission denied")


@dataclass(frozen=True)
class OutputDirectory:
    """The paths in the output directory `out`; none of them has to exist.

    The paths in records are relative to `out`, so the whole directory can be moved.
    """

    out: Path

    @property
    def lock(self) -> Path:
        return self.out / ".lock"

    @property
    def records(self) -> Path:
        return self.out / "records.jsonl"

    @property
    def study(self) -> Path:
        """The `StudyRequest` of the study that was last executed in the directory."""
        return self.out / "study.json"

    @property
    def events(self) -> Path:
        """The progress of the runs, written while they are executed (`EventFile`)."""
        return self.out / "events.jsonl"

    @property
    def baselines(self) -> Path:
        return self.out / "baselines.json"

    @property
    def recommendation(self) -> Path:
        """The last recommendation that was made in the directory."""
        return self.out / "recommendation.json"

    @property
    def tuning(self) -> Path:
        return self.out / "tuning.json"

    @property
    def tuning_memory(self) -> Path:
        return self.out / "tuning.db"

    @property
    def answers(self) -> Path:
        """The kept answers of models behind an API, in SQLite."""
        return self.out / "answers.db"

    @property
    def whole(self) -> OutputDirectory:
        """The output directory itself, or that of a run's scratch directory."""
        return OutputDirectory(self.out.parent.parent) if self.out.parent.name == SCRATCH else self

    def adapter(self, label: str) -> Path:
        return self.out / ADAPTERS / label

    def predictions(self, label: str) -> Path:
        return self.out / PREDICTIONS / f"{label}.safetensors"

    def checkpoint(self, label: str) -> Path:
        return self.out / CHECKPOINTS / f"{label}.safetensors"

    def scratch(self, label: str) -> OutputDirectory:
        return OutputDirectory(self.out / SCRATCH / label)

    @property
    def holds_results(self) -> bool:
        """Whether the directory has records or a recommendation; False also if `out` is not a valid path."""
        return any(os.path.isfile(path) for path in (self.recommendation, self.records))

    @property
    def has_checkpoint(self) -> bool:
        return any((self.out / CHECKPOINTS).glob("*.safetensors"))

    def discard(self, label: str) -> None:
        """Remove a run's adapter and predictions, but not its checkpoint, from which the run can continue."""
        shutil.rmtree(self.adapter(label), ignore_errors=True)
        self.predictions(label).unlink(missing_ok=True)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def read(self) -> list[Record]:
        """Read all records. Raises InvalidData, which names the damaged line."""
        return record.read_records(self.records)

    def write(self, records: Iterable[Record]) -> None:
        record.write_records(self.records, records)

    @property
    def empty(self) -> bool:
        """Whether the directory has no records, tuning, recommendation, kept answers or checkpoint."""
        worth = (self.records, self.tuning, self.recommendation, self.answers)
        return not any(path.exists() for path in worth) and not self.has_checkpoint

    def take_back(self, label: str) -> None:
        """Move a run's checkpoint out of its scratch directory, and remove the scratch directory."""
        scratch = self.scratch(label).out
        for checkpoint in (scratch / CHECKPOINTS).glob("*.safetensors"):
            file_io.take(checkpoint, self.out / CHECKPOINTS / checkpoint.name)
        shutil.rmtree(scratch, ignore_errors=True)

    def clear(self) -> None:
        """Remove the scratch directories of all runs, but keep their checkpoints, from which runs can continue."""
        for scratch in (self.out / SCRATCH).glob("*"):
            self.take_back(scratch.name)
        shutil.rmtree(self.out / SCRATCH, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the half-written files that a killed process has left."""
        for place in ("", ADAPTERS, PREDICTIONS, CHECKPOINTS):
            file_io.sweep(self.out / place)


@dataclass
class OutputLock:
    """An output directory to which only this process writes, and the directory's records."""

    directory: OutputDirectory
    records: list[Record] = field(default_factory=list)
    _lacks: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def out(self) -> Path:
        return self.directory.out

    def known(self, key: str) -> Result | None:
        """Return the result of the run with this key; None if there is no record or `lack` is not empty."""
        found = self._whole(key)
        return None if found is None else self.result(found)

    def has(self, key: str) -> bool:
        """Return whether the run with this key has a record and all of its files; predictions are not read."""
        return self._whole(key) is not None

    def lack(self, key: str) -> str:
        """Return what is wrong with the files of a recorded run, which is then executed again; "" if nothing is."""
        one = next((one for one in self.records if one.key == key), None)
        if one is None:
            return ""
        if key not in self._lacks:
            self._lacks[key] = self._lack(one)
        return self._lacks[key]

    def _whole(self, key: str) -> Record | None:
        return next((one for one in self.records if one.key == key and not self.lack(key)), None)

    def _lack(self, one: Record) -> str:
        for name in filter(None, (one.predictions, one.adapter)):
            if not (self.out / name).exists():
                return f"{self.out / name}: gone"
        if one.adapter is None:
            return ""
        from afina.models.adapter import Adapter  # imports torch

        path = self.out / one.adapter
        try:
            made = Adapter.load(path)
        except (CorruptAdapter, NotFound) as error:
            return str(error)
        return "" if made.digest == one.digest else f"{path}: not the adapter of this run"

    def begin(self, label: str) -> Path:
        """Create an executor's scratch directory for a run, move the run's checkpoint into it, and return its path."""
        scratch, checkpoint = self.directory.scratch(label), self.directory.checkpoint(label)
        shutil.rmtree(scratch.out, ignore_errors=True)
        with file_io.writing(scratch.out):
            scratch.out.mkdir(parents=True)
        if checkpoint.is_file():
            file_io.take(checkpoint, scratch.checkpoint(label))
        return scratch.out

    def keep(self, made: Record, label: str, before: Collection[str] = ()) -> Result:
        """Move the files of a finished run out of its scratch directory, and record the run, in place of its key.

        The record is inserted before those with the keys `before`, or else appended. Raises CannotWrite, after removing
        the run's adapter and predictions.
        """
        scratch = self.directory.scratch(label).out
        others = [one for one in self.records if one.key != made.key]
        place = next((number for number, one in enumerate(others) if one.key in before), len(others))
        records = [*others[:place], made, *others[place:]]
        try:
            for name in filter(None, (made.adapter, made.predictions)):
                file_io.take(scratch / name, self.out / name)
            self.directory.write(records)
        except CannotWrite:
            self.directory.discard(label)
            raise
        self.records = records
        self._lacks.pop(made.key, None)
        self.abandon(label)
        return self.result(made)

    def abandon(self, label: str) -> None:
        """Remove the scratch directory and the checkpoint of a run that will not be continued."""
        shutil.rmtree(self.directory.scratch(label).out, ignore_errors=True)
        self.directory.checkpoint(label).unlink(missing_ok=True)

    def give_up(self, label: str, message: str) -> str:
        """Keep only the checkpoint of a failed run, and return the message without the scratch directory's path."""
        self.directory.take_back(label)
        return message.replace(str(self.directory.scratch(label).out), str(self.out))

    def rewrite(self, made: Record) -> None:
        """Replace the record with the key of `made`; the files of the run stay. Raises CannotWrite."""
        records = [made if one.key == made.key else one for one in self.records]
        self.directory.write(records)
        self.records = records

    def forget(self, made: Record, label: str) -> None:
        self.records = [one for one in self.records if one.key != made.key]
        self.directory.write(self.records)
        self.directory.discard(label)

    def result(self, made: Record) -> Result:
        """Return a record with its predictions. Raises InvalidData if they are damaged or contradict the record."""
        found = Result(made, Predictions.read(self.out / made.predictions, made.predictions_digest))
        found.check_shapes(self.out / made.predictions)
        return found

    def describe(self, path: Path, text: str) -> None:
        """Write `text` to `path` (`study.json` or `recommendation.json`), and remove the other of these two files."""
        for other in {self.directory.study, self.directory.recommendation} - {path}:
            other.unlink(missing_ok=True)
        file_io.write_text(path, text)


@contextmanager
def lock_output(out: Path) -> Iterator[OutputLock]:
    """Lock the output directory `out` for the `with` block, after creating the directory if it is missing.

    A new directory that is still empty after the `with` block is removed. Raises NotFound if the directory cannot be
    created, CannotWrite, Busy if another process has the lock, and InvalidData for damaged records.
    """
    directory, fresh = OutputDirectory(out), not os.path.exists(out)
    make_output(out)
    lock = FileLock(directory.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise problems.OUT_OCCUPIED(path=out) from None
    except OSError as error:
        if fresh:
            shutil.rmtree(out)
        raise file_io.cannot_write(Sentence.of("`out` {out}", out=out), error) from None
    try:
        directory.clear()
        directory.sweep()
        yield OutputLock(directory, directory.read())
        directory.clear()
    except BaseException:
        with suppress(CannotWrite):  # the next process that locks the directory clears it
            directory.clear()
        raise
    finally:
        # Unlink before releasing: a process that waits for the lock notices the missing file and creates a new one.
        directory.lock.unlink(missing_ok=True)
        lock.release()
        if fresh and directory.empty:
            shutil.rmtree(out)
