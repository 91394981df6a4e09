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

Computing fewer waiting requests in one batch costs less than loading the adapter on another replica.
"""

SHARE = 2
"""A replica with this many more unfinished requests than another replica with the same adapter is not preferred."""

HELD, LIMITS = "held", "limits"  # routing statistics of a replica: affinity keys in its memory, and `RequestLimits`

_BODY = re.compile(rb'"models?"\s*:\s*\[?\s*"([^"\\]{1,200})"')


def model_of(path: str, query: bytes, body: bytes) -> str | None:
    """Return the (first) model that a request names in its path, query or JSON body, or None.

    The body is not parsed: a wrong result does no harm except loading an adapter on another replica.
    """
    if in_path := routes.model_of(path):
        return in_path
    if query and (named := parse_qs(query.decode("latin-1")).get("model")):
        return named[0]
    if in_body := _BODY.search(body):
        return in_body[1].decode("utf-8", "replace")
    return None


def affinity_key(model: str) -> str:
    """Return a digest of a model's name without version or alias, so that Ray's logs contain no names of clients."""
    return hashlib.blake2b(model.partition("@")[0].encode(), digest_size=8).hexdigest()


class RankedReplica(NamedTuple):
    """A replica that may answer a request."""

    name: str
    holds: bool  # whether the request's adapter is in the replica's memory
    load: int  # unfinished requests
    held: int = 0  # models of which an adapter is in the replica's memory


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
    by_rank = sorted(candidates, key=lambda replica: _rank(key, replica.name))
    by_load = sorted(by_rank, key=lambda replica: replica.load)
    if not key:
        return [replica.name for replica in by_load]
    free = [replica for replica in by_rank if replica.load - by_load[0].load < SPILL]
    holders = [replica for replica in free if replica.holds]
    if holders:
        least = min(replica.load for replica in holders)
        first = next(replica for replica in holders if replica.load - least < SHARE)
    else:
        first = min(free, key=lambda replica: replica.held)
    return [first.name, *(replica.name for replica in by_load if replica is not first)]


@dataclass(eq=False)
class Attempt:
    """A proxy's attempt to get a response to a request from a replica."""

    key: str | None = None  # the affinity key of the model; None: the request names no model
    repeats: bool = True  # whether another replica may get the request after the first one has failed
    target: str | None = None  # the replica that must answer; None: any replica
    sent: str | None = None  # the replica to which the request was last sent
    placed: str | None = None  # the replica that has accepted the request
    lost: bool = False  # whether the first replica failed and the request must not be repeated
    started: bool = False  # whether the client has been sent the beginning of a replica's response
    complete: bool = False
    media_type: bytes = b""
    events: int = 0  # server-sent events that were sent to the client


class RequestLimits(NamedTuple):
    """The fields of `Settings` that a proxy enforces too; the defaults apply until a replica has reported its own."""

    body_bytes: int = 256 << 20
    body_seconds: float = 30.0
    window: int = Settings.window

    @classmethod
    def of(cls, settings: Settings) -> RequestLimits:
        return cls(*(getattr(settings, name) for name in cls._fields))

    @classmethod
    def highest(cls, replicas: Iterable[Sequence[float]]) -> RequestLimits:
        """Return the highest of each request limit of the replicas: old and new ones differ during an update."""
        columns = [*zip(*replicas, strict=True)]
        return cls(*map(max, columns)) if columns else cls()


@dataclass(eq=False)
class ProxyState:
    """The state that the middleware and the router of a proxy share, which may run in different threads."""

    requests: dict[str, Attempt] = field(default_factory=dict)  # unfinished ones, by the request id for Ray Serve
    replicas: tuple[str, ...] = ()  # names
    late: frozenset[str] = frozenset()  # names of the replicas that do not respond to health checks
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


PROXY = ProxyState()  # of the proxy in this process
