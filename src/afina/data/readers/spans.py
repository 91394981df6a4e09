"""Read the spans in a cell, such as `[[0, 5, "PER"]]`, and check where they stand in a text.

A span is a labelled part of a text, as tools for annotation write it: a list of start, end and label, or an object. A
span becomes an entity if it consists of whole words of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.entities import Entity
from afina.data.readers.cells import STARTS, is_empty, list_in
from afina.data.readers.conll import OUTSIDE
from afina.data.readers.formats import FileTable
from afina.data.readers.source import counted, is_whole
from afina.data.words import words_of
from afina.errors import InvalidData
from afina.sentence import Sentence

ENDS = ("end", "end_offset", "end_char", "stop")
SPAN_LABELS = ("label", "labels", "type", "entity", "entity_group", "entity_type", "tag")
"""The keys of a span that is an object, the most usual first."""

UTF16 = "UTF-16 code units, as JavaScript and Java do"

_INSIDE = ("inside a word", "extend such spans to whole words")
_BEYOND = ("with white space or an invisible character", "cut white space from such spans")
"""How a span ends elsewhere than its words, and what a repair does."""


@dataclass(frozen=True)
class RawSpan:
    start: int
    end: int
    label: str
    text: str | None = None


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
        where: Returns the place of the row.
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
        about = {"where": self.where(), "label": span.label}
        if not 0 <= span.start <= length or not 0 <= span.end <= length:
            problem = f"not within the text, which has {length} characters"
            raise problems.SPAN_ELSEWHERE(
                **about, found=place, expected=length, _place=place, _problem=problem, _hint=self.hint()
            )
        if span.start >= span.end:
            problem = "empty. Expected a start before the end, which is exclusive"
            raise problems.SPAN_EMPTY(**about, found=place, _place=place, _problem=problem)
        if span.text is not None and span.text != self.text[span.start : span.end]:
            expected, found = span.text[:40], self._quoted(span)
            problem = f"{found}, but the file says that its text is {expected!r}"
            raise problems.SPAN_ELSEWHERE(
                **about, found=found, expected=expected, _place=place, _problem=problem, _hint=self.hint()
            )

    def _fitted(self, span: RawSpan, words: np.ndarray, spans: Sequence[RawSpan]) -> Entity:
        """Return the entity of a span's words; a border that is not that of a word is repaired or refused."""
        first = int(np.searchsorted(words[:, 1], span.start, side="right"))
        last = int(np.searchsorted(words[:, 0], span.end, side="left"))
        if first >= last:
            found, place = self._quoted(span), f"{span.start} to {span.end}"
            problem = f"{found}, which has no word. Expected words"
            raise problems.SPAN_EMPTY(where=self.where(), found=found, label=span.label, _place=place, _problem=problem)
        entity = Entity(int(words[first, 0]), int(words[last - 1, 1]), span.label)
        inside = span.start > entity.start or span.end < entity.end
        beyond = span.start < entity.start or span.end > entity.end
        if inside or beyond:
            about = {"where": self.where(), "found": self._quoted(span), "label": span.label}
            if self.repair is None and (hint := self.hint()):
                raise problems.SPAN_CUTS_WORD(**about, _hint=hint)
            if _counts_utf16(self.text, spans):
                raise problems.SPAN_MAY_COUNT_OTHERWISE(**about, _words=UTF16)
            if self.repair is None:
                border, mend = _INSIDE if inside else _BEYOND
                raise problems.SPAN_NOT_WORDS(**about, expected=self._quoted(entity), _border=border, _mend=mend)
        if self.repair is not None:
            self.repair.widened += [self.where()] * inside
            self.repair.trimmed += [self.where()] * beyond
        return entity


def _are_quoted(spans: Sequence[Sequence[RawSpan]]) -> bool:
    """Return whether a file says the text of each span."""
    return all(span.text is not None for each in spans for span in each)


