"""StoreReader: the methods of a store that only read.

Each file of a version is checked against its digest, also while other processes remove files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import select

from afina import digest, file_io
from afina.blobs import Blobs, LocalBlobs
from afina.blobs.remote import open_blobs
from afina.errors import CorruptStore, NotFound
from afina.store import aliases, api_keys, audit_log, catalog, problems, publishing, verify
from afina.store.api_keys import Key
from afina.store.audit_log import LogEntry
from afina.store.database import Database, engine
from afina.store.database.engine import Address
from afina.store.database.tables import BLOBS, CLIENTS, LIVE, LOG, PARTS, STORE, VERSIONS
from afina.store.intake import IntakeLimits
from afina.store.versions import (
    PRODUCTION,
    Canary,
    Damage,
    HistoryEntry,
    Name,
    NameSummary,
    Reference,
    Version,
    check_alias,
    check_client,
)

if TYPE_CHECKING:
    from afina.models.adapter import Adapter


Made = TypeVar("Made")


class StoreReader:
    """A store, read-only. `AdapterStore` describes addresses and references."""

    def __init__(
        self, url: str | Path | None = None, *, limits: IntakeLimits | None = None, who: str | None = None
    ) -> None:
        """Open a store. `who`: the user named in the audit log; default: the login name."""
        self.address = Address.parse(url if url is not None else engine.default())
        self.limits = limits or IntakeLimits()
        self.who = audit_log.check_words(who, "who") if who is not None else audit_log.login()
        self._database = Database(self.address)

    def __repr__(self) -> str:
        return f"AdapterStore({self.address.shown!r})"

    def on_behalf_of(self, who: str) -> Self:
        """Return the same store, with another user name for the audit log."""
        made = copy.copy(self)
        made.who = audit_log.check_words(who, "who")
        return made

    @cached_property
    def _blobs(self) -> Blobs:
        with self._database.reading() as connection:
            said = connection.execute(select(STORE.c.blobs)).scalar()
            if not isinstance(said, str):
                raise TypeError(f"found {said!r:.40}, expected the place of the blobs")
        beside = self.address.directory
        if not said and beside is not None:
            return open_blobs(str(beside / engine.BLOBS))
        return open_blobs(said)

    @property
    def blobs_directory(self) -> Path | None:
        """The directory with the store's blobs. None: the blobs are in an object store."""
        return self._blobs.root if isinstance(self._blobs, LocalBlobs) else None

    def exists(self) -> bool:
        """Return whether there is a store at this address."""
        return self._database.exists()

    def adapter(self, reference: str | Version) -> Adapter:
        """Return the adapter of a version, checked against its digests. `Predictor.load` accepts the adapter."""
        from afina.store import adapter_parts

        with self._database.connected():
            version = self.show(reference)
            join = partial(adapter_parts.join, version.manifest, where=f"store:{version}")
            return use_files(self._database, self._blobs, version, join, adapter_parts.AS_WRITTEN)

    def restore(self, reference: str | Version, directory: str | Path) -> Adapter:
        """Write the directory of a version's adapter as it was published.

        peft and transformers can open the directories of adapters that they made.
        """
        from afina.store import adapter_parts

        version, where = self.show(reference), Path(directory)
        if where.exists():
            raise problems.OUT_EXISTS(path=where)
        return self.opened(
            version, lambda files: adapter_parts.restore(where, version.manifest, files, f"store:{version}")
        )

    def card(self, reference: str | Version, *, merged: bool = False) -> str:
        """Return the model card of a version in Markdown. `merged`: for the backbone with the adapter merged in."""
        from afina.store.model_card import model_card

        return model_card(self.show(reference), merged=merged)

    def opened(self, version: Version, use: Callable[[Mapping[str, Path]], Made]) -> Made:
        """Call `use` with the version's files by role, each checked against its digest. Details: `use_files`."""
        return use_files(self._database, self._blobs, version, use)

    def list(self, client: str | None = None) -> Sequence[NameSummary]:
        """Return the names that have a version, of one client or of all clients."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            found = catalog.summaries(connection, client)
        if client is not None and not found:
            raise problems.CLIENT_WITHOUT_ADAPTERS(client=client)
        return found

    def served_manifests(self, client: str | None = None) -> Mapping[str, Mapping[str, Any]]:
        """Return the manifests, as JSON values, of versions that have an alias or are the newest of their name.

        By `client/task@3`; of one client or of all.
        """
        with self._database.reading() as connection:
            return catalog.served_manifests(connection, client)

    def show(self, reference: str | Version) -> Version:
        """Return the version that a reference means."""
        wanted = Reference.parse(str(reference))
        with self._database.reading() as connection:
            named, number = catalog.resolve(connection, wanted)
            return catalog.version(connection, named, number)

    def versions(self, name: str) -> Sequence[Version]:
        """Return all versions of a name in order, including deleted ones."""
        wanted = Name.parse(name)
        with self._database.reading() as connection:
            named = catalog.find_name(connection, wanted)
            return catalog.versions(connection, named)

    def history(self, name: str, *, alias: str | None = None) -> Sequence[HistoryEntry]:
        """Return all log entries about a name, or about one alias, in order."""
        wanted = Name.parse(name)
        if alias is not None:
            check_alias(alias)
        with self._database.reading() as connection:
            named = catalog.find_name(connection, wanted)
            events = (aliases.ALIAS, aliases.ROLLBACK, aliases.UNALIAS) if alias is not None else ()
            done = catalog.history(connection, named, events)
        found = [one for one in done if alias is None or one.details["alias"] == alias]
        if alias is not None and not found:
            raise problems.ALIAS_NEVER_EXISTED(name=str(name), alias=alias)
        return found

    def keys(self, client: str | None = None) -> Sequence[Key]:
        """Return the API keys of one client or of all clients, including revoked keys, in order of creation."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            return api_keys.listed(connection, client)

    def known(self, reference: Reference) -> Version | None:
        """Return a version, or None if the name, version or alias does not exist. No error lists existing names.

        With `for_server`, a name alone means `production`, or the newest version if `production` does not exist.
        """
        with self._database.reading() as connection:
            found = catalog.name_row(connection, reference.name)
            if found is None:  # costs one query
                return None
            if reference == Reference(reference.name) and PRODUCTION in catalog.aliases_of(connection, found):
                reference = Reference(reference.name, alias=PRODUCTION)
            try:
                named, number = catalog.resolve(connection, reference)
            except NotFound:
                return None
            return catalog.version(connection, named, number)

    def canary(self, name: Name) -> Canary | None:
        """Return the canary version of a name with its share of the requests, or None."""
        with self._database.reading() as connection:
            return aliases.canary(connection, name)

    def news(self, since: int, names: Collection[Name]) -> tuple[int, Collection[Name]]:
        """Return the number of the log's last entry, and those of `names` with a later entry or an erased client.

        `since`: number of the last log entry that the caller has read.
        """
        with self._database.reading() as connection:
            last = connection.execute(select(STORE.c.last)).scalar_one()
            if last == since:
                return last, ()
            subjects = set(connection.execute(select(LOG.c.subject).where(LOG.c.seq > since)).scalars())
            asked = select(CLIENTS.c.name, CLIENTS.c.salt).where(CLIENTS.c.state == LIVE)
            hashes = {row.name: audit_log.salted(row.salt, row.name) for row in connection.execute(asked)}

        def touched(name: Name) -> bool:
            return name.client not in hashes or audit_log.subject(hashes[name.client], name.task) in subjects

        return last, {name for name in names if touched(name)}

    def verify(self, *, last: str | None = None) -> Sequence[Damage]:
        """Hash every blob, manifest and log entry again, compare with the stored digests, and return all damage.

        Args:
            last: hash of a log entry that was kept outside the store, which detects a rewritten log.
        """
        self._database.demand()
        try:
            blobs = self._blobs
        except CorruptStore as error:
            return [Damage("database", self.address.shown, (), str(error))]
        return verify.verify(self._database, blobs, last)

    def log(self) -> Sequence[LogEntry]:
        with self._database.reading() as connection:
            return [*audit_log.entries(connection)]

    def export_audit(self, path: str | Path) -> int:
        """Write the audit log as JSON lines to `path`, and return the number of lines.

        The exported log can be verified with Python's standard library alone (docs/reference/store.md).
        """
        entries = self.log()
        lines = "".join(f"{digest.canonical_json(entry.as_json())}\n" for entry in entries)
        file_io.write_text(Path(path), lines)
        return len(entries)

    def size(self) -> int:
        """Return the bytes of all blobs that belong to versions, each counted once."""
        with self._database.reading() as connection:
            held = select(PARTS.c.digest).distinct()
            return sum(connection.execute(select(BLOBS.c.size).where(BLOBS.c.digest.in_(held))).scalars())


