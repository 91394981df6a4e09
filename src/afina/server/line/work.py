"""Works, which wait for the computing thread: texts to predict, golden tests, and prompts to generate from.

Each work has its client, its token ids, its deadline and the future of its result. Texts are tokenized before they
become works.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from afina.engine.engine import Engine
from afina.engine.generations import Generation
from afina.engine.mixed_batches import ChunkedPass, SinglePass
from afina.engine.residents import Lease
from afina.server.receipts import choice_seed
from afina.server.requests import AcceptedRequest
from afina.server.settings import Settings

OURS = ""
"""The client of golden tests."""

BACKGROUND = "#"
"""Beginning of the clients of works that nobody waits for, which is no client's name."""


@dataclass(eq=False, kw_only=True)
class Work:
    """A computation that waits in the queue: one text, prompt or golden test.

    Attributes:
        tokens: number of tokens, which count for the client's share.
        timeout: seconds after the arrival after which the work fails with TimeoutError.
        traced: the traced request, passed unchanged to the batch listener; None: not traced.
        arrived: time at which the work entered the queue, in seconds of the queue's clock.
        began: whether the computation has begun. Its tokens then count for the key's rate limit, also if nobody waits
            for the answer any more.
        reach: `Classifier.reach` of the model. None: the work cannot be computed in chunks.
        taken: number of tokens that batches have taken so far.
        due: number of tokens that the last batch has taken.
    """

    client: str
    tokens: int
    reach: float | None = None
    taken: int = 0
    due: int = 0
    timeout: float = 30.0
    traced: Any = None
    arrived: float = 0.0
    future: Future[Any] = field(default_factory=Future)
    began: bool = False

    @property
    def left(self) -> int:
        return self.tokens - self.taken

    def cost(self, tokens: int) -> int:
        """Return the time of computing the next `tokens`, in first tokens of a text, which attend to none before."""
        return tokens if self.reach is None else tokens + int(tokens * self.taken / self.reach)

    @property
    def in_background(self) -> bool:
        """Whether no client waits for this work, which is then computed only while nothing else waits."""
        return self.client.startswith(BACKGROUND)

    @property
    def until(self) -> float:
        """Time after which the work fails, in seconds of the queue's clock."""
        return self.arrived + self.timeout

    def settle(self, outcome: Any) -> None:
        """Set the future's result. The AfinaError of a text is a result too."""
        with suppress(InvalidStateError):  # cancelled meanwhile
            self.future.set_result(outcome)
        self.dropped()

    def fail(self, error: BaseException) -> None:
        """Set the future's exception; one such as SystemExit, which would end the waiting thread, is wrapped."""
        if not isinstance(error, Exception) or isinstance(error, CancelledError | StopIteration):
            error = RuntimeError(type(error).__name__)
        with suppress(InvalidStateError):
            self.future.set_exception(error)
        self.dropped()

    def dropped(self) -> None:
        """Called when the work ends: its future has a result or was cancelled."""


@dataclass(eq=False, kw_only=True)
class PredictedAnswer(Work):
    """A text for one forward pass, such as classification.

    Attributes:
        chunked: the partly computed text, if it is computed in chunks. None: computed whole, or not yet.
    """

    row: SinglePass
    chunked: ChunkedPass | None = None

    def dropped(self) -> None:
        """Free the memory of a text that was computed in part."""
        if self.chunked is not None:
            self.chunked.close()


@dataclass(eq=False, kw_only=True)
class GoldenTest(Work):
    """The golden test of a version that generates texts: log-probabilities of afina's own sentences."""

    lease: Lease


@dataclass(eq=False, kw_only=True)
class GeneratedAnswer(Work):
    """A prompt whose answer is generated step by step. Its future can be cancelled until it has a result.

    Attributes:
        heard: time of the first new token, in seconds of the queue's clock; None: no token yet.
        generated: number of tokens generated so far.
    """

    generation: Generation
    heard: float | None = None
    generated: int = 0

    @property
    def is_silent(self) -> bool:
        """Whether no token has been sent yet. Beam search sends no token before its end."""
        return self.heard is None and self.generation.decoding.beams == 1

    @property
    def can_begin_again(self) -> bool:
        """Whether a restart gives the same answer: no token was sent, and no guide has a state."""
        return self.generation.heard is None and self.generation.guide is None

    def begin_again(self) -> None:
        """Replace the generation by a new one of the same answer, as the engine may still hold the old."""
        self.generation, self.heard, self.generated = replace(self.generation), None, 0
        self.began = False


class EngineComputer:
    """Computes works with an engine, in one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.generations = engine.generations

    def opens(self, work: Work) -> bool:
        """Begin to compute a text in chunks. Return False if there is no memory for its keys and values now."""
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
    """Return the works of a request: one for each text, or one for each choice of a generated answer.

    Args:
        client: the client whose share the works count for. None: the client of the key.
        choices: numbers of the choices to generate. None: all.
    """
    request, lease = accepted.request, accepted.lease
    given: dict[str, Any] = {"client": client or request.key.client, "traced": request.traced}
    texts = [*enumerate(zip(accepted.encoded, accepted.tokens, strict=True))]
    options, decoding = request.generation, accepted.decoding
    if options is None or decoding is None:
        given |= {"timeout": settings.timeout, "reach": lease.resident().reach}
        return [PredictedAnswer(**given, tokens=count, row=SinglePass(lease, encoded)) for _, (encoded, count) in texts]
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
