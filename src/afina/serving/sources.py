"""Sources: which adapter an address means now, by digest, and what reads it. Keeps no adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from afina import meter
from afina.errors import InvalidStudy
from afina.models.adapter import Adapter
from afina.store.reader import StoreReader
from afina.store.versions import PREFIX, Version

Address = str | Path | Adapter | Version
"""A directory, `store:client/task@which`, or what was opened or found already."""


class Found(NamedTuple):
    """What an address means: the adapter's digest, how to read it, and which version it is, if any."""

    digest: str
    read: Callable[[], Adapter]
    version: str | None = None


_Signature = tuple[tuple[str, int, int, int], ...]


class Sources:
    """May be asked by many threads.

    store  where versions are; None: nowhere
    fresh  seconds for which what a reference means is not asked again
    """

    def __init__(self, store: StoreReader | None, fresh: float) -> None:
        self.store, self.fresh = store, fresh
        self._versions: dict[str, tuple[float, Version]] = {}
        self._directories: dict[Path, tuple[_Signature, str]] = {}

    def find(self, address: Address, *, anew: bool = False) -> Found:
        """What it means; anew: look a reference up, however fresh it is.

        Raises NotFound for what is not there, InvalidStudy for a reference without a store, InvalidName.
        """
        if isinstance(address, Adapter):
            return Found(address.digest, lambda: replace(address))  # hashed: the caller may have changed a tensor
        if isinstance(address, Version):
            return self._of_version(address)
        if isinstance(address, str) and address.startswith(PREFIX):
            return self._of_version(self._version(address, anew))
        return self._of_directory(Path(address))

    def _version(self, reference: str, anew: bool) -> Version:
        now = meter.now()
        found = self._versions.get(reference)
        if found is not None and not anew and now - found[0] < self.fresh:
            return found[1]
        self._versions.pop(reference, None)  # what is not there any more is not there for others either
        version = self._demanded().show(reference)
        if len(self._versions) >= _MOST:
            self._versions.clear()
        self._versions[reference] = now, version
        return version

    def _of_version(self, version: Version) -> Found:
        return Found(version.digest, partial(self._demanded().adapter, version), str(version))

    def _demanded(self) -> StoreReader:
        if self.store is None:
            raise InvalidStudy(
                "the engine has no `store` to find a version in. Give it one, or name a directory.",
                code="option.missing",
            )
        return self.store

    def _of_directory(self, path: Path) -> Found:
        signature = _signature(path)
        known = self._directories.get(path)
        if known is not None and signature and known[0] == signature:
            return Found(known[1], partial(Adapter.load, path))
        adapter = Adapter.load(path)
        if len(self._directories) >= _MOST:
            self._directories.clear()
        if _signature(path) == signature:
            self._directories[path] = signature, adapter.digest
        return Found(adapter.digest, lambda: adapter)


_MOST = 65_536
"""References, and directories, that are remembered."""


def _signature(path: Path) -> _Signature:
    """Of a directory's files: what differs once one of them was written or exchanged. Empty where there is none."""
    try:
        files = sorted(path.iterdir())
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in stats)
