"""The baselines of texts, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from afina.data import nearest_text
from afina.data.nearest_text import NearestText
from afina.data.split import Split
from afina.data.terms import LONGEST, WORD
from afina.models import objectives
from afina.studies.choosing import floors
from afina.studies.choosing.floors import LEAD, TextFloors, first_sentences
from references import WORDS

OBJECTIVE = objectives.make(("summary",), {"kind": "text"})
CONSTANT, NEAREST = TextFloors.constant, TextFloors.learned


def split(rows: list[tuple[str, str]], pairs: list[str] | None = None) -> Split:
    return Split([text for text, _ in rows], [(target,) for _, target in rows], pairs)


MEALS = split([("soup of the day", "soup"), ("a green salad", "salad"), ("soup of fish", "fish"), ("cake", "salad")])


def answers(train: Split, asked: Split) -> dict[str, list[str]]:
    return {floor.name: floor.outputs(asked).tolist() for floor in floors.fit(train, OBJECTIVE)}


def test_the_most_frequent_target_the_nearest_and_no_lead_of_short_texts() -> None:
    asked = split([("the fish soup, of fish", "?"), ("GREEN!", "?"), ("...", "?"), ("", "?")])
    assert answers(MEALS, asked) == {CONSTANT: ["salad"] * 4, NEAREST: ["fish", "salad", "salad", "salad"]}
    (constant, nearest) = floors.fit(MEALS, OBJECTIVE)
    assert (constant.name, nearest.examples, nearest.model) == (CONSTANT, 4, None)
    assert nearest.predict(asked).tolist() == answers(MEALS, asked)[NEAREST]


def test_of_equal_texts_and_targets_the_first_counts() -> None:
    twice = split([("one two", "b"), ("one two", "a"), ("three", "a"), ("three", "b")])
    assert answers(twice, twice) == {CONSTANT: ["b"] * 4, NEAREST: ["b", "b", "a", "a"]}


def test_references_count_as_often_as_they_occur_and_the_first_is_the_answer() -> None:
    several = Split(["x", "y"], [("a", "b", "b"), ("c", "a", "b")])
    assert answers(several, several) == {CONSTANT: ["b", "b"], NEAREST: ["a", "c"]}


def test_the_second_text_of_a_pair_is_read_too() -> None:
    train = split([("who won?", "Ann"), ("who won?", "Bob")], ["chess in May", "tennis in June"])
    asked = split([("who won?", "?")], ["the tennis of June"])
    assert answers(train, asked)[NEAREST] == ["Bob"]


@pytest.mark.parametrize("block", [7, 2_000])
def test_the_nearest_is_that_of_scikit_learns_vectorizer(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if texts are compared in blocks; words with equal hashes are too few here to matter."""
    monkeypatch.setattr(nearest_text, "BLOCK", block)
    generator = np.random.default_rng(0)
    known, asked = ([" ".join(generator.choice(WORDS, 6)) for _ in range(size)] for size in (60, 25))
    words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
    rows = words.fit_transform(known).toarray()
    # A word that no training text has makes the text longer here, and is left out there: the order is the same.
    cosines = words.transform(asked).toarray() @ rows.T
    found = NearestText(known).places(asked, 3)
    nearest = -np.sort(-cosines, axis=1)[:, :3]
    assert np.take_along_axis(cosines, found, 1) == pytest.approx(nearest, abs=1e-6)
    assert all(len(set(row)) == 3 for row in found.tolist())
    assert len(set(found[:, 0].tolist())) > 10
    assert NearestText(known).places(asked, 1).tolist() == found[:, :1].tolist()
    assert NearestText(known).places([], 2).shape == (0, 2)


def test_texts_without_words_have_no_nearest() -> None:
    assert NearestText(["?!", "..."]).places(["?!", "word"], 1).tolist() == [[-1], [-1]]
    assert NearestText(["a b", "c"]).places(["b a", "d"], 2).tolist() == [[0, -1], [-1, -1]]


def test_sentences_by_hand() -> None:
    assert first_sentences("One. Two! Three?", 2) == "One. Two!"
    assert first_sentences("He said “No.” Then he left. Gone", 1) == "He said “No.”"
    assert first_sentences("about 3.5 points, i.e. more. End", 1) == "about 3.5 points, i.e. more."
    assert first_sentences("一つ。二つ。三つ", 2) == "一つ。二つ。"
    assert first_sentences("A title\n\nThe first sentence. More", 2) == "A title\n\nThe first sentence."
    assert first_sentences(" \n one \n", 3) == "one"
    assert first_sentences("", 1) == ""


def test_the_lead_has_as_many_sentences_as_the_median_target_where_texts_have_more() -> None:
    long = "First one. Second one. Third one. Fourth one."
    train = split([(long, "A. B."), (long, "A. B."), (long, "C."), ("Short.", "A. B. C.")])
    made = {floor.name: floor for floor in floors.fit(train, OBJECTIVE)}
    assert list(made) == [CONSTANT, NEAREST, LEAD]
    assert made[LEAD].outputs(train).tolist() == ["First one. Second one."] * 3 + ["Short."]
    assert (made[LEAD].setting, made[LEAD].hyperparameters) == ("2 of each text", {"sentences": 2})
    assert LEAD not in answers(split([("A. B.", "A. B.")] * 3), train), "as many sentences as the target"
    assert LEAD not in answers(split([(long, "A.")], ["who?"]), split([(long, "A.")], ["who?"])), "a pair has no lead"


def test_what_has_no_adapter_says_why() -> None:
    kind = floors.FLOORS["text"]
    told = [kind.unsaved(name) for name in (CONSTANT, NEAREST, LEAD)]
    assert told[0] == floors.FLOORS["classes"].unsaved(floors.TFIDF) == "it always gives the same answer"
    assert len(set(told)) == 3
