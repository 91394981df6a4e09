"""Blobs: files that are kept under a place and never changed. Knows neither what is in them nor what holds them.

A place is `sha256-<64 hex digits>-<8 hex digits>`: what the content hashes to, and a word drawn for this copy. What was
removed and is needed again comes back under another word, so that whoever is late in removing removes the old copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from afina import file_io
from afina.errors import CannotWrite, CorruptStore


class StoredBlob(NamedTuple):
    """A file that lies there: its place, its bytes, and how many seconds ago it was written."""

    place: str
    size: int
    age: float


class Blobs(ABC):
    """Where the bytes are. Every method may be called by many processes at once, of one place too."""

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """An empty directory to make files in, for `put`; it is gone after the block."""

    @abstractmethod
    def put(self, place: str, file: Path) -> None:
        """Keep the content of `file`, durable when it returns; whole or not at all.

        `file` stays, for it may have to be put again; nobody writes to it after. What lies at the place already has the
        same content. Raises CannotWrite, NotFound where nothing answers.
        """

    @abstractmethod
    def size(self, place: str) -> int | None:
        """Bytes of what lies there; None where nothing does. Raises NotFound where nothing answers."""

    @abstractmethod
    def file(self, place: str) -> AbstractContextManager[Path]:
        """The content as a file of this machine, for the block; read, never changed.

        Raises CorruptStore where nothing lies there, NotFound where nothing answers.
        """

    @abstractmethod
    def remove(self, place: str) -> None:
        """Remove what lies there, if anything does. Raises CannotWrite, NotFound."""

    @abstractmethod
    def all(self) -> Iterator[StoredBlob]:
        """All that lies there, in no order; what comes or goes meanwhile may be missing. Raises NotFound."""

    @abstractmethod
    def sweep(self, age: float) -> None:
        """Remove what killed processes left half-written more than so many seconds ago."""


def below(place: str) -> str:
    """Where a place is within whatever holds them: in a directory by the first two digits of the hash.

    The same everywhere, so that a directory of blobs can be copied into a bucket, or out of one, as it is.
    """
    return f"{place.removeprefix('sha256-')[:2]}/{place}"


def sweep_directories(directories: Iterable[Path], age: float) -> None:
    """Remove those that are older than so many seconds, as far as they may be removed."""
    now = datetime.now(UTC).timestamp()
    for each in directories:
        with suppress(FileNotFoundError):
            if now - each.stat().st_mtime > age:
                shutil.rmtree(each, ignore_errors=True)


class LocalBlobs(Blobs):
    """In a directory, by the first two digits of what they hash to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Beside the blobs, so that `put` copies nothing."""
        with file_io.writing(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise CannotWrite(self.root, "it is a file, or below one") from None
            made = Path(tempfile.mkdtemp(prefix=file_io.TEMPORARY, dir=self.root))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def put(self, place: str, file: Path) -> None:
        """See `Blobs`; where the file system can, another name of the same bytes, which nobody writes to again."""
        target = self._path(place)
        with file_io.replacing(target) as fresh:
            try:
                os.link(file, fresh)
            except OSError:
                shutil.copyfile(file, fresh)
            fresh.chmod(0o444)
        with file_io.writing(target):
            # The directory of these two digits may be new, made by this process or by another just now.
            file_io.sync(self.root)

    def size(self, place: str) -> int | None:
        """See `Blobs`."""
        try:
            return self._path(place).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def file(self, place: str) -> Iterator[Path]:
        """See `Blobs`; the file itself."""
        path = self._path(place)
        if not path.is_file():
            raise CorruptStore(
                f"{path}: the file is missing. `afina store verify` says what it belongs to.",
                code="store.blobs-missing",
                path=path,
            )
        yield path

    def remove(self, place: str) -> None:
        """See `Blobs`."""
        path = self._path(place)
        with file_io.writing(path):
            path.unlink(missing_ok=True)

    def all(self) -> Iterator[StoredBlob]:
        """See `Blobs`."""
        now = datetime.now(UTC).timestamp()
        for path in self.root.glob("??/sha256-*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            yield StoredBlob(path.name, status.st_size, now - status.st_mtime)

    def sweep(self, age: float) -> None:
        """See `Blobs`."""
        sweep_directories(self.root.glob(f"{file_io.TEMPORARY}*"), age)
        sweep_directories(self.root.glob(f"??/{file_io.TEMPORARY}*"), age)

    def _path(self, place: str) -> Path:
        return self.root / below(place)