_TRIES = 5
"""Attempts. One fails if the version was deleted, its bytes removed, and the same bytes published again meanwhile."""


def use_files(
    database: Database,
    blobs: Blobs,
    version: Version,
    use: Callable[[Mapping[str, Path]], Made],
    shows: Mapping[str, Callable[[Made, Path], bool]] = MappingProxyType({}),
) -> Made:
    """Return the result of `use`, called with the files of a version by role.

    Args:
        shows: for roles that `use` hashes itself, a function of the result and the file. It returns whether the result
            proves the file's digest; if not, the file is hashed after `use`. Files of other roles are hashed before
            `use`.

    Raises:
        NotFound: the version has been deleted.
        CorruptStore: a file does not have the published digest.
    """
    if (stated := str(version.manifest.get("digest"))) != version.digest:
        raise problems.VERSION_CHANGED(found=version.digest, expected=stated, where=f"store:{version}", what="manifest")
    for left in reversed(range(_TRIES)):
        places = _places(database, version)
        try:
            with ExitStack() as stack:
                files: dict[str, Path] = {}
                for role, blob in version.parts.items():
                    _check_place(version, role, blob.digest, places[blob.digest])
                    files[role] = stack.enter_context(blobs.file(places[blob.digest]))
                    if role not in shows:
                        _check_digests(version, [role], files, places)
                later = [role for role in files if role in shows]
                try:
                    made = use(files)
                except CorruptStore:
                    _check_digests(version, later, files, places)  # raises an error that names the file
                    raise
                _check_digests(version, [role for role in later if not shows[role](made, files[role])], files, places)
                return made
        except (CorruptStore, FileNotFoundError):
            if _places(database, version) == places or not left:
                raise
    raise AssertionError("the last try returns or raises")


