"""Which replica should answer a request: the model of the request, and an order of replicas by residency and load.

Also the state that the middleware and the router of an HTTP proxy share: both live in the process of the proxy.
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
    """Return the model that a request names in its path, query or JSON body. None: no model.

    The text is not parsed as JSON: a wrong guess costs the loading of an adapter, and changes no answer. A request for
    several models counts as a request for the first one.
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

    All versions of a name have one key. Ray's logs and states contain the key, and no name of a client.
    """
    name = model.partition("@")[0]
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


class RankedReplica(NamedTuple):
    """A replica that may answer.

    Attributes:
        name: its name.
        holds: whether it has the adapter in memory.
        load: number of its unfinished requests.
        held: number of models whose adapters it has in memory.
    """

    name: str
    holds: bool
    load: int
    held: int = 0


def _rank(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}:{name}".encode(), digest_size=8).digest()


def ordered(key: str | None, candidates: Sequence[RankedReplica]) -> list[str]:
    """Return the names of replicas in the order in which they should be tried.

    A replica is busy if it has `SPILL` more requests than the least busy one. The first replica is one that holds the
    adapter and is not busy. If several do, the order of rendezvous hashing decides, and not their load, unless one has
    `SHARE` more requests: so copies of an adapter that are not needed get cold, and their memory is taken from them. If
    no such replica holds the adapter, the request spills over to the replica that holds the fewest adapters and is not
    busy.

    Args:
        key: key of the model. None: any replica is as good as another.
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
    """One try of a proxy to get an answer from a replica.

    Attributes:
        key: key of the request's model. None: no model.
        repeats: whether a second replica may get it, after the first one failed.
        target: name of the replica that has to answer. None: any.
        sent: name of the replica that the request was sent to last. None: no replica so far.
        placed: name of the replica that accepted the request. None: none did so far.
        lost: whether it needs a second replica that it may not get.
        started: whether a byte of a replica's answer was passed on.
        complete: whether the whole answer was passed on.
        media_type: media type of the answer.
        events: number of its server-sent events that were passed on.
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
    """Limits of requests that a proxy keeps too: those fields of the server's `Settings`, which replicas report.

    Until a replica is known, a proxy keeps limits of its own, since a replica may accept more than the defaults.
    """

    body_bytes: int = 256 << 20
    body_seconds: float = 30.0
    window: int = Settings.window

    @classmethod
    def of(cls, settings: Settings) -> RequestLimits:
        return cls(*(getattr(settings, name) for name in cls._fields))

    @classmethod
    def highest(cls, found: Iterable[Sequence[float]]) -> RequestLimits:
        """Return the highest limits of some replicas: during an update, old and new ones may differ."""
        columns = [*zip(*found, strict=True)]
        return cls(*map(max, columns)) if columns else cls()


@dataclass(eq=False)
class ProxyState:
    """State that the middleware and the router of a proxy share. They may run in different threads.

    Attributes:
        requests: attempts by the id that the middleware gave them.
        late: names of those that do not respond.
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
        """Return whether a replica that responds has accepted a request which any replica may answer."""
        return attempt.target is None and attempt.placed is not None and attempt.placed not in self.late

    def has_another(self, attempt: Attempt) -> bool:
        """Return whether a request is with a late replica, while another replica responds and may get it."""
        elsewhere = attempt.repeats and attempt.target is None
        return elsewhere and attempt.sent in self.late and bool(self.responding)


PROXY = ProxyState()
"""The state of this process."""
