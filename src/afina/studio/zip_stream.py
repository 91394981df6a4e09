"""A directory as a zip file that is written while it is sent: no more than a part of a file is in memory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

PART = 1 << 20
"""Bytes that are read at once."""


class _Sent(io.RawIOBase):
    """Bytes that are not yet sent. The buffer has no positions, so zipfile writes the sizes after each file."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zipped(directory: Path) -> Iterator[bytes]:
    """Yield a zip file of a directory's files, uncompressed (weights hardly compress), in a folder with its name."""
    sent = _Sent()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(one for one in directory.rglob("*") if one.is_file() and not one.is_symlink()):
            name = f"{directory.name}/{path.relative_to(directory).as_posix()}"
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            with path.open("rb") as file, archive.open(info, "w", force_zip64=True) as inside:
                while part := file.read(PART):
                    inside.write(part)
                    yield sent.take()
    yield sent.take()
