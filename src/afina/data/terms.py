"""Terms: the words and pairs of words that TF-IDF features count, and the text in which a pair of texts is counted."""

from __future__ import annotations

from collections.abc import Sequence

WORD, LONGEST = r"\b\w+\b", 2
"""Regular expression of a word, and the maximum number of consecutive words in a term."""


def joined(texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
    """Return the texts; for pairs of texts, each first text with its second text after a space."""
    return list(texts) if pairs is None else [f"{text} {pair}" for text, pair in zip(texts, pairs, strict=True)]
