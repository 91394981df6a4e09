"""Authentication and rate limits: the client, scopes and rate limit of each API key, read from the store."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from afina import meter
from afina.errors import InvalidName, NotFound, Overloaded
from afina.server import problems
from afina.server.settings import Settings
from afina.store import api_keys
from afina.store.api_keys import Key
from afina.store.reader import StoreReader
from afina.store.versions import Name, Reference, Version

LITTLE = 512
"""A request is tokenized up to this number of tokens even if its key has fewer tokens left.

So a request that exceeds a small rate limit is refused with the right error (InvalidData).
"""


WRITES = "#writes"
"""The first part of the names of the rate limits on changes of the store. No client can have the name `#writes`."""

MINUTE = 60.0
"""The seconds for which an amount of tokens or writes counts for a rate limit."""


@dataclass(eq=False)
class Counted:
    amount: int
    until: float


class MinuteWindow:
    """A sliding window log: the amounts of tokens or writes that were counted in the last minute. Not thread-safe.

    The package `limits` cannot subtract from a counted amount, or tell when a further amount fits into the rate limit.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._log: deque[Counted] = deque()
        self._total = 0

    @property
    def total(self) -> int:
        while self._log and self._log[0].until <= self._clock():
            over = self._log.popleft()
            self._total -= over.amount
            over.amount = 0
        return self._total

    def count(self, amount: int) -> Counted:
        counted = Counted(amount, self._clock() + MINUTE)
        self._log.append(counted)
        self._total += amount
        return counted

    def give_back(self, counted: Counted, amount: int) -> None:
        """Subtract `amount` from a counted amount. An amount that is older than a minute is 0 and stays 0."""
        amount = min(amount, counted.amount)
        counted.amount -= amount
        self._total -= amount

    def wait(self, room: int) -> float:
        """Return the seconds until the sum of the amounts is at most `room`, if nothing else is counted."""
        left, now = self.total, self._clock()
        if left <= room:
            return 0.0
        for one in self._log:
            left -= one.amount
            if left <= room:
                return max(0.0, one.until - now)
        return MINUTE


@dataclass(frozen=True)
class Reservation:
    """The `tokens` that count for a request at first. `window` is None if the key has no rate limit."""

    tenants: Tenants
    tokens: int
    window: MinuteWindow | None
    counted: Counted

    def give_back(self, tokens: int | None = None) -> None:
        """Stop counting `tokens` that were not computed; None: all tokens of the reservation. Thread-safe."""
        if self.window is not None:
            self.tenants.give_back(self.window, self.counted, self.counted.amount if tokens is None else tokens)


class _KnownKeys(NamedTuple):
    """The API keys that the server has read from the store, by id.

    `last` is the number of the audit log's last entry before the keys were read, and `at` the time of the last look.
    """

    by_id: Mapping[str, Key]
    last: int
    at: float


