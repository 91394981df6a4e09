"""Read the spans in a cell, such as `[[0, 5, "PER"]]`, and check where they stand in a text.

A span is a labelled part of a text, as tools for annotation write it: a list of start, end and label, or an object. A
span becomes an entity if it consists of whole words of its text.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.entities import Entity
from afina.data.readers.source import counted, is_whole
from afina.data.readers.tag_schemes import OUTSIDE
from afina.data.words import words_of
from afina.errors import InvalidData

STARTS = ("start", "start_offset", "start_char", "begin")
ENDS = ("end", "end_offset", "end_char", "stop")
SPAN_LABELS = ("label", "labels", "type", "entity", "entity_group", "entity_type", "tag")
"""The keys of a span that is an object, the most usual first."""

WRAPPERS = ("entities", "spans")
"""The key of an object around a list of spans, as spaCy writes it."""

_MOST_PYTHON = 1 << 20
"""The largest number of characters of a list in Python notation."""


@dataclass(frozen=True)
class RawSpan:
    start: int
    end: int
    label: str
    text: str | None = None


def list_in(cell: Any) -> list[Any] | None:
    """Return the list in a cell that is a list, an object of lists, or a list's text in JSON or Python; else None."""
    if isinstance(cell, str):
        cell = _literal(cell.strip())
    if isinstance(cell, Mapping):
        return _of_lists(cell)
    return list(cell) if isinstance(cell, list | tuple) else None


def _literal(text: str) -> Any:
    if not text.startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MOST_PYTHON or "' '" in text or "'\n" in text:  # numpy's print format, without commas
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _of_lists(cell: Mapping[str, Any]) -> list[Any] | None:
    """Return the spans of `{"entities": [...]}`, or of `{"start": [0, 9], "end": [5, 13], "label": ["PER", "LOC"]}`."""
    if len(cell) == 1 and next(iter(cell)) in WRAPPERS:
        return list_in(next(iter(cell.values())))
    columns = {name: list(values) for name, values in cell.items() if isinstance(values, list | tuple)}
    if not any(name in columns for name in STARTS) or len({len(values) for values in columns.values()}) != 1:
        return None
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def hold_spans(cells: Sequence[Any]) -> bool:
    return any(isinstance(item, Mapping | list | tuple) for cell in cells for item in list_in(cell) or ())


def spans_in(cell: Any, where: Callable[[], str]) -> list[RawSpan]:
    found = list_in(cell)
    if found is None:
        raise problems.SPANS_MALFORMED(where=where(), found=str(cell)[:40])
    return [_span(item, number, where) for number, item in enumerate(found, start=1)]


def _span(item: Any, number: int, where: Callable[[], str]) -> RawSpan:
    def malformed(why: str) -> InvalidData:
        return problems.SPAN_MALFORMED(where=where(), found=str(item)[:60], _number=number, _why=why)

    if isinstance(item, Mapping):
        given = [next((item[name] for name in names if name in item), None) for names in (STARTS, ENDS, SPAN_LABELS)]
        lacking = [names[0] for names, value in zip((STARTS, ENDS, SPAN_LABELS), given, strict=True) if value is None]
        if lacking:
            raise malformed(f"there is no '{lacking[0]}'")
    elif isinstance(item, list | tuple) and len(item) == 3:
        given = list(item)
    else:
        raise malformed("it is no list of three and no object")
    start, end = (_whole(value) for value in given[:2])
    if start is None or end is None:
        raise malformed("start and end are not whole numbers")
    label = given[2]
    if isinstance(label, list | tuple):  # Label Studio
        if len(label) != 1:
            raise malformed(f"it has {len(label)} labels")
        label = label[0]
    if not isinstance(label, str) or not label.strip():
        raise malformed("its label is no name")
    if label.strip() == OUTSIDE:
        raise malformed(f"its label is {OUTSIDE}, which marks words outside of entities")
    if not is_whole(label):
        raise malformed("its label holds half a surrogate pair")
    text = item.get("text") if isinstance(item, Mapping) else None
    return RawSpan(start, end, label.strip(), text if isinstance(text, str) else None)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        return None
    return int(value) if value == int(value) else None


@dataclass
class SpanRepair:
    """The row of each span that was changed, by the kind of change."""

    trimmed: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def said(self) -> Iterator[str]:
        for places, done in (
            (self.trimmed, "lost white space or invisible characters at a border"),
            (self.widened, "extended to whole words"),
            (self.repeated, "left out because the text has the same span already"),
        ):
            if places:
                first = places[0] if len(places) == 1 else f"the first in {places[0]}"
                yield f"{counted(len(places), 'span')} {done} ({first})"


