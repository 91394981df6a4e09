"""Addresses of tasks. This module finds the files of a task and does not read their content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from afina import assets
from afina.data import problems, text_benchmarks
from afina.data.readers import arrow_files, files, hub_datasets, snippets
from afina.data.readers.formats import READERS, named_file
from afina.data.readers.hub_datasets import HubDataset
from afina.data.readers.splitting import TaskData
from afina.data.reading_options import ReadingOptions
from afina.errors import AfinaError, NotFound, UnknownName

SST2, GLUE, SNIPPETS, HUB = "sst2", "glue/", "snippets:", "hub:"
ACLSUM, E2E, SQUAD = "aclsum:", "e2e:", "squad:"
SCHEMES = (GLUE, SNIPPETS, HUB, ACLSUM, E2E, SQUAD)
"""Prefixes of task addresses that name a source such as GLUE, even if there is no such task."""

NAMES = (
    SST2,
    *(f"{GLUE}{name}" for name in hub_datasets.GLUE),
    *(f"{SNIPPETS}{name}" for name in snippets.LOADERS),
    *(f"{ACLSUM}{name}" for name in text_benchmarks.ACLSUM),
)
"""Addresses that name a task completely, such as `glue/cola`. An address in one of the forms FORMS also contains a
directory or the name of a data set."""

FORMS = (
    f"{GLUE}NAME:DIRECTORY",
    f"{HUB}OWNER/NAME",
    f"{HUB}OWNER/NAME:CONFIG",
    f"{E2E}DIRECTORY",
    f"{SQUAD}DIRECTORY",
)


@dataclass(frozen=True)
class Origin:
    """A named source of tasks, such as GLUE, and how its texts are loaded.

    Attributes:
        chooses: Whether the user may choose the columns of text and label.
        check: Raises NotFound if the address cannot exist, without reading a file.
        pinned: Whether afina knows the digest of the texts, so that the texts never change.
    """

    load: Callable[[ReadingOptions, bool], TaskData]
    is_at_hand: Callable[[], bool]
    chooses: bool = False
    check: Callable[[], object] = lambda: None
    reads_files: bool = False
    files: Callable[[], Sequence[Path]] = tuple
    pinned: bool = False


def named(address: str) -> Origin | None:
    """Return the source (such as GLUE) that a task's address names; None for a file, a directory or a bad address."""
    if address.startswith(HUB):
        return _of_hub(address)
    scheme, _, rest = address.partition(":")
    if address.startswith(SNIPPETS) and rest in snippets.LOADERS:
        return _of_asset(address, "snippets", snippets.LOADERS[rest])
    if address.startswith(ACLSUM) and rest in text_benchmarks.ACLSUM:
        return _of_asset(address, "aclsum", partial(text_benchmarks.load_aclsum, rest))
    if address.startswith((E2E, SQUAD)) and rest:
        return _of_files(address, *_READERS[f"{scheme}:"], Path(rest).expanduser())
    name, colon, directory = address.removeprefix(GLUE).partition(":")
    if name not in hub_datasets.GLUE or not (address.startswith(GLUE) or address == SST2) or (colon and not directory):
        return None
    if not colon:
        return _of_glue(address, name)
    read, files_at = partial(hub_datasets.load_glue_files, name), partial(hub_datasets.glue_files, name)
    return _of_files(address, read, files_at, Path(directory).expanduser())


_READERS: dict[str, tuple[Callable[..., TaskData], Callable[[Path], list[Path]]]] = {
    E2E: (text_benchmarks.load_e2e, text_benchmarks.e2e_files),
    SQUAD: (text_benchmarks.load_squad, text_benchmarks.squad_files),
}
"""For the prefixes `e2e:` and `squad:`, the function that loads a task at a path and the function that finds its files.
"""


def _of_asset(address: str, asset: str, read: Callable[..., TaskData]) -> Origin:
    is_cached = partial(assets.is_cached, asset)

    def load(asked: ReadingOptions, offline: bool) -> TaskData:
        if offline and not is_cached():
            raise problems.TASK_NOT_CACHED(task=address)
        return read(asked.labels, offline=offline)

    return Origin(load, is_cached, pinned=True)


def _of_glue(address: str, name: str) -> Origin:
    def load(asked: ReadingOptions, offline: bool) -> TaskData:
        with _telling(address):
            return hub_datasets.load_glue(name, asked.labels, offline=offline)

    return Origin(load, partial(hub_datasets.is_cached, hub_datasets.GLUE[name]))


