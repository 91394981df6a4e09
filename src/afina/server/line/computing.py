"""The computing thread, which alternates between a batch of texts and one step of all running generations.

A text that needs one forward pass waits for at most one step of generations, however long the generated answers are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from afina import meter
from afina.engine.generations import Generation
from afina.errors import AfinaError, Busy
from afina.server import problems
from afina.server.line.queue import LEAST, FairQueue
from afina.server.line.work import EngineComputer, GeneratedAnswer, Work
from afina.server.metrics import ComputedBatch, ComputedStep, FailedPart

FIRST_SPEED = 500.0  # the estimate of the tokens that are computed per second, used before the first batch


class _Turn(NamedTuple):
    """The work items that the computing thread takes from the queue at one time.

    Attributes:
        budget: the largest number of tokens of this turn's work items together.
        room: the largest number of tokens of new prompts.
        late: the work items whose time limit is past.
        ending: whether running generations are ended, because the server is shutting down.
    """

    now: float
    budget: int
    room: int
    texts: Sequence[Work]
    prompts: Sequence[Work]
    late: Sequence[Work]
    ending: bool


class Batcher:
    """The thread that computes the work items in the queue, until `close` or `give_up`. Thread-safe.

    `watch` is called after each batch and each step of generations, `failed` with an operation's name and exception.
    """

    def __init__(
        self,
        line: FairQueue,
        computer: EngineComputer,
        *,
        watch: Callable[[ComputedBatch | ComputedStep], None] = lambda computed: None,
        failed: Callable[[FailedPart, BaseException], None] = lambda what, error: None,
        clock: Callable[[], float] = meter.now,
    ) -> None:
        self._line, self.computer, self._watch, self._clock = line, computer, watch, clock
        self._failed = failed
        self._changed = threading.Condition()
        self._closing, self._ends_running = False, False
        self._speed = FIRST_SPEED
        self._expected = 0
        self._running: dict[Generation, GeneratedAnswer] = {}
        self._thread = threading.Thread(target=self._run, name="afina-inference", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    @property
    def ending(self) -> bool:
        return self._closing

    @property
    def waiting(self) -> tuple[int, int]:
        with self._changed:
            return self._line.tokens, self._line.texts

    @property
    def generating(self) -> tuple[int, int]:
        with self._changed:
            return len(self._running), self._line.prompts

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce that a text will be submitted soon: texts in the queue wait a short time, to be computed with it."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify()

    def submit(self, works: Sequence[Work], *, asks: bool = True) -> Sequence[Future[Any]]:
        """Put work items of one client into the queue, or none if they do not all fit; return their futures.

        A future raises TimeoutError after its work item's time limit. A work item whose future is cancelled is not
        computed.

        Raises:
            Overloaded: the client's share of the queue is full.
            Busy: the server is shutting down.
        """
        now = self._clock()
        for work in works:
            work.arrived = now
        with self._changed:
            if self._closing:
                raise problems.ENDING()
            self._line.offer(works, self._speed, asks=asks)
            self._changed.notify()
        for work in works:
            work.future.add_done_callback(lambda done, work=work: self._given_up(work))  # type: ignore[misc]
        return [work.future for work in works]

    def _given_up(self, work: Work) -> None:
        if work.future.cancelled():
            with self._changed:
                self._line.forget([work])
                self._changed.notify()
            work.dropped()

    @property
    def _generating(self) -> bool:
        return bool(self._running) or self.computer.generations.active > 0

    def step(self) -> bool:
        """Compute the texts that are due, and one step of all generations. Return False if there was nothing to do."""
        with self._changed:
            turn = self._taken()
        if turn is None:
            return False
        for late in turn.late:
            late.fail(TimeoutError())
        self._compute(turn)
        self._generate(turn)
        return True

    def _taken(self) -> _Turn | None:
        now, line = self._clock(), self._line
        idle = not self._generating
        due = line.due(now, expected=self._expected > 0)
        if idle and due != 0.0 and not self._closing:
            return None
        budget, texts = line.budget(now), line.take(now, self.computer.opens)
        left = budget - sum(one.cost(one.due) for one in texts)
        room = max(LEAST, line.room_for_chunks(left, now))
        entering = {work.client for work in self._running.values() if work.is_silent}
        prompts = line.take_prompts(now, room, entering)
        late = [one for one in (*texts, *prompts) if one.until <= now and one.taken == one.due]
        line.forget(late)
        texts, prompts = ([one for one in some if one not in late] for some in (texts, prompts))
        late += line.late(now)
        # From here on, the future of a text whose last tokens were taken cannot be cancelled.
        texts = [
            one
            for one in texts
            if not one.future.cancelled() and (one.left or one.future.set_running_or_notify_cancel())
        ]
        if idle and not (late or texts or prompts):
            return None
        return _Turn(now, budget, room, texts, prompts, late, self._ends_running)

    def _compute(self, turn: _Turn) -> None:
        batch = turn.texts
        if not batch:
            return
        began = self._clock()
        for item in batch:
            item.began = item.began or bool(item.left)
        try:
            outcomes = self.computer.compute(batch)
            if len(outcomes) != len(batch):  # outcomes cannot be assigned to works
                raise RuntimeError(f"{len(outcomes)} outcomes of {len(batch)} works")
        except BaseException as error:  # noqa: BLE001 - the futures receive any error
            self._forget(batch)
            for item in batch:
                item.fail(error)
            self._note("compute", error)
            return
        self._tell(batch, turn.budget, began)
        ended = list[tuple[Work, Any]]()
        for item, outcome in zip(batch, outcomes, strict=True):
            if outcome is not None or not item.left:
                ended.append((item, outcome))
            elif not item.in_background:
                try:
                    item.demand_end(self._clock())
                except AfinaError as error:
                    ended.append((item, error))
        self._forget([item for item, _ in ended])
        for item, outcome in ended:
            item.settle(outcome)

    def _forget(self, ended: Sequence[Work]) -> None:
        """Remove work items that have ended from the queue, so that no further chunks of them are computed."""
        if any(item.left for item in ended):
            with self._changed:
                self._line.forget(ended)

    def _generate(self, turn: _Turn) -> None:
        """Begin the generations of new prompts, end late and cancelled ones, and compute one step of the others."""
        for work in turn.prompts:
            assert isinstance(work, GeneratedAnswer)
            self._begin(work)
        now = self._clock()
        for work in [*self._running.values()]:
            if work.future.cancelled():
                self._drop(work)
            elif turn.ending or work.until <= now:
                self._drop(work)
                work.fail(problems.ENDING() if turn.ending else TimeoutError())
        if not self._generating:
            return
        try:
            ended = self.computer.generations.step(turn.room)
            self._stepped(now)
        except BaseException as error:  # noqa: BLE001 - the futures receive any error
            self._broken(error)
            self._note("step", error)
            return
        self._settle([(self._running.pop(one), outcome) for one, outcome in ended if one in self._running])
        if self.computer.generations.waiting:
            self._give_back(turn.prompts)

    def _give_back(self, prompts: Sequence[Work]) -> None:
        generations = self.computer.generations
        held = [work for work in self._running.values() if work in prompts and generations.waits(work.generation)]
        for work in held:
            self._drop(work)
            work.begin_again()
        with self._changed:
            self._line.give_back(held)

    def _settle(self, ended: Sequence[tuple[GeneratedAnswer, Any]]) -> None:
        """Set the results of ended generations.

        Those of clients start again if a step with background items was Busy.
        """
        failed = {work for work, outcome in ended if isinstance(outcome, Busy)}
        blamed = any(work.in_background for work in failed)
        again = []
        for work, outcome in ended:
            if blamed and work in failed and not work.in_background and work.can_begin_again:
                work.begin_again()
                again.append(work)
            else:
                work.settle(outcome)
        with self._changed:
            self._line.give_back(again)

    def _begin(self, work: GeneratedAnswer) -> None:
        if work.future.cancelled():
            return
        try:
            self.computer.generations.add(work.generation)
        except AfinaError as error:
            work.settle(error)
        except BaseException as error:  # noqa: BLE001 - the future receives any error
            work.fail(error)
            self._note("step", error)
        else:
            self._running[work.generation] = work
            work.began = True

    def _drop(self, work: GeneratedAnswer) -> None:
        del self._running[work.generation]
        self.computer.generations.cancel(work.generation)

    def _broken(self, error: BaseException) -> None:
        """End generations after an unexpected error; only background items if there are any, which may be the cause."""
        blamed = [work for work in self._running.values() if work.in_background]
        for work in blamed or [*self._running.values()]:
            with suppress(Exception):
                self._drop(work)
            work.fail(error)
        if not blamed:
            self._running = {}

    def _stepped(self, began: float) -> None:
        now, generated, firsts, tokens = self._clock(), dict[str, int](), list[float](), 0
        for generation, count in self.computer.generations.tokens_of.items():
            work = self._running.get(generation)
            if work is None or not count:
                continue
            tokens += count
            work.generated += count
            if work.in_background:
                continue
            generated[work.client] = generated.get(work.client, 0) + count
            if work.heard is None:
                work.heard = now
                firsts.append(now - work.arrived)
        with self._changed:
            self._line.charge(generated, now)
        self._listen(ComputedStep(tokens, len(self._running), now - began, generated, firsts))

    def _tell(self, batch: Sequence[Work], budget: int, began: float) -> None:
        seconds, tokens = self._clock() - began, sum(item.due for item in batch)
        self._speed += 0.1 * (tokens / max(seconds, 1e-6) - self._speed)
        for item in batch:
            item.spent += seconds * item.due / tokens
        asked = tuple(
            (item.traced, began - item.arrived if item.taken == item.due else 0.0, item.due)
            for item in batch
            if item.traced is not None
        )
        complete = sum(not item.left and not item.in_background for item in batch)
        self._listen(ComputedBatch(tokens, complete, budget, seconds, asked))

    def _listen(self, computed: ComputedBatch | ComputedStep) -> None:
        try:
            self._watch(computed)
        except BaseException as error:  # noqa: BLE001 - a failing listener must not lose the answers
            self._note("watch", error)

    def _note(self, what: FailedPart, error: BaseException) -> None:
        with suppress(BaseException):
            self._failed(what, error)

    def _run(self) -> None:
        while True:
            try:
                with self._changed:
                    due = self._line.due(self._clock(), expected=self._expected > 0)
                    if due is None and self._closing and not self._generating:
                        return
                    if due != 0.0 and not self._closing and not self._generating:
                        self._changed.wait(due)
                self.step()
            except BaseException as error:  # noqa: BLE001 - without this thread, no request is answered
                self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        """Empty the queue and fail its work items, as the queue may be inconsistent after an unexpected error."""
        with self._changed:
            waiting = self._line.clear()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                item.fail(error)
        self._note("line", error)

    def give_up(self, *, running: bool) -> None:
        """Refuse new work items, and fail all that wait, and those that generate if `running`.

        The batch in computation is still answered.
        """
        with self._changed:
            self._closing, self._ends_running = True, running
            waiting = self._line.clear()
            self._changed.notify()
        for item in waiting:
            item.fail(problems.ENDING())

    def close(self) -> None:
        """Refuse new work items, and return when all accepted work items have been computed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
