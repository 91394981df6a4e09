"""Templates: a text in its place is one string for the tokenizer, and only the text is ever cut."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from afina.data.template import Template
from afina.data.tokenize import encode
from afina.errors import InvalidData, InvalidStudy
from fakes import TEXTS, tokenizer
from raises import raises

REVIEW = Template("Review: {text}\nSentiment:")
BOTH = Template("First: {text}\nSecond: {text_pair}\nSame:")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "begin"])
def words(request: pytest.FixtureRequest) -> Any:
    """A tokenizer; the second one puts a token of its own before each text."""
    return tokenizer(begin=request.param)


def ids(words: Any, template: Template, text: str, pair: str | None = None, length: int = 1000) -> list[int]:
    return encode(words, [text], None if pair is None else [pair], max_length=length, template=template)[0].tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_the_whole_is_tokenised_as_one_string(words: Any, text: str) -> None:
    assert ids(words, REVIEW, text) == words(f"Review: {text}\nSentiment:")["input_ids"]
    assert ids(words, BOTH, text, "a lamp") == words(f"First: {text}\nSecond: a lamp\nSame:")["input_ids"]


def test_braces_of_a_text_are_its_own(words: Any) -> None:
    text = "{text_pair} {text} {} {0} {name}"
    assert ids(words, BOTH, text, "{text}") == words(f"First: {text}\nSecond: {{text}}\nSame:")["input_ids"]
    assert Template('{"a": {text}}').render("x") == '{"a": x}'


def test_pairs_may_stand_the_other_way_round() -> None:
    assert Template("{text_pair} because {text}").render("one", "two") == "two because one"


ALPHABET = "abc dé日本🙂\n\t{}_.,!Ω"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(30))
def test_only_the_text_is_cut(seed: int, side: str) -> None:
    chance = random.Random(seed)
    text, length = "".join(chance.choices(ALPHABET, k=chance.randint(1, 60))), chance.randint(24, 60)
    words = tokenizer(begin=True)
    words.truncation_side = side
    whole = words(REVIEW.render(text))["input_ids"]
    found, cut = REVIEW.shortened(words, text, None, length)
    assert len(found) <= length
    assert cut == (len(whole) > length)
    said = words.decode(found, skip_special_tokens=True)
    assert said.startswith("Review: ")
    assert said.endswith("\nSentiment:")
    kept = said.removeprefix("Review: ").removesuffix("\nSentiment:")
    assert kept
    assert text.endswith(kept) if side == "left" else text.startswith(kept)


def test_of_a_pair_the_longer_is_cut_first(words: Any) -> None:
    long, short = "a lovely lamp " * 20, "dull soup"
    said = words.decode(ids(words, BOTH, long, short, 60), skip_special_tokens=True)
    assert f"Second: {short}\nSame:" in said
    said = words.decode(ids(words, BOTH, short, long, 60), skip_special_tokens=True)
    assert said.startswith(f"First: {short}\nSecond: a lovely")


def test_cut_texts_are_counted(words: Any) -> None:
    found = encode(words, ["a lamp", "a lovely lamp " * 20], max_length=40, template=REVIEW)
    assert found.truncated == 1
    assert found.lengths.max() <= 40
    assert np.array_equal(found[0], words(REVIEW.render("a lamp"))["input_ids"])


@pytest.mark.parametrize("source", ["", "Review:", "{text} {text}", "{text_pair}", "{text}{text_pair}{text_pair}"])
def test_a_template_has_one_place_for_a_text(source: str) -> None:
    with raises(InvalidStudy, code="template.invalid"):
        Template(source)


def test_a_template_that_leaves_no_room_is_refused(words: Any) -> None:
    size = len(words(REVIEW.render(""))["input_ids"])
    with raises(InvalidStudy, code="template.invalid"):
        encode(words, ["a lamp"], max_length=size, template=REVIEW)
    assert len(ids(words, REVIEW, "a lamp, warm and bright", length=size + 2)) <= size + 2


def test_a_template_fits_the_number_of_texts(words: Any) -> None:
    with raises(InvalidStudy, code="template.invalid", pairs=True):
        ids(words, REVIEW, "one", "two")
    with raises(InvalidStudy, code="template.invalid", pairs=False):
        ids(words, BOTH, "one")


def test_an_empty_text_is_still_refused(words: Any) -> None:
    with raises(InvalidData, code="data.text-empty", row=2):
        encode(words, ["a lamp", ""], max_length=40, template=REVIEW)
