"""Text to token ids. Truncation is decided here and nowhere else. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from afina.errors import InvalidData

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Encoded:
    """N token sequences, end to end.

    tokens     int32 [total]
    offsets    int64 [N + 1]  sequence i is tokens[offsets[i]:offsets[i + 1]]
    truncated  how many texts were longer than the maximum
    """

    tokens: np.ndarray
    offsets: np.ndarray
    truncated: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.offsets)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    where: str = "text",
    before: int = 0,
) -> Encoded:
    """Encode as the tokenizer's own call does: its special tokens, its way of joining pairs, its truncation side.

    Raises InvalidData for a text that gives no token; `where` names the texts in that message, and `before` is how many
    came earlier.
    """
    tokens, lengths, truncated = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)], 0
    for ids, sizes, cut in pieces(tokenizer, texts, pairs, max_length=max_length, where=where, before=before):
        tokens.append(ids)
        lengths.append(sizes)
        truncated += cut
    return Encoded(np.concatenate(tokens), np.cumsum(np.concatenate(lengths)), truncated)


def pieces(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    where: str = "text",
    before: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """What `encode` joins, some thousands of texts at a time: (tokens int32 [T], lengths int64 [N], truncated)."""
    for start in range(0, len(texts), _CHUNK):
        batch = list(texts[start : start + _CHUNK])
        second = None if pairs is None else list(pairs[start : start + _CHUNK])
        result = tokenizer(batch, second, truncation=True, max_length=max_length, return_attention_mask=False)
        sizes = np.array([len(ids) for ids in result["input_ids"]], dtype=np.int64)
        if not sizes.all():
            row = start + int(np.argmin(sizes))
            raise InvalidData(
                f"{where} {before + row + 1}: {texts[row]!r} gives no tokens. "
                "Remove empty texts, or give them some content."
            )
        truncated = sum(1 for encoding in result.encodings if encoding.overflowing)
        yield np.concatenate([np.asarray(ids, dtype=np.int32) for ids in result["input_ids"]]), sizes, truncated