def _of_files(
    address: str, read: Callable[..., TaskData], files_at: Callable[[Path], list[Path]], place: Path
) -> Origin:
    def load(asked: ReadingOptions, offline: bool) -> TaskData:
        with _telling(address):
            return read(place, asked.labels)

    def check() -> None:
        with _telling(address):
            files_at(place)

    return Origin(load, lambda: True, check=check, reads_files=True, files=partial(files_at, place))


def _of_hub(address: str) -> Origin:
    def place() -> HubDataset:
        with _telling(address):
            return HubDataset.parse(address.removeprefix(HUB))

    def load(asked: ReadingOptions, offline: bool) -> TaskData:
        with _telling(address):
            return hub_datasets.load_dataset(place(), asked, offline=offline)

    return Origin(load, lambda: hub_datasets.is_cached(place()), chooses=True, check=place)


@contextmanager
def _telling(address: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        if error.fields.get("task") != address:
            error.within(f"task {address}: ")
        raise


def reads_files(address: str, evaluation: str | None = None) -> bool:
    origin = named(address)
    return origin is None or origin.reads_files or evaluation is not None


def is_pinned(address: str) -> bool:
    origin = named(address)
    return origin is not None and origin.pinned


def is_at_hand(address: str | os.PathLike[str]) -> bool:
    """Return whether the task can be read without a network: a file, a directory, or a download that is cached."""
    origin = named(os.fspath(address))
    return origin is None or origin.is_at_hand()


def stamp(address: str, *beside: str | None) -> tuple[object, ...] | None:
    """Return the sizes, times and inodes of a task's files, to notice changes; None if the files cannot be checked."""
    origin = named(address)
    if origin is not None and not origin.pinned:
        return None
    try:
        places = [Path(file).expanduser() for file in beside if file is not None]
        places += [] if origin is not None else [find(address)]
        files = [file for place in places for file in (_within(place) if place.is_dir() else [place])]
        stats = [file.stat() for file in files]
    except (AfinaError, OSError):
        return None
    return tuple(
        (str(file), one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        for file, one in zip(files, stats, strict=True)
    )


def _within(directory: Path) -> list[Path]:
    """Return the content of a directory, and the files of the splits that `datasets` saved in it."""
    return sorted([*directory.iterdir(), *directory.glob("*/*.arrow")])


def own_files(address: str, evaluation: str | None = None) -> list[Path]:
    """Return the user's files from which a task is read, without `evaluation`; empty if the task is a download."""
    origin = named(address)
    if origin is not None:
        return list(origin.files())
    path = find(address)
    return files.files_of(path, evaluated=evaluation is None) if path.is_dir() else [path]


def own_contents(address: str, evaluation: str | None = None) -> dict[Path, str]:
    """Return the user's files from which a task is read, each with its path relative to the task's directory."""
    files = own_files(address, evaluation)
    folders = [file for file in files if arrow_files.is_saved(file)]
    if not folders:
        return {file: file.name for file in files}
    root = find(address)
    parts = [part for one in folders for part in (one / arrow_files.STATE, *arrow_files.saved_files(one))]
    parts += [root / arrow_files.SPLITS] * (root not in folders)
    return {part: part.relative_to(root).as_posix() for part in parts}


def own_path(address: str) -> Path:
    """Return the path in the address of a task that is read from the user's files; the path need not exist here."""
    return Path(address.partition(":")[2] if named(address) is not None else address).expanduser()


def names_file(address: str) -> bool:
    return own_path(address).is_file()


def moved(address: str, directory: Path, *, single: bool) -> str:
    """Return the new address of a task whose files were moved to `directory`; no file is read."""
    place = directory / own_path(address).name if single else directory
    return str(place) if named(address) is None else f"{address.partition(':')[0]}:{place}"


def check_address(address: str | os.PathLike[str], evaluation: str | os.PathLike[str] | None = None) -> None:
    """Raise NotFound or UnknownName if there is no task at an address; the content of files is not read."""
    address = os.fspath(address)
    origin = named(address)
    if origin is None:
        find(address)
    else:
        origin.check()
    if evaluation is not None:
        named_file("evaluation", evaluation)


def find(address: str) -> Path:
    """Return the user's file or directory at a task's address. Raises NotFound or UnknownName if there is none."""
    path = Path(address).expanduser()
    if address and os.path.exists(path):  # Path.exists raises on names that are too long.
        if path.is_fifo():
            raise problems.FILE_IS_PIPE(path=address)
        return path
    if not address.startswith(SCHEMES) and ("/" in address or os.sep in address or path.suffix):
        raise problems.TASK_MISSING(expected=list(READERS), task=address)
    name = address.partition(":")[0] if address.startswith(GLUE) else address  # without its directory
    raise UnknownName("task", name, [*NAMES, *FORMS, "path/to/directory", "path/to/file.csv"])
