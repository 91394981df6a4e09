"""The queue of texts of many clients that wait to be computed, and the one thread that computes them in batches.

Clients take turns by tokens (start-time fair queueing: the one that has been given least is next, and who comes back
begins where the others are), so whoever asks for little never waits behind the whole queue of who asks for much. Knows
no model and no protocol.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from afina import meter
from afina.errors import Busy, Overloaded

MEMORY = 30.0
"""Seconds for which a client counts as one who asks, after it has."""


@dataclass(eq=False)
class QueuedText:
    """A text that waits.

    work        whatever computes it takes;  tokens  what it counts
    arrived     when it came, in seconds;  until  when it is given up
    request_id  passed unchanged to the batch listener; None: nothing
    """

    client: str
    tokens: int
    work: Any
    arrived: float
    until: float
    request_id: Any = None
    future: Future[Any] = field(default_factory=Future)


class FairQueue:
    """One thread at a time.

    most, shared  tokens of a batch while one client asks, and while several do
    delay         seconds that the first waits for company
    bound         tokens that may wait, see `Settings.queue_tokens`
    """

    def __init__(self, most: int, shared: int, delay: float, bound: int) -> None:
        self.most, self.shared, self.delay, self.bound = most, shared, delay, bound
        self._waiting: dict[str, OrderedDict[QueuedText, None]] = {}
        self._tokens: dict[str, int] = {}
        self._given: dict[str, int] = {}
        self._floor = 0
        self._seen: dict[str, float] = {}

    def offer(self, items: Sequence[QueuedText], speed: float, *, asks: bool = True) -> None:
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

    def take(self, now: float) -> list[QueuedText]:
        """The next batch: at least one item where any waits, and no more than the budget has room for."""
        left, batch = self.budget(now), list[QueuedText]()
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

    def forget(self, items: Sequence[QueuedText]) -> None:
        """Nobody waits for these any more."""
        for item in items:
            if item in self._waiting.get(item.client, ()):
                self._remove(item)

    def clear(self) -> list[QueuedText]:
        """Be as new; what waited."""
        waited = [item for queue in self._waiting.values() for item in queue]
        self._waiting, self._tokens, self._given, self._floor = {}, {}, {}, 0
        return waited

    def _remove(self, item: QueuedText) -> None:
        queue = self._waiting[item.client]
        del queue[item]
        self._tokens[item.client] -= item.tokens
        if not queue:
            del self._waiting[item.client], self._tokens[item.client]
            ahead = {client: had for client, had in self._given.items() if had > self._floor}
            self._given = ahead | {client: self._given[client] for client in self._waiting}


FIRST_SPEED = 500.0
"""Tokens a second, before anything was computed."""

LINE, COMPUTE, WATCH = "line", "compute", "watch"
"""What may fail: taking the next batch, computing it, telling of it."""


ENDING = "the server is shutting down. Try another, or later."


class ComputedBatch(NamedTuple):
    """A batch that was computed: tokens and texts in it, the tokens that it had room for, seconds that it took.

    asked    of each text of somebody who is known by something: that, seconds that it waited, tokens
    clients  of each text: whose it is, tokens
    """

    tokens: int
    texts: int
    budget: int
    seconds: float
    asked: Sequence[tuple[Any, float, int]] = ()
    clients: Sequence[tuple[str, int]] = ()


class Batcher:
    """May be asked by many threads; what is asked is computed by one of its own, which nothing ends but `close`.

    compute  works to their outcomes, in their order; what it raises is the outcome of them all
    watch    is told of every batch;  failed  of what failed, and by what
    clock    seconds
    """

    def __init__(
        self,
        line: FairQueue,
        compute: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        watch: Callable[[ComputedBatch], None] = lambda computed: None,
        failed: Callable[[str, BaseException], None] = lambda what, error: None,
        clock: Callable[[], float] = meter.now,
    ) -> None:
        self._line, self._compute, self._watch, self._clock = line, compute, watch, clock
        self._failed = failed
        self._changed = threading.Condition()
        self._closing = False
        self._speed = FIRST_SPEED
        self._thread = threading.Thread(target=self._run, name="afina-inference", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it computes what is asked."""
        return self._thread.is_alive() and not self._closing

    @property
    def ending(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing

    @property
    def waiting(self) -> tuple[int, int]:
        """Tokens and texts that wait."""
        with self._changed:
            return self._line.tokens, self._line.texts

    def waiting_of(self, client: str) -> int:
        """Texts of a client that wait."""
        with self._changed:
            return self._line.texts_of(client)

    def submit(
        self,
        client: str,
        works: Sequence[Any],
        tokens: Sequence[int],
        timeout: float,
        *,
        asks: bool = True,
        request_id: Any = None,
    ) -> Sequence[Future[Any]]:
        """Let works wait, all or none; of each, a future of its outcome, which raises TimeoutError after `timeout`.

        asks: as in `FairQueue.offer`; request_id: as in `QueuedText`.
        Raises Overloaded where no more may wait, Busy once it is closed. A future that is cancelled is not computed.
        """
        now = self._clock()
        pairs = zip(works, tokens, strict=True)
        items = [QueuedText(client, count, work, now, now + timeout, request_id) for work, count in pairs]
        with self._changed:
            if self._closing:
                raise Busy(ENDING, code="server.ending")
            self._line.offer(items, self._speed, asks=asks)
            self._changed.notify()
        for item in items:
            item.future.add_done_callback(lambda done, item=item: self._given_up(item))  # type: ignore[misc]
        return [item.future for item in items]

    def _given_up(self, item: QueuedText) -> None:
        if item.future.cancelled():
            with self._changed:
                self._line.forget([item])

    def step(self) -> bool:
        """Compute the batch that is due; whether there was one."""
        with self._changed:
            now = self._clock()
            if self._line.due(now) != 0.0 and not self._closing:
                return False
            budget, batch = self._line.budget(now), self._line.take(now)
        late = [item for item in batch if item.until <= now]
        for item in late:
            _settle(item.future, error=TimeoutError())
        # from here on, no future can be cancelled
        batch = [item for item in batch if item not in late and item.future.set_running_or_notify_cancel()]
        if not batch:
            return bool(late)
        try:
            outcomes = self._compute([item.work for item in batch])
            if len(outcomes) != len(batch):  # nobody knows whose they are
                raise RuntimeError(f"{len(outcomes)} outcomes of {len(batch)} works")
        except BaseException as error:  # noqa: BLE001 - whatever it is, who asked is told
            for item in batch:
                _settle(item.future, error=_passed_on(error))
            self._note(COMPUTE, error)
            return True
        self._tell(batch, budget, now)
        for item, outcome in zip(batch, outcomes, strict=True):
            _settle(item.future, outcome)
        return True

    def _tell(self, batch: Sequence[QueuedText], budget: int, began: float) -> None:
        try:
            seconds, tokens = self._clock() - began, sum(item.tokens for item in batch)
            self._speed += 0.1 * (tokens / max(seconds, 1e-6) - self._speed)
            asked = tuple(
                (item.request_id, began - item.arrived, item.tokens) for item in batch if item.request_id is not None
            )
            clients = tuple((item.client, item.tokens) for item in batch)
            self._watch(ComputedBatch(tokens, len(batch), budget, seconds, asked, clients))
        except BaseException as error:  # noqa: BLE001 - the answers are right whoever is told of them
            self._note(WATCH, error)

    def _note(self, what: str, error: BaseException) -> None:
        with suppress(BaseException):
            self._failed(what, error)

    def _run(self) -> None:
        while True:
            try:
                with self._changed:
                    due = self._line.due(self._clock())
                    if due is None and self._closing:
                        return
                    if due != 0.0 and not self._closing:
                        self._changed.wait(due)
                self.step()
            except BaseException as error:  # noqa: BLE001 - without this thread, nothing is answered any more
                self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        """Give up all that waits, since the line may not be what it was; what comes from now on has a new one."""
        with self._changed:
            waiting = self._line.clear()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                _settle(item.future, error=_passed_on(error))
        self._note(LINE, error)

    def give_up(self) -> None:
        """Take nothing more; what waits raises Busy, and what is being computed is computed."""
        with self._changed:
            self._closing = True
            waiting = self._line.clear()
            self._changed.notify()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                _settle(item.future, error=Busy(ENDING, code="server.ending"))

    def close(self) -> None:
        """Take nothing more, and come back once all that was taken is computed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()


def _passed_on(error: BaseException) -> Exception:
    """An error that whoever waits can be given: not one that would end its own thread, task or iteration."""
    if isinstance(error, Exception) and not isinstance(error, CancelledError | StopIteration):
        return error
    return RuntimeError(type(error).__name__)


def _settle(future: Future[Any], outcome: Any = None, error: BaseException | None = None) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(outcome)
