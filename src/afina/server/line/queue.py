"""The fair queue of work items (texts and prompts) that wait for the computing thread.

- Clients share the computed tokens equally (start-time fair queueing). The client that has received the fewest tokens
  is next. A client that returns after a pause starts with the other clients' count of tokens. So a client with few
  requests never waits for the whole queue of a client with many requests.
- If a text is longer than a batch and can be computed in chunks or windows, the batch takes the first tokens of the
  text, and the other tokens become the client's next work item.
- Texts for one forward pass and prompts for generation have separate queues, since only generation waits for memory.
  Both count for the client's share.
- Background work items, such as the texts of shadow versions, are taken from the queue while no client waits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence

from afina.errors import Overloaded
from afina.generating.generation import chunk_size
from afina.server.line.work import GeneratedAnswer, Work

MEMORY = 30.0  # the seconds for which a client counts as active after its last request
PROMPTS = 8  # the largest number of prompts for generation that are taken from the queue at a time

LONGEST = 60.0
"""The largest estimate of the seconds until a request fits into the queue. OpenAI's clients ignore a longer wait."""

REMEMBERED = 30.0  # the time constant, in seconds of waiting, of the exponential average of a client's speed
GUESSED = 0.1  # the first guess of a client's speed counts as much as a measurement of this many seconds


class ClientSpeed:
    """The speed at which a client's tokens leave the queue while it waits; `guess` is that before any measurement."""

    def __init__(self, now: float, guess: float) -> None:
        self._seconds, self._tokens = GUESSED, GUESSED * guess
        self._since, self._left, self._gap = now, now, 0.0

    def wait(self, now: float) -> None:
        self._since = self._left = now

    def leave(self, tokens: int, now: float) -> None:
        self._pass(now)
        self._tokens += tokens
        if now > self._left:
            self._gap, self._left = now - self._left, now

    def come_back(self, tokens: int) -> None:
        self._tokens = max(0.0, self._tokens - tokens)

    def seconds(self, tokens: int, now: float) -> float:
        """Return an estimate, at most `LONGEST`, of the seconds until so many of the client's tokens have left."""
        self._pass(now)
        gap = max(self._gap, now - self._left)
        # The first works left at the beginning: works left once more often than there were gaps.
        return min(LONGEST, gap + tokens * (self._seconds + gap) / max(self._tokens, 1e-9))

    def _pass(self, now: float) -> None:
        passed = max(0.0, now - self._since)
        rest = math.exp(-passed / REMEMBERED)
        self._seconds, self._tokens, self._since = rest * self._seconds + passed, rest * self._tokens, now


LEAST = 16
"""The smallest number of tokens in a chunk of a text. A batch with a smaller chunk would not be worth its cost."""

Waiting = dict[str, OrderedDict[Work, None]]
"""The waiting work items of each client in the order of their arrival, without clients that have none."""


