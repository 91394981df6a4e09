"""ConcurrentTokenizer: a tokenizer for many threads, with the results of transformers' tokenizer.

transformers' tokenizer changes its own truncation setting at every call, so two threads must not use it at once.
transformers' tokenizer holds the GIL for a single text, and tokenizes a long text whole, even if few tokens are kept.
`ConcurrentTokenizer` changes no state, releases the GIL, and leaves out the middle of a long text where the rest has
the same tokens.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from afina.data.tokenize import Template, Tokenizer

CHARACTERS = 8
"""Characters for each token in the first guess how much of a long text is needed. Most texts have four or five."""

_BOUNDARY = re.compile("(?<=[A-Za-z])(?= [A-Za-z])")
"""The end of a word before a space and a letter. The tokenizers that `_splits_words` accepts never join its sides."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = tuple(rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORDS}|{digits}{_REST}" for digits in (r"\p{N}", r"\p{N}{1,3}"))
"""Patterns by which Qwen 2 and 3, and LLaMA 3, split a text into words."""

_LOCAL = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
"""Normalisations of which no part crosses a `_BOUNDARY`."""


class ConcurrentTokenizer:
    """A tokenizer with the results of transformers' own. Thread-safe, without a lock.

    Attributes:
        truncation_side: "right" or "left": the side at which a text loses tokens.
        eos_token_id: The end-of-sequence token. None: the tokenizer has none.
        model_input_names: The inputs of the model, which say whether it reads token types.

    Args:
        tokenizer: transformers' fast tokenizer; copied.
    """

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
        """Tokenise one text, texts or pairs; arguments and results as of transformers' tokenizer, where they are used.

        `overflowing` of an encoding is whether the text was truncated.
        """
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
            made.append(SimpleNamespace(ids=kept.ids, types=kept.type_ids, overflowing=over))
        results = {"input_ids": [each.ids for each in made], "token_type_ids": [each.types for each in made]}
        return _Batch(results, made)

    def _truncated(self, given: str | tuple[str, str], max_length: int) -> Any:
        """Return the encoding of a too long text or pair, truncated as by the tokenizers library."""
        parts = [given] if isinstance(given, str) else [*given]
        encodings = self._inner.encode_batch(parts, add_special_tokens=False)
        room = max_length - self._inner.num_special_tokens_to_add(len(parts) == 2)
        lengths = [room] if len(parts) == 1 else _longest_first(len(encodings[0]), len(encodings[1]), room)
        for encoding, length in zip(encodings, lengths, strict=True):
            encoding.truncate(length, direction=self.truncation_side)
        return self._inner.post_process(*encodings, add_special_tokens=True)

    def shortened(self, text: str, most: int) -> str:
        """Return a text with the same first (last, if the left side is truncated) `most` tokens, also in a template.

        The middle is left out if the text is long, the tokenizer splits texts into words by a known rule, and there are
        words of plain letters to cut between. If not, the whole text is returned. A text with more than `most` tokens
        keeps more than `most` tokens.
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
        """Return texts or pairs that are truncated to the same `most` tokens, without the middle of long ones.

        Without a template, the tokenizers library compares the lengths of a pair, so that both are needed.
        """
        if pairs is not None and template is None:
            return texts, pairs
        first = [self.shortened(text, most) for text in texts]
        return first, None if pairs is None else [self.shortened(pair, most) for pair in pairs]


_SPECIAL = 8
"""More special tokens than a tokenizer adds to a text."""


class _Batch(dict[str, Any]):
    """The tokenized texts: `input_ids`, `token_type_ids`, and `encodings` with `overflowing`."""

    def __init__(self, made: dict[str, Any], encodings: list[Any]) -> None:
        super().__init__(made)
        self.encodings = encodings


def _last_boundary(text: str, before: int) -> int:
    """Return the last boundary among the 256 characters before a place, or 0."""
    start = max(0, before - 256)
    return max((found.start() for found in _BOUNDARY.finditer(text, start, before)), default=0)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths of a pair after truncation, by the rule of the tokenizers library."""
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def _splits_words(settings: dict[str, Any]) -> bool:
    """Whether a tokenizer tokenizes the two sides of each `_BOUNDARY` independently, by its `tokenizer.json`."""
    if any(" " in each["content"] or each["lstrip"] or each["rstrip"] for each in settings["added_tokens"]):
        return False
    return all(map(_is_local, _steps(settings["normalizer"], "normalizers"))) and _has_words(settings["pre_tokenizer"])


def _steps(step: dict[str, Any] | None, name: str) -> Sequence[dict[str, Any]]:
    """Return the steps of a `Sequence` in `tokenizer.json`, or the only step."""
    if step is None:
        return []
    return step[name] if step["type"] == "Sequence" else [step]


def _is_local(normalizer: dict[str, Any]) -> bool:
    return normalizer["type"] in _LOCAL


def _has_words(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer's step splits texts into words, and no step undoes this."""
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
