"""The works that wait for the computing thread: texts to answer, golden tests, and texts to generate.

Each work knows its client, its tokens, its deadline and its future. Everything that the computing thread needs is in
the work: texts are encoded before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from afina.engine.engine import Engine
from afina.engine.generations import Generation
from afina.engine.mixed_batches import Outcome
from afina.engine.passes import ChunkedPass, SinglePass
from afina.engine.residents import Lease
from afina.engine.tokenizing import EncodedText
from afina.errors import AfinaError, Busy
from afina.server.receipts import choice_seed
from afina.server.requests import AcceptedRequest, decoding_of, tokens_of
from afina.server.settings import Settings
from afina.server.versions.shadowed import PendingComparison, ShadowLease

OURS = ""
"""The client of golden tests."""


@dataclass(eq=False, kw_only=True)
class Work:
    """Something that is computed once.

    Attributes:
        client: name of the client.
        tokens: number of tokens, which count as the client's share.
        timeout: seconds after the arrival after which the work fails with TimeoutError.
        traced: passed unchanged to the batch listener; None: not traced.
        arrived: time of arrival, in seconds of the queue's clock.
        future: receives the outcome.
        candidate: whether a shadow version computes this work, for nobody else.
        began: whether computing began before there is an outcome. Its tokens then count for the key's rate, also if
            nobody waits for the answer any more.
        reach: as in `Classifier`. None: the work cannot be computed in chunks.
        taken: tokens that batches have taken.
        due: tokens that the last batch has taken.
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
    candidate: bool = False
    began: bool = False

    @property
    def left(self) -> int:
        """Tokens that no batch has taken."""
        return self.tokens - self.taken

    def cost(self, tokens: int) -> int:
        """Return how many first tokens of a text take the time of the next `tokens`, which attend to those before."""
        return tokens if self.reach is None else tokens + int(tokens * self.taken / self.reach)

    @property
    def until(self) -> float:
        """Time after which the work fails, in seconds of the queue's clock."""
        return self.arrived + self.timeout

    def settle(self, outcome: Any) -> None:
        """Give the future its outcome. The AfinaError of a text is an outcome too."""
        with suppress(InvalidStateError):  # cancelled meanwhile
            self.future.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        """Let the future raise an error: not one that would end the waiting thread, task or iteration."""
        if not isinstance(error, Exception) or isinstance(error, CancelledError | StopIteration):
            error = RuntimeError(type(error).__name__)
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def dropped(self) -> None:
        """End after the future was cancelled."""


class ShadowedPass(NamedTuple):
    """A text for a shadow version. `row`: the text as the shadow version reads it, or why it cannot read the text."""

    shadow: ShadowLease
    row: SinglePass | AfinaError


@dataclass(eq=False, kw_only=True)
class ComparedWork(Work):
    """A work whose outcome is compared with that of another work of the same text.

    Attributes:
        comparison: joins the outcome with that of another version. None: no shadow version, or none in a separate work.
    """

    comparison: PendingComparison | None = None

    @property
    def wanted(self) -> bool:
        """Whether the outcome is still waited for, or compared."""
        if self.candidate and self.comparison is not None and not self.comparison.wants_candidate:
            return False
        return not self.future.cancelled()

    def settle(self, outcome: Any) -> None:
        """Give the future its outcome, and compare it."""
        super().settle(outcome)
        self._ended(outcome)

    def fail(self, error: BaseException) -> None:
        """Let the future raise an error. Nothing is compared."""
        super().fail(error)
        self._ended(None)

    def dropped(self) -> None:
        """End after the future was cancelled. Nothing is compared."""
        self._ended(None)

    def _ended(self, outcome: Any) -> None:
        if self.comparison is not None:
            self.comparison.ended(outcome, candidate=self.candidate)


@dataclass(eq=False, kw_only=True)
class PredictedAnswer(ComparedWork):
    """A text that one forward pass answers.

    Attributes:
        row: the text.
        shadowed: the same text for a shadow version, in the same batch.
        chunked: the text while it is computed in chunks. None: it is computed whole, or not yet.
    """

    row: SinglePass
    shadowed: ShadowedPass | None = None
    chunked: ChunkedPass | None = None

    def _ended(self, outcome: Any) -> None:
        if self.chunked is not None:
            self.chunked.close()
        super()._ended(outcome)


