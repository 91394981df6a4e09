"""`SharedStorage`: files that this machine and all nodes of a cluster can read, in a directory or an object store."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from afina import digest, file_io
from afina.blobs import Blobs, LocalBlobs
from afina.blobs.remote import open_blobs
from afina.errors import AfinaError, CorruptStore
from afina.studies.executors import problems


class SharedStorage:
    """Files by name, in a directory or an object store (s3://BUCKET/PREFIX); a later file replaces an earlier one.

    The methods raise CannotWrite or NotFound if the storage cannot be used.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.blobs: Blobs = open_blobs(address) if "://" in address else LocalBlobs(Path(address))

    def put(self, name: str, file: Path) -> None:
        """Store `file` atomically. Afterwards, `file` must not be changed in place, only replaced by another file."""
        self.blobs.put(_place(name), file)

    def put_content(self, content: str, file: Path) -> None:
        """Store a copy of `file` under its digest, if it is new. Raises InvalidData if the file has another digest."""
        if self.has(content):
            return
        with self.blobs.scratch() as scratch, file_io.writing(scratch):
            copy = Path(shutil.copyfile(file, scratch / "copy"))
            if (found := digest.of_file(copy)) != content:
                raise problems.FILE_CHANGED(path=file, found=found, expected=content)
            self.put(content, copy)

    def has(self, name: str) -> bool:
        return self.blobs.size(_place(name)) is not None

    def get(self, name: str, path: Path) -> bool:
        """Copy the stored file `name` to `path`; return False if there is no such file."""
        if not self.has(name):
            return False
        try:
            with self.blobs.file(_place(name)) as found, file_io.writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, path)
        except CorruptStore:  # removed meanwhile
            return False
        return True

    def fetch(self, name: str, path: Path) -> None:
        if not self.get(name, path):
            raise problems.STORAGE_LACKS(storage=self.address, path=path.name)

    def remove(self, name: str) -> None:
        """Remove the stored file `name`, if it exists. A file that cannot be removed is left without an error."""
        with suppress(AfinaError):
            self.blobs.remove(_place(name))


def _place(name: str) -> str:
    """Return the blob key of a file's name: a hash of the name and eight digits, the format of blob keys."""
    return f"sha256-{digest.of_bytes(name.encode()).removeprefix(digest.PREFIX)}-{0:08x}"
