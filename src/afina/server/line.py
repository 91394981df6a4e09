"""Line: what waits to be computed, of many clients, and what of it is next. Knows no clock, no thread and no model.

Clients take turns by tokens (start-time fair queueing: the one that has been given least is next, and who comes back
begins where the others are), so whoever asks for little never waits behind the whole queue of who asks for much.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from afina.errors import Overloaded

MEMORY = 30.0
"""Seconds for which a client counts as one who asks, after it has."""


@dataclass(eq=False)
class Item:
    """A text that waits.

    work     whatever computes it takes;  tokens  what it counts
    arrived  when it came, in seconds;  until  when it is given up
    of       whatever whoever asked is known by to who is told of batches; None: nothing
    """

    client: str
    tokens: int
    work: Any
    arrived: float
    until: float
    of: Any = None
    future: Future[Any] = field(default_factory=Future)


class Line:
    """One thread at a time.

    most, shared  tokens of a batch while one client asks, and while several do
    delay         seconds that the first waits for company
    bound         tokens that may wait, see `Settings.queue_tokens`
    """

    def __init__(self, most: int, shared: int, delay: float, bound: int) -> None:
        self.most, self.shared, self.delay, self.bound = most, shared, delay, bound
        self._waiting: dict[str, OrderedDict[Item, None]] = {}
        self._tokens: dict[str, int] = {}
        self._given: dict[str, int] = {}
        self._floor = 0
        self._seen: dict[str, float] = {}

    def offer(self, items: Sequence[Item], speed: float, *, asks: bool = True) -> None:
        """Let items of one client wait, all or none.

        speed  tokens a second that are computed, for what is said of when to come again
        asks   whether batches are to be smaller for a while because this one is there too
        Raises Overloaded where its share is taken. What is more than a whole share is taken where nothing waits.
        """
        client, asked = items[0].client, sum(item.tokens for item in items)
        clients = len(self._waiting.keys() | {client})
        mine = self._tokens.get(client, 0)
        if mine and mine + asked > self.bound // clients:
            raise Overloaded("too much is waiting already. Try again later.", self.tokens / max(speed, 1.0))
        if client not in self._waiting:
            self._waiting[client] = OrderedDict()
            self._given[client] = max(self._given.get(client, 0), self._floor)
        self._waiting[client].update(dict.fromkeys(items))
        self._tokens[client] = mine + asked
        if asks:
            self._seen[client] = max(item.arrived for item in items)

    @property
    def tokens(self) -> int:
        """That wait."""
        return sum(self._tokens.values())

    @property
    def texts(self) -> int:
        """That wait."""
        return sum(map(len, self._waiting.values()))

    def texts_of(self, client: str) -> int:
        """That wait, of a client."""
        return len(self._waiting.get(client, ()))

    def budget(self, now: float) -> int:
        """Tokens of a batch that is made now."""
        self._seen = {client: when for client, when in self._seen.items() if now - when < MEMORY}
        return self.shared if len(self._seen) > 1 else self.most

    def due(self, now: float) -> float | None:
        """Seconds until the next batch is to be made; None where nothing waits."""
        if not self._waiting:
            return None
        if self.tokens >= self.budget(now):
            return 0.0
        oldest = min(next(iter(queue)).arrived for queue in self._waiting.values())
        return max(0.0, oldest + self.delay - now)

    def take(self, now: float) -> list[Item]:
        """The next batch: at least one item where any waits, and no more than the budget has room for."""
        left, batch = self.budget(now), list[Item]()
        while self._waiting:
            client = min(self._waiting, key=lambda one: self._given[one])
            item = next(iter(self._waiting[client]))
            if batch and item.tokens > left:
                break
            self._floor = self._given[client]
            self._given[client] += item.tokens
            left -= item.tokens
            self._remove(item)
            batch.append(item)
        return batch

    def forget(self, items: Sequence[Item]) -> None:
        """Nobody waits for these any more."""
        for item in items:
            if item in self._waiting.get(item.client, ()):
                self._remove(item)

    def clear(self) -> list[Item]:
        """Be as new; what waited."""
        waited = [item for queue in self._waiting.values() for item in queue]
        self._waiting, self._tokens, self._given, self._floor = {}, {}, {}, 0
        return waited

    def _remove(self, item: Item) -> None:
        queue = self._waiting[item.client]
        del queue[item]
        self._tokens[item.client] -= item.tokens
        if not queue:
            del self._waiting[item.client], self._tokens[item.client]
            ahead = {client: had for client, had in self._given.items() if had > self._floor}
            self._given = ahead | {client: self._given[client] for client in self._waiting}
