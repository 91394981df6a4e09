"""Which entities of a text differ between two answers, and how."""

from __future__ import annotations

import random

import pytest

from afina.stats.entity_alignment import CHANGES, Change, ChangedEntity, Entity, changed_entities, count_changes

PER, LOC = (0, 5, "PER"), (9, 15, "LOC")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([], [], []),
        ([PER, LOC], [PER, LOC], []),
        ([], [PER], [("added", None, PER)]),
        ([PER], [], [("removed", PER, None)]),
        ([PER], [(0, 5, "LOC")], [("relabelled", PER, (0, 5, "LOC"))]),
        ([PER], [(0, 7, "PER")], [("moved", PER, (0, 7, "PER"))]),
        ([PER], [(2, 7, "LOC")], [("replaced", PER, (2, 7, "LOC"))]),
        ([PER], [(5, 7, "PER")], [("removed", PER, None), ("added", None, (5, 7, "PER"))]),  # neighbours
        # one entity becomes two: the one of the same label is moved, although the other shares more characters
        ([PER], [(0, 3, "LOC"), (3, 5, "PER")], [("moved", PER, (3, 5, "PER")), ("added", None, (0, 3, "LOC"))]),
        # two entities become one
        (
            [(0, 2, "PER"), (3, 9, "PER")],
            [(0, 9, "PER")],
            [("removed", (0, 2, "PER"), None), ("moved", (3, 9, "PER"), (0, 9, "PER"))],
        ),
    ],
)
def test_each_entity_is_matched_once_and_says_how_it_changed(
    first: list[Entity], second: list[Entity], expected: list[tuple[Change, Entity | None, Entity | None]]
) -> None:
    found = changed_entities(first, second)
    assert sorted(found, key=str) == sorted((ChangedEntity(*one) for one in expected), key=str)


def entities(rng: random.Random) -> list[Entity]:
    ends = sorted(rng.sample(range(30), 2 * rng.randint(0, 5)))
    return [(start, end, rng.choice("AB")) for start, end in zip(ends[::2], ends[1::2], strict=True)]


def test_changes_account_for_every_entity_and_turn_with_the_answers() -> None:
    rng = random.Random(0)
    for _ in range(200):
        first, second = entities(rng), entities(rng)
        found, same = changed_entities(first, second), {*first} & {*second}
        before = [one.before for one in found if one.before is not None]
        after = [one.after for one in found if one.after is not None]
        assert sorted([*before, *same]) == sorted(first)
        assert sorted([*after, *same]) == sorted(second)
        counts, turned = (count_changes([one]) for one in (found, changed_entities(second, first)))
        assert (counts["added"], counts["removed"]) == (turned["removed"], turned["added"])
        assert [*counts] == [*CHANGES]
        assert sum(counts.values()) == len(found)
