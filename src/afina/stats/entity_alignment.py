"""How the entities of a text differ between two answers, such as those of two models, or a target and a prediction.

An entity is a tuple (start, end, label) with the positions of its characters; `end` is exclusive. The entities of an
answer do not overlap each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Entity = tuple[int, int, str]
"""The first and the last position of an entity's characters, the last exclusive, and its label."""

Change = Literal["added", "removed", "relabelled", "moved", "replaced"]
"""How an entity changes from a first to a second answer. "added", "removed": only the second or only the first answer
has it. "relabelled": the borders are the same, and the label is another. "moved": the label is the same, and the
borders are others. "replaced": the entities overlap, and borders and label are others."""

CHANGES: tuple[Change, ...] = ("added", "removed", "relabelled", "moved", "replaced")


class ChangedEntity(NamedTuple):
    """An entity that differs between two answers to a text; `before` is None if added, `after` if removed."""

    change: Change
    before: Entity | None
    after: Entity | None


def changed_entities(first: Sequence[Entity], second: Sequence[Entity]) -> list[ChangedEntity]:
    """Return the entities that differ between two answers to a text, in the order of their starts.

    Each entity is matched with at most one entity of the other answer. Equal entities are matched first; then
    overlapping entities: those of the same borders first, then those of the same label, then those that share most
    characters. Of two equally good matches, the one that starts first is taken.
    """
    same = {*map(tuple, first)} & {*map(tuple, second)}
    before, after = ([(*one,) for one in each if (*one,) not in same] for each in (first, second))
    pairs = sorted(_overlapping(before, after), key=lambda pair: (_preference(*pair), pair))
    matched: dict[Entity, Entity] = {}
    taken: set[Entity] = set()
    for one, other in pairs:
        if one not in matched and other not in taken:
            matched[one] = other
            taken.add(other)
    found = [ChangedEntity(_change(one, matched.get(one)), one, matched.get(one)) for one in before]
    found += [ChangedEntity("added", None, other) for other in after if other not in taken]
    return sorted(found, key=lambda each: each.before or each.after or ())


def count_changes(changed: Iterable[Sequence[ChangedEntity]]) -> dict[str, int]:
    counts = Counter(each.change for entities in changed for each in entities)
    return {change: counts[change] for change in CHANGES}


def _overlapping(first: Sequence[Entity], second: Sequence[Entity]) -> Iterator[tuple[Entity, Entity]]:
    for one in first:
        for other in second:
            if _shared(one, other) > 0:
                yield one, other


def _shared(one: Entity, other: Entity) -> int:
    return min(one[1], other[1]) - max(one[0], other[0])


def _preference(one: Entity, other: Entity) -> tuple[bool, bool, int]:
    return one[:2] != other[:2], one[2] != other[2], -_shared(one, other)


def _change(one: Entity, other: Entity | None) -> Change:
    if other is None:
        return "removed"
    if one[:2] == other[:2]:
        return "relabelled"
    return "moved" if one[2] == other[2] else "replaced"
