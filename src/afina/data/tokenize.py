"""Tokenize texts, optionally in a prompt `Template`. Only this module and `template.py` truncate texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from afina.data import problems
from afina.data.template import Template

NO_WORD = -100
"""The number of a word that stands for no word; as a target, `ignore_index` of `torch.nn.functional.cross_entropy`."""

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Encoded:
    """N token sequences, concatenated.

    Attributes:
        tokens: int32 [total], the token ids of all sequences.
        offsets: int64 [N + 1], the sequence boundaries: sequence i is tokens[offsets[i]:offsets[i + 1]].
        truncated: The number of texts that were longer than the maximum length.
        second: int32 [N], the index in each sequence of the first token of type 1 (of the second text of a pair); the
            sequence's length if no token has type 1. If `second` is None, all tokens count as type 0.
        reads: For each token the number of the word that a model tags there, or NO_WORD (`WordTokens`). None: a model
            has one output for each sequence.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    truncated: int
    second: np.ndarray | None = None
    reads: np.ndarray | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls, sequences: Sequence[np.ndarray], truncated: int = 0, second: Sequence[int | None] | None = None
    ) -> Encoded:
        """Concatenate integer arrays of token ids; `second` is None for sequences without token types."""
        offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
        tokens = np.concatenate([np.zeros(0, np.int32), *sequences]).astype(np.int32)
        return cls(tokens, offsets, truncated, seconds_of(sequences, second))

    @classmethod
    def joined(cls, parts: Iterable[Encoded]) -> Encoded:
        """Concatenate the sequences of several parts, which all have token types or all have none."""
        given = list(parts)
        seconds = [part.second for part in given if part.second is not None]
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in given)])
        return cls(
            np.concatenate([np.zeros(0, np.int32), *(part.tokens for part in given)]),
            np.cumsum(lengths),
            sum(part.truncated for part in given),
            np.concatenate(seconds) if seconds else None,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def each(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def first(self, count: int) -> Encoded:
        """Return the first `count` sequences, or all if there are fewer; the number `truncated` stays unchanged."""
        return self.part(0, min(count, len(self)))

    @property
    def text_lengths(self) -> np.ndarray:
        """The number of tokens of each text, in all of its sequences, int64 [number of texts]."""
        return self.lengths

    def part(self, start: int, stop: int) -> Encoded:
        """Return the sequences of the texts `start` to `stop - 1`; the number `truncated` stays unchanged."""
        offsets = self.offsets[start : stop + 1]
        second = None if self.second is None else self.second[start:stop]
        return Encoded(self.tokens[offsets[0] : offsets[-1]], offsets - offsets[0], self.truncated, second)

    @property
    def texts(self) -> int:
        return len(self)

    def whole_texts(self, computed: np.ndarray) -> int:
        """Return the number of texts of which all sequences are `computed`, bool [N]."""
        return int(computed.sum())

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def output_counts(self) -> np.ndarray:
        """How many outputs a model has for each sequence, int64 [N]: one for each word that is read in it, or one."""
        if self.reads is None:
            return np.ones(len(self), np.int64)
        ends = np.concatenate([[0], np.cumsum(self.reads != NO_WORD, dtype=np.int64)])
        return np.diff(ends[self.offsets])


def seconds_of(sequences: Sequence[np.ndarray], second: Sequence[int | None] | None) -> np.ndarray | None:
    """Return the array `Encoded.second`, given for each sequence the index of its first token of type 1, or None."""
    if second is None or all(place is None for place in second):
        return None
    places = zip(sequences, second, strict=True)
    return np.array([len(one) if place is None else place for one, place in places], dtype=np.int32)


def has_types(tokenizer: PreTrainedTokenizerBase, *, pairs: bool, template: Template | None) -> bool:
    """Return whether `encode` returns token types: for pairs without a template, if the model reads token types."""
    return pairs and template is None and "token_type_ids" in tokenizer.model_input_names


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
    """Tokenize texts or pairs with the special tokens, token types and truncation side of a transformers tokenizer.

    With a template, the template and the text are tokenized as one string, and only the text is truncated. Raises
    InvalidData for a text without tokens, which it numbers after `before` texts.
    """
    return Encoded.joined(
        pieces(tokenizer, texts, pairs, max_length=max_length, template=template, where=where, before=before)
    )


def pieces(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    template: Template | None = None,
    where: str = "text",
    before: int = 0,
) -> Iterator[Encoded]:
    if template:
        template.check_pairs(pairs is not None)
        template.check_length(tokenizer, max_length)
    typed = has_types(tokenizer, pairs=pairs is not None, template=template)
    for start in range(0, len(texts), _CHUNK):
        batch = list(texts[start : start + _CHUNK])
        others = None if pairs is None else list(pairs[start : start + _CHUNK])
        types: list[Sequence[int]] | None = None
        if template:
            ids, truncated = _in_template(tokenizer, template, batch, others, max_length)
        else:
            result = tokenizer(
                batch,
                others,
                truncation=True,
                max_length=max_length,
                return_attention_mask=False,
                return_token_type_ids=typed,
            )
            ids = [np.asarray(each, dtype=np.int32) for each in result["input_ids"]]
            truncated = sum(1 for encoding in result.encodings if encoding.overflowing)
            types = result["token_type_ids"] if typed else None
        made = Encoded.of(ids, truncated)
        if not made.lengths.all():
            row = start + int(np.argmin(made.lengths))
            raise problems.TEXT_WITHOUT_TOKENS(found=texts[row], row=before + row + 1, _where=where)
        yield made if types is None else replace(made, second=_seconds(made.offsets, types))


def _seconds(offsets: np.ndarray, types: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the array `Encoded.second`, given the token types of each sequence.

    Raises InvalidStudy unless each sequence has type 0 for its first tokens and type 1 for the others.
    """
    row = np.concatenate([np.asarray(each, dtype=np.int32) for each in types])
    lengths = np.diff(offsets)
    second = lengths - np.add.reduceat(row, offsets[:-1])
    places = np.arange(len(row)) - np.repeat(offsets[:-1], lengths)
    if not np.array_equal(row, places >= np.repeat(second, lengths)):
        found = sorted(set(row.tolist()))
        raise problems.TOKEN_TYPES_UNSUPPORTED(found=found)
    return second.astype(np.int32)


def _in_template(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    texts: list[str],
    pairs: list[str] | None,
    max_length: int,
) -> tuple[list[np.ndarray], int]:
    """Return the token ids of each text in its template, and the number of truncated texts.

    A text that adds no token to its template has no token ids.
    """
    seconds: Sequence[str | None] = pairs or [None] * len(texts)
    given = list(zip(texts, seconds, strict=True))
    found = template.ids(tokenizer, [template.render(*one) for one in given])
    (empty,) = template.ids(tokenizer, [template.render("", "")])
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


def encode_each(
    tokenizer: PreTrainedTokenizerBase,
    templates: Sequence[Template],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_lengths: Sequence[int],
) -> Encoded:
    """Tokenize texts or pairs, each in a template of its own; only the texts are truncated, to the maximum lengths."""
    seconds: Sequence[str | None] = pairs or [None] * len(texts)
    given = list(zip(templates, texts, seconds, max_lengths, strict=True))
    made, truncated = [], 0
    for start in range(0, len(given), _CHUNK):
        batch = given[start : start + _CHUNK]
        rendered = [template.render(text, pair) for template, text, pair, _ in batch]
        for (template, text, pair, most), ids in zip(batch, templates[0].ids(tokenizer, rendered), strict=True):
            one, cut = np.asarray(ids, dtype=np.int32), False
            if len(ids) > most:
                one, cut = template.shortened(tokenizer, text, pair, most)
            made.append(one)
            truncated += cut
    return Encoded.of(made, truncated)


Tokenizer = PreTrainedTokenizerBase
"""The type of transformers' tokenizers, for modules of afina that do not import transformers."""
