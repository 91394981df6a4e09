"""Choose the replica for a request: its model, and an order of replicas by adapters in memory and load.

`ProxyState` is shared by the middleware and the router of an HTTP proxy, which run in the proxy's process.
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
"""Requests that a replica may have more than the least busy one before requests for its adapters go elsewhere.

A few requests that wait are computed in one batch, which costs less than loading the adapter once more.
"""

HELD = "held"
"""Name of a replica's routing statistic: the keys of the adapters in its memory."""

SHARE = 2
"""Requests that a replica may have more than another one which holds the adapter too."""

LIMITS = "limits"
"""Name of a replica's routing statistic: the values of its `RequestLimits`."""

_BODY = re.compile(rb'"models?"\s*:\s*\[?\s*"([^"\\]{1,200})"')


def model_of(path: str, query: bytes, body: bytes) -> str | None:
    """Return the model that a request names in its path, query or JSON body. None: the request names no model.

    The body is searched without parsing the JSON: a wrong guess only loads an adapter unnecessarily. A request for
    several models counts as a request for the first model.
    """
    if in_path := routes.model_of(path):
        return in_path
    if query and (named := parse_qs(query.decode("latin-1")).get("model")):
        return named[0]
    if in_body := _BODY.search(body):
        return in_body[1].decode("utf-8", "replace")
    return None


def affinity_key(model: str) -> str:
    """Return the key of a model: a digest of its name without version or alias.

    All versions of a name have the same key. Ray's logs and states contain the key, and no client's name.
    """
    name = model.partition("@")[0]
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


class RankedReplica(NamedTuple):
    """A replica that may answer a request.

    Attributes:
        name: name of the replica.
        holds: whether the replica has the adapter in memory.
        load: number of the replica's unfinished requests.
        held: number of models whose adapters the replica has in memory.
    """

    name: str
    holds: bool
    load: int
    held: int = 0


def _rank(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}:{name}".encode(), digest_size=8).digest()


def ordered(key: str | None, candidates: Sequence[RankedReplica]) -> list[str]:
    """Return the names of replicas in the order in which they should be tried.

    A replica is busy if it has `SPILL` more requests than the replica with the fewest. A replica that has the adapter
    in memory and is not busy comes first. Among several, rendezvous hashing decides and not the load, unless one has
    `SHARE` more requests: so unneeded copies of an adapter are no longer used, and are evicted from memory. If no such
    replica has the adapter, the replica with the fewest adapters that is not busy comes first.

    Args:
        key: affinity key of the model. None: all replicas are equally good.
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
    """A proxy's attempt to get an answer from a replica.

    Attributes:
        key: affinity key of the request's model. None: no model.
        repeats: whether the request may be sent to a second replica after the first has failed.
        target: name of the replica that must answer. None: any replica.
        sent: name of the replica to which the request was last sent. None: no replica so far.
        placed: name of the replica that has accepted the request. None: no replica so far.
        lost: whether the first replica failed and the request may not be repeated.
        started: whether a byte of a replica's answer was sent to the client.
        complete: whether the whole answer was sent to the client.
        media_type: media type of the answer.
        events: number of server-sent events that were sent to the client.
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
    """Limits of requests that a proxy also enforces: fields of the server's `Settings`, reported by replicas.

    Before a replica is known, a proxy enforces larger limits, since a replica may accept more than the defaults.
    """

    body_bytes: int = 256 << 20
    body_seconds: float = 30.0
    window: int = Settings.window

    @classmethod
    def of(cls, settings: Settings) -> RequestLimits:
        return cls(*(getattr(settings, name) for name in cls._fields))

    @classmethod
    def highest(cls, found: Iterable[Sequence[float]]) -> RequestLimits:
        """Return the highest limits of the replicas: during an update, old and new replicas may differ."""
        columns = [*zip(*found, strict=True)]
        return cls(*map(max, columns)) if columns else cls()


@dataclass(eq=False)
class ProxyState:
    """The state that the middleware and the router of a proxy share. They may run in different threads.

    Attributes:
        requests: attempts by the request id that the middleware made.
        late: names of the replicas that do not respond.
    """

    requests: dict[str, Attempt] = field(default_factory=dict)
    replicas: tuple[str, ...] = ()
    late: frozenset[str] = frozenset()
    limits: RequestLimits = field(default_factory=RequestLimits)

    @property
    def responding(self) -> tuple[str, ...]:
        """Names of the replicas that respond."""
        return tuple(name for name in self.replicas if name not in self.late)

    def is_computing(self, attempt: Attempt) -> bool:
        """Return whether a responding replica has accepted an attempt that any replica may answer."""
        return attempt.target is None and attempt.placed is not None and attempt.placed not in self.late

    def has_another(self, attempt: Attempt) -> bool:
        """Return whether a request is at a late replica, while another replica responds and may get the request."""
        elsewhere = attempt.repeats and attempt.target is None
        return elsewhere and attempt.sent in self.late and bool(self.responding)


PROXY = ProxyState()
"""The state of this process."""
