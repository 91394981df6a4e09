"""Origins: where the texts of a task come from that are no file of the user's. Knows addresses, not what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from afina import assets
from afina.data.readers import converted, glue, snippets
from afina.data.readers.converted import HubDataset
from afina.data.readers.files import ReadOptions
from afina.data.readers.splitting import TaskData
from afina.errors import NotFound

SST2, GLUE, SNIPPETS, HUB = "sst2", "glue/", "snippets:", "hub:"
SCHEMES = (GLUE, SNIPPETS, HUB)
"""What an address begins with that is meant to name an origin, whether there is one of that name or not."""

NAMES = (SST2, *(f"{GLUE}{name}" for name in glue.GLUE), *(f"{SNIPPETS}{name}" for name in snippets.LOADERS))
"""The addresses that name a task in full; others go on with a directory or with a data set."""

FORMS = (f"{GLUE}NAME:DIRECTORY", f"{HUB}OWNER/NAME", f"{HUB}OWNER/NAME:CONFIG")


@dataclass(frozen=True)
class Origin:
    """What stands behind an address.

    load        from the columns that are asked for, labels in their order or None, and whether to ask no network
    is_at_hand  whether it needs no network
    chooses     whether the user may say which column is what
    check       raises NotFound where nothing can be there; takes no time
    reads_files whether the texts are files of the user's, whose content may change
    files       those files
    pinned      whether the texts are known by a digest, so that they never change
    """

    load: Callable[[ReadOptions, Sequence[str] | None, bool], TaskData]
    is_at_hand: Callable[[], bool]
    chooses: bool = False
    check: Callable[[], object] = lambda: None
    reads_files: bool = False
    files: Callable[[], Sequence[Path]] = tuple
    pinned: bool = False


def named(address: str) -> Origin | None:
    """The origin of that address; None where it is a file, a directory, or nothing."""
    if address.startswith(HUB):
        return _of_hub(address)
    task = address.removeprefix(SNIPPETS)
    if address.startswith(SNIPPETS) and task in snippets.LOADERS:
        return _of_snippets(address, task)
    name, colon, directory = address.removeprefix(GLUE).partition(":")
    if name not in glue.GLUE or not (address.startswith(GLUE) or address == SST2) or (colon and not directory):
        return None
    return _of_directory(address, name, Path(directory).expanduser()) if colon else _of_glue(address, name)


def _of_snippets(address: str, name: str) -> Origin:
    is_cached = partial(assets.is_cached, "snippets")

    def load(asked: ReadOptions, labels: Sequence[str] | None, offline: bool) -> TaskData:
        if offline and not is_cached():
            raise NotFound(
                f"task {address}: the snippets are not on this machine. Load it once with a network.",
                code="asset.unavailable",
                task=address,
            )
        return snippets.LOADERS[name](labels, offline=offline)

    return Origin(load, is_cached, pinned=True)


def _of_glue(address: str, name: str) -> Origin:
    def load(asked: ReadOptions, labels: Sequence[str] | None, offline: bool) -> TaskData:
        with _telling(address):
            return glue.from_hub(name, labels, offline=offline)

    return Origin(load, partial(glue.is_cached, name))


def _of_directory(address: str, name: str, directory: Path) -> Origin:
    def load(asked: ReadOptions, labels: Sequence[str] | None, offline: bool) -> TaskData:
        with _telling(address):
            return glue.from_directory(name, directory, labels)

    def check() -> None:
        with _telling(address):
            glue.files_of(name, directory)

    return Origin(load, lambda: True, check=check, reads_files=True, files=partial(glue.files_of, name, directory))


def _of_hub(address: str) -> Origin:
    def place() -> HubDataset:
        with _telling(address):
            return HubDataset.parse(address.removeprefix(HUB))

    def load(asked: ReadOptions, labels: Sequence[str] | None, offline: bool) -> TaskData:
        with _telling(address):
            return converted.load(place(), asked, labels, offline=offline)

    return Origin(load, lambda: converted.is_cached(place()), chooses=True, check=place)


@contextmanager
def _telling(address: str) -> Iterator[None]:
    """Have a NotFound begin with the task's address."""
    begins = f"task {address}: "
    try:
        yield
    except NotFound as error:
        if not str(error).startswith(begins):
            error.reworded(f"{begins}{error}")
        raise
