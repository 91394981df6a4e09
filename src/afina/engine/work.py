"""The work of an engine: texts that one forward pass answers, and texts that generation answers.

A caller encodes each text once (`Engine.encode`), on any thread. The computing thread then works on token ids only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import NamedTuple, Self

import numpy as np

from afina.engine.residents import Lease, ReservedMemory
from afina.generating.searches import Guide, TokenLogprobs
from afina.models.decoding import Decoding
from afina.models.kernels.key_values import KeyValueCache, OpenSequence, TokenChunk
from afina.models.kernels.layer_changes import BatchedAdapter

__all__ = [
    "ChunkedPass",
    "EncodedText",
    "GeneratedText",
    "Generation",
    "Guide",
    "NewTokens",
    "SinglePass",
    "TokenLogprobs",
]


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A text, or a pair of texts, as its adapter reads it.

    Attributes:
        tokens: int32 [L], with template and special tokens. Empty for an adapter that reads no tokens (bag of words).
        truncated: Whether the text was truncated.
        text: The text itself.
        pair: The second text of a pair. None: a single text.
        second: The place of the first token of type 1. None: no token types.
    """

    tokens: np.ndarray
    truncated: bool
    text: str
    pair: str | None = None
    second: int | None = None


@dataclass(frozen=True, eq=False)
class SinglePass:
    """A text that one forward pass answers: with classes, labels or a number.

    Attributes:
        lease: A lease on the adapter, which is loaded.
        encoded: The text, encoded for that adapter.
    """

    lease: Lease
    encoded: EncodedText


class ChunkedPass:
    """A text of one forward pass that is computed in chunks, and its keys and values until `close`.

    `close` may be called on any thread, also while a chunk is computed.

    Args:
        row: The text.
        cache: Opens its sequence.
        memory: Has reserved the bytes of its keys and values, which `close` gives back.

    Attributes:
        row: As above.
        computed: Number of tokens that are computed.
    """

    def __init__(self, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, columns: int) -> None:
        self.row, self.computed = row, 0
        self._cache, self._memory, self._columns = cache, memory, columns
        self._lock, self._closed = Lock(), False
        self._sequence: OpenSequence | None = None

    @classmethod
    def open(cls, row: SinglePass, cache: KeyValueCache, memory: ReservedMemory, before: int) -> Self | None:
        """Return the text with memory for its keys and values; None: there is no memory now.

        Args:
            row: The text.
            cache: As above.
            memory: Reserves the memory.
            before: Number of virtual tokens.
        """
        columns = before + len(row.encoded.tokens)
        return cls(row, cache, memory, columns) if memory.take(cache.opened_bytes(columns), None) else None

    def next(
        self, count: int, prefix: int = 0, adapter: BatchedAdapter | None = None
    ) -> tuple[np.ndarray, TokenChunk] | None:
        """Return the next tokens, at most `count`, and what they continue. None: the text was closed.

        Args:
            count: Number of tokens, at least 1.
            prefix: Number of columns of the adapter's prefix.
            adapter: The adapter, if it shares a model.
        """
        with self._lock:
            if self._closed:
                return None
            if self._sequence is None:
                self._sequence = self._cache.open(self._columns, prefix, adapter)
            chunk = self._cache.chunk(self._sequence)
        return self.row.encoded.tokens[self.computed : self.computed + count], chunk

    @property
    def complete(self) -> bool:
        """Whether all tokens are computed."""
        return self.computed == len(self.row.encoded.tokens)

    def close(self) -> None:
        """Drop keys and values; further calls do nothing."""
        with self._lock:
            if not self._closed:
                self._closed, self._sequence = True, None
                self._memory.give_back(self._cache.opened_bytes(self._columns), None)


class NewTokens(NamedTuple):
    """The tokens that one step added to an answer.

    Attributes:
        tokens: Token ids.
        logprobs: One for each token. None: not requested.
    """

    tokens: list[int]
    logprobs: list[TokenLogprobs] | None


@dataclass(eq=False)
class Generation:
    """A text that generation answers. For several answers to a text, give several generations with other seeds.

    Attributes:
        lease: A lease on the adapter, which is loaded. The caller releases it after the generation.
        encoded: The text, encoded for that adapter.
        decoding: How the answer is generated. `max_new_tokens` is the caller's limit; None: as many as the model has
            positions for.
        logprobs: Number of most probable tokens that are reported at each step. None: no log-probabilities.
        guide: Restricts the tokens of the answer. None: every token is allowed. A guide has a state, so each
            generation needs its own.
        heard: Called with the new tokens of each step, on the computing thread; must return at once. Not called for
            beam search, whose tokens may still change.
        prompt_logprobs: As `logprobs`, for each token of the text after the first.
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
        tokens: int64 [number of new tokens], the end token included.
        ended: Whether the answer ended by an end token or a stop string, and not by the limit of new tokens.
        logprobs: One for each token. None: not requested.
        digest: Digest of the adapter.
        version: Version in a store, such as `client/task@3`. None: not from a store.
        truncated: Whether the text was truncated.
        prompt_tokens: Number of tokens of the encoded text.
        prompt_logprobs: One for each token of the encoded text after the first. None: not requested.
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
        """Return the same for a request that wants no token."""
        logprobs = None if self.logprobs is None else self.logprobs[:0]
        return replace(self, text="", tokens=self.tokens[:0], ended=False, logprobs=logprobs)
