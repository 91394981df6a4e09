"""Storage of blobs, which are immutable files. The key of a blob is called its place.

The adapter store keeps its files in this storage. The package does not know what the files contain.

The key is `sha256-<64 hex digits>-<8 hex digits>`: the SHA-256 of the file's content, and random digits for this blob.
If a file is removed and later stored again, the new blob has other random digits, so that a process that removes the
old blob late does not remove the new one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from afina import file_io, meter
from afina.blobs import problems
from afina.errors import CannotWrite


class StoredBlob(NamedTuple):
    """A stored file."""

    place: str  # its key
    size: int  # in bytes
    age: float  # in seconds


class Blobs(ABC):
    """The base class of stores of immutable files. Many processes may call the methods at once, even for one blob.

    All methods raise NotFound if the object store does not respond.
    """

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """Yield an empty directory for files that `put` will store. The directory is removed after the `with` block."""

    @abstractmethod
    def put(self, place: str, file: Path) -> None:
        """Store the content of `file` as the blob with the key `place`, atomically and durably.

        `put` does not remove `file`, since the caller may have to store the file again. The caller must not change
        `file` afterwards. If the blob exists already, it has the same content. Raises CannotWrite.
        """

    @abstractmethod
    def size(self, place: str) -> int | None:
        """Return the size of a blob in bytes, or None if the blob does not exist."""

    @abstractmethod
    def file(self, place: str) -> AbstractContextManager[Path]:
        """Yield a local file with the content of a blob. The file may only be read, and only in the `with` block.

        Raises CorruptStore if the blob does not exist.
        """

    @abstractmethod
    def remove(self, place: str) -> None:
        """Remove a blob, if it exists. Raises CannotWrite."""

    @abstractmethod
    def all(self) -> Iterator[StoredBlob]:
        """Yield all blobs in any order. Blobs that are added or removed during the call may be missing."""

    @abstractmethod
    def sweep(self, age: float) -> None:
        """Remove incomplete files of killed processes, if the files are older than `age` seconds."""


def below(place: str) -> str:
    """Return the relative path of a blob's file, such as `ab/sha256-ab...`, in a directory or bucket.

    All implementations of `Blobs` use the same paths, so a directory can be copied into a bucket and back.
    """
    return f"{place.removeprefix('sha256-')[:2]}/{place}"


def sweep_directories(directories: Iterable[Path], age: float) -> None:
    """Remove directories that are older than `age` seconds, and ignore errors."""
    now = meter.posix_time()
    for each in directories:
        with suppress(FileNotFoundError):
            if now - each.stat().st_mtime > age:
                shutil.rmtree(each, ignore_errors=True)


class LocalBlobs(Blobs):
    """Blobs in a directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a directory on the file system of the blobs, so that `put` can make hard links and need not copy."""
        with file_io.writing(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise CannotWrite(self.root, "the path, or a part of it, is a file") from None
            directory = Path(tempfile.mkdtemp(prefix=file_io.TEMPORARY, dir=self.root))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def put(self, place: str, file: Path) -> None:
        """Store a file as a blob: a hard link if the file system supports hard links, otherwise a copy."""
        target = self._path(place)
        with file_io.replacing(target) as fresh:
            try:
                os.link(file, fresh)
            except OSError:
                shutil.copyfile(file, fresh)
            fresh.chmod(0o444)
        with file_io.writing(target):
            # The folder of these two digits may be new.
            file_io.sync(self.root)

    def size(self, place: str) -> int | None:
        try:
            return self._path(place).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def file(self, place: str) -> Iterator[Path]:
        """Yield the path of the stored file itself."""
        path = self._path(place)
        if not path.is_file():
            raise problems.FILE_MISSING(path=path)
        yield path

    def remove(self, place: str) -> None:
        path = self._path(place)
        with file_io.writing(path):
            path.unlink(missing_ok=True)

    def all(self) -> Iterator[StoredBlob]:
        now = meter.posix_time()
        for path in self.root.glob("??/sha256-*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            yield StoredBlob(path.name, status.st_size, now - status.st_mtime)

    def sweep(self, age: float) -> None:
        sweep_directories(self.root.glob(f"{file_io.TEMPORARY}*"), age)
        sweep_directories(self.root.glob(f"??/{file_io.TEMPORARY}*"), age)

    def _path(self, place: str) -> Path:
        return self.root / below(place)