class Tenants:
    """The API keys of the store, with the tokens and writes that count for their rate limits. Thread-safe."""

    def __init__(self, store: StoreReader, settings: Settings, *, clock: Callable[[], float] = meter.now) -> None:
        self._store, self._clock = store, clock
        self._rate, self._writes = settings.tokens_per_minute, settings.writes_per_minute
        self._hold = settings.key_seconds
        self._windows: dict[tuple[str, ...], MinuteWindow] = {}
        self._lock = threading.Lock()
        self._known = _KnownKeys({}, -1, 0.0)
        self.refresh()

    def refresh(self) -> None:
        """Read the API keys again if the store has changed. Raises the errors of reading the store."""
        known, now = self._known, self._clock()
        last, _ = self._store.news(known.last, ())
        by_id = known.by_id
        if last != known.last:
            found = self._store.keys()
            by_id = {key.id: key for key in found}
        self._known = _KnownKeys(by_id, last, now)  # at once: another thread may refresh at the same time

    def key_of(self, secret: str) -> Key | None:
        """Return the API key with a given secret, or None if the key does not exist or is not valid any more.

        Raises Busy if the store has not responded for `Settings.key_seconds`.
        """
        key = self._by_id().get(api_keys.id_of(secret) or "")
        return key if api_keys.matches(secret, key) else None

    def holds(self, key: Key) -> bool:
        """Return whether a key that was valid when a request began is still valid. Raises Busy as `key_of` does."""
        found = self._by_id().get(key.id)
        return found is not None and found.is_valid

    def _by_id(self) -> Mapping[str, Key]:
        """Raises Busy if the store has not responded for `Settings.key_seconds`: a key may have been revoked since."""
        known = self._known
        if self._clock() - known.at > self._hold:
            raise problems.KEYS_UNKNOWN(seconds=self._hold)
        return known.by_id

    def rate_of(self, key: Key) -> int | None:
        """Return the rate limit of an API key in tokens a minute; None: no limit."""
        return key.rate if key.rate is not None else self._rate

    def most(self, key: Key, expected: int = 1) -> int | None:
        """Return the number of tokens above which a request with an API key is refused; None: no limit.

        `expected`: an upper bound of the request's tokens. Raises Overloaded if the key has no tokens left in this
        minute.
        """
        if (rate := self.rate_of(key)) is None:
            return None
        with self._lock:
            window = self._window(key.client, key.id)
            left = rate - window.total
            if left < 1 and rate > LITTLE:
                raise self._spent(window, rate, expected)
        return max(left, min(rate, LITTLE))

    def reserve(self, key: Key, tokens: int, uncounted: int = 0, fewest: int | None = None) -> Reservation:
        """Count, for the key's rate limit, the tokens that a request may need. Called before anything is computed.

        `uncounted`: an upper bound of the tokens of those texts of the request that were not tokenized. `fewest`: the
        number that the request needs at least, if fewer than `tokens` are left; None: `tokens`. Raises Overloaded if
        too few tokens are left in this minute, and InvalidData for more than in any minute.
        """
        if (rate := self.rate_of(key)) is None:
            return Reservation(self, tokens, None, Counted(0, 0.0))
        fewest = tokens if fewest is None else fewest
        if fewest > rate:
            raise problems.BEYOND_RATE(_more=" or more" if uncounted else "", tokens=fewest, tokens_a_minute=rate)
        with self._lock:
            window = self._window(key.client, key.id)
            if uncounted or window.total + fewest > rate:
                raise self._spent(window, rate, fewest + uncounted)
            tokens = min(tokens, rate - window.total)
            return Reservation(self, tokens, window, window.count(tokens))

    def give_back(self, window: MinuteWindow, counted: Counted, tokens: int) -> None:
        with self._lock:
            window.give_back(counted, tokens)

    def write(self, key: Key) -> None:
        """Count a change of a key in the store. Raises Overloaded if its client has made too many in a minute."""
        with self._lock:
            window = self._window(WRITES, key.client)
            if window.total >= self._writes:
                raise Overloaded(
                    f"A client may make {self._writes} changes a minute. Try again later.",
                    window.wait(self._writes - 1),
                    code="server.rate-exceeded",
                )
            window.count(1)

    def _window(self, *name: str) -> MinuteWindow:
        if name not in self._windows:
            self._windows = {one: window for one, window in self._windows.items() if window.total}
            self._windows[name] = MinuteWindow(self._clock)
        return self._windows[name]

    def _spent(self, window: MinuteWindow, rate: int, tokens: int) -> Overloaded:
        return Overloaded(
            f"the key's limit of {rate} tokens a minute is used up. Try again later.",
            window.wait(max(0, rate - tokens)),
            code="server.rate-exceeded",
        )


def reference_of(model: str, key: Key) -> Reference:
    """Return the reference in the store for the model name of a request. Raises Missing for a malformed name.

    If the name belongs to another client than the API key, the reference has a name that no store contains, so that
    responses do not show whether another client's model exists.
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
    """Raised if the client of the API key has no such model.

    In the server, a NotFound error that is not a Missing error means that the store does not respond.
    """

    code = "server.model-missing"

    def __init__(self, message: str = NO_MODEL) -> None:
        super().__init__(message)


class OtherBackbone(Missing):
    """Raised if a version of an adapter was made for another backbone than the server's."""

    code = "server.other-backbone"

    def __init__(self, version: Version, backbone: str) -> None:
        super().__init__(
            f"{NO_MODEL} here: this server has the backbone {backbone}, and {version} was made for another."
        )