def _places(database: Database, version: Version) -> dict[str, str]:
    """Return the present keys of the version's blobs, by digest."""
    with database.reading() as connection:
        named, number = catalog.resolve(connection, Reference.parse(str(version)))
        same = select(VERSIONS.c.digest).where(VERSIONS.c.name == named.id, VERSIONS.c.number == number)
        wanted = [blob.digest for blob in version.parts.values()]
        rows = connection.execute(select(BLOBS.c.digest, BLOBS.c.place).where(BLOBS.c.digest.in_(wanted)))
        places = {row.digest: row.place for row in rows}
        # Or the client was erased, and a new client of this name published the same version number.
        if connection.execute(same).scalar() != version.digest or places.keys() != set(wanted):
            raise problems.REMOVED_WHILE_READ(version=str(version))
    return places


def _check_place(version: Version, role: str, expected: str, place: str) -> None:
    if not publishing.is_blob_place(place, expected):
        raise problems.PART_FILE_INVALID(found=place, where=f"store:{version}", what=role)


def _check_digests(
    version: Version, roles: Iterable[str], files: Mapping[str, Path], places: Mapping[str, str]
) -> None:
    for role in roles:
        expected = version.parts[role].digest
        if (found := digest.of_file(files[role])) != expected:
            where, path = f"store:{version}", places[expected]
            raise problems.PART_CHANGED(found=found, expected=expected, where=where, what=role, path=path)
