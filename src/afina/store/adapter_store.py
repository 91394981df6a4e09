"""AdapterStore: the one door to a store. Everything else in this package is behind it.

A database says what there is, blobs hold the bytes. `replay` is imported by what computes with an adapter, alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select

from afina import atomic, digest
from afina.errors import CorruptStore, Refused
from afina.store import address, aliases, catalog, clients, log, opening, publishing, removing, steps
from afina.store.address import Address
from afina.store.aliases import ANY
from afina.store.blobs import Blobs
from afina.store.database import Database
from afina.store.limits import Limits
from afina.store.log import Entry
from afina.store.names import Name, Reference, check_client
from afina.store.publishing import Parts
from afina.store.remote import open_blobs
from afina.store.tables import BLOBS, PARTS, STORE
from afina.store.version import Blob, Damage, Happened, Listed, Moved, Published, Removed, Version

if TYPE_CHECKING:
    from afina.models.adapter import Adapter
    from afina.store.replay import Check

PRODUCTION = "production"


class AdapterStore:
    """Adapters under names, in versions that never change.

    `AdapterStore()` is the user's own: where AFINA_STORE says, else a directory in the data folder. A directory is made
    by the first that is published to it; a database is begun by `init`. Names are `client/task`; a reference is a name,
    `name@3` or `name@production`, and means the newest version where it says no more.
    All may be called by many processes at once. Errors of all: NotFound where the store, a name, a version or an alias
    is not there, or nothing answers; InvalidName; Busy where others do not end; CannotWrite; CorruptStore.
    """

    def __init__(self, url: str | Path | None = None, *, limits: Limits | None = None, who: str | None = None) -> None:
        """`who`: whose doing it is, for the log; by default the user of this machine."""
        self.address = Address.parse(url if url is not None else address.default())
        self.limits = limits or Limits()
        self.who = who if who is not None else log.login()
        self._database = Database(self.address)

    def __repr__(self) -> str:
        return f"AdapterStore({self.address.shown!r})"

    def init(self, blobs: str | None = None) -> None:
        """Begin a store. blobs: the directory or URL of its bytes; by default beside the database, if that is a file.

        Raises Refused where there is one already, or where the bytes have no place.
        """
        if blobs is None and self.address.directory is None:
            raise Refused(
                f"store {self.address.shown}: a database has no place for adapters. Say where they go with `blobs`: a "
                "directory that all its machines see, or a URL such as s3://bucket/adapters."
            )
        if blobs is not None:
            open_blobs(blobs)  # what is wrong with it is told before anything is made
        if self._database.exists() or not self._begin(blobs or ""):
            raise Refused(f"store {self.address.shown}: it is there already.")

    def _begin(self, blobs: str) -> bool:
        def first(connection: Connection) -> None:
            connection.execute(insert(STORE), {"id": 1, "blobs": blobs, "last": 0, "hash": log.FIRST})
            log.append(connection, "create", {"blobs": "elsewhere" if blobs else "beside"})
            steps.reached("init: in the transaction")

        made = self._database.begin(first)
        steps.reached("init: committed")
        return made

    def _ready(self) -> None:
        """A directory becomes a store when something is to be kept in it."""
        if self.address.directory is not None and not self._database.exists():
            self._begin("")
        self._database.demand()

    @cached_property
    def _blobs(self) -> Blobs:
        with self._database.reading() as connection:
            said = connection.execute(select(STORE.c.blobs)).scalar()
        beside = self.address.directory
        if not said and beside is not None:
            return open_blobs(str(beside / address.BLOBS))
        return open_blobs(said or "")

    def publish(
        self, adapter: str | Path, name: str, *, message: str, who: str | None = None, source: str | None = None
    ) -> Published:
        """Keep the adapter in a directory as the next version of a name; the version that it already is, if it is one.

        message  why, in some words: for whoever looks at it later
        source   where it comes from, if not from a run
        Raises Refused for what may do harm or is beyond `limits`, CorruptAdapter for what does not fit its manifest.
        """
        wanted, why = Name.parse(name), log.check_reason(message, "message")
        directory = Path(adapter)
        from afina.models.adapter import Adapter
        from afina.store import admission, content

        admission.admit(directory, self.limits)
        opened = Adapter.load(directory)
        self._ready()
        manifest = opened.manifest.model_dump(mode="json") | {"digest": opened.digest}
        with self._database.connected(), self._blobs.scratch() as scratch:
            with self._database.reading() as connection:
                found = publishing.there(connection, wanted, opened.digest)
            if found is not None:
                return found
            made = content.split(opened, scratch)
            steps.reached("publish: files made")
            files = {role: part.file for role, part in made.items()}
            held = {role: Blob(part.digest, part.size) for role, part in made.items()}
            parts = Parts(manifest, files, held)
            by = who or self.who
            return publishing.publish(self._database, self._blobs, wanted, parts, who=by, why=why, source=source)

    def adapter(self, reference: str) -> Adapter:
        """The adapter of a version, checked to the byte; `Predictor.load` takes it."""
        from afina.store import content

        with self._database.connected():
            version = self.show(reference)
            where = f"store:{version}"
            return opening.opened(
                self._database, self._blobs, version, lambda files: content.join(version.manifest, files, where)
            )

    def restore(self, reference: str, directory: str | Path) -> Adapter:
        """Write the adapter's directory as it was published: what peft or transformers opened, they open again."""
        from afina.store import content

        version = self.show(reference)
        if Path(directory).exists():
            raise Refused(f"{directory}: something is there already. Give a directory that is not there yet.")
        return opening.opened(
            self._database,
            self._blobs,
            version,
            lambda files: content.restore(Path(directory), version.manifest, files, f"store:{version}"),
        )

    def list(self, client: str | None = None) -> Sequence[Listed]:
        """The names that have a version, of one client or of all."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            return catalog.listed(connection, client)

    def show(self, reference: str) -> Version:
        """One version."""
        with self._database.reading() as connection:
            place, number = catalog.resolve(connection, Reference.parse(reference))
            return catalog.version(connection, place, number)

    def versions(self, name: str) -> Sequence[Version]:
        """All versions of a name in order, also the deleted ones."""
        with self._database.reading() as connection:
            place = clients.find(connection, Name.parse(name))
            return catalog.versions(connection, place)

    def history(self, name: str, *, alias: str | None = None) -> Sequence[Happened]:
        """All that was done about a name, in order; or how an alias moved."""
        with self._database.reading() as connection:
            place = clients.find(connection, Name.parse(name))
            events = (aliases.ALIAS, aliases.ROLLBACK) if alias is not None else ()
            done = catalog.happened(connection, place, events)
        return [one for one in done if alias is None or one.details["alias"] == alias]

    def alias(
        self,
        reference: str,
        alias: str = PRODUCTION,
        *,
        expected: int | None = ANY,
        force: bool = False,
        message: str | None = None,
    ) -> Moved:
        """Let an alias point to a version; nothing else moves it. See `aliases.move`."""
        wanted = Reference.parse(reference)
        return aliases.move(
            self._database, wanted, alias, expected=expected, force=force, who=self.who, why=_words(message)
        )

    def rollback(self, name: str, alias: str = PRODUCTION, *, force: bool = False, message: str | None = None) -> Moved:
        """Let an alias point to the version it had before. See `aliases.roll_back`."""
        wanted = Name.parse(name)
        return aliases.roll_back(self._database, wanted, alias, force=force, who=self.who, why=_words(message))

    def delete(self, reference: str, *, reason: str) -> Version:
        """Delete a version that no alias points to; `gc` then removes what no other version holds."""
        why = log.check_reason(reason, "reason")
        wanted = Reference.parse(reference)
        if wanted.number is None:
            raise Refused(f"{reference}: say which version by its number, as in {wanted.name}@3.")
        return removing.delete_version(self._database, wanted, who=self.who, why=why)

    def gc(self) -> Removed:
        """Remove the bytes that no version holds."""
        with self._database.connected():
            return removing.collect(self._database, self._blobs)

    def erase(self, client: str, *, reason: str) -> Removed:
        """Remove all of a client for good; the log still verifies. See `removing.erase`."""
        why = log.check_reason(reason, "reason")
        with self._database.connected():
            return removing.erase(self._database, self._blobs, check_client(client), who=self.who, why=why)

    def verify(self) -> Sequence[Damage]:
        """Hash every blob, manifest and entry of the log again: all that is damaged."""
        from afina.store import verify

        self._database.demand()
        try:
            blobs = self._blobs
        except CorruptStore as error:
            return [Damage("database", self.address.shown, (), str(error))]
        return verify.verify(self._database, blobs)

    def log(self) -> Sequence[Entry]:
        """The audit log."""
        with self._database.reading() as connection:
            return [*log.entries(connection)]

    def export_audit(self, path: str | Path) -> int:
        """Write the log as JSON lines, which the standard library alone can verify (docs/store.md); how many."""
        entries = self.log()
        lines = "".join(f"{digest.canonical_json(entry.as_json())}\n" for entry in entries)
        atomic.write_text(Path(path), lines)
        return len(entries)

    def check(self, reference: str, *, backbone: str | None = None) -> Check:
        """Compute the built-in sentences on this machine, compare with what training recorded, and log the outcome."""
        from afina.store import replay

        version = self.show(reference)
        found = replay.check(self.adapter(f"{version}"), backbone)
        with self._database.writing() as connection:
            place, number = catalog.resolve(connection, Reference.parse(str(version)))
            details = {"version": number, "digest": version.digest, **found.as_json()}
            log.append(connection, "check", {**place.payload, **details}, place.said(self.who))
        return found

    def size(self) -> int:
        """Bytes of all that versions hold, each blob once."""
        with self._database.reading() as connection:
            held = select(PARTS.c.digest).distinct()
            return sum(connection.execute(select(BLOBS.c.size).where(BLOBS.c.digest.in_(held))).scalars())


def _words(message: str | None) -> str | None:
    return log.check_reason(message, "message") if message is not None else None
