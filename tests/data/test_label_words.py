"""What labels that are not words cost, and how the note on them says to give words."""

from __future__ import annotations

import shlex
from dataclasses import astuple
from pathlib import Path

import pytest

from afina.cli.options import words_option
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER
from afina.data.label_words import COSTS, needs_words, no_words_note, word_examples

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_costs_are_those_of_the_recorded_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import words

    assert words.costs(words.read()) == {size: astuple(cost) for size, cost in COSTS.items()}


@pytest.mark.parametrize(("texts", "size"), [(1, 16), (30, 16), (300, 256), (800, "1,024"), (10**6, "1,024")], ids=str)
def test_the_note_has_the_cost_at_the_recorded_number_of_texts_that_is_nearest(texts: int, size: object) -> None:
    assert f"on {size} texts, a random head cost " in no_words_note(("0", "1"), texts)


@pytest.mark.parametrize("names", [("0", "1"), ("a b", "c"), ("1,5", "2,5"), ("c1", "c2", "c3")], ids=str)
def test_the_option_of_the_note_gives_a_word_to_each_label_that_it_names(names: tuple[str, ...]) -> None:
    option = no_words_note(names, 100).split("a word: ")[1].split(" (")[0].removesuffix(",...")
    given = shlex.split(option)
    assert set(given[::2]) == {"--words"}
    assert words_option(given[1::2]) == {name: [f" {word}"] for name, word in word_examples(names)}


def test_only_classes_of_single_texts_whose_names_are_not_words_need_some() -> None:
    assert needs_words(CLASSES, ("LABEL_0", "LABEL_1"), pairs=False)
    assert not needs_words(CLASSES, ("LABEL_0", "LABEL_1"), pairs=True)
    assert not needs_words(CLASSES, ("good", "bad"), pairs=False)
    assert not needs_words(ENTITIES, ("LABEL_0", "LABEL_1"), pairs=False)
    assert not needs_words(NUMBER, ("stars5",), pairs=False)
    assert not needs_words(LABELS, ("a1", "a2"), pairs=False)
