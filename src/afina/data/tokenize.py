"""Text to token ids. Truncation is decided here and nowhere else. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from afina.data.template import Template
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

    def first(self, count: int) -> Encoded:
        """The first `count` sequences, or all; `truncated` is of the whole."""
        count = min(count, len(self))
        return Encoded(self.tokens[: self.offsets[count]], self.offsets[: count + 1], self.truncated)

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
    template: Template | None = None,
    where: str = "text",
    before: int = 0,
) -> Encoded:
    """Encode as the tokenizer's own call does: its special tokens, its way of joining pairs, its truncation side.

    With a template, it and the text in it are one string for the tokenizer, and only the text is ever cut.

    Raises InvalidData for a text that gives no token; `where` names the texts in that message, and `before` is how many
    came earlier.
    """
    tokens, lengths, truncated = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)], 0
    made = pieces(tokenizer, texts, pairs, max_length=max_length, template=template, where=where, before=before)
    for ids, sizes, cut in made:
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
    template: Template | None = None,
    where: str = "text",
    before: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """What `encode` joins, some thousands of texts at a time: (tokens int32 [T], lengths int64 [N], truncated)."""
    if template:
        template.check_pairs(pairs is not None)
        template.check_length(tokenizer, max_length)
    for start in range(0, len(texts), _CHUNK):
        batch = list(texts[start : start + _CHUNK])
        second = None if pairs is None else list(pairs[start : start + _CHUNK])
        if template:
            ids, truncated = _in_template(tokenizer, template, batch, second, max_length)
        else:
            result = tokenizer(batch, second, truncation=True, max_length=max_length, return_attention_mask=False)
            ids = [np.asarray(each, dtype=np.int32) for each in result["input_ids"]]
            truncated = sum(1 for encoding in result.encodings if encoding.overflowing)
        sizes = np.array([len(each) for each in ids], dtype=np.int64)
        if not sizes.all():
            row = start + int(np.argmin(sizes))
            raise InvalidData(
                f"{where} {before + row + 1}: {texts[row]!r} gives no tokens. "
                "Remove empty texts, or give them some content.",
                code="data.text-empty",
                row=before + row + 1,
            )
        yield np.concatenate(ids), sizes, truncated


def _in_template(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    texts: list[str],
    pairs: list[str] | None,
    max_length: int,
) -> tuple[list[np.ndarray], int]:
    """Token ids of each text, none of one that adds none to the template, and how many texts were cut."""
    seconds: Sequence[str | None] = pairs or [None] * len(texts)
    given = list(zip(texts, seconds, strict=True))
    found = tokenizer([template.render(*one) for one in given], return_attention_mask=False, verbose=False)["input_ids"]
    empty = tokenizer(template.render("", ""), verbose=False)["input_ids"]
    made, truncated = [], 0
    for one, ids in zip(given, found, strict=True):
        if ids == empty:
            made.append(np.zeros(0, np.int32))
        elif len(ids) <= max_length:
            made.append(np.asarray(ids, dtype=np.int32))
        else:
            shorter, cut = template.shortened(tokenizer, *one, max_length)
            made.append(shorter)
            truncated += cut
    return made, truncated
