"""The work of an engine: texts that one forward pass answers, and texts that generation answers.

A caller encodes each text once (`Engine.encode`), on any thread. The computing thread then works on token ids only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from afina.inference.searches import Guide, TokenLogprobs
from afina.models.decoding import Decoding
from afina.serving.residents import Lease

__all__ = ["EncodedText", "GeneratedText", "Generation", "Guide", "NewTokens", "SinglePass", "TokenLogprobs"]


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
    """

    lease: Lease
    encoded: EncodedText
    decoding: Decoding
    logprobs: int | None = None
    guide: Guide | None = None
    heard: Callable[[NewTokens], None] | None = None


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
    """

    text: str
    tokens: np.ndarray
    ended: bool
    logprobs: list[TokenLogprobs] | None
    digest: str
    version: str | None
    truncated: bool
    prompt_tokens: int