class FairQueue:
    """A queue of work items that gives clients equal shares of the computed tokens. Not thread-safe.

    Args:
        most: the largest number of tokens in a batch while one client is active.
        shared: the same while several clients are active.
        delay: the seconds that the first text waits for further texts that are announced (`Batcher.expecting`).
        bound: `Settings.queue_tokens`.
    """

    def __init__(self, most: int, shared: int, delay: float, bound: int) -> None:
        self.most, self.shared, self.delay, self.bound = most, shared, delay, bound
        self._texts: Waiting = {}
        self._prompts: Waiting = {}
        self._background: OrderedDict[Work, None] = OrderedDict()
        self._tokens: dict[str, int] = {}
        self._given: dict[str, int] = {}
        self._floor = 0
        self._seen: dict[str, float] = {}
        self._speeds: dict[str, ClientSpeed] = {}

    def offer(self, items: Sequence[Work], speed: float, *, asks: bool = True) -> None:
        """Put work items of one client into the queue, or none of them if they do not all fit.

        `speed`: the tokens that the server computes per second, until the client's own speed is measured. `asks`: the
        client counts as active. Raises Overloaded if the client's share is full; a client with nothing in the queue may
        exceed it.
        """
        client, asked, now = items[0].client, sum(item.tokens for item in items), items[0].arrived
        if items[0].in_background:
            if sum(item.tokens for item in self._background) + asked > self.bound:
                raise Overloaded("the queue is full. Try again later.", LONGEST)
            self._background |= dict.fromkeys(items)
            return
        clients = len(self._tokens.keys() | {client})
        mine = self._tokens.get(client, 0)
        if mine and (over := mine + asked - self.bound // clients) > 0:
            after = self._speeds[client].seconds(min(over, mine), now)
            raise Overloaded("the queue is full. Try again later.", after)
        if client not in self._tokens:
            self._given[client] = max(self._given.get(client, 0), self._floor)
            self._speeds.setdefault(client, ClientSpeed(now, speed / clients)).wait(now)
        for item in items:
            self._lane(item).setdefault(client, OrderedDict())[item] = None
        self._tokens[client] = mine + asked
        if asks:
            self._seen[client] = max(item.arrived for item in items)

    def _lane(self, item: Work) -> Waiting:
        return self._prompts if isinstance(item, GeneratedAnswer) else self._texts

    @property
    def tokens(self) -> int:
        return sum(self._tokens.values())

    @property
    def texts(self) -> int:
        return sum(map(len, [*self._texts.values(), *self._prompts.values()]))

    @property
    def prompts(self) -> int:
        return sum(map(len, self._prompts.values()))

    def budget(self, now: float) -> int:
        """Return the largest number of tokens that a batch may have at the time `now`."""
        self._seen = {client: when for client, when in self._seen.items() if now - when < MEMORY}
        if len(self._speeds) > len(self._seen) + len(self._tokens):
            self._speeds = {
                one: speed for one, speed in self._speeds.items() if one in self._seen or one in self._tokens
            }
        return self.shared if len(self._seen) > 1 else self.most

    def room_for_chunks(self, left: int, now: float) -> int:
        """Return how many of the `left` tokens of a batch may belong to chunks of long texts.

        While several clients are active, a quarter of each batch is kept free of chunks, so that a text that arrives
        while a chunk is computed waits for less time than a full batch takes.
        """
        budget = self.budget(now)
        return left if budget == self.most else left - budget // 4

    def due(self, now: float, *, expected: bool = True) -> float | None:
        """Return the seconds until work items should be taken; None: none waits. `expected`: texts wait for more."""
        if not self._texts and not self._prompts and self._background:
            return 0.0
        if self._prompts or (self._texts and (not expected or self.tokens >= self.budget(now))):
            return 0.0
        if not self._texts:
            return None
        oldest = min(next(iter(queue)).arrived for queue in self._texts.values())
        return max(0.0, oldest + self.delay - now)

    def take(self, now: float, opens: Callable[[Work], bool] = lambda item: True) -> list[Work]:
        """Take the next texts: as many as fit into a batch, but at least one. `Work.due` says how much of each.

        `opens` is called with a text before its first chunk is taken; if it returns False, the text waits.
        """
        return self._taken(self._texts, now, self.budget(now), opens=opens) or self._spare(now, opens=opens)

    def take_prompts(self, now: float, room: int | None = None, without: Collection[str] = ()) -> list[Work]:
        """Take the next prompts, but at least one, of other clients than `without`. `room`: None: the whole budget."""
        left = self.budget(now) if room is None else room
        return self._taken(self._prompts, now, left, PROMPTS, without=without) or self._spare(now, prompts=True)

    def _spare(
        self, now: float, opens: Callable[[Work], bool] = lambda item: True, *, prompts: bool = False
    ) -> list[Work]:
        """Return a small batch of background work items of one version; empty if a client's work item waits."""
        batch, left = list[Work](), self.shared
        if self._texts or self._prompts:
            return batch
        for item in [one for one in self._background if isinstance(one, GeneratedAnswer) is prompts]:
            count = _share(item, left, self.room_for_chunks(left, now), first=not batch)
            apart = bool(batch) and item.client != batch[0].client
            if apart or not count or (count < item.left and not item.taken and not opens(item)):
                break
            left -= item.cost(count)
            item.due, item.taken = count, item.taken + count
            batch.append(item)
            if item.left:
                break
            del self._background[item]
        return batch

    def _taken(
        self,
        lane: Waiting,
        now: float,
        left: int,
        most: int | None = None,
        opens: Callable[[Work], bool] = lambda item: True,
        without: Collection[str] = (),
    ) -> list[Work]:
        batch, clients = list[Work](), dict.fromkeys(client for client in lane if client not in without)
        while clients and len(batch) != most:
            client = min(clients, key=lambda one: self._given[one])
            item = next(iter(lane[client]))
            count = _share(item, left, self.room_for_chunks(left, now), first=not batch)
            if not count:
                break
            if count < item.left and not item.taken and not opens(item):
                del clients[client]
                continue
            self._floor = max(self._floor, min(self._given[one] for one in self._tokens))
            cost = item.cost(count)
            self._given[client] += cost
            self._tokens[client] -= count
            self._speeds[client].leave(count, now)
            left -= cost
            item.due, item.taken = count, item.taken + count
            batch.append(item)
            if item.left:
                break
            self._remove(item)
            if client not in lane:
                del clients[client]
        return batch

    def give_back(self, items: Sequence[Work]) -> None:
        """Put work items that were taken back into the queue, before all other work items of their clients."""
        for item in reversed(items):
            client, item.taken = item.client, 0
            if item.in_background:
                self._background[item] = None
                continue
            self._given[client] = self._given.get(client, self._floor) - item.tokens
            self._floor = min(self._floor, self._given[client])
            queue = self._lane(item).setdefault(client, OrderedDict())
            queue[item] = None
            queue.move_to_end(item, last=False)
            self._speeds.setdefault(client, ClientSpeed(item.arrived, 0.0)).come_back(item.tokens)
            self._tokens[client] = self._tokens.get(client, 0) + item.tokens

    def charge(self, tokens: Mapping[str, int], now: float) -> None:
        """Add generated tokens to each client's computed tokens. A client whose answers are generated stays active."""
        for client, count in tokens.items():
            self._given[client] = max(self._given.get(client, 0), self._floor) + count
            if client in self._seen:
                self._seen[client] = now
        if tokens:
            self._floor = max(self._floor, min(self._given[client] for client in tokens.keys() | self._tokens.keys()))

    def late(self, now: float) -> list[Work]:
        heads = [next(iter(queue)) for queue in self._prompts.values()]
        if not any(one.until <= now for one in heads):
            return []
        found = [one for queue in self._prompts.values() for one in queue if one.until <= now]
        self.forget(found)
        return found

    def forget(self, items: Sequence[Work]) -> None:
        for item in items:
            if item.in_background:
                self._background.pop(item, None)
            elif item in self._lane(item).get(item.client, ()):
                self._remove(item)

    def clear(self) -> list[Work]:
        waited = [item for lane in (self._texts, self._prompts) for queue in lane.values() for item in queue]
        waited += self._background
        self._background.clear()
        self._texts, self._prompts, self._tokens, self._given, self._floor = {}, {}, {}, {}, 0
        return waited

    def _remove(self, item: Work) -> None:
        lane, client = self._lane(item), item.client
        del lane[client][item]
        self._tokens[client] -= item.left
        if not lane[client]:
            del lane[client]
        if client not in self._texts and client not in self._prompts:
            del self._tokens[client]
            ahead = {one: had for one, had in self._given.items() if had > self._floor}
            self._given = ahead | {one: self._given[one] for one in self._tokens}


def _share(item: Work, left: int, room: int, *, first: bool) -> int:
    """Return the number of a work item's tokens that a batch takes; 0: the work item does not fit into the batch.

    `left`: the tokens that still fit, of which chunks of long texts may use `room`. `first`: the batch is empty yet, so
    that it takes at least one chunk or window.
    """
    if item.windows is not None:
        return _whole_windows(item, item.windows, left, room, first=first)
    if item.reach is None:
        return item.left if first or item.left <= left else 0
    if not item.taken and item.left < left + (LEAST if first else 1):
        return item.left
    if room < LEAST and not first:
        return 0
    return chunk_size(item.left, room, item.taken, item.reach)


def _whole_windows(item: Work, windows: Sequence[int], left: int, room: int, *, first: bool) -> int:
    """Return the number of tokens of the next windows of a text that fit into the batch; arguments as in `_share`."""
    if not item.taken and item.left <= left:
        return item.left
    count, place = 0, 0
    for size in windows:
        if place >= item.taken:
            if count + size > room and (count or not first):
                break
            count += size
        place += size
    return count
