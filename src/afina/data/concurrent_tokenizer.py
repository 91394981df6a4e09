"""ConcurrentTokenizer: a tokenizer for many threads, with the results of transformers' tokenizer.

transformers' tokenizer changes its own truncation setting at every call, so two threads must not use it at once. It
holds the GIL for a single text, and tokenizes a long text whole, even if few tokens are kept.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from afina.data.template import Template
from afina.data.tokenize import Tokenizer

CHARACTERS = 8
"""Characters per token in the first guess of how much of a long text is needed; most texts have four or five."""

_BOUNDARY = re.compile("(?<=[A-Za-z])(?= [A-Za-z])")
"""A word boundary: between an ASCII letter and a space with another letter. Tokenizers that `_splits_words` accepts
have no token across a word boundary."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = tuple(rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|{digits}{_REST}" for digits in (r"\p{N}", r"\p{N}{1,3}"))
"""The regular expressions with which the tokenizers of Qwen 2, Qwen 3 and LLaMA 3 split a text into words."""

_LOCAL = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
"""Types of normalizers in `tokenizer.json` that normalize the two sides of a word boundary independently."""


class ConcurrentTokenizer:
    """A thread-safe tokenizer, without a lock, with the same tokens as the fast tokenizer of which it is a copy."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend: Any = tokenizer.backend_tokenizer
        self._inner = copy.deepcopy(backend)  # a copy, since transformers changes the truncation of the original
        self._inner.no_truncation()
        self._inner.no_padding()
        self.truncation_side = str(tokenizer.truncation_side)
        self.eos_token_id = tokenizer.eos_token_id
        self.model_input_names = tokenizer.model_input_names
        self._splits_words = _splits_words(json.loads(self._inner.to_str()))

    def __call__(
        self,
        text: str | list[str],
        text_pair: list[str] | None = None,
        *,
        truncation: bool = False,
        max_length: int = 0,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
        **_: Any,
    ) -> Any:
        """Tokenize texts or pairs; only the arguments and results that afina uses are supported."""
        if isinstance(text, str):
            (found,) = self._inner.encode_batch([text], add_special_tokens=add_special_tokens)
            return {"input_ids": found.ids, "offset_mapping": found.offsets}
        inputs: Sequence[str | tuple[str, str]]
        inputs = text if text_pair is None else list(zip(text, text_pair, strict=True))
        encodings = self._inner.encode_batch(inputs, add_special_tokens=add_special_tokens)
        made = []
        for given, found in zip(inputs, encodings, strict=True):
            over = truncation and len(found.ids) > max_length
            kept = self._truncated(given, max_length) if over else found
            made.append(SimpleNamespace(ids=kept.ids, types=kept.type_ids, offsets=kept.offsets, overflowing=over))
        results = {"input_ids": [each.ids for each in made], "token_type_ids": [each.types for each in made]}
        if return_offsets_mapping:
            results["offset_mapping"] = [each.offsets for each in made]
        return _Batch(results, made)

    def _truncated(self, given: str | tuple[str, str], max_length: int) -> Any:
        """Return the encoding of a text or pair cut to `max_length` tokens, as the tokenizers library truncates."""
        parts = [given] if isinstance(given, str) else [*given]
        encodings = self._inner.encode_batch(parts, add_special_tokens=False)
        room = max_length - self._inner.num_special_tokens_to_add(len(parts) == 2)
        lengths = [room] if len(parts) == 1 else _longest_first(len(encodings[0]), len(encodings[1]), room)
        for encoding, length in zip(encodings, lengths, strict=True):
            encoding.truncate(length, direction=self.truncation_side)
        return self._inner.post_process(*encodings, add_special_tokens=True)

    def shortened(self, text: str, most: int) -> str:
        """Return the text without its middle, if the first `most` tokens stay the same, also in a prompt template.

        If the tokenizer truncates on the left, the last `most` tokens stay the same. The middle is left out if the
        tokenizer splits texts into words by a known rule, and the text can be cut between words of plain letters. A
        shortened text still has more than `most` tokens.
        """
        size = CHARACTERS * (most + 1)
        while self._splits_words and 4 * size < len(text):
            first, last = _BOUNDARY.search(text, 0, size), _BOUNDARY.search(text, len(text) - size)
            end = _last_boundary(text, size)
            if self.truncation_side == "left":
                kept = text[last.start() : _last_boundary(text, len(text))] if last else ""
            else:
                kept = text[first.start() : end] if first else ""
            if end and last and kept and len(self._inner.encode_batch_fast([kept])[0]) > most + _SPECIAL:
                return text[:end] + text[last.start() :]
            size *= 2
        return text

    def shortened_all(
        self, texts: Sequence[str], pairs: Sequence[str] | None, most: int, template: Template | None
    ) -> tuple[Sequence[str], Sequence[str] | None]:
        """Return texts or pairs of texts without the middle of long texts; truncation to `most` tokens is unaffected.

        Pairs without a prompt template are returned unchanged, because truncation compares the lengths of both texts.
        """
        if pairs is not None and template is None:
            return texts, pairs
        first = [self.shortened(text, most) for text in texts]
        return first, None if pairs is None else [self.shortened(pair, most) for pair in pairs]


_SPECIAL = 8
"""An upper bound of the number of special tokens that a tokenizer adds to a text."""


class _Batch(dict[str, Any]):
    """Tokenized texts, like transformers' BatchEncoding: a dict with `input_ids` and `token_type_ids`."""

    def __init__(self, made: dict[str, Any], encodings: list[Any]) -> None:
        super().__init__(made)
        self.encodings = encodings


def _last_boundary(text: str, before: int) -> int:
    """Return the index of the last word boundary in the 256 characters before index `before`; 0 if there is none."""
    start = max(0, before - 256)
    return max((found.start() for found in _BOUNDARY.finditer(text, start, before)), default=0)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the two lengths of a pair truncated to `room` tokens, as the tokenizers library truncates a pair."""
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def _splits_words(settings: dict[str, Any]) -> bool:
    """Return whether, by its `tokenizer.json`, a tokenizer tokenizes the two sides of a word boundary independently."""
    if any(" " in each["content"] or each["lstrip"] or each["rstrip"] for each in settings["added_tokens"]):
        return False
    return all(map(_is_local, _steps(settings["normalizer"], "normalizers"))) and _has_words(settings["pre_tokenizer"])


def _steps(step: dict[str, Any] | None, name: str) -> Sequence[dict[str, Any]]:
    """Return the items of a `Sequence` of normalizers or pre-tokenizers in `tokenizer.json`, or the only item."""
    if step is None:
        return []
    return step[name] if step["type"] == "Sequence" else [step]


def _is_local(normalizer: dict[str, Any]) -> bool:
    return normalizer["type"] in _LOCAL


def _has_words(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Return whether a pre-tokenizer splits texts into words by a known rule that none of its steps undoes."""
    found = False
    for step in _steps(pre_tokenizer, "pretokenizers"):
        match step:
            case {"type": "ByteLevel"}:
                found |= step.get("use_regex", True)
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                if pattern not in _PATTERNS:
                    return False
                found = True
            case {"type": "Digits"}:
                pass
            case _:
                return False
    return found
