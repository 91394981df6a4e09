"""Opening a version: its files for as long as they are read, each checked to the byte, while others may remove them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from sqlalchemy import select

from afina import digest
from afina.blobs.blobs import Blobs
from afina.errors import CorruptStore, NotFound
from afina.store import catalog, leases
from afina.store.database.database import Database
from afina.store.database.tables import BLOBS, VERSIONS
from afina.store.names import Reference
from afina.store.version import Version

Made = TypeVar("Made")

_TRIES = 5
"""Between two, a version was deleted, its bytes were removed, and another that has them was published."""


def opened(
    database: Database,
    blobs: Blobs,
    version: Version,
    use: Callable[[Mapping[str, Path]], Made],
    shows: Mapping[str, Callable[[Made, Path], bool]] = MappingProxyType({}),
) -> Made:
    """What `use` makes of the version's files, by role.

    shows  by role, for what `use` hashes itself: whether what it made shows that the file is as it was published.
           Only where it does not is that file hashed, after `use`; all other files are hashed before
    Raises NotFound where the version was deleted meanwhile, CorruptStore where a file is not what was published.
    """
    if (stated := str(version.manifest.get("digest"))) != version.digest:
        raise CorruptStore(
            f"store:{version}: it has digest {version.digest[:19]}, its manifest is of {stated[:19]}: one of them was "
            "changed. `afina store verify` says what else is damaged.",
            code="store.content-changed",
            where=f"store:{version}",
            what="manifest",
        )
    for left in reversed(range(_TRIES)):
        places = _places(database, version)
        try:
            with ExitStack() as stack:
                files: dict[str, Path] = {}
                for role, blob in version.parts.items():
                    _check_place(version, role, blob.digest, places[blob.digest])
                    files[role] = stack.enter_context(blobs.file(places[blob.digest]))
                    if role not in shows:
                        _check(version, [role], files, places)
                later = [role for role in files if role in shows]
                try:
                    made = use(files)
                except CorruptStore:
                    _check(version, later, files, places)  # says which file it is
                    raise
                _check(version, [role for role in later if not shows[role](made, files[role])], files, places)
                return made
        except (CorruptStore, FileNotFoundError):
            if _places(database, version) == places or not left:
                raise
    raise AssertionError("the last try returns or raises")


def _places(database: Database, version: Version) -> dict[str, str]:
    """By digest, where the blobs are that the version holds now."""
    with database.reading() as connection:
        place, number = catalog.resolve(connection, Reference.parse(str(version)))
        same = select(VERSIONS.c.digest).where(VERSIONS.c.name == place.id, VERSIONS.c.number == number)
        wanted = [blob.digest for blob in version.parts.values()]
        rows = connection.execute(select(BLOBS.c.digest, BLOBS.c.place).where(BLOBS.c.digest.in_(wanted)))
        places = {row.digest: row.place for row in rows}
        if connection.execute(same).scalar() != version.digest or places.keys() != set(wanted):
            raise NotFound(
                f"{version}: it was removed while it was read.", code="version.missing", version=str(version)
            )  # its client was erased, and came again
    return places


def _check_place(version: Version, role: str, expected: str, place: str) -> None:
    if not leases.is_place(place, expected):
        raise CorruptStore(
            f"store:{version}: its {role} is said to be in {place!r:.80}, no file of its own. `afina store verify` "
            "says what else is damaged.",
            code="store.content-changed",
            where=f"store:{version}",
            what=role,
        )


def _check(version: Version, roles: Iterable[str], files: Mapping[str, Path], places: Mapping[str, str]) -> None:
    for role in roles:
        expected = version.parts[role].digest
        if (found := digest.of_file(files[role])) != expected:
            raise CorruptStore(
                f"store:{version}: its {role} has digest {found[:19]}, expected {expected[:19]}: the file "
                f"{places[expected]} was changed. `afina store verify` says what else is damaged.",
                code="store.content-changed",
                where=f"store:{version}",
                what=role,
                path=places[expected],
            )