@dataclass(eq=False, kw_only=True)
class GoldenTest(Work):
    """The golden test of a version that generates texts: log-probabilities of afina's own sentences."""

    lease: Lease


@dataclass(eq=False, kw_only=True)
class GeneratedAnswer(ComparedWork):
    """A text that generation answers, step by step. Its future can be cancelled until it has an outcome.

    Attributes:
        generation: the generation.
        heard: time of the first token, in seconds of the queue's clock; None: none yet.
        generated: number of new tokens so far.
    """

    generation: Generation
    heard: float | None = None
    generated: int = 0

    @property
    def is_silent(self) -> bool:
        """Whether there is no token yet. Beam search has no token before its end."""
        return self.heard is None and self.generation.decoding.beams == 1

    @property
    def can_begin_again(self) -> bool:
        """Whether a second beginning gives the same answer: no token was heard, and no guide has a state."""
        return self.generation.heard is None and self.generation.guide is None

    def begin_again(self) -> None:
        """Take a new generation of the same answer, as the engine may still know the old one."""
        self.generation, self.heard, self.generated = replace(self.generation), None, 0
        self.began = False


class EngineComputer:
    """Computes works with an engine. For one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.generations = engine.generations

    def opens(self, work: Work) -> bool:
        """Begin to compute a text in chunks. Return False if there is no memory for its keys and values now."""
        assert isinstance(work, PredictedAnswer)
        work.chunked = self._engine.open(work.row)
        return work.chunked is not None

    def compute(self, works: Sequence[Work]) -> list[Any]:
        """Return the outcomes of works, in order, and compare those of shadow versions. None: computed in part."""
        try:
            return self._computed(works)
        except Exception as error:
            candidates = [one for one in works if one.candidate]
            if not candidates:
                raise
            rest = [one for one in works if not one.candidate]
            outcomes = dict(zip(rest, self._computed(rest), strict=True))  # if this succeeds, a shadow version failed
            for one in candidates:
                assert isinstance(one, ComparedWork)
                assert one.comparison is not None
                one.comparison.shadow.broke(error)
            return [outcomes.get(one, Busy("failed", code="server.batch-failed")) for one in works]

    def _computed(self, works: Sequence[Work]) -> list[Any]:
        answers = [one for one in works if isinstance(one, PredictedAnswer)]
        whole = [one for one in answers if one.chunked is None]
        outcomes: dict[Work, Any] = dict(zip(whole, self._answers(whole), strict=True))
        parts = [(one, one.chunked) for one in answers if one.chunked is not None]
        if parts:
            chunks = self._engine.compute_chunks([(chunked, one.due) for one, chunked in parts])
            outcomes |= zip((one for one, _ in parts), chunks, strict=True)
        for one in works:
            if isinstance(one, GoldenTest):
                outcomes[one] = self._tested(one)
        return [outcomes[one] for one in works]

    def _tested(self, work: GoldenTest) -> np.ndarray | AfinaError:
        try:
            return self._engine.probe(work.lease)
        except AfinaError as error:
            return error
        except Exception:  # noqa: BLE001 - the other works have their own outcomes
            return Busy("failed", code="server.batch-failed")

    def _answers(self, works: Sequence[PredictedAnswer]) -> Sequence[Outcome]:
        """Compute texts, and in the same batch those of shadow versions."""
        rows = [one.row for one in works]
        shadowed = [
            (index, one.shadowed) for index, one in enumerate(works) if one.shadowed and one.shadowed.shadow.rides
        ]
        candidates = [one.row for _, one in shadowed if isinstance(one.row, SinglePass)]
        try:
            outcomes = self._engine.compute([*rows, *candidates])
        except Exception:
            if not candidates:
                raise
            outcomes = self._engine.compute(rows)  # if this succeeds, a shadow version caused the failure
            self._alone(shadowed, outcomes)
            return outcomes
        rest = iter(outcomes[len(rows) :])
        for index, one in shadowed:
            one.shadow.compare(outcomes[index], next(rest) if isinstance(one.row, SinglePass) else one.row)
        return outcomes[: len(rows)]

    def _alone(self, shadowed: Sequence[tuple[int, ShadowedPass]], outcomes: Sequence[Outcome]) -> None:
        """Compute the texts of each shadow version of a failed batch alone. A shadow version that fails is stopped."""
        for status in {id(one.shadow.status): one.shadow.status for _, one in shadowed}.values():
            mine = [(index, one) for index, one in shadowed if one.shadow.status is status]
            rows = [one.row for _, one in mine if isinstance(one.row, SinglePass)]
            try:
                found = iter(self._engine.compute(rows))
            except Exception as error:  # noqa: BLE001 - its message may hold a text
                mine[0][1].shadow.broke(error)
                found = iter([Busy("failed", code="server.batch-failed")] * len(rows))
            for index, one in mine:
                one.shadow.compare(outcomes[index], next(found) if isinstance(one.row, SinglePass) else one.row)


def works_of(asked: AcceptedRequest, shadow: ShadowLease | None, settings: Settings) -> Sequence[Work]:
    """Return the works of a request: for each text one answer, or each choice of a generated answer.

    Args:
        asked: the request.
        shadow: the shadow version that answers too. None: no shadow.
        settings: the server's limits.
    """
    request = asked.request
    if request.generation is not None:
        return [work for index in range(len(asked.texts)) for work in _generated(asked, shadow, settings, index)]
    works: list[Work] = []
    for index, (encoded, count) in enumerate(zip(asked.encoded, asked.tokens, strict=True)):
        row, resident = SinglePass(asked.lease, encoded), asked.lease.resident()
        given = {"client": request.key.client, "timeout": settings.timeout, "traced": request.traced}
        if shadow is None:
            works.append(PredictedAnswer(**given, tokens=count, row=row, reach=resident.reach))
            continue
        other = asked.candidates[index]
        if resident.takes_chunks and count > settings.shared_tokens:
            works += _apart(PredictedAnswer(**given, tokens=count, row=row, reach=resident.reach), shadow, other)
        else:
            riding = other if isinstance(other, AfinaError) else SinglePass(shadow.lease, other)
            works.append(PredictedAnswer(**given, tokens=2 * count, row=row, shadowed=ShadowedPass(shadow, riding)))
    return works


def _apart(work: PredictedAnswer, shadow: ShadowLease, encoded: EncodedText | AfinaError) -> Iterator[PredictedAnswer]:
    """Yield a long text, and the same text for the shadow version as a work of its own."""
    work.comparison = PendingComparison(shadow)
    yield work
    if isinstance(encoded, AfinaError):
        work.comparison.ended(encoded, candidate=True)
        return
    yield replace(
        work,
        tokens=tokens_of(encoded),
        row=SinglePass(shadow.lease, encoded),
        reach=shadow.lease.resident().reach,
        candidate=True,
        future=Future(),
    )


def _generated(
    asked: AcceptedRequest, shadow: ShadowLease | None, settings: Settings, index: int
) -> Iterator[GeneratedAnswer]:
    """Yield the choices of a generated answer, each followed by that of the shadow version."""
    options = asked.request.generation
    assert options is not None

    def answer(
        lease: Lease, encoded: EncodedText, choice: int, comparison: PendingComparison | None, *, candidate: bool
    ) -> GeneratedAnswer:
        assert options is not None
        decoding = decoding_of(lease.resident().objective, options, settings)
        generation = Generation(
            lease,
            encoded,
            decoding.changed(seed=choice_seed(decoding.seed, choice)),
            None if candidate else options.logprobs,
            None if options.make_guide is None else options.make_guide(),
            None if candidate or options.heard is None else partial(options.heard, index * options.n + choice),
            options.logprobs if options.echo and not candidate else None,
        )
        return GeneratedAnswer(
            client=asked.request.key.client,
            tokens=asked.tokens[index],
            timeout=settings.generation_timeout,
            generation=generation,
            comparison=comparison,
            candidate=candidate,
        )

    for choice in range(options.n):
        comparison = None if shadow is None else PendingComparison(shadow)
        yield answer(asked.lease, asked.encoded[index], choice, comparison, candidate=False)
        if shadow is None or comparison is None:
            continue
        other = asked.candidates[index]
        if isinstance(other, AfinaError):
            comparison.ended(other, candidate=True)
            continue
        yield answer(shadow.lease, other, choice, comparison, candidate=True)
