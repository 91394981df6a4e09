"""What operators ask of a running server: its API keys, aliases, shadow versions, and the counts of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from afina.errors import AfinaError, InvalidName
from afina.server.core import Core
from afina.server.tenants import Missing, reference_of
from afina.server.versions.served_answers import ServedAnswers
from afina.store.adapter_store import AdapterStore
from afina.store.aliases import ANY
from afina.store.api_keys import Key, MadeKey
from afina.store.versions import PRODUCTION, AliasMove, Name, Reference, check_alias


class Administration:
    """Changes and figures of a server's store. The audit log records the id of the API key that makes a change."""

    def __init__(self, core: Core) -> None:
        self._core, self._store = core, core.store

    def shadow(self, key: Key, model: str) -> dict[str, Any]:
        """Return a model's shadow version and its counts as JSON values, or raise Missing."""
        reference = reference_of(f"{model}@{PRODUCTION}", key)
        return self._core.shadows.status_json(reference.name, self._core.find(reference))

    def served_answers(self, model: str, alias: str, days: int) -> ServedAnswers:
        """Return the answer counts of the version with an alias in the last `days`, and those of its evaluation.

        Raises Missing, and InvalidData if answers of the kind of task are not counted.
        """
        try:
            reference = Reference(Name.parse(model), alias=check_alias(alias))
        except InvalidName:
            raise Missing() from None
        return self._core.answers.served(self._core.find(reference), alias, days)

    def move(
        self,
        key: Key,
        model: str,
        alias: str,
        version: int,
        expected: int | None,
        share: float | None,
        message: str | None,
    ) -> AliasMove:
        """Make an alias of one of the client's models point to a version, as `AdapterStore.alias`.

        Raises also Missing, and Overloaded for too many changes in the last minute.
        """
        reference = reference_of(f"{model}@{version}", key)
        if self._store.known(reference) is None:
            raise Missing()
        with self._writing(key) as store:
            return store.alias(str(reference), alias, expected=expected or ANY, share=share, message=message)

    def keys(self) -> Sequence[Key]:
        self._core.demand_store()
        return self._store.keys()

    def create_key(self, key: Key, **options: Any) -> MadeKey:
        """Create an API key of any client. Raises also Overloaded for too many changes in the last minute."""
        with self._writing(key) as store:
            created = store.create_key(**options)
        self._follow_keys()
        return created

    def revoke_key(self, key: Key, id: str, message: str | None) -> Key:
        """Revoke an API key of any client, or raise NotFound.

        Revocations have no rate limit, because a thief of an admin key could use it up.
        """
        with self._core.writes.attempt():
            revoked = self._store.on_behalf_of(f"key {key.id}").revoke_key(id, message=message)
        self._follow_keys()
        return revoked

    @contextmanager
    def _writing(self, key: Key) -> Iterator[AdapterStore]:
        """Yield the store for a change of an API key. Raises Overloaded after too many changes in the last minute."""
        self._core.tenants.write(key)
        with self._core.writes.attempt():
            yield self._store.on_behalf_of(f"key {key.id}")

    def _follow_keys(self) -> None:
        """Let a created or revoked key take effect on this server at once; on other servers, within about a second."""
        with suppress(AfinaError):  # the change was made: its answer must not be lost
            self._core.tenants.refresh()
