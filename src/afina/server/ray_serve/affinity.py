"""Functions that choose a replica for a request, by the adapters in the replicas' memory and by their load.

The middleware and the router of an HTTP proxy run in the proxy's process, and share a `ProxyState`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs

from afina.server import routes
from afina.server.settings import Settings

SPILL = 4
"""A replica with this many more unfinished requests than the least busy replica is not preferred for its adapters.

A replica with fewer unfinished requests is preferred for its adapters, since computing a few waiting requests in one
batch costs less than loading the adapter on another replica.
"""

HELD = "held"
"""The name of the routing statistic with the affinity keys of the adapters in a replica's memory."""

SHARE = 2
"""A replica with this many more unfinished requests than another replica with the same adapter is not preferred."""

LIMITS = "limits"
"""The name of the routing statistic with the values of a replica's `RequestLimits`."""

_BODY = re.compile(rb'"models?"\s*:\s*\[?\s*"([^"\\]{1,200})"')


def model_of(path: str, query: bytes, body: bytes) -> str | None:
    """Return the model that a request names in its path, query or JSON body, or None if the request names no model.

    The body is searched without parsing the JSON, since a wrong result does no harm except loading an adapter on
    another replica. A request for several models counts as a request for the first model.
    """
    if in_path := routes.model_of(path):
        return in_path
    if query and (named := parse_qs(query.decode("latin-1")).get("model")):
        return named[0]
    if in_body := _BODY.search(body):
        return in_body[1].decode("utf-8", "replace")
    return None


def affinity_key(model: str) -> str:
    """Return the affinity key of a model, which is a digest of the model's name without version or alias.

    Ray's logs contain affinity keys, and so no names of clients.
    """
    name = model.partition("@")[0]
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


class RankedReplica(NamedTuple):
    """A replica that may answer a request.

    Attributes:
        holds: whether the replica has the request's adapter in memory.
        load: the number of the replica's unfinished requests.
        held: the number of models of which the replica has an adapter in memory.
    """

    name: str
    holds: bool
    load: int
    held: int = 0


def _rank(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}:{name}".encode(), digest_size=8).digest()


def ordered(key: str | None, candidates: Sequence[RankedReplica]) -> list[str]:
    """Return the names of replicas in the order in which they should be tried. `key`: None: in the order of their load.

    A replica is busy if it has at least `SPILL` more unfinished requests than the least busy replica.

    - If replicas that are not busy have the adapter in memory, one of them comes first. Rendezvous hashing chooses
      among them, except those with at least `SHARE` more unfinished requests than the least busy of them. Hashing,
      unlike the load, always chooses the same replica, so other replicas no longer use the adapter and evict it.
    - If no replica that is not busy has the adapter in memory, the replica with the fewest adapters comes first.
    - All replicas after the first are in the order of their load.
    """
    if not candidates:
        return []
    key = key or ""
    by_rank = sorted(candidates, key=lambda one: _rank(key, one.name))
    by_load = sorted(by_rank, key=lambda one: one.load)
    if not key:
        return [one.name for one in by_load]
    free = [one for one in by_rank if one.load - by_load[0].load < SPILL]
    holders = [one for one in free if one.holds]
    if holders:
        least = min(one.load for one in holders)
        first = next(one for one in holders if one.load - least < SHARE)
    else:
        first = min(free, key=lambda one: one.held)
    return [first.name, *(one.name for one in by_load if one is not first)]


@dataclass(eq=False)
class Attempt:
    """A proxy's attempt to get a response to a request from a replica.

    Attributes:
        key: the affinity key of the request's model. None: the request names no model.
        repeats: whether the request may be sent to a second replica after the first replica has failed.
        target: the replica that must answer. None: any replica may answer.
        sent: the replica to which the request was last sent. None: the request was not sent yet.
        placed: the replica that has accepted the request. None: no replica has accepted it yet.
        lost: whether the first replica failed and the request must not be repeated.
        started: whether the client has been sent the beginning of a replica's response.
        complete: whether the client has been sent the whole response.
        events: the number of server-sent events that were sent to the client.
    """

    key: str | None = None
    repeats: bool = True
    target: str | None = None
    sent: str | None = None
    placed: str | None = None
    lost: bool = False
    started: bool = False
    complete: bool = False
    media_type: bytes = b""
    events: int = 0


class RequestLimits(NamedTuple):
    """The limits on requests that a proxy enforces too: those fields of `Settings` that replicas report to the proxy.

    The defaults apply until a replica has reported, and are larger than those of `Settings`, since a replica may accept
    larger bodies than `Settings` allows by default.
    """

    body_bytes: int = 256 << 20
    body_seconds: float = 30.0
    window: int = Settings.window

    @classmethod
    def of(cls, settings: Settings) -> RequestLimits:
        return cls(*(getattr(settings, name) for name in cls._fields))

    @classmethod
    def highest(cls, found: Iterable[Sequence[float]]) -> RequestLimits:
        """Return the highest of each request limit of the replicas: old and new ones differ during an update."""
        columns = [*zip(*found, strict=True)]
        return cls(*map(max, columns)) if columns else cls()


@dataclass(eq=False)
class ProxyState:
    """The state that the middleware and the router of a proxy share, which may run in different threads.

    Attributes:
        requests: the unfinished attempts to send requests to replicas, by the request id made for Ray Serve.
        replicas: the names of all running replicas.
        late: the names of the replicas that do not respond to health checks.
    """

    requests: dict[str, Attempt] = field(default_factory=dict)
    replicas: tuple[str, ...] = ()
    late: frozenset[str] = frozenset()
    limits: RequestLimits = field(default_factory=RequestLimits)

    @property
    def responding(self) -> tuple[str, ...]:
        return tuple(name for name in self.replicas if name not in self.late)

    def is_computing(self, attempt: Attempt) -> bool:
        """Return whether a request that any replica may answer was accepted by a replica that is not late."""
        return attempt.target is None and attempt.placed is not None and attempt.placed not in self.late

    def has_another(self, attempt: Attempt) -> bool:
        """Return whether a request was sent to a late replica, and should be sent to another that responds."""
        elsewhere = attempt.repeats and attempt.target is None
        return elsewhere and attempt.sent in self.late and bool(self.responding)


PROXY = ProxyState()
"""The state of the proxy in this process."""