def _fit(texts: Sequence[str], spans: Sequence[Sequence[RawSpan]]) -> bool:
    """Return whether all spans of a file are whole words, as they are."""
    return all(_are_whole(text, each) for text, each in zip(texts, spans, strict=True))


def _fit_in_utf16(texts: Sequence[str], spans: Sequence[Sequence[RawSpan]]) -> bool:
    """Return whether all spans of a file are whole words only if they count UTF-16 code units."""
    if all(character <= "\uffff" for text in texts for character in text):
        return False
    converted = ([_from_utf16(span, text) for span in each] for text, each in zip(texts, spans, strict=True))
    return all(map(_are_whole, texts, converted))


def _counts_utf16(text: str, spans: Sequence[RawSpan]) -> bool:
    """Return whether a span is whole words only in UTF-16 code units, and not more spans are only in characters.

    A span whose text the file says is known to count characters.
    """
    if any(span.text is not None for span in spans) or all(character <= "\uffff" for character in text):
        return False
    words = words_of(text)
    starts, ends = set(words[:, 0].tolist()), set(words[:, 1].tolist())

    def whole(span: RawSpan | None) -> bool:
        return span is not None and span.start in starts and span.end in ends and span.start < span.end

    both = [(whole(span), whole(_from_utf16(span, text))) for span in spans]
    in_utf16 = both.count((False, True))
    return in_utf16 > 0 and in_utf16 >= both.count((True, False))


def _are_whole(text: str, spans: Sequence[RawSpan | None]) -> bool:
    try:
        SpanPlaces(text, str, str).entities([span for span in spans if span is not None])
    except InvalidData:
        return False
    return None not in spans


def _from_utf16(span: RawSpan, text: str) -> RawSpan | None:
    """Return a span that counts UTF-16 code units in characters; None if a border is inside a character."""
    widths = (1 + (character > "\uffff") for character in text)
    at = {place: index for index, place in enumerate(accumulate(widths, initial=0))}
    if span.start not in at or span.end not in at:
        return None
    return replace(span, start=at[span.start], end=at[span.end])


def entities_of_spans(
    table: FileTable, text: str, label: str, *, repair: bool
) -> tuple[list[tuple[Entity, ...]], tuple[str, ...]]:
    """Return the entities of each row from its cell of spans, and notes about repairs. Raises InvalidData."""
    if any(isinstance(cell, list | tuple) for cell in table.columns[text]):
        raise problems.SPANS_OF_WORDS(where=str(table.path), column=label, found=text)
    texts = ["" if is_empty(cell) else str(cell) for cell in table.columns[text]]
    places = [f"{table.where(row)}: column {label!r}" for row in range(len(table.places))]
    spans = [spans_in(cell, lambda row=row: places[row]) for row, cell in enumerate(table.columns[label])]  # type: ignore[misc]
    in_utf16 = cache(lambda: _fit_in_utf16(texts, spans))

    def hint() -> str:
        if not in_utf16():
            return ""
        mend = Sentence.of("Set `repair`, which converts" if _are_quoted(spans) else "Convert")
        return Sentence.of(
            " All spans of the file fit if start and end count {unit}. {mend} them to characters (code points).",
            unit=UTF16,
            mend=mend,
        )

    repairs = SpanRepair() if repair else None
    changed: tuple[str, ...] = ()
    if repairs and not _fit(texts, spans) and in_utf16():
        if not _are_quoted(spans):
            raise problems.SPANS_COUNTED_OTHERWISE(path=table.path, column=label, _words=UTF16)
        spans = [
            [made for span in each if (made := _from_utf16(span, one))] for one, each in zip(texts, spans, strict=True)
        ]
        changed = (f"start and end of all spans counted {UTF16}",)
    checks = (SpanPlaces(one, lambda row=row: places[row], hint, repairs) for row, one in enumerate(texts))  # type: ignore[misc]
    entities = [check.entities(each) for check, each in zip(checks, spans, strict=True)]
    said = [*changed, *(repairs.said() if repairs else ())]
    return entities, (f"{table.path}: repaired: {'; '.join(said)}.",) if said else ()
