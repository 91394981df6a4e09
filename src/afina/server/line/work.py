"""Work items, which wait in the queue for the computing thread: tokenized texts and prompts, and golden tests."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.generations import Generation
from afina.engine.mixed_batches import ChunkedPass, SinglePass, WindowedPass
from afina.engine.residents import Lease
from afina.server import problems
from afina.server.receipts import choice_seed
from afina.server.requests import AcceptedRequest
from afina.server.settings import Settings

FASTER = 2.0  # the factor by which the rest of a text in parts may be faster than its first parts

OURS = ""  # the client of golden tests

BACKGROUND = "#"
"""The first character of `Work.client` if no client waits for the work item. No client's name begins with it."""


@dataclass(eq=False, kw_only=True)
class Work:
    """A computation that waits in the queue: one text, prompt or golden test.

    Attributes:
        client: the client whose fair share of the queue and of the computing time the work item uses.
        timeout: the seconds in the queue after which the work item fails with TimeoutError.
        traced: the request's span and times, passed to the batch listener. None: no tracing.
        arrived: the time at which the work item entered the queue, in seconds of the queue's clock.
        spent: the seconds of batches that its tokens have taken so far.
        began: whether its tokens count for the API key's rate limit, even if nobody waits for the answer any more.
        reach: `Classifier.reach` of the model. None: the work item cannot be computed in chunks.
        windows: the tokens of each window of a long text, which is computed at once. None: the text has no windows.
        taken: the number of the work item's tokens that batches have taken so far.
        due: the number of the work item's tokens that the last batch has taken.
    """

    client: str
    tokens: int
    reach: float | None = None
    windows: Sequence[int] | None = None
    taken: int = 0
    due: int = 0
    timeout: float = 30.0
    traced: Any = None
    arrived: float = 0.0
    spent: float = 0.0
    future: Future[Any] = field(default_factory=Future)
    began: bool = False

    @property
    def left(self) -> int:
        return self.tokens - self.taken

    def cost(self, tokens: int) -> int:
        """Return how long the next `tokens` tokens take, in the time of a text's first: later ones attend to more."""
        return tokens if self.reach is None else tokens + int(tokens * self.taken / self.reach)

    def demand_end(self, now: float) -> None:
        """Raise InvalidData for a text in parts that will not end in time, even if the rest is `FASTER` than before."""
        pace = self.spent / self.taken
        if pace * self.left > FASTER * (self.until - now) and pace * self.tokens > self.timeout:
            why = f"At its present pace, this server computes in the {self.timeout:g} seconds of a request"
            most = int(self.timeout / pace)
            raise problems.TEXT_TOKENS(_why=why, where="The text", found=self.tokens, most=most)

    @property
    def in_background(self) -> bool:
        """Whether no client waits for the work item, so that clients' work items are computed first."""
        return self.client.startswith(BACKGROUND)

    @property
    def until(self) -> float:
        """The time after which the work item fails with TimeoutError, in seconds of the queue's clock."""
        return self.arrived + self.timeout

    def settle(self, outcome: Any) -> None:
        """Set the result of the future, such as a prediction or the AfinaError of its text."""
        with suppress(InvalidStateError):  # cancelled meanwhile
            self.future.set_result(outcome)
        self.dropped()

    def fail(self, error: BaseException) -> None:
        """Set the exception of the future. What would end the waiting thread, such as SystemExit, is a RuntimeError."""
        if not isinstance(error, Exception) or isinstance(error, CancelledError | StopIteration):
            error = RuntimeError(type(error).__name__)
        with suppress(InvalidStateError):
            self.future.set_exception(error)
        self.dropped()

    def dropped(self) -> None:
        """Free the work item's memory, by default nothing; called when its future has a result or was cancelled."""


@dataclass(eq=False, kw_only=True)
class PredictedAnswer(Work):
    """A text whose prediction needs one forward pass; `chunked` is None if it is computed at once, or has not begun."""

    row: SinglePass
    chunked: ChunkedPass | WindowedPass | None = None

    def dropped(self) -> None:
        if self.chunked is not None:
            self.chunked.close()


