"""Which replica should answer a request: the model of the request, and an order of replicas by residency and load.

Also the state that the middleware and the router of an HTTP proxy share: both live in the process of the proxy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

SPILL = 4
"""Requests that a replica may have more than the least busy one before requests for its adapters go elsewhere.

A few requests that wait are computed in one batch, which costs less than loading the adapter once more.
"""

HELD = "held"
"""Name of a replica's routing statistic: the keys of the adapters in its memory."""

SHARE = 2
"""Requests that a replica may have more than another one which holds the adapter too."""

_PATH = re.compile(r"^/(?:models|v1/models|v2/models|aliases|shadows)/([^/]+/[^/]+)")
_BODY = re.compile(rb'"models?"\s*:\s*\[?\s*"([^"\\]{1,200})"')


def model_of(path: str, query: bytes, body: bytes) -> str | None:
    """Return the model that a request names in its path, query or JSON body. None: no model.

    The text is not parsed as JSON: a wrong guess costs the loading of an adapter, and changes no answer. A request for
    several models counts as a request for the first one.
    """
    if found := _PATH.match(path):
        return unquote(found[1])
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
        candidates: the replicas.
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
class RoutedRequest:
    """A request that a proxy hands to a replica.

    Attributes:
        key: key of its model. None: no model.
        target: name of the replica that has to answer. None: any.
        placed: name of the replica that accepted the request. None: none did so far.
    """

    key: str | None = None
    target: str | None = None
    placed: str | None = None


@dataclass(eq=False)
class ProxyState:
    """State that the middleware and the router of a proxy share. They may run in different threads.

    Attributes:
        requests: requests by the id that the middleware gave them.
        replicas: names of the running replicas.
    """

    requests: dict[str, RoutedRequest] = field(default_factory=dict)
    replicas: tuple[str, ...] = ()


PROXY = ProxyState()
"""The state of this process."""
