"""Tags of words, such as B-PER, and the schemes in which they mark entities: IOB2, IOB1, IO, BIOES, BILOU and BMES.

In all schemes, O marks a word outside of entities, and B-PER begins an entity with the label PER. The schemes differ in
how they mark other words (Ratinov & Roth, Design Challenges and Misconceptions in Named Entity Recognition, CoNLL
2009). The entities of a valid sequence of tags are those that the script conlleval of CoNLL-2000 finds. That script
also finds entities in an invalid sequence, which is how `repair` reads one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

OUTSIDE = "O"


class Tag(NamedTuple):
    """A tag of a word.

    `part` is the part of an entity that the word is: "B" (first word), "I" (inside), "E" (last word), "S" (only word),
    or "O" (none).
    """

    part: str
    label: str


_NONE = Tag(OUTSIDE, "")

_NO_NAMES = frozenset(("", OUTSIDE))
"""Strings that cannot be the label of an entity."""


@dataclass(frozen=True)
class TagScheme:
    """A scheme of tags.

    Attributes:
        parts: The part of an entity by the letter before the hyphen, as `Tag.part`. Empty: a tag is a label alone.
        closed: Whether the last word of an entity is marked, so that every entity has an end.
    """

    name: str
    parts: Mapping[str, str]
    closed: bool = False

    def tag(self, name: str) -> Tag | None:
        """Return the tag with a name such as "B-PER"; None if the scheme has no such tag."""
        if name == OUTSIDE:
            return _NONE
        if not self.parts:
            return Tag("I", name) if name.strip() else None
        letter, _, label = name.partition("-")
        named = letter in self.parts and label.strip() not in _NO_NAMES
        return Tag(self.parts[letter], label.strip()) if named else None

    def fault(self, before: Tag, after: Tag) -> bool:
        """Return whether a tag may not follow another; the tag O stands before and after the words of a text."""
        same = before.label == after.label
        if self.closed:
            opened, goes_on = before.part in ("B", "I"), after.part in ("I", "E")
            return opened != goes_on or (opened and not same)
        if self is IOB1:
            return after.part == "B" and not same
        return self is BIO and after.part == "I" and not same


BIO = TagScheme("BIO (IOB2)", {"B": "B", "I": "I"})
IOB1 = TagScheme("IOB1", {"B": "B", "I": "I"})
IO = TagScheme("IO", {"I": "I"})
LABELS_ALONE = TagScheme("IO (labels alone)", {})
BIOES = TagScheme("BIOES", {"B": "B", "I": "I", "E": "E", "S": "S"}, closed=True)
BILOU = TagScheme("BILOU", {"B": "B", "I": "I", "L": "E", "U": "S"}, closed=True)
BMES = TagScheme("BMES", {"B": "B", "M": "I", "E": "E", "S": "S"}, closed=True)
BMEWO = TagScheme("BMEWO", {"B": "B", "M": "I", "E": "E", "W": "S"}, closed=True)

_CLOSED = (BIOES, BILOU, BMES, BMEWO)

_PREFIXED = re.compile(r"([A-Z])-.+")
_OTHERWISE = re.compile(r"\s*|[BIESLUMWbieslumw]|[BIOESLUMWbioeslumw][-_.:|/].*|.*[-_.:|/][BIESLUMWbieslumw]")
"""Tags in another notation than B-PER, such as B_PER, b-per and PER-B, and tags without a label, such as B."""

_NO_LABELS = frozenset(("o", "0", "_", "-", "*"))
"""Names that may stand for O, and are no labels."""


def _letter(name: str) -> str | None:
    found = _PREFIXED.fullmatch(name)
    return found[1] if found else None


def looks_like_tag(name: str) -> bool:
    """Return whether a name is O, or a letter, a hyphen and a label, such as B-PER."""
    return name == OUTSIDE or _letter(name) is not None


def written_otherwise(name: str) -> bool:
    """Return whether a name may be a tag in another notation than B-PER, such as B_PER, b-per, PER-B or B."""
    return _letter(name) is None and (name in _NO_LABELS or _OTHERWISE.fullmatch(name) is not None)


def scheme_of(texts: Sequence[Sequence[str]]) -> TagScheme | None:
    """Return the scheme of the tags of several texts; None if the tags belong to no scheme or to several.

    The letters decide, except for B and I: tags are IOB1 if B stands only between two entities with the same label.
    """
    names = {name for text in texts for name in text} - {OUTSIDE}
    letters = {_letter(name) for name in names}
    if letters == {None}:
        outside = any(OUTSIDE in text for text in texts)
        return LABELS_ALONE if outside and not any(map(written_otherwise, names)) else None
    if letters <= {"I"}:
        return IO if letters else BIO
    if letters <= {"B", "I"}:
        tags = [tags_in(BIO, text) for text in texts]
        return BIO if _faults(BIO, tags) <= _faults(IOB1, tags) else IOB1
    return next((scheme for scheme in _CLOSED if letters <= scheme.parts.keys()), None)


def nearest_scheme(texts: Iterable[Sequence[str]]) -> TagScheme | None:
    """Return the scheme to which the most tags of several texts belong; None if no tag has a letter of a scheme."""
    counts = Counter(name for text in texts for name in text if name != OUTSIDE)

    def fitting(scheme: TagScheme) -> int:
        return sum(count for name, count in counts.items() if scheme.tag(name) is not None)

    best = max((BIO, *_CLOSED), key=fitting)
    return best if fitting(best) else None


def tags_in(scheme: TagScheme, names: Iterable[str]) -> list[Tag]:
    return [found for name in names if (found := scheme.tag(name)) is not None]


def _faults(scheme: TagScheme, texts: Iterable[Sequence[Tag]]) -> int:
    return sum(map(len, (faults(scheme, tags) for tags in texts)))


def faults(scheme: TagScheme, tags: Sequence[Tag]) -> list[int]:
    """Return the places at which a tag of a text may not follow the tag before it.

    The place after the last word is one of them if the text ends within an entity.
    """
    both = pairwise([_NONE, *tags, _NONE])
    return [place for place, (before, after) in enumerate(both) if scheme.fault(before, after)]


def runs_of(tags: Sequence[Tag]) -> list[tuple[int, int, str]]:
    """Return the first word, the word after the last, and the label of each entity, by the rule of conlleval."""
    found: list[tuple[int, int, str]] = []
    for place, (before, tag) in enumerate(pairwise([_NONE, *tags])):
        if tag.part == OUTSIDE:
            continue
        begins = tag.part in ("B", "S") or before.part in ("E", "S", OUTSIDE) or before.label != tag.label
        if begins:
            found.append((place, place + 1, tag.label))
        else:
            first, _, label = found[-1]
            found[-1] = first, place + 1, label
    return found
