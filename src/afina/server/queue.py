"""The fair queue of texts that wait to be computed, and the single thread that computes them in batches.

Clients take turns by tokens (start-time fair queueing): the client that has received the fewest tokens is next, and a
client that returns starts level with the others. So a client with few requests never waits for the whole queue of a
client with many. Knows no model and no protocol.
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
"""Seconds for which a client counts as active after its last request."""


@dataclass(eq=False)
class QueuedText:
    """A text in the queue.

    Attributes:
        client: name of the client.
        tokens: number of tokens.
        work: argument for the computing function.
        arrived: time of arrival, in seconds.
        until: time at which the text fails with TimeoutError, in seconds.
        request_id: passed unchanged to the batch listener; None: not traced.
        future: receives the outcome.
    """

    client: str
    tokens: int
    work: Any
    arrived: float
    until: float
    request_id: Any = None
    future: Future[Any] = field(default_factory=Future)


class FairQueue:
    """A queue that gives clients equal shares of tokens. Not thread-safe.

    Args:
        most: tokens of a batch while one client is active.
        shared: tokens of a batch while several clients are active.
        delay: how long the first text waits for others, in seconds.
        bound: tokens that may wait (`Settings.queue_tokens`).
    """

    def __init__(self, most: int, shared: int, delay: float, bound: int) -> None:
        self.most, self.shared, self.delay, self.bound = most, shared, delay, bound
        self._waiting: dict[str, OrderedDict[QueuedText, None]] = {}
        self._tokens: dict[str, int] = {}
        self._given: dict[str, int] = {}
        self._floor = 0
        self._seen: dict[str, float] = {}

    def offer(self, items: Sequence[QueuedText], speed: float, *, asks: bool = True) -> None:
        """Put texts of one client into the queue, all or none.

        Args:
            items: texts of one client.
            speed: tokens computed per second, to estimate when to retry.
            asks: whether the client counts as active, which makes batches smaller.

        Raises:
            Overloaded: the client's share of the queue is full. A client without waiting texts may exceed its share
                once.
        """
        client, asked = items[0].client, sum(item.tokens for item in items)
        clients = len(self._waiting.keys() | {client})
        mine = self._tokens.get(client, 0)
        if mine and mine + asked > self.bound // clients:
            raise Overloaded("the queue is full. Try again later.", self.tokens / max(speed, 1.0))
        if client not in self._waiting:
            self._waiting[client] = OrderedDict()
            self._given[client] = max(self._given.get(client, 0), self._floor)
        self._waiting[client].update(dict.fromkeys(items))
        self._tokens[client] = mine + asked
        if asks:
            self._seen[client] = max(item.arrived for item in items)

    @property
    def tokens(self) -> int:
        """Number of waiting tokens."""
        return sum(self._tokens.values())

    @property
    def texts(self) -> int:
        """Number of waiting texts."""
        return sum(map(len, self._waiting.values()))

    def texts_of(self, client: str) -> int:
        """Return the number of a client's waiting texts."""
        return len(self._waiting.get(client, ()))

    def budget(self, now: float) -> int:
        """Return the largest number of tokens of a batch made now."""
        self._seen = {client: when for client, when in self._seen.items() if now - when < MEMORY}
        return self.shared if len(self._seen) > 1 else self.most

    def due(self, now: float) -> float | None:
        """Return the seconds until the next batch should be made; None if no text waits."""
        if not self._waiting:
            return None
        if self.tokens >= self.budget(now):
            return 0.0
        oldest = min(next(iter(queue)).arrived for queue in self._waiting.values())
        return max(0.0, oldest + self.delay - now)

    def take(self, now: float) -> list[QueuedText]:
        """Remove and return the next batch: within the budget, but at least one text if any waits."""
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
        """Remove texts whose futures were cancelled."""
        for item in items:
            if item in self._waiting.get(item.client, ()):
                self._remove(item)

    def clear(self) -> list[QueuedText]:
        """Empty the queue and return its texts."""
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
"""Estimate of tokens per second before the first batch."""

LINE, COMPUTE, WATCH = "line", "compute", "watch"
"""Steps that may fail: taking the next batch, computing it, calling the batch listener."""


ENDING = "the server is shutting down. Try another server, or try again later."


class ComputedBatch(NamedTuple):
    """A batch that was computed.

    Attributes:
        tokens: tokens in the batch.
        texts: texts in the batch.
        budget: largest number of tokens of the batch.
        seconds: duration of the computation.
        asked: for each text with a `request_id`: that id, seconds in the queue, tokens.
        clients: for each text: its client, tokens.
    """

    tokens: int
    texts: int
    budget: int
    seconds: float
    asked: Sequence[tuple[Any, float, int]] = ()
    clients: Sequence[tuple[str, int]] = ()


class Batcher:
    """A thread that computes the queued texts in batches. Thread-safe. Only `close` ends the thread.

    Args:
        line: the queue.
        compute: returns the outcomes of works, in their order. If it raises, the error is the outcome of all of them.
        watch: batch listener.
        failed: called with the step that failed, and the error.
        clock: returns seconds.
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
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether new texts are computed."""
        return self._thread.is_alive() and not self._closing

    @property
    def ending(self) -> bool:
        """Whether new texts are refused."""
        return self._closing

    @property
    def waiting(self) -> tuple[int, int]:
        """Numbers of waiting tokens and texts."""
        with self._changed:
            return self._line.tokens, self._line.texts

    def waiting_of(self, client: str) -> int:
        """Return the number of a client's waiting texts."""
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
        """Put works into the queue, all or none. Return a future for each outcome.

        A future raises TimeoutError after `timeout` seconds. Works with cancelled futures are not computed.

        Args:
            client: name of the client.
            works: arguments for the computing function.
            tokens: number of tokens of each.
            timeout: seconds.
            asks: as in `FairQueue.offer`.
            request_id: as in `QueuedText`.

        Raises:
            Overloaded: the client's share of the queue is full.
            Busy: the batcher is closed.
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
        """Compute the next batch if one is due. Return whether there was one."""
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
            if len(outcomes) != len(batch):  # outcomes cannot be assigned to texts
                raise RuntimeError(f"{len(outcomes)} outcomes of {len(batch)} works")
        except BaseException as error:  # noqa: BLE001 - the futures receive any error
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
        except BaseException as error:  # noqa: BLE001 - a failing listener must not lose the answers
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
            except BaseException as error:  # noqa: BLE001 - without this thread, no request is answered
                self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        """Fail all waiting texts and empty the queue, because its state may be inconsistent."""
        with self._changed:
            waiting = self._line.clear()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                _settle(item.future, error=_passed_on(error))
        self._note(LINE, error)

    def give_up(self) -> None:
        """Refuse new texts. Waiting texts fail with Busy; the current batch is still computed."""
        with self._changed:
            self._closing = True
            waiting = self._line.clear()
            self._changed.notify()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                _settle(item.future, error=Busy(ENDING, code="server.ending"))

    def close(self) -> None:
        """Refuse new texts, and return when all waiting texts are computed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()


def _passed_on(error: BaseException) -> Exception:
    """Return an error that a future may raise: not one that would end the waiting thread, task or iteration."""
    if isinstance(error, Exception) and not isinstance(error, CancelledError | StopIteration):
        return error
    return RuntimeError(type(error).__name__)


def _settle(future: Future[Any], outcome: Any = None, error: BaseException | None = None) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(outcome)
