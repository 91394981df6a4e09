"""Generation of texts for many adapters at once: one continuous batch for each frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Self

import numpy as np

from afina.data.tokenize import Tokenizer
from afina.engine import problems
from afina.engine.encoding import EncodedText
from afina.engine.mixed_batches import Outcome, Prediction, kind_mismatch
from afina.engine.residents import (
    Lease,
    ReservedMemory,
    Resident,
    Residents,
    SharedResident,
    stacked_bytes,
)
from afina.errors import AfinaError
from afina.generating.answers import text_of
from afina.generating.generation import ContinuousBatch, NewTokens
from afina.generating.searches import Continuation, Guide, TokenLogprobs
from afina.models.decoding import Decoding
from afina.models.mixed_batch import MixedBatchModel
from afina.models.predictions import Predictions


@dataclass(eq=False)
class Generation:
    """A prompt and the settings for generating one answer to it; several answers need generations with different seeds.

    Attributes:
        lease: A lease on the adapter, which is loaded. The caller releases the lease after the generation.
        decoding: If `max_new_tokens` is None, the model's number of positions is the limit.
        logprobs: The number of most probable tokens that are reported at each step. None: no log-probabilities.
        guide: An object that restricts the tokens of the answer, with a state of its own. None: every token is allowed.
        heard: Called on the computing thread with the new tokens of each step; must return at once. Beam search does
            not call `heard`, since its tokens may still change.
        prompt_logprobs: The number of most probable tokens that are reported for each token of the prompt except the
            first. None: no log-probabilities of the prompt.
    """

    lease: Lease
    encoded: EncodedText
    decoding: Decoding
    logprobs: int | None = None
    guide: Guide | None = None
    heard: Callable[[NewTokens], None] | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, eq=False)
class GeneratedText:
    """A generated answer.

    Attributes:
        text: The answer, without special tokens and surrounding whitespace, cut before the first stop string.
        tokens: The new tokens, int64 [number of new tokens], the end token included.
        ended: Whether an end token or a stop string ended the answer. False: the limit of new tokens ended it.
        logprobs: One for each new token. None: the request did not ask for them.
        version: The adapter's version in a store, such as `client/task@3`. None: the adapter is not from a store.
        prompt_logprobs: One for each token of the prompt except the first. None: the request did not ask for them.
    """

    text: str
    tokens: np.ndarray
    ended: bool
    logprobs: list[TokenLogprobs] | None
    digest: str
    version: str | None
    truncated: bool
    prompt_tokens: int
    prompt_logprobs: list[TokenLogprobs] | None = None

    def without_answer(self) -> Self:
        """Return a copy with an empty answer, for a request that only asks for the prompt (`max_tokens` 0)."""
        logprobs = None if self.logprobs is None else self.logprobs[:0]
        return replace(self, text="", tokens=self.tokens[:0], ended=False, logprobs=logprobs)


Ended = list[tuple[Generation, GeneratedText | AfinaError]]
"""The type of a list of generations that have ended, each with its text or its error."""


class Generations:
    """The generations that one computing thread computes together, step by step.

    `cancel` and the properties may be used in any thread. `tokens_of`: the tokens of the last step, those of beams
    included.
    """

    def __init__(self, computing: Lock, residents: Residents, tokenizer: Tokenizer, memory: ReservedMemory) -> None:
        self._computing, self._residents, self._tokenizer = computing, residents, tokenizer
        self._ends = [tokenizer.eos_token_id]
        self._memory = memory
        self._batches: dict[MixedBatchModel | str, ContinuousBatch[Generation]] = {}
        self._all: dict[Generation, ContinuousBatch[Generation]] = {}
        self._cancelled: set[Generation] = set()
        self.tokens_of: dict[Generation, int] = {}

    @property
    def active(self) -> int:
        return len(self._all)

    @property
    def waiting(self) -> int:
        return sum(batch.waiting for batch in [*self._batches.values()])

    @property
    def bytes(self) -> int:
        return sum(batch.bytes for batch in [*self._batches.values()])

    def add(self, generation: Generation) -> None:
        """Add a generation to the waiting generations.

        Raises InvalidStudy for settings that the adapter excludes, and InvalidData if positions or memory cannot
        suffice.
        """
        self._drop_cancelled()  # the same generation may have been cancelled, to wait elsewhere
        resident = generation.lease.resident()
        if not resident.generates:
            raise kind_mismatch(resident, "generated text")
        batch = self._batch(resident)
        adapter = resident.batched if isinstance(resident, SharedResident) else None
        prompt = generation.encoded.tokens
        if batch.room(prompt, adapter) < 1:
            raise problems.PROMPT_TOO_LONG(tokens=len(prompt))
        batch.add(
            generation,
            prompt,
            generation.decoding,
            adapter,
            logprobs=generation.logprobs,
            guide=generation.guide,
            heard=generation.heard,
            prompt_logprobs=generation.prompt_logprobs,
        )
        needed, room = batch.size(generation) + stacked_bytes(adapter), self._residents.room(resident.digest)
        if room is not None and needed > room:
            batch.cancel(generation)
            raise problems.ANSWER_BEYOND_MEMORY(option="max_new_tokens", bytes=needed, limit=max(room, 0))
        self._all[generation] = batch

    def _batch(self, resident: Resident) -> ContinuousBatch[Generation]:
        """Return the continuous batch of the shared frozen model, or of the adapter."""
        key = resident.host if isinstance(resident, SharedResident) else resident.digest
        if key not in self._batches:
            given = resident.next_tokens(), self._ends, self._tokenizer
            self._batches[key] = ContinuousBatch(*given, memory=self._memory, checked=True)
        return self._batches[key]

    def cancel(self, generation: Generation) -> None:
        """Drop a generation at the next step, without an outcome. A generation that has ended is ignored."""
        if generation in self._all:
            self._cancelled.add(generation)

    def waits(self, generation: Generation) -> bool:
        """Return whether a generation waits, so that no token of its prompt was computed. For the computing thread."""
        batch = self._all.get(generation)
        return batch is not None and batch.waits(generation)

    def step(self, most: int | None = None) -> Ended:
        """Start waiting generations, compute the next token of every running generation, and return those that ended.

        If a generation fails, its outcome is an error: CorruptAdapter if the adapter's logits are NaN or infinite, an
        error of its guide or listener, or Busy if the whole step failed. `most`: the approximate number of prompt
        tokens to compute in this step, so that a longer prompt takes several steps. None: prompts are computed at once.
        """
        self._drop_cancelled()
        self.tokens_of = {}
        if most is not None:
            most = -(-most // max(1, sum(batch.entering for batch in self._batches.values())))
        ended: Ended = []
        for key, batch in [*self._batches.items()]:
            # A shared model takes the lock itself, at each forward pass.
            with self._computing if isinstance(key, str) else nullcontext():
                outcomes = self._stepped(batch, most)
            ended += ((one, self._outcome(one, outcome)) for one, outcome in outcomes)
        self._batches = {key: one for key, one in self._batches.items() if one.active or not isinstance(key, str)}
        return ended

    def _stepped(
        self, batch: ContinuousBatch[Generation], most: int | None
    ) -> Iterable[tuple[Generation, Continuation | Exception]]:
        """Compute a step of a batch unless the batch is empty, and return the generations that have ended."""
        if not batch.active:
            return []
        try:
            ended = batch.step(most)
        except Exception as error:  # noqa: BLE001 - the other batches go on
            self._batches = {key: one for key, one in self._batches.items() if one is not batch}
            ended = [(one, error) for one, mine in self._all.items() if mine is batch]
        else:
            self.tokens_of |= batch.computed
        for one, _ in ended:
            self._drop(one)
        return ended

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            self._drop(self._cancelled.pop())

    def _drop(self, one: Generation) -> None:
        batch = self._all.pop(one, None)
        if batch is not None:
            batch.cancel(one)

    def _outcome(self, one: Generation, outcome: Continuation | Exception) -> GeneratedText | AfinaError:
        resident, encoded = one.lease.resident(), one.encoded
        if isinstance(outcome, AfinaError):
            return outcome
        if isinstance(outcome, FloatingPointError):
            return problems.LOGITS_NOT_FINITE(where=resident.where)
        if isinstance(outcome, Exception):
            return problems.GENERATION_FAILED(where=resident.where, _error=type(outcome).__name__)
        return GeneratedText(
            text_of(self._tokenizer, outcome.tokens, one.decoding),
            outcome.tokens,
            outcome.ended,
            outcome.logprobs,
            resident.digest,
            one.lease.version,
            encoded.truncated,
            len(encoded.tokens),
            outcome.prompt_logprobs,
        )


def decoding_of(resident: Resident) -> Decoding:
    """Return the decoding settings that an adapter was trained with, including a limit of new tokens."""
    found = resident.objective.generation()
    assert found is not None
    return found


def generated(generations: Generations, asked: Iterable[Generation]) -> Iterator[tuple[Generation, Outcome]]:
    """Compute generations until all have ended, and yield each generation with its prediction or its error."""
    for one in asked:
        try:
            generations.add(one)
        except AfinaError as error:
            yield one, error
    while generations.active:
        for one, outcome in generations.step():
            yield one, outcome if isinstance(outcome, AfinaError) else _prediction(one, outcome)


def _prediction(one: Generation, made: GeneratedText) -> Prediction:
    resident, outputs = one.lease.resident(), np.array([made.text], dtype=object)
    (answer,) = resident.objective.answers(Predictions(outputs))
    tokens = made.prompt_tokens + len(made.tokens)
    return Prediction(answer, resident.objective.kind, outputs, made.digest, made.version, made.truncated, tokens)
