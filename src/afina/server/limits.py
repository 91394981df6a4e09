"""Settings of the server, and authentication: each key's client, scopes and rate limit.

Follows the keys in the store. Knows no protocol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from afina.errors import InvalidData, InvalidName, InvalidStudy, NotFound, Overloaded
from afina.server.error_bodies import NO_MODEL
from afina.store import keys, publishing
from afina.store.keys import Key
from afina.store.reader import StoreReader
from afina.store.versions import Name, Reference


@dataclass(frozen=True)
class Settings:
    """Limits of a server. Tokens are tokens of the backbone; times are seconds.

    Attributes:
        batch_tokens: tokens of a batch while a single client sends requests.
        shared_tokens: tokens of a batch while several clients do. Smaller, so that a client with few requests waits for
            at most one short batch of other clients.
        delay: how long a text waits for others before a batch starts, while nothing is being computed.
        queue_tokens: tokens that may wait. If several clients wait, each has an equal share.
        timeout: time after which a request fails.
        generation_timeout: time after which a generated answer fails.
        max_new_tokens: tokens of a generated answer. Also the limit of answers for which the request names none.
        choices: generated answers to a text (`n` in OpenAI's protocol).
        logprobs: most probable tokens that are reported at each step of a generated answer.
        connections: open connections. At most half of the files that the process may open.
        at_once: open requests of one client.
        head_seconds: time for a request's head to arrive.
        body_bytes: bytes of a request, or of a line of `/bulk`.
        body_seconds: time for a request's body to arrive.
        bytes_a_second: bytes of bodies read per second and client, with a burst of twice as many. Further bytes wait.
        refusals_a_second: refusals sent at once per second and client, with a burst of four times as many. Further ones
            wait for at most two seconds.
        texts: texts of a request.
        characters: characters of a text.
        tokens_per_minute: rate limit of keys without their own; None: no limit.
        writes_per_minute: aliases that a client may move in a minute.
        every: interval of looking for changes in the store, and so the longest delay of a moved alias or revoked key.
        window: lines of a `/bulk` request that are being answered.
        drain: time between SIGTERM and the end of listening. The server answers but is not ready.
        shutdown: time between SIGTERM and the end of the process, draining included.
    """

    batch_tokens: int = 1024
    shared_tokens: int = 64
    delay: float = 0.004
    queue_tokens: int = 65_536
    timeout: float = 30.0
    generation_timeout: float = 120.0
    max_new_tokens: int = 1024
    choices: int = 8
    logprobs: int = 20
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
        for name in ("timeout", "generation_timeout", "drain", "shutdown"):
            if not math.isfinite(found := getattr(self, name)):
                raise InvalidStudy(
                    f"`{name}` is {found}, not a finite number. Give a number of seconds.",
                    code="option.invalid",
                    option=name,
                )
        if not 0 <= self.drain < self.shutdown:
            raise InvalidStudy(
                f"`drain` is {self.drain:g} seconds and `shutdown` is {self.shutdown:g}. `drain` must be at least 0 "
                "and less than `shutdown`: lower `drain`, or raise `shutdown`.",
                code="option.invalid",
                options=["drain", "shutdown"],
            )


LITTLE = 512
"""Tokens that are counted even if the key has none left, at negligible cost.

So a request larger than a small rate limit is refused for the right reason at once.
"""


WRITES = "#writes"
"""Namespace of the rate limit for changes of the store. It cannot be the name of a client."""


class Tenants:
    """Keys of the store, with rate limits. Thread-safe.

    Args:
        store: the store with the keys.
        rate: tokens per minute for keys without their own limit; None: no limit.
        writes: changes of the store per minute and client.
    """

    def __init__(self, store: StoreReader, rate: int | None, writes: int = 30) -> None:
        self._store, self._rate, self._writes = store, rate, writes
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._keys: dict[str, Key] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the keys from the store again."""
        found = self._store.keys()
        self._keys = {key.id: key for key in found}

    def key_of(self, secret: str) -> Key | None:
        """Return the key with this secret; None if there is none, or it was revoked."""
        key = self._keys.get(keys.id_of(secret) or "")
        return key if keys.matches(secret, key) else None

    def most(self, key: Key) -> int | None:
        """Return the number of tokens above which a request of the key is refused; None: no limit.

        The caller can stop counting tokens above this number. Raises Overloaded if the key has no tokens left.
        """
        if (rate := self._rate_of(key)) is None:
            return None
        item = RateLimitItemPerMinute(rate)
        left = self._limiter.get_window_stats(item, key.client, key.id).remaining
        if left < 1 and rate > LITTLE:
            raise self._spent(key, item)
        return max(left, min(rate, LITTLE))

    def spend(self, key: Key, tokens: int) -> None:
        """Subtract tokens from the key's rate limit.

        Raises:
            Overloaded: the key has too few tokens left in this minute.
            InvalidData: the request has more tokens than the key may send in any minute.
        """
        if (rate := self._rate_of(key)) is None:
            return
        item = RateLimitItemPerMinute(rate)
        if tokens > rate:
            raise InvalidData(
                f"The texts exceed the key's limit of {rate:,} tokens a minute. Send fewer or shorter texts.",
                code="request.beyond-rate",
                tokens_a_minute=rate,
            )
        if not self._limiter.hit(item, key.client, key.id, cost=tokens):
            raise self._spent(key, item)

    def charge(self, key: Key, tokens: int) -> None:
        """Subtract tokens that were generated, as far as the key has tokens left: the answer is there already."""
        if (rate := self._rate_of(key)) is not None:
            item = RateLimitItemPerMinute(rate)
            left = self._limiter.get_window_stats(item, key.client, key.id).remaining
            self._limiter.hit(item, key.client, key.id, cost=min(left, tokens))

    def write(self, key: Key) -> None:
        """Count a change of the store by a key. Raises Overloaded if the client may make no more changes now."""
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
            f"the key's limit of {item.amount:,} tokens a minute is used up. Try again later.",
            wait,
            code="server.rate-exceeded",
        )

    def _wait(self, item: RateLimitItemPerMinute, *of: str) -> float:
        """Return the seconds until the limit allows something again."""
        reset = self._limiter.get_window_stats(item, *of).reset_time
        return max(1.0, min(60.0, reset - publishing._seconds()))


def reference_of(model: str, key: Key) -> Reference:
    """Return the reference that a model name stands for, as far as the key may use it.

    Raises Missing for malformed names.

    A name of another client becomes a name that no store has. So the answer does not show whether that name exists.
    """
    try:
        asked = Reference.parse(model)
    except InvalidName:
        raise Missing() from None
    if asked.name.client == key.client:
        return asked
    return Reference(Name(f"#{key.client}", asked.name.task), asked.number, asked.alias)


class Missing(NotFound):
    """The key's client has no such model. Other NotFound errors mean that the store does not respond."""

    code = "server.model-missing"

    def __init__(self) -> None:
        super().__init__(NO_MODEL)
