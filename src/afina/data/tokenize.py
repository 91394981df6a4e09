"""Tokenize texts, optionally in a prompt `Template`. Only this module truncates texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from afina.data import problems

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
    """

    tokens: np.ndarray
    offsets: np.ndarray
    truncated: int
    second: np.ndarray | None = None

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

    def first(self, count: int) -> Encoded:
        """Return the first `count` sequences, or all if there are fewer; the number `truncated` stays unchanged."""
        count = min(count, len(self))
        second = None if self.second is None else self.second[:count]
        return Encoded(self.tokens[: self.offsets[count]], self.offsets[: count + 1], self.truncated, second)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


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

    With a template, the template and the text are tokenized as one string, and only the text is truncated.

    Args:
        where: A name for the texts in error messages, such as "training text".
        before: The number of texts before these, so that error messages number the texts correctly.

    Raises InvalidData for a text without tokens.
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
    """Tokenize texts as `encode` does, and yield the sequences of 4,096 texts at a time."""
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


Tokenizer = PreTrainedTokenizerBase
"""The type of transformers' tokenizers, for modules of afina that do not import transformers."""

_BRIEF = 80
"""The largest number of characters of a prompt template in an error message."""

TEXT, PAIR = "{text}", "{text_pair}"

_NAME_IN_BRACES = re.compile(r"\{[^\W\d]\w*\}")


