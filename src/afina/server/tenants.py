"""Tenants: whose a key is, what it may do, and how much. Follows the store's keys; knows no protocol."""

from __future__ import annotations

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from afina.errors import InvalidData, InvalidName, Overloaded
from afina.server.missing import Missing
from afina.store import keys, publishing
from afina.store.keys import Key
from afina.store.reader import StoreReader
from afina.store.versions import Name, Reference

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
