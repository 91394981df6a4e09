"""Holding an output directory: nobody else writes there meanwhile, and nothing half-written or useless stays.

Knows when a record counts as known; not what a study or a recommendation is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from afina import file_io
from afina.errors import Busy, CannotWrite, CorruptAdapter
from afina.models.manifest import MANIFEST
from afina.models.predictions import Predictions
from afina.studies.directory import Directory, make
from afina.studies.record import Record
from afina.studies.result import Result


@dataclass
class Held:
    """An output directory that this process alone writes to, and the records there."""

    directory: Directory
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
def hold(out: Path) -> Iterator[Held]:
    """Make `out` where it is missing, and hold it for the block; if nothing comes of that, it is not there afterwards.

    Raises NotFound where it cannot be made, CannotWrite, Busy where another process holds it, InvalidData for damaged
    records.
    """
    directory, fresh = Directory(out), not os.path.exists(out)
    make(out)
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
        yield Held(directory, directory.read())
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