@dataclass(eq=False, kw_only=True)
class GoldenTest(Work):
    """The golden test of a version that generates texts, which computes log-probabilities of built-in sentences."""

    lease: Lease


@dataclass(eq=False, kw_only=True)
class GeneratedAnswer(Work):
    """A prompt whose answer is generated step by step. `heard`: the time of the first new token."""

    generation: Generation
    heard: float | None = None
    generated: int = 0

    @property
    def is_silent(self) -> bool:
        """Whether the generation's first token is still being computed. Always False for beam search."""
        return self.heard is None and self.generation.decoding.beams == 1

    @property
    def can_begin_again(self) -> bool:
        """Whether a restart gives the same answer: no token was sent to the client, and no guide has a state."""
        return self.generation.heard is None and self.generation.guide is None

    def begin_again(self) -> None:
        """Replace the generation by a new object for the same answer: the engine may still use the old object."""
        self.generation, self.heard, self.generated = replace(self.generation), None, 0
        self.began = False


class EngineComputer:
    """Computes work items with an engine, in one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.generations = engine.generations

    def opens(self, work: Work) -> bool:
        """Reserve the memory for computing a text in chunks. Returns False if there is now no memory for it."""
        assert isinstance(work, PredictedAnswer)
        work.chunked = self._engine.open(work.row)
        return work.chunked is not None

    def compute(self, works: Sequence[Work]) -> list[Any]:
        answers = [one for one in works if isinstance(one, PredictedAnswer)]
        whole = [one for one in answers if one.chunked is None]
        outcomes: dict[Work, Any] = {}
        if whole:
            outcomes |= zip(whole, self._engine.compute([one.row for one in whole]), strict=True)
        parts = [(one, one.chunked) for one in answers if one.chunked is not None]
        if parts:
            chunks = self._engine.compute_chunks([(chunked, one.due) for one, chunked in parts])
            outcomes |= zip((one for one, _ in parts), chunks, strict=True)
        for one in works:
            if isinstance(one, GoldenTest):
                outcomes[one] = self._tested(one)
        return [outcomes[one] for one in works]

    def _tested(self, work: GoldenTest) -> np.ndarray | Exception:
        try:
            return self._engine.probe(work.lease)
        except Exception as error:  # noqa: BLE001 - the other works have their own outcomes
            return error


def works_of(
    accepted: AcceptedRequest,
    settings: Settings,
    client: str | None = None,
    choices: Sequence[int] | None = None,
) -> Sequence[Work]:
    """Return the work items of a request: one for each text, or one for each of the `choices` of each text.

    `client`: whose share of the queue is used. None: the client of the request's key.
    """
    request, lease = accepted.request, accepted.lease
    given: dict[str, Any] = {"client": client or request.key.client, "traced": request.traced}
    texts = [*enumerate(zip(accepted.encoded, accepted.tokens, strict=True))]
    options, decoding = request.generation, accepted.decoding
    if options is None or decoding is None:
        given |= {"timeout": settings.timeout, "reach": lease.resident().reach}
        return [
            PredictedAnswer(**given, tokens=count, windows=_windows(encoded), row=SinglePass(lease, encoded))
            for _, (encoded, count) in texts
        ]
    works: list[Work] = []
    for index, (encoded, count) in texts:
        for choice in range(options.n) if choices is None else choices:
            number, hears = index * options.n + choice, options.heard
            generation = Generation(
                lease,
                encoded,
                decoding.changed(seed=choice_seed(decoding.seed, choice)),
                options.logprobs,
                None if options.make_guide is None else options.make_guide(),
                None if hears is None else partial(hears, number),
                options.logprobs if options.echo else None,
            )
            timeout = settings.generation_timeout
            works.append(GeneratedAnswer(**given, tokens=count, timeout=timeout, generation=generation))
    return works


def _windows(encoded: EncodedText) -> Sequence[int] | None:
    """Return the number of tokens of each window of a text; None for a text that has no windows."""
    return None if encoded.words is None else [len(one.tokens) for one in encoded.sequences]
