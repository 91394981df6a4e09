"""Shots: which training examples stand in a prompt, in which order, and how they are written."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from afina.data.kinds import NEAREST, Kind
from afina.data.shots import BETWEEN, Shots
from afina.data.split import Split, as_references
from afina.data.task import Task
from afina.data.template import Template
from afina.errors import InvalidStudy
from raises import raises

REVIEW = Template("Review: {text}\nSentiment:")
SAME = Template("First: {text}\nSecond: {text_pair}\nSame:")
NAMES = ("good", "bad", "odd")
WORDS = [f"word{number}" for number in range(40)]


def texts(count: int, start: int = 0) -> list[str]:
    generator = random.Random(start)
    return [f"text {start + number} " + " ".join(generator.choices(WORDS, k=4)) for number in range(count)]


def task(labels: Any, known: list[str] | None = None, kind: Kind = "classes", **fields: Any) -> Task:
    train = Split(known or texts(len(labels)), labels)
    asked = Split(texts(2, start=1000), labels[:2])
    return Task("made", **{"label_names": NAMES, "train": train, "evaluation": asked, "kind": kind, **fields})


def classes(count: int = 30) -> np.ndarray:
    return np.array([0] * (count - 4) + [1, 2, 1, 1])


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 1, 1]), (8, [4, 3, 1]), (9, [5, 3, 1])])
def test_the_fixed_draw_has_equal_shares_of_the_classes_as_far_as_they_have_texts(
    count: int, expected: list[int]
) -> None:
    made = task(classes())
    drawn = Shots(count).of(made, REVIEW).drawn
    assert [Counter(drawn.labels.tolist())[label] for label in range(3)] == expected
    assert sorted(drawn.labels[:3].tolist()) == [0, 1, 2]  # each class once in each round, so that classes are mixed


def test_the_fixed_draw_depends_on_the_texts_and_the_seed_and_not_on_their_order() -> None:
    made = task(classes())
    order = np.random.default_rng(1).permutation(30)
    moved = task(classes(), train=made.train.take(order))
    first, second, other = Shots(6).of(made, REVIEW), Shots(6).of(moved, REVIEW), Shots(6, seed=1).of(made, REVIEW)
    assert first.fixed == second.fixed
    assert first.fixed != other.fixed
    assert first.first(2).source == BETWEEN.join([*first.fixed.source.split(BETWEEN)[:2], REVIEW.source])
    assert first.templates(["a", "b"]) == [first.fixed, first.fixed]


def test_an_example_is_the_text_in_the_tasks_template_and_its_target() -> None:
    made = task(np.array([0, 1, 2]), ["Fine {0}.", "{text} is bad", "Hm."])
    examples = Shots(2).of(made, REVIEW, {"good": (" great", "nice"), "bad": (" awful",), "odd": (" odd",)})
    assert sorted(examples.fixed.source.split(BETWEEN)) == [
        "Review: Fine {0}.\nSentiment: great",
        "Review: Hm.\nSentiment: odd",
        "Review: {text}\nSentiment:",
    ]
    assert examples.fixed.render("x{text}").endswith("Review: x{text}\nSentiment:")
    ended = Shots(1).of(task(np.array([0, 1]), ["a", "a"]), Template("{text}\n"))
    assert ended.fixed.source == "a\ngood" + BETWEEN + "{text}\n"  # of equal texts, the first


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("number", np.array([2.0, -0.25, 1e-7]), {"2", "-0.25", "0.0000001"}),
        ("labels", np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), {"good, odd", "none", "bad"}),
        ("text", as_references([("one", "two"), ("three",), ("four\nfive",)]), {"one", "three", "four\nfive"}),
    ],
)
def test_targets_of_every_kind_are_written_as_texts(kind: Kind, labels: np.ndarray, expected: set[str]) -> None:
    made = Shots(3).of(task(labels, ["a", "b", "c"], kind, label_names=NAMES), REVIEW)
    assert {part.partition("Sentiment: ")[2] for part in made.fixed.source.split(BETWEEN)} - {""} == expected


def test_numbers_are_drawn_from_every_part_of_their_range() -> None:
    values = np.random.default_rng(0).permutation(np.arange(100.0))
    drawn = Shots(4).of(task(values, kind="number", label_names=("score",)), REVIEW).drawn
    assert sorted(int(value) // 25 for value in drawn.labels) == [0, 1, 2, 3]


def test_the_nearest_examples_stand_closest_to_the_text_and_a_text_is_never_its_own_example() -> None:
    known = ["red big car", "red car", "a blue tree", "green tree here", "Red, big car!"]
    made = task(np.array([0, 1, 2, 0, 1]), known)
    examples = Shots(3, NEAREST).of(made, Template("{text} This is"))
    own, other, none = (each.source for each in examples.templates(["red BIG car", "the tree is blue", "zzz"]))
    assert own.split(BETWEEN)[-2:] == ["red car This is bad", "{text} This is"]
    assert "big car" not in own
    assert own.count(" This is") == 4  # texts of the fixed draw fill the prompt
    assert other.split(BETWEEN)[-2:-1] == ["a blue tree This is odd"]
    assert none.split(BETWEEN)[:-1] == examples.first(3).source.split(BETWEEN)[2::-1]


def test_pairs_are_examples_with_both_texts() -> None:
    train = Split(["a", "b", "c"], [0, 1, 0], ["one", "two", "three"])
    made = Task("made", ("no", "yes"), train, Split(["d"], [0], ["four"]))
    for draw in ("fixed", "nearest"):
        examples = Shots(2, draw).of(made, SAME)  # type: ignore[arg-type]
        (found,) = examples.templates(["b"], ["two words"])
        assert found.render("b", "two").count("\nSecond: ") == 3


def test_texts_of_other_splits_are_no_examples_of_a_fixed_prompt() -> None:
    made = task(np.array([0, 1, 2]), ["a", "B!", "c"], evaluation=Split(["b"], [1]), selection=Split(["C"], [1]))
    assert Shots(1).of(made, REVIEW).drawn.texts == ["a"]
    assert len(Shots(2, NEAREST).of(made, REVIEW).split) == 3  # only the text itself is left out


def test_too_many_shots_and_chat_templates_are_refused() -> None:
    made = task(np.array([0, 1, 2]), ["a", "b", "{text}"])
    with raises(InvalidStudy, code="shots.too-few-texts", shots=3, found=2, expected=3, task="made"):
        Shots(3).of(made, REVIEW)
    with raises(InvalidStudy, code="shots.too-few-texts", shots=2, found=2, expected=3):
        Shots(2, NEAREST).of(made, REVIEW)
    with raises(InvalidStudy, code="shots.in-chat-template", shots=1):
        Shots(1).of(made, Template("<user>{text}<assistant>", special_tokens=False))
