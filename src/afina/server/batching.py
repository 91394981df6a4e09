"""Batching: the one thread that computes, and batches for it. Knows no model and no protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, NamedTuple

from afina import meter
from afina.errors import Busy
from afina.server.line import Item, Line

FIRST_GUESS = 500.0
"""Tokens a second, before anything was computed."""

LINE, COMPUTE, WATCH = "line", "compute", "watch"
"""What may fail: taking the next batch, computing it, telling of it."""


ENDING = "the server is shutting down. Try another, or later."


class Computed(NamedTuple):
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


class Batching:
    """May be asked by many threads; what is asked is computed by one of its own, which nothing ends but `close`.

    compute  works to their outcomes, in their order; what it raises is the outcome of them all
    watch    is told of every batch;  failed  of what failed, and by what
    clock    seconds
    """

    def __init__(
        self,
        line: Line,
        compute: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        watch: Callable[[Computed], None] = lambda computed: None,
        failed: Callable[[str, BaseException], None] = lambda what, error: None,
        clock: Callable[[], float] = meter.now,
    ) -> None:
        self._line, self._compute, self._watch, self._clock = line, compute, watch, clock
        self._failed = failed
        self._changed = threading.Condition()
        self._closing = False
        self._speed = FIRST_GUESS
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
        of: Any = None,
    ) -> Sequence[Future[Any]]:
        """Let works wait, all or none; of each, a future of its outcome, which raises TimeoutError after `timeout`.

        asks: as in `Line.offer`; of: as in `Item`.
        Raises Overloaded where no more may wait, Busy once it is closed. A future that is cancelled is not computed.
        """
        now = self._clock()
        pairs = zip(works, tokens, strict=True)
        items = [Item(client, count, work, now, now + timeout, of) for work, count in pairs]
        with self._changed:
            if self._closing:
                raise Busy(ENDING, code="server.ending")
            self._line.offer(items, self._speed, asks=asks)
            self._changed.notify()
        for item in items:
            item.future.add_done_callback(lambda done, item=item: self._given_up(item))  # type: ignore[misc]
        return [item.future for item in items]

    def _given_up(self, item: Item) -> None:
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

    def _tell(self, batch: Sequence[Item], budget: int, began: float) -> None:
        try:
            seconds, tokens = self._clock() - began, sum(item.tokens for item in batch)
            self._speed += 0.1 * (tokens / max(seconds, 1e-6) - self._speed)
            asked = tuple((item.of, began - item.arrived, item.tokens) for item in batch if item.of is not None)
            clients = tuple((item.client, item.tokens) for item in batch)
            self._watch(Computed(tokens, len(batch), budget, seconds, asked, clients))
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
