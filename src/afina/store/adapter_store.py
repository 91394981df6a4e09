"""AdapterStore: the public interface of the adapter store, and the only class of the store that other packages use.

A database has the names, versions and aliases; blobs (files) have the adapters' bytes. Methods that compute with an
adapter import the module `recompute`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, update

from afina.blobs.remote import open_blobs
from afina.store import aliases, api_keys, audit_log, backup, catalog, deletion, problems, publishing
from afina.store.aliases import ANY, Anything
from afina.store.api_keys import Key, MadeKey
from afina.store.backup import Backup
from afina.store.database.tables import STORE
from afina.store.publishing import NewVersion
from afina.store.reader import StoreReader
from afina.store.versions import (
    PRODUCTION,
    SHADOW,
    AliasMove,
    Name,
    PublishOutcome,
    Reference,
    Removal,
    Version,
    check_client,
)

if TYPE_CHECKING:
    from afina.store.diff import Diff
    from afina.store.recompute import CheckOutcome


class AdapterStore(StoreReader):
    """A store of adapters under names, in immutable versions.

    The name of an adapter is `client/task`. A reference to a version is a name (the newest version), `name@3` or
    `name@production`.

    `AdapterStore()` opens the user's own store: $AFINA_STORE, or a directory in the user's data folder. The first
    publication creates a store in a directory; `init` creates a store in PostgreSQL. Many processes may use a store at
    the same time.

    All methods raise NotFound (no such store, name, version or alias, or the database does not respond), InvalidName,
    Busy (other processes did not finish in time), CannotWrite and CorruptStore.
    """

    def init(self, blobs: str | None = None) -> None:
        """Create an empty store.

        Args:
            blobs: the directory or URL for the adapters' bytes. Default: beside the database if this is a file.

        Raises:
            Refused: the store exists already, or `blobs` is missing although the database is PostgreSQL.
        """
        place = self._place_of_bytes(blobs)
        if self._database.exists() or not self._begin(place):
            raise problems.STORE_EXISTS(store=self.address.shown)

    def _place_of_bytes(self, blobs: str | None) -> str:
        """Return the place of the adapters' bytes as the database stores it; "" means beside the database."""
        if blobs is None and self.address.directory is None:
            raise problems.BLOBS_UNNAMED(store=self.address.shown)
        if blobs is not None:
            # the path must not depend on the working directory
            blobs = blobs if "://" in blobs else str(Path(blobs).expanduser().absolute())
            there = open_blobs(blobs)
            with there.scratch():
                there.size(f"sha256-{'0' * 64}-{'0' * 8}")  # errors of the place are raised before anything is made
        return blobs or ""

    def _begin(self, blobs: str) -> bool:
        def first(connection: Connection) -> None:
            connection.execute(insert(STORE), {"id": 1, "blobs": blobs, "last": 0, "hash": audit_log.FIRST})
            audit_log.append(connection, audit_log.CREATED, {"blobs": "elsewhere" if blobs else "beside"})
            audit_log.crash_point("init: in the transaction")

        is_new = self._database.begin(first)
        audit_log.crash_point("init: committed")
        return is_new

    def has_room(self) -> bool:
        """Return whether the disk of a store in a directory has enough free space for changes; True for PostgreSQL."""
        return self._database.has_room()

    def try_write(self) -> None:
        """Raise CannotWrite if the store cannot be written to; wait for other writers, and change nothing."""
        with self._database.writing() as connection:
            connection.execute(update(STORE).values(last=STORE.c.last))

    def backup(self, place: str | Path) -> Backup:
        """Copy the present state of the store to the directory `place`, and verify the copy. Details: `backup.take`."""
        self._database.demand()
        return backup.take(self._database, self._blobs, Path(place))

    def recover(self, place: str | Path, blobs: str | None = None) -> Backup:
        """Create this store from the backup in the directory `place`. Details: `backup.recover`.

        Args:
            blobs: the directory or URL for the adapters' bytes. Default: beside the database if this is a file.
        """
        return backup.recover(self._database, Path(place), self._place_of_bytes(blobs))

    def make_ready(self) -> None:
        """Make the store writable: create the store in a directory, or check that the database has a store."""
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
        precision: str | None = None,
    ) -> PublishOutcome:
        """Publish the adapter in a directory as the next version of a name.

        If the name already has a version with the same adapter, that version is returned. Raises Refused for files that
        may contain code or exceed `limits`, CorruptAdapter for files that do not match the manifest, and InvalidStudy
        for peft settings that cannot be used.

        Args:
            message: the reason of the publication, for the audit log.
            who: the user who publishes. Default: the attribute `who` of the store.
            source: where the adapter comes from, such as hub:owner/name, if the adapter is not from a run of afina.
            links: whether the adapter's files may be symbolic links, as in the Hub's cache.
            texts: whether to keep hashes of the training texts. Without hashes of the training texts, leakage cannot be
                detected later.
            precision: how the backbone's weights were stored in training, as in `Adapter.load`.
        """
        wanted, why = Name.parse(name), audit_log.check_reason(message, "message")
        by = audit_log.check_words(who, "who") if who else self.who
        directory = Path(adapter)
        from afina.data import text_hashes
        from afina.methods.peft_settings import check_agrees
        from afina.models.adapter import FOREIGN, Adapter
        from afina.models.manifest import MANIFEST
        from afina.store import adapter_parts
        from afina.store.intake import admission

        admitted = admission.admit(directory, self.limits, links=links)
        opened = Adapter.of_files(directory, admitted.manifest, precision)
        opened.manifest.check_claims(directory / MANIFEST)
        check_agrees(opened)
        if opened.manifest.method == FOREIGN and admitted.configuration is not None:
            admission.check_opens(opened, admitted.configuration)
        self.make_ready()
        manifest = opened.manifest.model_dump(mode="json") | {"digest": opened.digest}
        with self._database.connected(), self._blobs.scratch() as scratch:
            parts = adapter_parts.split(opened, scratch, directory, links=links, texts=texts)
            audit_log.crash_point("publish: files made")
            content = NewVersion(manifest, parts)
            outcome = publishing.publish(self._database, self._blobs, wanted, content, who=by, why=why, source=source)
        if not texts and text_hashes.HASHES_FILE in outcome.version.parts:
            raise problems.VERSION_EXISTS(version=str(outcome.version))
        return outcome

    def alias(
        self,
        reference: str | Version,
        alias: str = PRODUCTION,
        *,
        expected: int | Anything | None = ANY,
        share: float | None = None,
        force: bool = False,
        message: str | None = None,
    ) -> AliasMove:
        """Point an alias, by default `production`, to a version. Details: `aliases.move`."""
        wanted, why = Reference.parse(str(reference)), _words(message)
        return aliases.move(
            self._database, wanted, alias, expected=expected, share=share, force=force, who=self.who, why=why
        )

    def promote(self, name: str, *, force: bool = False, message: str | None = None) -> AliasMove:
        """Point `production` to the canary version, and remove the alias `canary`. Details: `aliases.promote`."""
        return aliases.promote(self._database, Name.parse(name), force=force, who=self.who, why=_words(message))

    def rollback(
        self, name: str, alias: str = PRODUCTION, *, force: bool = False, message: str | None = None
    ) -> AliasMove:
        """Point an alias to its previous version. Details: `aliases.roll_back`."""
        wanted = Name.parse(name)
        return aliases.roll_back(self._database, wanted, alias, force=force, who=self.who, why=_words(message))

    def unalias(self, name: str, alias: str, *, message: str | None = None) -> AliasMove:
        """Remove an alias. Details: `aliases.remove`."""
        return aliases.remove(self._database, Name.parse(name), alias, who=self.who, why=_words(message))

    def shadow(self, reference: str | Version, *, force: bool = False, message: str | None = None) -> AliasMove:
        """Point the alias `shadow` to a version, so that servers compute its predictions beside `production`.

        Servers compare the predictions of the two versions, and return only the predictions of `production`.

        Raises:
            NotFound: the name has no alias `production`.
            Refused: the version is in production already.
        """
        wanted = self.show(reference)
        current = self.show(f"{wanted.name}@{PRODUCTION}")
        if current.digest == wanted.digest:
            raise problems.SHADOW_IS_PRODUCTION(version=str(wanted))
        return self.alias(str(wanted), SHADOW, force=force, message=message)

    def delete(self, reference: str | Version, *, reason: str) -> Version:
        """Delete a version that no alias points to; the next `gc` removes the version's bytes."""
        why = audit_log.check_reason(reason, "reason")
        wanted = Reference.parse(str(reference))
        if wanted.number is None:
            raise problems.NUMBER_MISSING(name=wanted.name, reference=str(reference), number=3)
        return deletion.delete_version(self._database, wanted, who=self.who, why=why)

    def create_key(
        self,
        client: str,
        scopes: Collection[str],
        *,
        rate: int | None = None,
        text_tokens: int | None = None,
        name: str | None = None,
        expires: str | None = None,
        message: str | None = None,
    ) -> MadeKey:
        """Create an API key with which a client uses a server. Details: `api_keys.create`.

        Args:
            name: a name by which people recognise the key.
        """
        check_client(client)
        called = None if name is None else audit_log.check_reason(name, "name")
        limits, why = {"rate": rate, "text_tokens": text_tokens}, _words(message)
        return api_keys.create(
            self._database, client, scopes, limits, name=called, expires=expires, who=self.who, why=why
        )

    def revoke_key(self, id: str, *, message: str | None = None) -> Key:
        """Revoke an API key for ever. Details: `api_keys.revoke`."""
        return api_keys.revoke(self._database, id, who=self.who, why=_words(message))

    def gc(self) -> Removal:
        """Remove the stored bytes (blobs) that belong to no version."""
        with self._database.connected():
            return deletion.collect_garbage(self._database, self._blobs)

    def erase(self, client: str, *, reason: str) -> Removal:
        """Remove all data of a client for ever; the audit log can still be verified."""
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
        """Return the differences between two versions, including changed predictions if labelled texts are given.

        Args:
            task: the address of the labelled texts.
            data: reading options of the labelled texts, as in `EvaluationSet.read`.
        """
        from afina.store import diff

        before, after = self.show(first), self.show(second)
        if task is None:
            return diff.diff(before, after)
        from afina.store import recompute

        pair = (self.adapter(before), self.adapter(after))
        texts = recompute.read_texts(task, pair, **data)
        flips = recompute.flips_between(*pair, texts, backbone, names=(str(before), str(after)))
        return diff.diff(before, after, flips)

    def import_from(
        self, source: str, name: str, *, message: str, backbone: str | None = None, precision: str | None = None
    ) -> PublishOutcome:
        """Publish an adapter from a directory written by peft or transformers, a bundle, or a repository on the Hub.

        Details: `import_and_export.bring_in`.
        """
        from afina.store.exchange import import_and_export

        publish = partial(self.publish, name=name)
        return import_and_export.bring_in(
            source, publish, self.limits, message=message, backbone=backbone, precision=precision
        )

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
        """Export a version to a directory, a bundle or the Hub; see `import_and_export.send_out` for the arguments."""
        from afina.store.exchange import import_and_export

        return import_and_export.send_out(
            self, str(reference), target, merged=merged, backbone=backbone, private=private, texts=texts
        )

    def check(self, reference: str | Version, *, backbone: str | None = None) -> CheckOutcome:
        """Run the golden test of a version on this machine, and record the outcome in the audit log."""
        from afina.store import recompute

        version = self.show(reference)
        outcome = recompute.check(self.adapter(version), backbone)
        with self._database.writing() as connection:
            named, number = catalog.resolve(connection, Reference.parse(str(version)))
            if catalog.version(connection, named, number).digest != version.digest:
                raise problems.REMOVED_MEANWHILE(version=str(version))
            details = {"version": number, "digest": version.digest, **outcome.as_json()}
            problem = details.pop("problem", None)  # it may name the client: it goes where an erasure removes it
            audit_log.append(connection, "check", {**named.payload, **details}, named.attribution(self.who, problem))
        return outcome


def _words(message: str | None) -> str | None:
    return audit_log.check_reason(message, "message") if message is not None else None
