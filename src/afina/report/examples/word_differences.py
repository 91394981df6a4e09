"""Words of two texts: how many they share in order, and where they differ. Case and outer punctuation do not count.

A text of Chinese or Japanese has no spaces between words, so each of its characters counts as a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from afina.stats.ngrams import longest_common

_WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\s\u2e80-\u9fff\uf900-\ufaff]+")
_AROUND = re.compile(r"^\W+|\W+$")

COMPARED, MARKED = 2_000, 300
"""The most words of a text that are compared, and the most in which differences are marked."""

State = Literal["same", "added", "missing"]


@dataclass(frozen=True)
class Piece:
    """A part of an answer beside a reference.

    Attributes:
        text: The words; a space at the end separates them from the next piece.
        state: `added`: the reference lacks the words. `missing`: the answer lacks words of the reference.
    """

    text: str
    state: State = "same"


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Attributes:
        shown: The words as they are written, each with a space if one follows.
        keys: The words without case and outer punctuation, for comparison.
    """

    shown: tuple[str, ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Words:
        """Split a text into at most COMPARED words; letters that cannot be printed are left out."""
        line = " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())
        found = list(_WORD.finditer(f"{line} " if " " in line else line))[:COMPARED]
        shown = tuple(one[0] + " " * one.string[one.end() : one.end() + 1].isspace() for one in found)
        return cls(shown, tuple(_AROUND.sub("", one[0].casefold()) or one[0] for one in found))

    @property
    def begin(self) -> Words:
        return Words(self.shown[:MARKED], self.keys[:MARKED])

    def likeness(self, other: Words) -> float:
        """Return the F1 of the words that both texts have in the same order, from 0 to 1."""
        total = len(self.keys) + len(other.keys)
        return 2 * longest_common(self.keys, other.keys) / total if total else 1.0


def nearest(answer: Words, references: Sequence[Words]) -> int:
    """Return the index of the reference with the highest likeness, the first of several."""
    return max(range(len(references)), key=lambda index: (answer.likeness(references[index]), -index))


def pieces(answer: Words, reference: Words) -> tuple[Piece, ...]:
    """Return the answer in pieces, with the words that the reference lacks, and words of it that the answer lacks."""
    made: list[Piece] = []
    answer, reference = answer.begin, reference.begin
    for what, first, last, start, end in SequenceMatcher(None, reference.keys, answer.keys, False).get_opcodes():
        if what in ("delete", "replace"):
            made.append(Piece("".join(reference.shown[first:last]), "missing"))
        if what != "delete":
            made.append(Piece("".join(answer.shown[start:end]), "same" if what == "equal" else "added"))
    return tuple(made)


def cut(found: Sequence[Piece], most: int) -> tuple[Piece, ...]:
    """Return the pieces up to `most` characters, with an ellipsis if pieces were left out."""
    made, left = list[Piece](), most
    for one in found:
        if len(one.text) > left:
            return (*made, Piece(f"{one.text[:left].rstrip()}…", one.state))
        made.append(one)
        left -= len(one.text)
    return tuple(made)
