"""The words of a text, to which token classification gives tags.

A text that was given as words, as in a CoNLL file, is its words joined by single spaces. The words of another text are
found: a run of letters, digits and underscores with their combining marks, or any other character that is not blank.
Each character of a script without spaces, such as Han or Thai, is a word. A grapheme cluster (Unicode Standard Annex
29), such as an emoji of several code points, is never divided.
"""

from __future__ import annotations

import numpy as np
import regex

_GIVEN = regex.compile(r"[^ ]+")

_WITHOUT_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that are written without spaces between words, so that each of their characters is a word of its own."""

_LETTER = rf"[[\p{{L}}\p{{N}}_]--[{_WITHOUT_SPACES}]]"
_MARKS = r"\p{M}*[\u200c\u200d]?\p{M}*"
WORD = rf"(?V1)(?:{_LETTER}{_MARKS})+|(?![\s\p{{Cc}}\p{{Cf}}])\X"
"""The pattern, for the package regex, of the words of a text that was not given as words."""

_FOUND = regex.compile(WORD)


def words_of(text: str, spaced: bool = False) -> np.ndarray:
    """Return the start and end of each word in characters, int32 [W, 2]; `spaced` texts divide at spaces only."""
    pattern = _GIVEN if spaced else _FOUND
    found = [match.span() for match in pattern.finditer(text)]
    return np.array(found, dtype=np.int32).reshape(-1, 2)
