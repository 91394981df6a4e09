"""What stands at the address of a task: GLUE, a data set of the Hub, snippets, or a file or directory of the user's.

Knows addresses, and which files are the user's own; does not read them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from afina import assets
from afina.data.readers import files, hub_datasets, snippets
from afina.data.readers.files import ReadOptions
from afina.data.readers.formats import READERS
from afina.data.readers.hub_datasets import HubDataset
from afina.data.readers.splitting import TaskData
from afina.errors import AfinaError, NotFound, UnknownName

SST2, GLUE, SNIPPETS, HUB = "sst2", "glue/", "snippets:", "hub:"
SCHEMES = (GLUE, SNIPPETS, HUB)
"""What an address begins with that is meant to name an origin, whether there is one of that name or not."""

NAMES = (SST2, *(f"{GLUE}{name}" for name in hub_datasets.GLUE), *(f"{SNIPPETS}{name}" for name in snippets.LOADERS))
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
    if name not in hub_datasets.GLUE or not (address.startswith(GLUE) or address == SST2) or (colon and not directory):
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
            return hub_datasets.load_glue(name, labels, offline=offline)

    return Origin(load, partial(hub_datasets.is_glue_cached, name))


def _of_directory(address: str, name: str, directory: Path) -> Origin:
    def load(asked: ReadOptions, labels: Sequence[str] | None, offline: bool) -> TaskData:
        with _telling(address):
            return hub_datasets.load_glue_files(name, directory, labels)

    def check() -> None:
        with _telling(address):
            hub_datasets.glue_files(name, directory)

    return Origin(
        load, lambda: True, check=check, reads_files=True, files=partial(hub_datasets.glue_files, name, directory)
    )


def _of_hub(address: str) -> Origin:
    def place() -> HubDataset:
        with _telling(address):
            return HubDataset.parse(address.removeprefix(HUB))

    def load(asked: ReadOptions, labels: Sequence[str] | None, offline: bool) -> TaskData:
        with _telling(address):
            return hub_datasets.load_dataset(place(), asked, labels, offline=offline)

    return Origin(load, lambda: hub_datasets.is_dataset_cached(place()), chooses=True, check=place)


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


def reads_files(address: str, evaluation: str | None = None) -> bool:
    """Whether the task's texts, or those that `evaluation` names, are files of the user's, whose content may change."""
    origin = named(address)
    return origin is None or origin.reads_files or evaluation is not None


def is_pinned(address: str) -> bool:
    """Whether the texts at an address never change."""
    origin = named(address)
    return origin is not None and origin.pinned


def is_at_hand(address: str | os.PathLike[str]) -> bool:
    """Whether the task can be read without any network: a file, a directory, or what was fetched before."""
    origin = named(os.fspath(address))
    return origin is None or origin.is_at_hand()


def stamp(address: str, evaluation: str | None = None) -> tuple[object, ...] | None:
    """A stamp of the files that a task is read from: it differs once they change. None: there can be no stamp."""
    origin = named(address)
    if origin is not None and not origin.pinned:
        return None
    try:
        places = [] if evaluation is None else [evaluation_file(evaluation)]
        places += [] if origin is not None else [find(address)]
        files = [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
        stats = [file.stat() for file in files]
    except (AfinaError, OSError):
        return None
    return tuple(
        (str(file), one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        for file, one in zip(files, stats, strict=True)
    )


def evaluation_file(evaluation: str | os.PathLike[str]) -> Path:
    """The file whose texts stand in for an evaluation split. Raises NotFound."""
    path = Path(evaluation).expanduser()
    if not os.path.isfile(path):
        raise NotFound(
            f"`evaluation` {evaluation}: no such file. Expected one ending in {', '.join(READERS)}.",
            code="file.missing",
            path=evaluation,
            field="evaluation",
        )
    return path


def own_files(address: str, evaluation: str | None = None) -> list[Path]:
    """The user's own files that are read at a task's address; none where the texts come from elsewhere.

    evaluation  a file that stands in for the evaluation split, which is not among them
    """
    origin = named(address)
    if origin is not None:
        return list(origin.files())
    path = find(address)
    return files.files_of(path, evaluated=evaluation is None) if path.is_dir() else [path]


def moved(address: str, directory: Path) -> str:
    """The address of the same task where its own files lie in `directory`."""
    if named(address) is not None:
        return f"{address.partition(':')[0]}:{directory}"
    path = find(address)
    return str(directory if path.is_dir() else directory / path.name)


def check_address(address: str | os.PathLike[str], evaluation: str | os.PathLike[str] | None = None) -> None:
    """Raise NotFound or UnknownName where nothing is at a task's address. Reads nothing, so that it takes no time."""
    address = os.fspath(address)
    origin = named(address)
    if origin is None:
        find(address)
    else:
        origin.check()
    if evaluation is not None:
        evaluation_file(evaluation)


def find(address: str) -> Path:
    """The file or directory at an address that names no origin. Raises NotFound, UnknownName."""
    path = Path(address).expanduser()
    if os.path.exists(path):  # Path.exists raises on names that are too long.
        return path
    if not address.startswith(SCHEMES) and ("/" in address or os.sep in address or path.suffix):
        raise NotFound(
            f"task {address}: no such file or directory. Expected a file ({', '.join(READERS)}), a directory with "
            "train.* and dev.* files, or a named task such as sst2, glue/cola, hub:OWNER/NAME or snippets:movies.",
            code="task.missing",
            task=address,
        )
    name = address.partition(":")[0] if address.startswith(GLUE) else address  # without its directory
    raise UnknownName("task", name, [*NAMES, *FORMS, "path/to/directory", "path/to/file.csv"])
