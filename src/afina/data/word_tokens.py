"""`WordTokens`: the tokens of texts whose words get tags, in windows that fit the model.

A text of too many tokens is divided into windows that overlap by a quarter, and is never cut. A word is read at its
first token (Devlin et al. 2019, section 5.3), in the window in which the token is farthest from a border within the
text. A word without a token of its own, which shares its token with the word before it, continues that word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.entities import OUTSIDE, tags_of
from afina.data.tokenize import NO_WORD, Encoded, Tokenizer
from afina.data.words import words_of

OVERLAP = 4
"""Neighbouring windows share one of so many parts of their tokens."""

SURE = 30.0
"""The difference of logits by which a word without a token of its own is surely in no entity, if no word is before."""

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class WordTokens(Encoded):
    """The windows of N texts as token sequences, and the words that are read in them.

    Attributes:
        reads: int32 [total]; a text's words are numbered from 0.
        owners: int64 [number of windows], the index of each window's text, ascending.
        words: object [N], the start and end of each word of a text in characters, int32 [W, 2].
    """

    reads: np.ndarray = field(kw_only=True)
    owners: np.ndarray = field(kw_only=True)
    words: np.ndarray = field(kw_only=True)

    @property
    def texts(self) -> int:
        return len(self.words)

    def whole_texts(self, computed: np.ndarray) -> int:
        return self.texts - len(np.unique(self.owners[~computed]))

    def read_in(self, window: int) -> np.ndarray:
        """Return the numbers of the words that are read in a window, ascending, int32."""
        found = self.reads[self.offsets[window] : self.offsets[window + 1]]
        read: np.ndarray = found[found != NO_WORD]
        return read

    def windows_of(self, text: int) -> range:
        first, last = np.searchsorted(self.owners, [text, text + 1])
        return range(int(first), int(last))

    @property
    def text_lengths(self) -> np.ndarray:
        """The number of tokens of each text, in all of its windows, int64 [number of texts]."""
        return np.bincount(self.owners, self.lengths, self.texts).astype(np.int64)

    def part(self, start: int, stop: int) -> WordTokens:
        first, last = np.searchsorted(self.owners, [start, stop]).tolist()
        begin, end = self.offsets[first], self.offsets[last]
        return WordTokens(
            self.tokens[begin:end],
            self.offsets[first : last + 1] - begin,
            0,
            reads=self.reads[begin:end],
            owners=self.owners[first:last] - start,
            words=self.words[start:stop],
        )

    def at_each_token(self) -> WordTokens:
        """Return the same windows with every token read, as a word of its own; each text must have one window."""
        reads = np.concatenate([np.zeros(0, np.int32), *(np.arange(length, dtype=np.int32) for length in self.lengths)])
        words = np.fromiter((np.zeros((length, 2), np.int32) for length in self.lengths), dtype=object)
        return replace(self, reads=reads, words=words)

    def tagged(self, entities: np.ndarray) -> Encoded:
        """Return the tag of each token as `Encoded.tokens`: the tag of the word that is read there, or NO_WORD.

        `entities` is object [N], the start, end and label number of each entity of a text, int [E, 3].
        """
        tags = np.full(len(self.reads), NO_WORD, np.int32)
        each = [tags_of(words, found) for words, found in zip(self.words, entities, strict=True)]
        for window, owner in enumerate(self.owners.tolist()):
            part = slice(self.offsets[window], self.offsets[window + 1])
            read = self.reads[part]
            tags[part][read != NO_WORD] = each[owner][read[read != NO_WORD]]
        return Encoded(tags, self.offsets, 0)

    def joined_outputs(self, outputs: Sequence[np.ndarray], width: int) -> np.ndarray:
        """Return the outputs of the words of each text, object [N] of float32 [W, width], from those of each window."""
        found = []
        for text, words in enumerate(self.words):
            made, unread = np.zeros((len(words), width), np.float32), np.ones(len(words), bool)
            for window in self.windows_of(text):
                made[self.read_in(window)] = outputs[window]
                unread[self.read_in(window)] = False
            found.append(_continued(made, unread))
        return np.fromiter(found, dtype=object)


def _continued(outputs: np.ndarray, unread: np.ndarray) -> np.ndarray:
    """Fill the outputs of the words that were not read: such a word continues the word before it.

    The probability that the word before begins or is inside an entity is the probability that this word is inside.
    """
    for word in np.flatnonzero(unread).tolist():
        if word == 0:
            outputs[0] = -SURE
            outputs[0, OUTSIDE] = 0.0
            continue
        before = outputs[word - 1]
        begins, insides = before[1::2], before[2::2]
        outputs[word] = before
        outputs[word, 2::2] = np.logaddexp(begins, insides)
        outputs[word, 1::2] = np.minimum(begins, before.min() - SURE)
    return outputs


def encode_words(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_length: int,
    spaced: bool = False,
    where: str = "text",
    before: int = 0,
) -> WordTokens:
    """Tokenize texts into windows of at most `max_length` tokens with the tokenizer's special tokens.

    With `spaced`, texts are words with single spaces between them. Raises InvalidData if a text has no token, and
    InvalidStudy if `max_length` leaves no room for words.
    """
    prefix, suffix = _special_tokens(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    if room < OVERLAP:
        raise problems.NO_ROOM_FOR_WORDS(max_length=max_length, least=len(prefix) + len(suffix) + OVERLAP)
    windows, reads, owners, words = list[np.ndarray](), list[np.ndarray](), list[int](), list[np.ndarray]()
    for text, ids, offsets in _encodings(tokenizer, texts):
        number = len(words)
        if not len(ids):
            raise problems.TEXT_WITHOUT_TOKENS(found=text, row=before + number + 1, _where=where)
        words.append(words_of(text, spaced))
        firsts = first_tokens(text, words[-1], offsets)
        for start, end, read in _cut(firsts, len(ids), room):
            windows.append(np.concatenate([prefix, ids[start:end], suffix]))
            none = np.full(len(windows[-1]), NO_WORD, np.int32)
            none[len(prefix) + firsts[read] - start] = read
            reads.append(none)
            owners.append(number)
    made = Encoded.of(windows)
    flat = np.concatenate([np.zeros(0, np.int32), *reads])
    found = np.fromiter(words, dtype=object)
    return WordTokens(made.tokens, made.offsets, 0, reads=flat, owners=np.array(owners, np.int64), words=found)


def _special_tokens(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    whole, own = (tokenizer(["a"], add_special_tokens=special)["input_ids"][0] for special in (True, False))
    start = next(place for place in range(len(whole)) if whole[place : place + len(own)] == own)
    return np.array(whole[:start], np.int32), np.array(whole[start + len(own) :], np.int32)


def _encodings(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each text with its token ids, int32 [T], and the start and end of its tokens in characters, int [T, 2]."""
    for start in range(0, len(texts), _CHUNK):
        batch = list(texts[start : start + _CHUNK])
        made: Any = tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for text, ids, offsets in zip(batch, made["input_ids"], made["offset_mapping"], strict=True):
            yield text, np.array(ids, np.int32), np.array(offsets, np.int64).reshape(-1, 2)


