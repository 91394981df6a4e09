"""The words that two texts share in the same order, and where the texts differ; case and outer punctuation are ignored.

Chinese and Japanese have no spaces between words, so each of their characters is treated as a word.
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
"""The first 2,000 words of a text are compared, and differences are marked in its first 300 words."""

State = Literal["same", "added", "missing"]


@dataclass(frozen=True)
class Piece:
    """Words that both texts have ("same"), only the answer ("added"), or only the reference ("missing")."""

    text: str
    state: State = "same"


@dataclass(frozen=True)
class Words:
    """The words of a text as written, and as `keys` for comparison: in lower case, without outer punctuation."""

    shown: tuple[str, ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Words:
        """Split a text into at most COMPARED words; characters that cannot be printed are left out."""
        line = " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())
        found = list(_WORD.finditer(f"{line} " if " " in line else line))[:COMPARED]
        shown = tuple(one[0] + " " * one.string[one.end() : one.end() + 1].isspace() for one in found)
        return cls(shown, tuple(_AROUND.sub("", one[0].casefold()) or one[0] for one in found))

    @property
    def begin(self) -> Words:
        return Words(self.shown[:MARKED], self.keys[:MARKED])

    def likeness(self, other: Words) -> float:
        """Return the likeness of two texts, from 0 to 1: the F1 of the words that both have in the same order."""
        total = len(self.keys) + len(other.keys)
        return 2 * longest_common(self.keys, other.keys) / total if total else 1.0


def nearest(answer: Words, references: Sequence[Words]) -> int:
    """Return the index of the reference with the highest likeness to the answer; the first of equals."""
    return max(range(len(references)), key=lambda index: (answer.likeness(references[index]), -index))


def pieces(answer: Words, reference: Words) -> tuple[Piece, ...]:
    """Return an answer in pieces that mark the words only in the answer and the words only in the reference."""
    made: list[Piece] = []
    answer, reference = answer.begin, reference.begin
    for what, first, last, start, end in SequenceMatcher(None, reference.keys, answer.keys, False).get_opcodes():
        if what in ("delete", "replace"):
            made.append(Piece("".join(reference.shown[first:last]), "missing"))
        if what != "delete":
            made.append(Piece("".join(answer.shown[start:end]), "same" if what == "equal" else "added"))
    return tuple(made)


def cut(found: Sequence[Piece], most: int) -> tuple[Piece, ...]:
    """Return the pieces of an answer up to `most` characters, with an ellipsis if words were left out."""
    made, left = list[Piece](), most
    for one in found:
        if len(one.text) > left:
            return (*made, Piece(f"{one.text[:left].rstrip()}…", one.state))
        made.append(one)
        left -= len(one.text)
    return tuple(made)
