"""What can be asked of a store. Changes nothing of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from sqlalchemy import select

from afina import digest, file_io
from afina.blobs.blobs import Blobs
from afina.blobs.remote import open_blobs
from afina.errors import CorruptStore, NotFound, Refused
from afina.store import aliases, catalog, clients, keys, log, news, opening, verify
from afina.store.database import engine
from afina.store.database.database import Database
from afina.store.database.engine import Address
from afina.store.database.tables import BLOBS, PARTS, STORE
from afina.store.intake.limits import Limits
from afina.store.keys import Key
from afina.store.log import Entry
from afina.store.names import Name, Reference, check_alias, check_client
from afina.store.version import Damage, Happened, Listed, Version

if TYPE_CHECKING:
    from afina.models.adapter import Adapter


Made = TypeVar("Made")


class Reader:
    """A store that is only read, see `AdapterStore`."""

    def __init__(self, url: str | Path | None = None, *, limits: Limits | None = None, who: str | None = None) -> None:
        """`who`: whose doing it is, for the log; by default the user of this machine."""
        self.address = Address.parse(url if url is not None else engine.default())
        self.limits = limits or Limits()
        self.who = log.check_words(who, "who") if who is not None else log.login()
        self._database = Database(self.address)

    def __repr__(self) -> str:
        return f"AdapterStore({self.address.shown!r})"

    def on_behalf_of(self, who: str) -> Self:
        """The same store, for somebody else's doing."""
        made = copy.copy(self)
        made.who = log.check_words(who, "who")
        return made

    @cached_property
    def _blobs(self) -> Blobs:
        with self._database.reading() as connection:
            said = connection.execute(select(STORE.c.blobs)).scalar()
            if not isinstance(said, str):
                raise TypeError(f"found {said!r:.40}, expected where the bytes are")
        beside = self.address.directory
        if not said and beside is not None:
            return open_blobs(str(beside / engine.BLOBS))
        return open_blobs(said)

    def exists(self) -> bool:
        """Whether there is a store at its address."""
        return self._database.exists()

    def adapter(self, reference: str | Version) -> Adapter:
        """The adapter of a version, checked to the byte; `Predictor.load` takes it."""
        from afina.store import content

        with self._database.connected():
            version = self.show(reference)
            join = partial(content.join, version.manifest, where=f"store:{version}")
            return opening.opened(self._database, self._blobs, version, join, content.AS_WRITTEN)

    def restore(self, reference: str | Version, directory: str | Path) -> Adapter:
        """Write the adapter's directory as it was published: what peft or transformers opened, they open again."""
        from afina.store import content

        version, where = self.show(reference), Path(directory)
        if where.exists():
            raise Refused(
                f"{where}: something is there already. Give a directory that is not there yet.",
                code="out.exists",
                path=where,
            )
        return self.opened(version, lambda files: content.restore(where, version.manifest, files, f"store:{version}"))

    def card(self, reference: str | Version, *, merged: bool = False) -> str:
        """A model card of a version, Markdown in the Hub's form; `merged`, of it and its backbone as one model."""
        from afina.store.model_card import model_card

        version = self.show(reference)
        return model_card(
            version.manifest,
            name=version.name,
            version=version.number,
            digest=version.digest,
            message=version.why or "",
            created=version.created,
            who=version.who,
            merged=merged,
        )

    def opened(self, version: Version, use: Callable[[Mapping[str, Path]], Made]) -> Made:
        """What `use` makes of a version's files, by role, each checked to the byte. See `opening.opened`."""
        return opening.opened(self._database, self._blobs, version, use)

    def list(self, client: str | None = None) -> Sequence[Listed]:
        """The names that have a version, of one client or of all."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            found = catalog.listed(connection, client)
        if client is not None and not found:
            raise NotFound(
                f"client {client}: no adapter of it in the store. `afina store list` shows what there is.",
                code="client.missing",
                client=client,
            )
        return found

    def show(self, reference: str | Version) -> Version:
        """One version."""
        wanted = Reference.parse(str(reference))
        with self._database.reading() as connection:
            place, number = catalog.resolve(connection, wanted)
            return catalog.version(connection, place, number)

    def versions(self, name: str) -> Sequence[Version]:
        """All versions of a name in order, also the deleted ones."""
        wanted = Name.parse(name)
        with self._database.reading() as connection:
            place = clients.find(connection, wanted)
            return catalog.versions(connection, place)

    def history(self, name: str, *, alias: str | None = None) -> Sequence[Happened]:
        """All that was done about a name, in order; or how an alias moved."""
        wanted = Name.parse(name)
        if alias is not None:
            check_alias(alias)
        with self._database.reading() as connection:
            place = clients.find(connection, wanted)
            events = (aliases.ALIAS, aliases.ROLLBACK, aliases.UNALIAS) if alias is not None else ()
            done = catalog.happened(connection, place, events)
        found = [one for one in done if alias is None or one.details["alias"] == alias]
        if alias is not None and not found:
            raise NotFound(
                f"{name}@{alias}: there never was such an alias.", code="alias.missing", name=str(name), alias=alias
            )
        return found

    def keys(self, client: str | None = None) -> Sequence[Key]:
        """The keys of one client or of all, also revoked ones, in the order in which they were made."""
        if client is not None:
            check_client(client)
        with self._database.reading() as connection:
            return keys.listed(connection, client)

    def known(self, reference: Reference) -> Version | None:
        """One version; None where there is nothing of that name, version or alias. Says nothing of what there is.

        A name alone means what a server answers by: `production` where there is such an alias, or else the newest.
        """
        with self._database.reading() as connection:
            return news.known(connection, reference)

    def news(self, since: int, names: Collection[Name]) -> tuple[int, Collection[Name]]:
        """The number of the log's last entry, and those of the names about which there is one after `since`."""
        with self._database.reading() as connection:
            return news.since(connection, since, names)

    def verify(self, *, last: str | None = None) -> Sequence[Damage]:
        """Hash every blob, manifest and entry of the log again: all that is damaged.

        last  the hash of an entry that was kept elsewhere: then a log that was written anew is seen too
        """
        self._database.demand()
        try:
            blobs = self._blobs
        except CorruptStore as error:
            return [Damage("database", self.address.shown, (), str(error))]
        return verify.verify(self._database, blobs, last)

    def log(self) -> Sequence[Entry]:
        """The audit log."""
        with self._database.reading() as connection:
            return [*log.entries(connection)]

    def export_audit(self, path: str | Path) -> int:
        """Write the log as JSON lines, which the standard library alone can verify (docs/store.md); how many."""
        entries = self.log()
        lines = "".join(f"{digest.canonical_json(entry.as_json())}\n" for entry in entries)
        file_io.write_text(Path(path), lines)
        return len(entries)

    def size(self) -> int:
        """Bytes of all that versions hold, each blob once."""
        with self._database.reading() as connection:
            held = select(PARTS.c.digest).distinct()
            return sum(connection.execute(select(BLOBS.c.size).where(BLOBS.c.digest.in_(held))).scalars())