def first_tokens(text: str, words: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the index of each word's first token, int64 [W]; -1 for a word without a token of its own.

    A token belongs to the first word with which it has a character in common; blanks at its start do not count.
    """
    found = np.full(len(words), -1, np.int64)
    if not len(words) or not len(offsets):
        return found
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    for token, (start, end) in enumerate(offsets.tolist()):
        while start < end and text[start].isspace():
            start += 1
        starts[token] = start
    owner = np.searchsorted(words[:, 1], starts, side="right")
    within = np.minimum(owner, len(words) - 1)
    tokens = np.flatnonzero((starts < ends) & (owner < len(words)) & (words[within, 0] < ends))
    owned, first = np.unique(owner[tokens], return_index=True)
    found[owned] = tokens[first]
    return found


def _cut(firsts: np.ndarray, tokens: int, room: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the start and end of each window of a text of `tokens` tokens, and the words that are read in it."""
    if tokens <= room:
        yield 0, tokens, np.flatnonzero(firsts >= 0)
        return
    step = room - room // OVERLAP
    starts = np.array([*range(0, tokens - room, step), tokens - room])
    ends = starts + room
    known = np.flatnonzero(firsts >= 0)
    best = _windows_read(firsts[known], starts, step, tokens, room)
    by_window = known[np.argsort(best, kind="stable")]
    bounds = np.searchsorted(np.sort(best), np.arange(len(starts) + 1))
    for window, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield start, end, by_window[bounds[window] : bounds[window + 1]]


def _windows_read(places: np.ndarray, starts: np.ndarray, step: int, tokens: int, room: int) -> np.ndarray:
    """Return the index of the window in which each token is farthest from a border, int64 [M]; the first of equals.

    A token is in at most three windows: all but the last window start at multiples of `step`, which is over half of
    `room`.
    """
    last = len(starts) - 1
    at = np.minimum(places // step, last - 1)
    among = np.stack([np.maximum(at - 1, 0), at, np.full(len(places), last)])
    start = starts[among]
    end = start + room
    left, right = np.where(start > 0, places - start, tokens), np.where(end < tokens, end - 1 - places, tokens)
    distance = np.where((start <= places) & (places < end), np.minimum(left, right), -1)
    chosen: np.ndarray = among[distance.argmax(axis=0), np.arange(len(places))]
    return chosen
