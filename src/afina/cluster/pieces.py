"""Files between machines, in pieces: a cache of files by digest on a node, and transfers of at most a few pieces.

`NodeFiles` stands on a node. Every file is written there once, under a lock that processes of the node share. `send`
and `fetch` run on the other machine, and hold at most WINDOW pieces in memory. Does not know what a file contains, and
does not know Ray: a transfer gets functions that call the node.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock

from afina import digest, file_io
from afina.errors import InvalidData

PIECE = 8 << 20
"""Bytes of a piece."""

WINDOW = 3
"""The largest number of pieces of one file that are under way."""

KEPT_BYTES = 20 << 30
"""The cache of a node keeps the files that were used last, up to this size."""

Ref = TypeVar("Ref")


@dataclass(frozen=True)
class Transfers(Generic[Ref]):
    """How a transfer waits for the answers of a node.

    Attributes:
        get: Return the value of a call's reference; raises the error of the call.
    """

    get: Callable[[Ref], object]

    def send(self, path: Path, put: Callable[[int, bytes], Ref]) -> None:
        """Send the content of `path`: call `put` with the offset and the bytes of each piece, in order."""
        under_way: deque[Ref] = deque()
        with path.open("rb") as file:
            offset = 0
            while piece := file.read(PIECE):
                under_way.append(put(offset, piece))
                offset += len(piece)
                if len(under_way) >= WINDOW:
                    self.get(under_way.popleft())
        while under_way:
            self.get(under_way.popleft())

    def fetch(self, path: Path, size: int, read: Callable[[int, int], Ref]) -> None:
        """Write `size` bytes to `path`: `read` returns the bytes at an offset, up to a number."""
        under_way: deque[Ref] = deque()
        offsets = iter(range(0, size, PIECE))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for offset in offsets:
                under_way.append(read(offset, min(PIECE, size - offset)))
                if len(under_way) >= WINDOW:
                    self._write(file.write, under_way.popleft())
            while under_way:
                self._write(file.write, under_way.popleft())
            if file.tell() != size:
                raise EOFError(f"{path.name}: {file.tell()} of {size} bytes arrived")

    def _write(self, write: Callable[[bytes], int], ref: Ref) -> None:
        piece = self.get(ref)
        assert isinstance(piece, bytes)
        write(piece)


class NodeFiles:
    """The files of a node by their digest, in a directory of the node's cache that its processes share."""

    def __init__(self, directory: Path, most: int = KEPT_BYTES) -> None:
        self.directory, self.most = directory, most
        self._locks: dict[str, FileLock] = {}

    def lacks(self, content: str) -> bool:
        """Return whether the content has to be sent; then this process holds its lock until `complete` or `drop`.

        Waits while another process of the node receives the same content.
        """
        path = self.path(content)
        if _use(path):
            return False
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        lock.acquire()
        if _use(path):
            lock.release()
            return False
        self._partial(content).unlink(missing_ok=True)
        self._locks[content] = lock
        return True

    def receive(self, content: str, offset: int, piece: bytes) -> None:
        """Write a piece of content that is being sent; pieces may arrive in any order. Raises CannotWrite."""
        write_piece(self._partial(content), offset, piece)

    def complete(self, content: str) -> None:
        """Put the received content in its place. Raises InvalidData if it has another digest."""
        partial = self._partial(content)
        try:
            if not partial.exists():
                partial.touch()  # an empty file has no pieces
            if (found := digest.of_file(partial)) != content:
                raise InvalidData(
                    f"{partial}: the received file has digest {found[:19]}. Expected {content[:19]}. The file changed "
                    "while it was sent; start again.",
                    code="data.changed",
                    path=partial,
                    found=found,
                    expected=content,
                )
            partial.replace(self.path(content))
        finally:
            self.drop(content)
        self._sweep(content)

    def drop(self, content: str) -> None:
        """Give up content that is being sent."""
        self._partial(content).unlink(missing_ok=True)
        if (lock := self._locks.pop(content, None)) is not None:
            lock.release()

    def place(self, content: str, path: Path) -> None:
        """Make `path` a file with this content: a hard link where the file system has them, else a copy."""
        path.unlink(missing_ok=True)
        try:
            os.link(self.path(content), path)
        except OSError:
            shutil.copyfile(self.path(content), path)

    def path(self, content: str) -> Path:
        """Return the path of the file with this digest."""
        return self.directory / content.removeprefix(digest.PREFIX)

    def _partial(self, content: str) -> Path:
        return self.path(content).with_suffix(".part")

    def _sweep(self, latest: str) -> None:
        """Remove the files that were used longest ago, down to the largest size; links elsewhere stay."""
        found = [(path.stat(), path) for path in self.directory.iterdir() if not path.suffix]
        size = sum(stat.st_size for stat, _ in found)
        for stat, path in sorted(found, key=lambda one: one[0].st_mtime):
            if size <= self.most:
                return
            if path != self.path(latest):
                path.unlink(missing_ok=True)
                size -= stat.st_size


def _use(path: Path) -> bool:
    """Return whether the file exists, and note that it was used now."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def write_piece(path: Path, offset: int, piece: bytes) -> None:
    """Write a piece of a file that arrives in pieces. Raises CannotWrite."""
    with file_io.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            rest = memoryview(piece)
            while rest:
                written = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[written:], offset + written
        finally:
            os.close(descriptor)


class OpenFiles:
    """Files of this node that another machine reads in pieces. A file that is replaced meanwhile is read as it was."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def open(self, path: Path) -> tuple[int, int] | None:
        """Return a number for `read` and the size in bytes; None if there is no such file."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        self._open[descriptor] = descriptor
        return descriptor, os.fstat(descriptor).st_size

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return a piece; shorter than `size` at the end of the file."""
        return os.pread(self._open[number], size, offset)

    def close(self, number: int) -> None:
        """Close a file; a file that is closed already is ignored."""
        if (descriptor := self._open.pop(number, None)) is not None:
            with suppress(OSError):
                os.close(descriptor)
