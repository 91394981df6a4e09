"""AdapterStore: the one door to a store. Everything else in this package is behind it.

A database says what there is, blobs hold the bytes. `recompute` is imported by what computes with an adapter, alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert

from afina.blobs.remote import open_blobs
from afina.errors import NotFound, Refused
from afina.store import aliases, audit_log, backup, catalog, deletion, keys, publishing
from afina.store.aliases import ANY, Anything
from afina.store.backup import Backup
from afina.store.database.tables import STORE
from afina.store.keys import Key, MadeKey
from afina.store.publishing import NewVersion
from afina.store.reader import StoreReader
from afina.store.versions import (
    PRODUCTION,
    SHADOW,
    AliasMove,
    Blob,
    Name,
    PublishOutcome,
    Reference,
    Removal,
    Version,
    check_client,
)

if TYPE_CHECKING:
    from afina.store.diff import Difference
    from afina.store.recompute import CheckOutcome, Flips


@dataclass(frozen=True)
class Diff:
    """What differs between two versions; `flips` where there were texts to see it on."""

    first: str
    second: str
    difference: Difference
    flips: Flips | None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        flips = self.flips.as_json() if self.flips is not None else None
        return {"first": self.first, "second": self.second, **self.difference.as_json(), "flips": flips}


class AdapterStore(StoreReader):
    """Adapters under names, in versions that never change.

    `AdapterStore()` is the user's own: where AFINA_STORE says, else a directory in the data folder. A directory is made
    by the first that is published to it; a database is begun by `init`. Names are `client/task`; a reference is a name,
    `name@3` or `name@production`, and means the newest version where it says no more.
    All may be called by many processes at once. Errors of all: NotFound where the store, a name, a version or an alias
    is not there, or nothing answers; InvalidName; Busy where others do not end; CannotWrite; CorruptStore.
    """

    def init(self, blobs: str | None = None) -> None:
        """Begin a store. blobs: the directory or URL of its bytes; by default beside the database, if that is a file.

        Raises Refused where there is one already, or where the bytes have no place.
        """
        given = self._place_of_bytes(blobs)
        if self._database.exists() or not self._begin(given):
            raise Refused(
                f"store {self.address.shown}: it is there already.", code="store.exists", store=self.address.shown
            )

    def _place_of_bytes(self, blobs: str | None) -> str:
        """As the database has it: nothing for beside it. Raises Refused where there is none."""
        if blobs is None and self.address.directory is None:
            raise Refused(
                f"store {self.address.shown}: a database has no place for adapters. Say where they go with `blobs`: a "
                "directory that all its machines see, or a URL such as s3://bucket/adapters.",
                code="store.blobs-unnamed",
                store=self.address.shown,
            )
        if blobs is not None:
            # the next command may be typed elsewhere
            blobs = blobs if "://" in blobs else str(Path(blobs).expanduser().absolute())
            there = open_blobs(blobs)
            with there.scratch():
                there.size(f"sha256-{'0' * 64}-{'0' * 8}")  # what is wrong with it is told before anything is made
        return blobs or ""

    def _begin(self, blobs: str) -> bool:
        def first(connection: Connection) -> None:
            connection.execute(insert(STORE), {"id": 1, "blobs": blobs, "last": 0, "hash": audit_log.FIRST})
            audit_log.append(connection, audit_log.CREATED, {"blobs": "elsewhere" if blobs else "beside"})
            audit_log.crash_point("init: in the transaction")

        made = self._database.begin(first)
        audit_log.crash_point("init: committed")
        return made

    def backup(self, place: str | Path) -> Backup:
        """Copy the store as it is at one moment to a directory, and verify the copy. See `backup.take`."""
        self._database.demand()
        return backup.take(self._database, self._blobs, Path(place))

    def recover(self, place: str | Path, blobs: str | None = None) -> Backup:
        """Begin this store as what the backup in a directory holds. See `backup.recover`; `blobs` as in `init`."""
        return backup.recover(self._database, Path(place), self._place_of_bytes(blobs))

    def make_ready(self) -> None:
        """Make sure that something can be kept: a directory becomes a store, a database has to be one."""
        if self.address.directory is not None and not self._database.exists():
            self._begin("")
        self._database.demand()

    def publish(
        self,
        adapter: str | Path,
        name: str,
        *,
        message: str,
        who: str | None = None,
        source: str | None = None,
        links: bool = False,
        texts: bool = True,
    ) -> PublishOutcome:
        """Keep the adapter in a directory as the next version of a name; the version that it already is, if it is one.

        message  why, in some words: for whoever looks at it later
        source   where it comes from, if not from a run
        links    whether its files may be links, as in the cache of the Hub
        texts    whether the hashes of the texts that it was trained on are kept, where it has them; without, nobody can
                 tell later which texts it has seen
        Raises Refused for what may do harm or is beyond `limits`, CorruptAdapter for what does not fit its manifest,
        InvalidStudy for settings of peft's with which it could not be opened.
        """
        wanted, why = Name.parse(name), audit_log.check_reason(message, "message")
        by = audit_log.check_words(who, "who") if who else self.who
        directory = Path(adapter)
        from afina.data import leakage
        from afina.models.adapter import FOREIGN, Adapter
        from afina.models.manifest import MANIFEST
        from afina.store import adapter_parts
        from afina.store.intake import admission

        configuration = admission.admit(directory, self.limits, links=links)
        opened = Adapter.load(directory)
        opened.manifest.check_claims(directory / MANIFEST)
        admission.check_agrees(directory, opened)
        if opened.manifest.method == FOREIGN and configuration is not None:
            from afina.inference import import_and_merge

            import_and_merge.check_opens(opened, configuration)
        self.make_ready()
        manifest = opened.manifest.model_dump(mode="json") | {"digest": opened.digest}
        with self._database.connected(), self._blobs.scratch() as scratch:
            made = adapter_parts.split(opened, scratch, links=links, texts=texts)
            audit_log.crash_point("publish: files made")
            files = {role: part.file for role, part in made.items()}
            held = {role: Blob(part.digest, part.size) for role, part in made.items()}
            parts = NewVersion(manifest, files, held)
            found = publishing.publish(self._database, self._blobs, wanted, parts, who=by, why=why, source=source)
        if not texts and leakage.HASHES_FILE in found.version.parts:
            raise Refused(
                f"{found.version}: it has this adapter already, with hashes of its training texts. Publish it under "
                "another name, or delete that version first.",
                code="version.exists",
                version=str(found.version),
            )
        return found

    def alias(
        self,
        reference: str | Version,
        alias: str = PRODUCTION,
        *,
        expected: int | Anything | None = ANY,
        force: bool = False,
        message: str | None = None,
    ) -> AliasMove:
        """Let an alias point to a version; nothing else moves it. See `aliases.move`."""
        wanted = Reference.parse(str(reference))
        return aliases.move(
            self._database, wanted, alias, expected=expected, force=force, who=self.who, why=_words(message)
        )

    def rollback(
        self, name: str, alias: str = PRODUCTION, *, force: bool = False, message: str | None = None
    ) -> AliasMove:
        """Let an alias point to the version it had before. See `aliases.roll_back`."""
        wanted = Name.parse(name)
        return aliases.roll_back(self._database, wanted, alias, force=force, who=self.who, why=_words(message))

    def unalias(self, name: str, alias: str, *, message: str | None = None) -> AliasMove:
        """Take an alias away. See `aliases.remove`."""
        return aliases.remove(self._database, Name.parse(name), alias, who=self.who, why=_words(message))

    def shadow(self, reference: str | Version, *, force: bool = False, message: str | None = None) -> AliasMove:
        """Let a version ride along with what `production` points to: servers compute both, and answer by the latter.

        Raises NotFound where there is no such alias, Refused where that is the same version, and what `alias` does.
        """
        wanted = self.show(reference)
        current = self.show(f"{wanted.name}@{PRODUCTION}")
        if current.digest == wanted.digest:
            raise Refused(
                f"{wanted}: is what {PRODUCTION} points to. Name another version, to compare it with this one.",
                code="shadow.is-production",
                version=str(wanted),
            )
        return self.alias(str(wanted), SHADOW, force=force, message=message)

    def delete(self, reference: str | Version, *, reason: str) -> Version:
        """Delete a version that no alias points to; `gc` then removes what no other version holds."""
        why = audit_log.check_reason(reason, "reason")
        wanted = Reference.parse(str(reference))
        if wanted.number is None:
            raise Refused(
                f"{reference}: say which version by its number, as in {wanted.name}@3.",
                code="reference.version-missing",
                reference=str(reference),
            )
        return deletion.delete_version(self._database, wanted, who=self.who, why=why)

    def create_key(
        self,
        client: str,
        scopes: Collection[str],
        *,
        rate: int | None = None,
        name: str | None = None,
        expires: str | None = None,
        message: str | None = None,
    ) -> MadeKey:
        """A key of a client for a server; `name` is what its owner calls it. See `keys.create`."""
        check_client(client)
        called = None if name is None else audit_log.check_reason(name, "name")
        why = _words(message)
        return keys.create(self._database, client, scopes, rate, name=called, expires=expires, who=self.who, why=why)

    def revoke_key(self, id: str, *, message: str | None = None) -> Key:
        """End a key for good. See `keys.revoke`."""
        return keys.revoke(self._database, id, who=self.who, why=_words(message))

    def gc(self) -> Removal:
        """Remove the bytes that no version holds."""
        with self._database.connected():
            return deletion.collect_garbage(self._database, self._blobs)

    def erase(self, client: str, *, reason: str) -> Removal:
        """Remove all of a client for good; the log still verifies. See `deletion.erase`."""
        why = audit_log.check_reason(reason, "reason")
        with self._database.connected():
            return deletion.erase(self._database, self._blobs, check_client(client), who=self.who, why=why)

    def diff(
        self,
        first: str | Version,
        second: str | Version,
        *,
        task: str | None = None,
        backbone: str | None = None,
        **data: Any,
    ) -> Diff:
        """What differs between two versions; with labelled texts, also which predictions flip.

        task  their address, read as `data` says: arguments of `EvaluationSet.read`
        """
        from afina.store.diff import difference

        before, after = self.show(first), self.show(second)
        one, other = self.adapter(str(before)), self.adapter(str(after))
        found = difference(one, other)
        if task is None:
            return Diff(str(before), str(after), found, None)
        from afina.store import recompute

        texts = recompute.read_texts(task, (one, other), **data)
        flips = recompute.flips_between(one, other, texts, backbone, names=(str(before), str(after)))
        return Diff(str(before), str(after), found, flips)

    def import_from(self, source: str, name: str, *, message: str, backbone: str | None = None) -> PublishOutcome:
        """Publish what peft or transformers made, a bundle, or what is on the Hub. See `exchange.bring_in`."""
        from afina.store.intake import exchange

        publish = partial(self.publish, name=name)
        return exchange.bring_in(source, publish, self.limits, message=message, backbone=backbone)

    def export(
        self,
        reference: str | Version,
        target: str,
        *,
        merged: bool = False,
        backbone: str | None = None,
        private: bool = True,
        texts: bool = True,
    ) -> tuple[str, tuple[str, ...]]:
        """Write a version as a directory, a bundle, a merged model, or to the Hub. See `exchange.send_out`."""
        from afina.store.intake import exchange

        how = {"merged": merged, "backbone": backbone, "private": private, "texts": texts}
        return exchange.send_out(self, str(reference), target, **how)  # type: ignore[arg-type]

    def check(self, reference: str | Version, *, backbone: str | None = None) -> CheckOutcome:
        """Compute the built-in sentences on this machine, compare with what training recorded, and log the outcome."""
        from afina.store import recompute

        version = self.show(reference)
        found = recompute.check(self.adapter(f"{version}"), backbone)
        with self._database.writing() as connection:
            named, number = catalog.resolve(connection, Reference.parse(str(version)))
            if catalog.version(connection, named, number).digest != version.digest:
                raise NotFound(
                    f"{version}: it was removed while it was checked.", code="version.missing", version=str(version)
                )
            details = {"version": number, "digest": version.digest, **found.as_json()}
            problem = details.pop("problem", None)  # it may name the client, so it is among what an erasure takes
            audit_log.append(connection, "check", {**named.payload, **details}, named.attribution(self.who, problem))
        return found


def _words(message: str | None) -> str | None:
    return audit_log.check_reason(message, "message") if message is not None else None
