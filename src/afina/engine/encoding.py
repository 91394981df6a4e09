"""Functions that tokenize texts for an adapter, and can be called in any thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from afina.data.template import Template
from afina.data.tokenize import Encoded, Tokenizer
from afina.engine import problems
from afina.engine.residents import Resident
from afina.errors import AfinaError
from afina.predicting import reading
from afina.predicting.reading import Reading, Truncation


@dataclass(frozen=True, eq=False)
class EncodedText:
    """The token ids of a text, or of a pair of texts, for an adapter.

    Attributes:
        tokens: The token ids, int32 [length], with those of the template and special tokens; empty for an adapter that
            reads no tokens (bag of words).
        truncated: Whether the text was truncated.
        text: The single text, or the first text of a pair.
        pair: The second text of a pair. None: a single text.
        second: The index of the first token with token type 1. None: the model has no token types.
    """

    tokens: np.ndarray
    truncated: bool
    text: str
    pair: str | None = None
    second: int | None = None


def encode(
    tokenizer: Tokenizer,
    resident: Resident,
    texts: Sequence[str],
    pairs: Sequence[str | None] | None = None,
    template: Template | None = None,
    truncation: Truncation | None = None,
) -> list[EncodedText | AfinaError]:
    """Tokenize texts for an adapter, and return for each text an EncodedText or an error.

    Args:
        tokenizer: A `ConcurrentTokenizer` of the backbone's tokenizer. `Engine.encode` describes the further arguments.
    """
    reads = resident.reading
    if reads is not None:
        reads = reads.changed(template, truncation)
    elif truncation is not None and truncation.max_length is not None:
        error = problems.READS_NO_TOKENS(option="max_length")
        return [error] * len(texts)
    given = [*zip(texts, [None] * len(texts) if pairs is None else pairs, strict=True)]
    found: dict[int, EncodedText | AfinaError] = {}
    for single in (True, False):
        mine = [index for index, (_, pair) in enumerate(given) if (pair is None) == single]
        if mine:
            found |= zip(mine, _encoded(tokenizer, resident, reads, [given[index] for index in mine]), strict=True)
    return [found[index] for index in range(len(given))]


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
    second = [None] * len(given) if made.second is None else made.second.tolist()
    cut = made.truncated > 0
    return [EncodedText(made[place], cut, *each, second[place]) for place, each in enumerate(given)]