@dataclass(frozen=True)
class Template:
    r"""A prompt template, such as `Review: {text}\nSentiment:`.

    A template contains `{text}` once, and `{text_pair}` at most once. All other braces, also in the texts, are literal.

    Attributes:
        source: The template as a string.
        special_tokens: Whether the tokenizer adds its special tokens. False for a chat template, which contains them.
    """

    source: str
    special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.source.count(TEXT) != 1 or self.source.count(PAIR) > 1:
            raise problems.TEMPLATE_WITHOUT_TEXT(template=self.source, _brief=self._brief)

    @property
    def _brief(self) -> str:
        """The quoted beginning of the template, for error messages."""
        return repr(self.source if len(self.source) <= _BRIEF else self.source[: _BRIEF - 1] + "…")

    @property
    def takes_pairs(self) -> bool:
        """Whether the template contains `{text_pair}`, the place of a second text."""
        return PAIR in self.source

    def check_pairs(self, pairs: bool) -> None:
        """Raise InvalidStudy unless the template contains `{text_pair}` exactly if the examples are pairs of texts."""
        if pairs != self.takes_pairs:
            found = "pairs of texts" if pairs else "single texts"
            advice = f"Add {PAIR}." if pairs else f"Remove {PAIR}, or name the column of second texts with `text_pair`."
            raise problems.TEMPLATE_OF_OTHER_TEXTS(
                found=found, template=self.source, pairs=pairs, _brief=self._brief, _advice=advice
            )

    def check_fields(self, columns: Sequence[str] = ()) -> None:
        """Raise InvalidStudy if the template contains a name in braces other than `{text}` and `{text_pair}`.

        Args:
            columns: The names in braces that the error message offers. Empty: `{text}` and `{text_pair}`.
        """
        texts = [TEXT, PAIR] if self.takes_pairs else [TEXT]
        unknown = [each for each in _NAME_IN_BRACES.findall(self.source) if each not in (TEXT, PAIR)]
        if unknown:
            raise problems.TEMPLATE_COLUMN_UNKNOWN(
                expected=columns or texts, template=self.source, found=unknown[0], _brief=self._brief
            )

    def ids(self, tokenizer: PreTrainedTokenizerBase, rendered: list[str]) -> list[list[int]]:
        """Return the token ids of rendered prompts, without truncation."""
        given = tokenizer(rendered, return_attention_mask=False, verbose=False, add_special_tokens=self.special_tokens)
        found: list[list[int]] = given["input_ids"]
        return found

    def followed(self, prompt: str, answer: str) -> str:
        """Concatenate a rendered prompt and its answer, with a space between them unless the prompt ends a line.

        In a chat template, which has its own special tokens, no space is added.
        """
        joined = not self.special_tokens or prompt.endswith("\n")
        return f"{prompt}{'' if joined else ' '}{answer}"

    def render(self, text: str, pair: str | None = None) -> str:
        return self._laid(text, pair)[0]

    def check_length(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Raise InvalidStudy if the template alone has `max_length` or more tokens."""
        length = len(self.ids(tokenizer, [self.render("", "")])[0])
        if length >= max_length:
            raise problems.TEMPLATE_TOO_LONG(
                template=self.source, tokens=length, max_length=max_length, _brief=self._brief
            )

    def shortened(
        self, tokenizer: PreTrainedTokenizerBase, text: str, pair: str | None, max_length: int
    ) -> tuple[np.ndarray, bool]:
        """Return the token ids (int32) of an example in the template, and whether a text had to be truncated.

        Texts are truncated at their ends, or at their beginnings if the tokenizer truncates on the left; of a pair, the
        longer text is truncated first. The template is not truncated. Raises InvalidStudy if the template alone has
        more than `max_length` tokens.
        """
        parts, cut = [text, *([] if pair is None else [pair])], False
        while True:
            rendered, spans = self._laid(*parts)
            found = tokenizer(
                rendered, return_offsets_mapping=True, verbose=False, add_special_tokens=self.special_tokens
            )
            over = len(found["input_ids"]) - max_length
            if over <= 0:
                return np.asarray(found["input_ids"], dtype=np.int32), cut
            if not any(parts):
                self.check_length(tokenizer, max_length)  # raises, since the template is too long
            left = tokenizer.truncation_side == "left"
            parts, cut = _cut(parts, spans, np.asarray(found["offset_mapping"]), over, left=left), True

    @cached_property
    def _literals(self) -> tuple[list[str], list[int]]:
        """The literal parts of the template, and for each part except the last which text (0 or 1) follows it."""
        places = sorted(
            (self.source.index(mark), number, mark) for number, mark in ((0, TEXT), (1, PAIR)) if mark in self.source
        )
        literals, start = [], 0
        for place, _, mark in places:
            literals.append(self.source[start:place])
            start = place + len(mark)
        return [*literals, self.source[start:]], [number for _, number, _ in places]

    def _laid(self, text: str, pair: str | None = None) -> tuple[str, list[tuple[int, int]]]:
        """Return the template filled with a text or pair, and the (start, end) of each text in the filled template."""
        literals, order = self._literals
        given, spans = (text, pair or ""), {}
        whole = literals[0]
        for number, literal in zip(order, literals[1:], strict=True):
            spans[number] = (len(whole), len(whole) + len(given[number]))
            whole += given[number] + literal
        return whole, [spans[number] for number in sorted(spans)]


def _cut(parts: list[str], spans: list[tuple[int, int]], offsets: np.ndarray, over: int, *, left: bool) -> list[str]:
    """Return the texts of an example shortened by about `over` tokens, and by at least one character.

    Args:
        parts: The text, or the two texts of a pair.
        spans: The (start, end) of each text in the tokenized string.
        offsets: int64 [T, 2], the start and end of each token in the tokenized string.
        left: Whether texts are shortened at their beginnings.
    """
    inside = [offsets[(offsets[:, 0] >= a) & (offsets[:, 1] <= b) & (offsets[:, 0] < offsets[:, 1])] for a, b in spans]
    keep = [len(tokens) for tokens in inside]
    for _ in range(min(over, sum(keep))):
        keep[keep.index(max(keep))] -= 1
    if not any(map(len, inside)):  # the rest of the texts shares its tokens with the template
        return ["" for _ in parts]
    made = []
    for part, (start, _), tokens, count in zip(parts, spans, inside, keep, strict=True):
        if count == len(tokens):
            made.append(part)
        elif left:
            made.append(part[int(tokens[len(tokens) - count - 1, 1]) - start :])
        else:
            made.append(part[: int(tokens[count, 0]) - start])
    return made
