"""Canary versions: a share of the requests for `production` is answered by the version with the alias `canary`.

The sticky id of a request (the end user or the request id) decides, so that an id is always answered by one version.
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
    """Return a number from 0 to 100, the same for the same name and sticky id, and evenly distributed over ids."""
    drawn = hashlib.blake2b(f"{name}\0{sticky}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 100 * int.from_bytes(drawn, "big") / 2**64


class Canaries:
    """The canary versions of all names. Thread-safe; reads the store and loads versions in a thread of its own.

    A canary answers requests once its version is loaded and has passed its golden test. Until then, and if that fails,
    `production` answers.

    Args:
        served: loads versions and runs their golden tests.
    """

    def __init__(self, store: StoreReader, served: ServedVersions) -> None:
        self._store, self._served = store, served
        self.names = FollowedNames(store, self._share, 0.0, "afina-canary")

    @property
    def count(self) -> int:
        """Number of names whose canary version answers requests."""
        return sum(share > 0 for share in self.names.known)

    def answers(self, name: Name) -> bool:
        """Return whether a canary version of this name answers requests."""
        return self.names.get(name) > 0

    def drawn(self, reference: Reference, sticky: str) -> Reference:
        """Return the reference of the canary if the sticky id selects it, else the given reference. Does not wait."""
        name = reference.name
        if reference.alias != PRODUCTION and reference != Reference(name):
            return reference
        share = self.names.get(name)
        return Reference(name, alias=CANARY) if share and place(name, sticky) < share else reference

    def _share(self, name: Name, before: float) -> float:
        """Return the percentage of the requests that the canary of a name answers."""
        try:
            found = self._store.canary(name)
            if found is not None:
                self._served.find(Reference(name, alias=CANARY))
            return 0.0 if found is None else found.share
        except Missing:  # ended meanwhile
            return 0.0
        except AfinaError:  # not servable, or the store does not answer
            self.names.again(name)
            return 0.0