@dataclass(frozen=True)
class SpanPlaces:
    """The spans of a text are checked, and become entities.

    Attributes:
        where: Returns the place of the row, for messages.
        hint: Returns a sentence about another way to count characters in which all spans of the file fit; else "".
        repair: Counts what is repaired. None: a span that is not whole words is an error.
    """

    text: str
    where: Callable[[], str]
    hint: Callable[[], str]
    repair: SpanRepair | None = None

    def entities(self, spans: Sequence[RawSpan]) -> tuple[Entity, ...]:
        """Return the entities of the spans, sorted. Raises InvalidData, which names the row."""
        words = words_of(self.text)
        found: list[Entity] = []
        for span in spans:
            self._check(span)
            entity = self._fitted(span, words, spans)
            if entity in found:
                if self.repair is None:
                    raise problems.SPAN_REPEATED(where=self.where(), found=self._quoted(entity), label=entity.label)
                self.repair.repeated.append(self.where())
                continue
            found.append(entity)
        found.sort()
        for one, other in pairwise(found):
            if other.start < one.end:
                both = f"{self._quoted(one)} ({one.label})", f"{self._quoted(other)} ({other.label})"
                raise problems.SPANS_OVERLAP(where=self.where(), found=both[1], _other=both[0])
        return tuple(found)

    def _quoted(self, span: Entity | RawSpan) -> str:
        return repr(self.text[span.start : span.end][:40])

    def _check(self, span: RawSpan) -> None:
        """Raise InvalidData for a span that is no part of the text, or has another text than the file says."""
        length, place = len(self.text), f"{span.start} to {span.end}"
        if not 0 <= span.start <= length or not 0 <= span.end <= length:
            raise problems.SPAN_OUT_OF_RANGE(
                where=self.where(), found=place, label=span.label, expected=length, _hint=self.hint()
            )
        if span.start >= span.end:
            raise problems.SPAN_EMPTY(where=self.where(), found=place, label=span.label)
        if span.text is not None and span.text != self.text[span.start : span.end]:
            raise problems.SPAN_TEXT_DIFFERS(
                where=self.where(),
                found=self._quoted(span),
                expected=span.text[:40],
                label=span.label,
                _place=place,
                _hint=self.hint(),
            )

    def _fitted(self, span: RawSpan, words: np.ndarray, spans: Sequence[RawSpan]) -> Entity:
        """Return the entity of a span's words; a border that is not that of a word is repaired or refused."""
        first = int(np.searchsorted(words[:, 1], span.start, side="right"))
        last = int(np.searchsorted(words[:, 0], span.end, side="left"))
        if first >= last:
            raise problems.SPAN_BLANK(
                where=self.where(), found=self._quoted(span), label=span.label, _place=f"{span.start} to {span.end}"
            )
        entity = Entity(int(words[first, 0]), int(words[last - 1, 1]), span.label)
        inside = span.start > entity.start or span.end < entity.end
        beyond = span.start < entity.start or span.end > entity.end
        if inside or beyond:
            about = {"where": self.where(), "found": self._quoted(span), "label": span.label}
            if self.repair is None and (hint := self.hint()):
                raise problems.SPAN_CUTS_WORD(**about, _hint=hint)
            if other := row_counting(self.text, spans):
                raise problems.SPAN_MAY_COUNT_OTHERWISE(**about, _words=other)
            if self.repair is None:
                problem = problems.SPAN_INSIDE_WORD if inside else problems.SPAN_WITH_BLANK
                raise problem(**about, expected=self._quoted(entity))
        if self.repair is not None:
            self.repair.widened += [self.where()] * inside
            self.repair.trimmed += [self.where()] * beyond
        return entity


_COUNTINGS: Mapping[str, Callable[[str], list[int]]] = {
    "UTF-16 code units, as JavaScript and Java do": lambda text: [1 + (one > "\uffff") for one in text],
    "bytes of UTF-8": lambda text: [len(one.encode("utf-8", "replace")) for one in text],
    "a line end of \\r\\n as one character": lambda text: [
        int(both != ("\r", "\n")) for both in zip(text, [*text[1:], ""], strict=True)
    ],
}
"""Other ways to count the characters of a text: the width of each character."""


def are_quoted(spans: Sequence[Sequence[RawSpan]]) -> bool:
    """Return whether a file says the text of each span."""
    return all(span.text is not None for each in spans for span in each)


def fit(texts: Sequence[str], spans: Sequence[Sequence[RawSpan]]) -> bool:
    """Return whether all spans of a file are whole words, as they are."""
    return all(_fit(text, [1] * len(text), each) for text, each in zip(texts, spans, strict=True))


def converted(text: str, spans: Sequence[RawSpan], words: str) -> list[RawSpan]:
    """Return spans that are counted in another way, which `other_counting` has found, as characters."""
    return [made for one in spans if (made := _converted(one, _COUNTINGS[words](text))) is not None]


def other_counting(texts: Sequence[str], spans: Sequence[Sequence[RawSpan]]) -> str | None:
    """Return the way to count characters in which all spans of a file are whole words; None if no way fits.

    Ways that count all texts as afina does are not tried.
    """
    for words, widths in _COUNTINGS.items():
        counted = [widths(text) for text in texts]
        if any(set(each) - {1} for each in counted) and all(map(_fit, texts, counted, spans)):
            return words
    return None


def row_counting(text: str, spans: Sequence[RawSpan]) -> str | None:
    """Return another way to count characters in which spans of one text may be meant; None if no other way fits.

    A way may be meant if at least as many spans are whole words only in this way as are whole words only in
    characters, and there is at least one. A span whose text the file says is known to count characters.
    """
    if any(span.text is not None for span in spans):
        return None
    words = words_of(text)
    starts, ends = set(words[:, 0].tolist()), set(words[:, 1].tolist())

    def whole(span: RawSpan | None) -> bool:
        return span is not None and span.start in starts and span.end in ends and span.start < span.end

    for name, count in _COUNTINGS.items():
        widths = count(text)
        if set(widths) <= {1}:
            continue
        both = [(whole(span), whole(_converted(span, widths))) for span in spans]
        there = both.count((False, True))
        if there and there >= both.count((True, False)):
            return name
    return None


def _fit(text: str, widths: Sequence[int], spans: Sequence[RawSpan]) -> bool:
    converted = [_converted(span, widths) for span in spans]
    places = SpanPlaces(text, str, str)
    try:
        places.entities([one for one in converted if one is not None])
    except InvalidData:
        return False
    return None not in converted


def _converted(span: RawSpan, widths: Sequence[int]) -> RawSpan | None:
    """Return a span whose borders are counted in `widths`, as characters; None if a border is inside a character."""
    at = {place: index for index, place in reversed(list(enumerate(accumulate(widths, initial=0))))}
    if span.start not in at or span.end not in at:
        return None
    return replace(span, start=at[span.start], end=at[span.end])
