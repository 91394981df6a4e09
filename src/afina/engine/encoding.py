"""Functions that tokenize texts for an adapter, and can be called in any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from afina.data.template import Template
from afina.data.tokenize import NO_WORD, Encoded, Tokenizer
from afina.data.word_tokens import WordTokens
from afina.engine import problems
from afina.engine.residents import Resident
from afina.errors import AfinaError
from afina.predicting import reading
from afina.predicting.reading import Reading, Truncation


class TokenSequence(NamedTuple):
    """The tokens of a text, or of a window of a text, which one forward pass computes.

    Attributes:
        tokens: The token ids, int32 [length].
        second: The index of the first token with token type 1. None: the model has no token types.
        read: The indices of the tokens at which words are read, int64 [M]. None: the head reads the pooled output.
    """

    tokens: np.ndarray
    second: int | None = None
    read: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class EncodedText:
    """The token ids of a text, or of a pair of texts, for an adapter.

    Attributes:
        tokens: The token ids of all windows, int32 [length], with those of the template and special tokens; empty for
            an adapter that reads no tokens (bag of words).
        second: The index of the first token with token type 1. None: the model has no token types.
        words: The windows of the text, and the words that are read in them. None: the head reads the pooled output.
        each_token: Whether the words are all tokens of the text, because the request asks for the outputs of tokens.
    """

    tokens: np.ndarray
    truncated: bool
    text: str
    pair: str | None = None
    second: int | None = None
    words: WordTokens | None = None
    each_token: bool = False

    @cached_property
    def sequences(self) -> Sequence[TokenSequence]:
        """The token sequences that are computed: one, or one for each window."""
        if self.words is None:
            return [TokenSequence(self.tokens, self.second)]
        parts = [slice(*self.words.offsets[window : window + 2]) for window in range(len(self.words))]
        return [
            TokenSequence(self.tokens[part], None, np.flatnonzero(self.words.reads[part] != NO_WORD)) for part in parts
        ]


def encode(
    tokenizer: Tokenizer,
    resident: Resident,
    texts: Sequence[str],
    pairs: Sequence[str | None] | None = None,
    template: Template | None = None,
    truncation: Truncation | None = None,
    *,
    each_token: bool = False,
) -> list[EncodedText | AfinaError]:
    """Tokenize texts for an adapter, as `Engine.encode` describes; return for each text an EncodedText or an error."""
    reads = resident.reading
    if reads is not None:
        reads = reads.changed(template, truncation)
    elif truncation is not None and truncation.max_length is not None:
        error = problems.READS_NO_TOKENS(option="max_length")
        return [error] * len(texts)
    if each_token and (reads is None or not reads.reads_words):
        return [problems.NO_TOKEN_OUTPUTS(where=resident.where, kind=resident.objective.kind)] * len(texts)
    given = [*zip(texts, [None] * len(texts) if pairs is None else pairs, strict=True)]
    found: dict[int, EncodedText | AfinaError] = {}
    for single in (True, False):
        mine = [index for index, (_, pair) in enumerate(given) if (pair is None) == single]
        if mine:
            found |= zip(mine, _encoded(tokenizer, resident, reads, [given[index] for index in mine]), strict=True)
    made = [found[index] for index in range(len(given))]
    return [_at_each_token(one, resident) for one in made] if each_token else made


def _at_each_token(one: EncodedText | AfinaError, resident: Resident) -> EncodedText | AfinaError:
    """Return a text of whose tokens all are read, or an error if the text has several windows."""
    if isinstance(one, AfinaError):
        return one
    assert one.words is not None
    assert resident.reading is not None
    if len(one.words) > 1:
        return problems.SEVERAL_WINDOWS(windows=len(one.words), most=resident.reading.max_length)
    return replace(one, words=one.words.at_each_token(), each_token=True)


def _encoded(
    tokenizer: Tokenizer, resident: Resident, reads: Reading | None, given: Sequence[tuple[str, str | None]]
) -> list[EncodedText | AfinaError]:
    """Tokenize texts or pairs together. If one is invalid, or only some are truncated, do so one by one."""
    texts, pairs, made = [text for text, _ in given], [pair for _, pair in given if pair is not None] or None, None
    try:
        if reads is None:  # a bag of words, which reads no tokens
            reading.check(resident.manifest, resident.where, texts, pairs, where="text", before=0)
            made = Encoded.of([np.zeros(0, np.int32)] * len(texts))
        else:
            made = reads.encode(texts, pairs, tokenizer=tokenizer)
    except AfinaError as error:
        if len(given) == 1:
            return [error]
    if made is None or 0 < made.truncated < len(given):
        return [one for each in given for one in _encoded(tokenizer, resident, reads, [each])]
    if isinstance(made, WordTokens):
        parts = [made.part(place, place + 1) for place in range(len(given))]
        return [EncodedText(part.tokens, False, *each, words=part) for part, each in zip(parts, given, strict=True)]
    second = [None] * len(given) if made.second is None else made.second.tolist()
    cut = made.truncated > 0
    return [EncodedText(made[place], cut, *each, second[place]) for place, each in enumerate(given)]
