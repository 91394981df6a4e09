"""`MarkedText`: a text with marked spans, such as the entities that a model found, for a terminal, a page or Markdown.

The text is shown as it is: marks stand around its characters, and no character is changed or left out. The module does
not know what the spans are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any, NamedTuple

ELLIPSIS = "…"
"""The character that stands for the parts of a text that an excerpt leaves out."""

JOINERS = "\u200c\u200d"
"""ZERO WIDTH NON-JOINER and JOINER, which emoji, Persian and the scripts of India need to be shown right."""

_MODIFIERS = "\N{EMOJI MODIFIER FITZPATRICK TYPE-1-2}", "\N{EMOJI MODIFIER FITZPATRICK TYPE-6}"
_FLAGS = "\N{REGIONAL INDICATOR SYMBOL LETTER A}", "\N{REGIONAL INDICATOR SYMBOL LETTER Z}"
"""The first and the last modifier of an emoji, and letter of which two are shown as a flag."""

_MARK_STYLE = "background: none; color: inherit; border: 1px solid; border-radius: .25em; padding: 0 .2em"
_LABEL_STYLE = "font-size: .75em; font-weight: 600"

_COLOURS = ("36", "35", "33", "32", "34", "31")
"""The codes of the colours of a terminal (ANSI) by label, in order; none is black or white."""


@dataclass(frozen=True, order=True)
class Mark:
    """A span of a text.

    Attributes:
        start, end: The first character of the span, and the character after the last, counted from 0.
        label: The label of the span, such as `PER`.
        remark: What is said about the span after its label, such as `missed`; empty for nothing.
    """

    start: int
    end: int
    label: str
    remark: str = ""

    @property
    def words(self) -> str:
        return f"{self.label}, {self.remark}" if self.remark else self.label


class MarkedPiece(NamedTuple):
    """A part of a text, with the mark around it; None: the part is not marked."""

    text: str
    mark: Mark | None


@dataclass(frozen=True)
class MarkedText:
    """A text with marked spans.

    Attributes:
        marks: The spans, sorted, which do not overlap.
    """

    text: str
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for spans that overlap, are not sorted, or are not in the text."""
        last = 0
        for mark in self.marks:
            if not last <= mark.start < mark.end <= len(self.text):
                raise ValueError(f"expected sorted spans within {len(self.text)} characters, found {mark}")
            last = mark.end

    @classmethod
    def of(cls, text: str, spans: Iterable[tuple[int, int, str]]) -> MarkedText:
        """Return a text with spans as (start, end, label)."""
        return cls(text, tuple(Mark(*one) for one in sorted(spans)))

    @classmethod
    def of_json(cls, text: str, spans: Iterable[Mapping[str, Any]]) -> MarkedText:
        """Return a text with spans as JSON objects with `start`, `end` and `label`, and perhaps `remark`."""
        found = (Mark(one["start"], one["end"], one["label"], one.get("remark", "")) for one in spans)
        return cls(text, tuple(sorted(found)))

    @property
    def pieces(self) -> Iterator[MarkedPiece]:
        """The parts of the text, in order; joined, they are the text.

        A border between a letter and its combining marks, or within an emoji, is drawn outside of them.
        """
        place = 0
        for mark in self.marks:
            start, end = max(_before(self.text, mark.start), place), _after(self.text, mark.end)
            if start > place:
                yield MarkedPiece(self.text[place:start], None)
            if end > start:
                yield MarkedPiece(self.text[start:end], mark)
            place = max(place, end)
        if place < len(self.text):
            yield MarkedPiece(self.text[place:], None)

    def excerpt(self, most: int, near: int = 0) -> MarkedText:
        """Return about `most` characters around the character `near`, with an ellipsis for each part left out.

        The excerpt has no part of a mark: a mark at its border makes the excerpt longer.
        """
        if len(self.text) <= most:
            return self
        start = max(0, min(near - most // 3, len(self.text) - most))
        end = start + most
        start = _before(self.text, min([start, *(one.start for one in self.marks if one.start < start < one.end)]))
        end = _after(self.text, max([end, *(one.end for one in self.marks if one.start < end < one.end)]))
        left, right = ELLIPSIS * (start > 0), ELLIPSIS * (end < len(self.text))
        moved = len(left) - start
        kept = (one for one in self.marks if start <= one.start and one.end <= end)
        marks = tuple(replace(one, start=one.start + moved, end=one.end + moved) for one in kept)
        return MarkedText(f"{left}{self.text[start:end]}{right}", marks)

    def plain(self, shown: Callable[[str], str] = str) -> str:
        """Return the text with each span and its label in brackets, such as `[Maria PER] went to [Porto LOC]`.

        Args:
            shown: The function that each part of the text, and each label, is passed through.
        """
        return "".join(
            shown(text) if mark is None else f"[{shown(text)} {shown(mark.words)}]" for text, mark in self.pieces
        )

    __str__ = plain

    def html(self, mark: str = "", label: str = "") -> str:
        """Return the text as HTML: each span is a `mark` element with the label after its text.

        The `bdi` elements keep a label from moving within a text that is written from right to left. A span with a
        remark has the class `wrong`.

        Args:
            mark, label: The style of a span and of its label, for a page without the style of afina.
        """
        of_mark, of_label = (f' style="{one}"' if one else "" for one in (mark, label))
        made = []
        for text, found in self.pieces:
            if found is None:
                made.append(escape(text))
            else:
                wrong = ' class="wrong"' * bool(found.remark)
                words = f"<bdi>{escape(text)}</bdi> <bdi{of_label}>{escape(found.words)}</bdi>"
                made.append(f"<mark{wrong}{of_mark}>{words}</mark>")
        return "".join(made)

    def _repr_html_(self) -> str:
        return f'<div dir="auto" style="white-space: pre-wrap">{self.html(_MARK_STYLE, _LABEL_STYLE)}</div>'

    def coloured(self, labels: Iterable[str], shown: Callable[[str], str] = str) -> str:
        """Return `plain` with colours for a terminal; each of `labels` has the same colour in every text."""
        colours = {label: _COLOURS[place % len(_COLOURS)] for place, label in enumerate(labels)}
        made = []
        for text, mark in self.pieces:
            if mark is None:
                made.append(shown(text))
            else:
                colour = colours.get(mark.label, _COLOURS[0])
                made.append(f"\x1b[{colour}m[\x1b[1m{shown(text)}\x1b[22m {shown(mark.words)}]\x1b[0m")
        return "".join(made)


def _before(text: str, place: int) -> int:
    """Return the last border between characters as a reader sees them, at or before `place`."""
    while 0 < place < len(text) and _is_within(text, place):
        place -= 1
    return place


def _after(text: str, place: int) -> int:
    """Return the first border between characters as a reader sees them, at or after `place`."""
    while 0 < place < len(text) and _is_within(text, place):
        place += 1
    return place


def _is_within(text: str, place: int) -> bool:
    before, after = text[place - 1], text[place]
    if before.isspace():
        return False
    if unicodedata.category(after).startswith("M") or after in JOINERS or _MODIFIERS[0] <= after <= _MODIFIERS[1]:
        return True
    if before == JOINERS[1] and not after.isalnum():  # an emoji of several, such as a family
        return True
    letters = 0
    while letters < place and _FLAGS[0] <= text[place - 1 - letters] <= _FLAGS[1]:
        letters += 1
    return letters % 2 == 1 and _FLAGS[0] <= after <= _FLAGS[1]
