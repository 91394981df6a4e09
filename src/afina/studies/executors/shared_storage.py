"""SharedStorage: a few files by name that all nodes see, in a directory or in an object store.

Does not know what the files contain.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from afina import digest, file_io
from afina.blobs import Blobs, LocalBlobs
from afina.blobs.remote import open_blobs
from afina.errors import CorruptStore


class SharedStorage:
    """Files by name. A later file with the same name replaces the earlier one.

    Args:
        address: A directory that all nodes see, or the URL of an object store, such as s3://BUCKET/PREFIX.

    Raises:
        InvalidName, NotFound: The URL cannot be used.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.blobs: Blobs = open_blobs(address) if "://" in address else LocalBlobs(Path(address))

    def put(self, name: str, file: Path) -> None:
        """Store the content of `file`, atomically. Raises CannotWrite or NotFound."""
        self.blobs.put(_place(name), file)

    def has(self, name: str) -> bool:
        """Return whether there is a file with this name. Raises NotFound if the service does not respond."""
        return self.blobs.size(_place(name)) is not None

    def get(self, name: str, path: Path) -> bool:
        """Write the file with this name to `path`; False if no such file exists. Raises CannotWrite or NotFound."""
        if not self.has(name):
            return False
        try:
            with self.blobs.file(_place(name)) as found, file_io.writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, path)
        except CorruptStore:  # removed meanwhile
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove the file with this name, if there is one."""
        self.blobs.remove(_place(name))


def _place(name: str) -> str:
    """Return the place of a name; places of blobs are made of a hash and eight digits."""
    return f"sha256-{digest.of_bytes(name.encode()).removeprefix(digest.PREFIX)}-{0:08x}"
