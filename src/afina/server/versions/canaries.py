"""Canary versions: the version with the alias `canary` answers a share of the requests for `production`.

A hash of the request's sticky id (the end user's name or the request's id) selects the version.
"""

from __future__ import annotations

import hashlib

from afina.errors import AfinaError
from afina.server.tenants import Missing
from afina.server.versions.followed_names import FollowedNames
from afina.server.versions.served_versions import ServedVersions
from afina.store.reader import StoreReader
from afina.store.versions import CANARY, PRODUCTION, Name, Reference


def place(name: Name, sticky: str) -> float:
    """Return a number from 0 to 100: the canary answers if the number is below its percentage."""
    drawn = hashlib.blake2b(f"{name}\0{sticky}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 100 * int.from_bytes(drawn, "big") / 2**64


class Canaries:
    """The canary versions of all models. Thread-safe; a separate thread reads the store and loads versions.

    Until a canary version is loaded and has passed its golden test, the version in production answers.
    """

    def __init__(self, store: StoreReader, served: ServedVersions) -> None:
        self._store, self._served = store, served
        self.names = FollowedNames(store, self._share, 0.0, "afina-canary")

    @property
    def count(self) -> int:
        """The number of models whose canary version answers requests."""
        return sum(share > 0 for share in self.names.known)

    def answers(self, name: Name) -> bool:
        return self.names.get(name) > 0

    def drawn(self, reference: Reference, sticky: str) -> Reference:
        """Return the reference of the canary version if a request for production has a sticky id that selects it."""
        name = reference.name
        if reference.alias != PRODUCTION and reference != Reference(name):
            return reference
        share = self.names.get(name)
        return Reference(name, alias=CANARY) if share and place(name, sticky) < share else reference

    def _share(self, name: Name, before: float) -> float:
        """Return the percentage of a model's requests that its canary version answers; 0 if it cannot answer."""
        try:
            canary = self._store.canary(name)
            if canary is not None:
                self._served.find(Reference(name, alias=CANARY))
            return 0.0 if canary is None else canary.share
        except Missing:  # ended meanwhile
            return 0.0
        except AfinaError:  # not servable, or the store does not answer
            self.names.again(name)
            return 0.0
