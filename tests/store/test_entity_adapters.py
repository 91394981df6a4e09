"""Adapters that find entities: compared entity by entity, shown, checked, exported, and opened by other libraries."""

from __future__ import annotations

import numpy as np

from afina.data.entities import Entity, as_entities
from afina.stats.answered import Answered
from afina.store.adapter_kinds import ADAPTER_KINDS

KIND = ADAPTER_KINDS["entities"]
TEXTS = ("Maria saw Rome", "Ana", "nothing here", "Oslo or Bern")
MARIA, ROME, ANA = Entity(0, 5, "PER"), Entity(10, 14, "LOC"), Entity(0, 3, "PER")
OSLO, BERN = Entity(0, 4, "LOC"), Entity(8, 12, "LOC")


def answered(*answers: tuple[Entity, ...]) -> Answered:
    return Answered(as_entities([(MARIA, ROME), (ANA,), (), (OSLO, BERN)]), as_entities(answers))


FIRST = answered((MARIA,), (ANA,), (), (OSLO, BERN._replace(label="PER")))
SECOND = answered((MARIA, ROME), (ANA._replace(label="LOC"),), (), (OSLO._replace(end=7), Entity(8, 12, "LOC")))


def test_texts_and_entities_that_change_are_counted() -> None:
    found = KIND.changes(FIRST, SECOND, np.ones(4, bool))
    assert found[:4] == (3, 1, 1, 1)
    assert found.entities == {"added": 1, "removed": 0, "relabelled": 2, "moved": 1, "replaced": 0}
    turned = KIND.changes(SECOND, FIRST, np.ones(4, bool))
    assert turned.entities == {"added": 0, "removed": 1, "relabelled": 2, "moved": 1, "replaced": 0}
    assert KIND.changes(FIRST, SECOND, np.array([True, False, False, False]))[:3] == (1, 0, 1)
    assert KIND.right(SECOND).tolist() == [True, False, True, False]


def test_texts_that_were_right_come_first_and_then_those_with_most_changes() -> None:
    assert KIND.changed(FIRST, SECOND, np.ones(4, bool)) == [1, 3, 0]
    assert KIND.changed(FIRST, SECOND, np.array([True, True, True, False])) == [1, 0]
    assert KIND.changed(FIRST, FIRST, np.ones(4, bool)) == []


def test_entities_are_shown_with_their_part_of_the_text() -> None:
    value = KIND.json_value((MARIA, ROME), ("LOC", "PER"))
    assert value == [{"start": 0, "end": 5, "label": "PER"}, {"start": 10, "end": 14, "label": "LOC"}]
    assert KIND.in_words(value, TEXTS[0]) == "Maria [PER], Rome [LOC]"
    assert KIND.in_words([], TEXTS[2]) == "no entity"
    assert KIND.named(("LOC", "PER")) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
