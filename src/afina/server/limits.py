"""How much a server takes, how fast and from whom: its settings, and each key's client, scopes and rate limit.

Follows the store's keys; knows no protocol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from afina.errors import InvalidData, InvalidName, InvalidStudy, NotFound, Overloaded
from afina.store import keys, publishing
from afina.store.keys import Key
from afina.store.reader import StoreReader
from afina.store.versions import Name, Reference


@dataclass(frozen=True)
class Settings:
    """Tokens are the backbone's, times are seconds.

    batch_tokens    computed at once while one client asks
    shared_tokens   the same while several do: less, so that nobody waits long for a batch of somebody else's texts; a
                    quiet client waits for at most one such batch and then for its own
    delay           for which a text waits for company where nothing is computed
    queue_tokens    that may wait, of a client alone; where several wait, each has its share of it
    timeout         after which a request is given up
    connections     that may be open, where the process may open twice as many files
    at_once         requests of a client that are being answered
    head_seconds    in which a request's head has to come
    body_bytes      of a request, or of a line of `/bulk`;  body_seconds  in which all of it has to come
    bytes_a_second  of bodies that a client's requests are read, once twice as many are; beyond, they are read later
    refusals_a_second  of a client that are answered at once, once four times as many are; beyond, within two seconds
    texts           in a request;  characters  of a text
    tokens_per_minute  that a client may ask for where its key says nothing; None: no limit
    writes_per_minute  aliases that a client may move
    every           in which the store is asked for news: so late is a moved alias, or a revoked key, noticed
    window          lines of a `/bulk` that are being answered
    drain           between SIGTERM and the end of listening: not ready, but answering;  shutdown  between SIGTERM and
                    the end of the process, draining included
    """

    batch_tokens: int = 1024
    shared_tokens: int = 64
    delay: float = 0.004
    queue_tokens: int = 65_536
    timeout: float = 30.0
    connections: int = 2000
    at_once: int = 256
    head_seconds: float = 10.0
    body_bytes: int = 1 << 20
    body_seconds: float = 10.0
    bytes_a_second: int = 2 << 20
    refusals_a_second: int = 50
    texts: int = 256
    characters: int = 100_000
    tokens_per_minute: int | None = None
    writes_per_minute: int = 30
    every: float = 0.4
    window: int = 64
    drain: float = 0.0
    shutdown: float = 25.0

    def __post_init__(self) -> None:
        for name in ("timeout", "drain", "shutdown"):
            if not math.isfinite(found := getattr(self, name)):
                raise InvalidStudy(
                    f"`{name}` is {found}. Give a number of seconds.", code="option.invalid", option=name
                )
        if not 0 <= self.drain < self.shutdown:
            raise InvalidStudy(
                f"`drain` is {self.drain:g} seconds, of a `shutdown` of {self.shutdown:g} in all. Draining has to be "
                "the shorter: lower `drain`, or raise `shutdown`.",
                code="option.invalid",
                options=["drain", "shutdown"],
            )


LITTLE = 512
"""Tokens that are counted at no cost worth speaking of, even for a key that has none left: so a request that is larger
than a small rate is told so at once.
"""


WRITES = "#writes"
"""Of a client, what is counted for changes of the store; no client is called so."""


class Tenants:
    """May be asked by many threads.

    rate    tokens a minute of a client whose key does not say; None: no limit
    writes  changes of the store a minute of a client
    """

    def __init__(self, store: StoreReader, rate: int | None, writes: int = 30) -> None:
        self._store, self._rate, self._writes = store, rate, writes
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._keys: dict[str, Key] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the keys anew."""
        found = self._store.keys()
        self._keys = {key.id: key for key in found}

    def whose(self, secret: str) -> Key | None:
        """The key, if there is such a one and it was not revoked."""
        key = self._keys.get(keys.id_of(secret) or "")
        return key if keys.matches(secret, key) else None

    def most(self, key: Key) -> int | None:
        """Tokens beyond which a request of a key is refused, so that no more are worth counting; None: no limit.

        Raises Overloaded where the key has none left.
        """
        if (rate := self._rate_of(key)) is None:
            return None
        item = RateLimitItemPerMinute(rate)
        left = self._limiter.get_window_stats(item, key.client, key.id).remaining
        if left < 1 and rate > LITTLE:
            raise self._spent(key, item)
        return max(left, min(rate, LITTLE))

    def spend(self, key: Key, tokens: int) -> None:
        """Count tokens of a key. Raises Overloaded where it has too few left, InvalidData where never so many."""
        if (rate := self._rate_of(key)) is None:
            return
        item = RateLimitItemPerMinute(rate)
        if tokens > rate:
            raise InvalidData(
                f"The texts have more than the key's {rate:,} tokens a minute. Send fewer or shorter texts.",
                code="request.beyond-rate",
                tokens_a_minute=rate,
            )
        if not self._limiter.hit(item, key.client, key.id, cost=tokens):
            raise self._spent(key, item)

    def write(self, key: Key) -> None:
        """Count a change of the store by a key. Raises Overloaded where it may make no more now."""
        item = RateLimitItemPerMinute(self._writes)
        if not self._limiter.hit(item, WRITES, key.client):
            wait = self._wait(item, WRITES, key.client)
            raise Overloaded(
                f"A client may move {item.amount} aliases a minute. Try again later.", wait, code="server.rate-exceeded"
            )

    def _rate_of(self, key: Key) -> int | None:
        return key.rate if key.rate is not None else self._rate

    def _spent(self, key: Key, item: RateLimitItemPerMinute) -> Overloaded:
        wait = self._wait(item, key.client, key.id)
        return Overloaded(
            f"the key's {item.amount:,} tokens a minute are spent. Try again later.", wait, code="server.rate-exceeded"
        )

    def _wait(self, item: RateLimitItemPerMinute, *of: str) -> float:
        """Seconds until there is something left."""
        reset = self._limiter.get_window_stats(item, *of).reset_time
        return max(1.0, min(60.0, reset - publishing._seconds()))


def reference_of(model: str, key: Key) -> Reference:
    """The reference that a client's key may ask for.

    Another client's name becomes one that no store has, so that it is looked for like any that is not there.
    Raises Missing for what is no reference.
    """
    try:
        asked = Reference.parse(model)
    except InvalidName:
        raise Missing() from None
    if asked.name.client == key.client:
        return asked
    return Reference(Name(f"#{key.client}", asked.name.task), asked.number, asked.alias)


NO_MODEL = "no such model"


class Missing(NotFound):
    """A name that is not to be had. Other errors of that kind are of a store that does not answer."""

    code = "server.model-missing"

    def __init__(self) -> None:
        super().__init__(NO_MODEL)
