"""StoreReader: the methods of an adapter store that only read.

Each file of a version is checked against its digest, even if other processes remove files at the same time.
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


Result = TypeVar("Result")


class StoreReader:
    """An adapter store that is only read. The class `AdapterStore` describes the addresses of stores and versions."""

    def __init__(
        self, url: str | Path | None = None, *, limits: IntakeLimits | None = None, who: str | None = None
    ) -> None:
        """Open a store.

        Args:
            url: the address of the store: a directory or a PostgreSQL URL. Default: the user's own store.
            limits: the limits on the files of imported adapters.
            who: the user who is named in the audit log. Default: the login name.
        """
        self.address = Address.parse(url if url is not None else engine.default())
        self.limits = limits or IntakeLimits()
        self.who = audit_log.check_words(who, "who") if who is not None else audit_log.login()
        self._database = Database(self.address)

    def __repr__(self) -> str:
        return f"AdapterStore({self.address.shown!r})"

    def on_behalf_of(self, who: str) -> Self:
        """Return the same store with another user who is named in the audit log."""
        store = copy.copy(self)
        store.who = audit_log.check_words(who, "who")
        return store

    @cached_property
    def _blobs(self) -> Blobs:
        with self._database.reading() as connection:
            place = connection.execute(select(STORE.c.blobs)).scalar()
            if not isinstance(place, str):
                raise TypeError(f"found {place!r:.40}, expected the place of the blobs")
        beside = self.address.directory
        if not place and beside is not None:
            return open_blobs(str(beside / engine.BLOBS))
        return open_blobs(place)

    @property
    def blobs_directory(self) -> Path | None:
        """The directory with the adapters' bytes (blobs). None: the bytes are in an object store."""
        return self._blobs.root if isinstance(self._blobs, LocalBlobs) else None

    def exists(self) -> bool:
        """Return whether there is a store at this address."""
        return self._database.exists()

    def adapter(self, reference: str | Version) -> Adapter:
        """Return the adapter of a version, checked against its digests; `Predictor.load` opens the adapter."""
        from afina.store import adapter_parts

        with self._database.connected():
            version = self.show(reference)
            join = partial(adapter_parts.join, version.manifest, where=f"store:{version}")
            return use_files(self._database, self._blobs, version, join, adapter_parts.AS_WRITTEN)

    def restore(self, reference: str | Version, directory: str | Path) -> Adapter:
        """Write the adapter of a version to a directory, with the files that were published.

        If peft or transformers made the adapter, they can open the directory.
        """
        from afina.store import adapter_parts

        version, path = self.show(reference), Path(directory)
        if path.exists():
            raise problems.OUT_EXISTS(path=path)
        return self.opened(
            version, lambda files: adapter_parts.restore(path, version.manifest, files, f"store:{version}")
        )

    def card(self, reference: str | Version, *, merged: bool = False) -> str:
        """Return the model card of a version in Markdown.

        Args:
            merged: whether the card describes the backbone with the adapter merged into its weights.
        """
        from afina.store.model_card import model_card

        return model_card(self.show(reference), merged=merged)

    def opened(self, version: Version, use: Callable[[Mapping[str, Path]], Result]) -> Result:
        """Call `use` with a version's files by role (such as `body`), each checked against its digest (`use_files`)."""
        return use_files(self._database, self._blobs, version, use)

    def list(self, client: str | None = None) -> Sequence[NameSummary]:
        """Return the names of the adapters in the store, each with its newest version, of one client or of all."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            summaries = catalog.summaries(connection, client)
        if client is not None and not summaries:
            raise problems.CLIENT_UNKNOWN(client=client, what="adapter")
        return summaries

    def served_manifests(self, client: str | None = None) -> Mapping[str, Mapping[str, Any]]:
        """Return the manifests of all versions that have an alias or are the newest version of their name.

        The manifests are JSON values by `client/task@3`, of one client or of all clients.
        """
        with self._database.reading() as connection:
            return catalog.served_manifests(connection, client)

    def show(self, reference: str | Version) -> Version:
        """Return the version that a reference such as `client/task@production` means."""
        wanted = Reference.parse(str(reference))
        with self._database.reading() as connection:
            named, number = catalog.resolve(connection, wanted)
            return catalog.version(connection, named, number)

    def versions(self, name: str) -> Sequence[Version]:
        """Return all versions of a name, including deleted versions, in the order of their numbers."""
        wanted = Name.parse(name)
        with self._database.reading() as connection:
            named = catalog.find_name(connection, wanted)
            return catalog.versions(connection, named)

    def history(self, name: str, *, alias: str | None = None) -> Sequence[HistoryEntry]:
        """Return the entries of the audit log about a name, or about one alias of the name, in order."""
        wanted = Name.parse(name)
        if alias is not None:
            check_alias(alias)
        with self._database.reading() as connection:
            named = catalog.find_name(connection, wanted)
            events = (aliases.ALIAS, aliases.ROLLBACK, aliases.UNALIAS) if alias is not None else ()
            entries = catalog.history(connection, named, events)
        if alias is None:
            return entries
        moves = [entry for entry in entries if entry.details["alias"] == alias]
        if not moves:
            raise problems.ALIAS_NEVER_EXISTED(name=str(name), alias=alias)
        return moves

    def keys(self, client: str | None = None) -> Sequence[Key]:
        """Return the API keys of one client or of all clients, including revoked keys, in order of creation."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            return api_keys.listed(connection, client)

    def known(self, reference: Reference) -> Version | None:
        """Return the version that a server uses for a reference; None if the name, version or alias does not exist.

        A name alone means the version with the alias `production`, or the newest version if the name has no such alias.
        Because None is returned, no error message lists existing names.
        """
        with self._database.reading() as connection:
            row = catalog.name_row(connection, reference.name)
            if row is None:  # costs one query
                return None
            if reference == Reference(reference.name) and PRODUCTION in catalog.aliases_of(connection, row):
                reference = Reference(reference.name, alias=PRODUCTION)
            try:
                named, number = catalog.resolve(connection, reference)
            except NotFound:
                return None
            return catalog.version(connection, named, number)

    def canary(self, name: Name) -> Canary | None:
        """Return the canary version of a name and its share of the requests; None if the name has no canary version."""
        with self._database.reading() as connection:
            return aliases.canary(connection, name)

    def news(self, since: int, names: Collection[Name]) -> tuple[int, Collection[Name]]:
        """Return the number of the last log entry, and those of `names` that have changed since the entry `since`.

        A name has changed if a later entry is about the name, or if the name's client was erased.
        """
        with self._database.reading() as connection:
            last = connection.execute(select(STORE.c.last)).scalar_one()
            if last == since:
                return last, ()
            subjects = set(connection.execute(select(LOG.c.subject).where(LOG.c.seq > since)).scalars())
            clients = select(CLIENTS.c.name, CLIENTS.c.salt).where(CLIENTS.c.state == LIVE)
            hashes = {row.name: audit_log.salted(row.salt, row.name) for row in connection.execute(clients)}

        def touched(name: Name) -> bool:
            return name.client not in hashes or audit_log.subject(hashes[name.client], name.task) in subjects

        return last, {name for name in names if touched(name)}

    def verify(self, *, last: str | None = None) -> Sequence[Damage]:
        """Verify the store: hash every blob, manifest and log entry again, and return all damage.

        Args:
            last: the hash of a log entry that was kept outside the store, to detect a rewritten audit log.
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
        """Write the audit log as JSON lines to the file `path`; return the number of lines.

        The exported log can be verified with Python's standard library alone (docs/reference/store.md).
        """
        entries = self.log()
        lines = "".join(f"{digest.canonical_json(entry.as_json())}\n" for entry in entries)
        file_io.write_text(Path(path), lines)
        return len(entries)

    def size(self) -> int:
        """Return the size in bytes of all stored files that belong to versions; a shared file counts once."""
        with self._database.reading() as connection:
            held = select(PARTS.c.digest).distinct()
            return sum(connection.execute(select(BLOBS.c.size).where(BLOBS.c.digest.in_(held))).scalars())


_TRIES = 5
"""The largest number of attempts to read a version's files. An attempt fails if they are removed and published again at
the same time."""


def use_files(
    database: Database,
    blobs: Blobs,
    version: Version,
    use: Callable[[Mapping[str, Path]], Result],
    shows: Mapping[str, Callable[[Result, Path], bool]] = MappingProxyType({}),
) -> Result:
    """Call `use` with a version's files by role (such as `body`), check their digests, and return the result of `use`.

    Args:
        shows: for each role whose file `use` hashes, a function that is called with the result of `use` and the file,
            and returns whether this result proves the file's digest. If not, the file is hashed after `use`. Files of
            all other roles are hashed before `use` is called.

    Raises:
        NotFound: the version has been deleted.
        CorruptStore: a file does not have the digest with which it was published.
    """
    if (stated := str(version.manifest.get("digest"))) != version.digest:
        raise problems.DIGEST_DIFFERS(
            where=f"store:{version}", _name="the manifest", what="manifest", found=stated, expected=version.digest
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
                        _check_digests(version, [role], files, places)
                later = [role for role in files if role in shows]
                try:
                    result = use(files)
                except CorruptStore:
                    _check_digests(version, later, files, places)  # raises an error that names the file
                    raise
                _check_digests(version, [role for role in later if not shows[role](result, files[role])], files, places)
                return result
        except (CorruptStore, FileNotFoundError):
            if _places(database, version) == places or not left:
                raise
    raise AssertionError("the last try returns or raises")


def _places(database: Database, version: Version) -> dict[str, str]:
    """Return the present storage keys of a version's blobs, by digest."""
    with database.reading() as connection:
        named, number = catalog.resolve(connection, Reference.parse(str(version)))
        same = select(VERSIONS.c.digest).where(VERSIONS.c.name == named.id, VERSIONS.c.number == number)
        wanted = [blob.digest for blob in version.parts.values()]
        rows = connection.execute(select(BLOBS.c.digest, BLOBS.c.place).where(BLOBS.c.digest.in_(wanted)))
        places = {row.digest: row.place for row in rows}
        # Or the client was erased, and a new client of this name published the same version number.
        if connection.execute(same).scalar() != version.digest or places.keys() != set(wanted):
            raise problems.REMOVED_MEANWHILE(version=str(version))
    return places


def _check_place(version: Version, role: str, expected: str, place: str) -> None:
    if not publishing.is_blob_place(place, expected):
        reason = f"the row of the part {role} names the file {place!r:.80}, which is not a file of this part."
        raise problems.ADAPTER_CORRUPT(where=f"store:{version}", reason=reason, found=place, what=role)


def _check_digests(
    version: Version, roles: Iterable[str], files: Mapping[str, Path], places: Mapping[str, str]
) -> None:
    for role in roles:
        expected = version.parts[role].digest
        if (found := digest.of_file(files[role])) != expected:
            where, path = f"store:{version}", places[expected]
            name = f"the file {path} of {role}"
            raise problems.DIGEST_DIFFERS(where=where, _name=name, what=role, found=found, expected=expected, path=path)
