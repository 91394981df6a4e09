"""The prompt of a text, and the strict reading of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from afina.data.kinds import KINDS, Kind
from afina.endpoints.questions import EndpointQuestion
from afina.errors import InvalidStudy, UnknownName
from raises import raises

NAMES = ("negative", "positive")


def question(kind: Kind, names: tuple[str, ...] = NAMES, **given: Any) -> EndpointQuestion:
    return EndpointQuestion.of(kind, names, **{"pairs": False} | given)


def test_a_prompt_is_the_template_of_zero_shot_after_the_allowed_answers() -> None:
    plain = question("classes")
    assert plain.prompt("Nice {text}.") == (
        "Answer with one of these words and nothing else: negative, positive.\n\nText: Nice {text}.\nSentiment:"
    )
    words = {"0": [" bad", " dull"], "1": [" good"]}
    given = question("classes", ("0", "1"), words=words, template="{text} This is")
    assert given.prompt("x") == "Answer with one of these words and nothing else: bad, dull, good.\n\nx This is"
    assert given.response_format is not None
    inner = given.response_format["json_schema"]["schema"]["properties"]["answer"]
    assert inner == {"type": "string", "enum": ["bad", "dull", "good"]}
    pair = question("labels", pairs=True)
    assert pair.prompt("a", "b").endswith("First: a\nSecond: b\nCategory:")
    assert "separated by commas, and nothing else: negative, positive. Answer none if" in pair.prompt("a", "b")
    number = question("number", ("stars",))
    assert number.prompt("x") == "Answer with a number and nothing else: stars.\n\nText: x\nNumber:"
    text = question("text", ("told",), columns={"text": "question"})
    assert (text.prompt("Why?"), text.response_format) == ("Question: Why?\nAnswer:", None)


WRITTEN: list[tuple[Kind, str, Any]] = [
    ("classes", "positive", 1),
    ("classes", "\n Positive. ", 1),
    ("classes", '{"answer": "positive"}', 1),
    ("classes", ' {"answer": "Positive."}\n', 1),
    ("classes", "The answer is positive", None),
    ("classes", "positive!", None),
    ("classes", "positive negative", None),
    ("classes", '{"answer": "positive", "because": "x"}', None),
    ("classes", '{"answer": 1}', None),
    ("classes", '{"answer": ["positive"]}', None),
    ("classes", '{"answer": "positive"', None),
    ("classes", "{" * 100_000, None),
    ("classes", "neutral", None),
    ("labels", "positive, Negative.", [0, 1]),
    ("labels", "positive", [1]),
    ("labels", "None.", []),
    ("labels", '{"answer": ["positive", "positive"]}', [1]),
    ("labels", '{"answer": []}', []),
    ("labels", '{"answer": "positive, negative"}', None),
    ("labels", '{"answer": ["positive", 1]}', None),
    ("labels", "positive, none", None),
    ("labels", "positive, neutral", None),
    ("labels", "positive,", None),
    ("number", "3.5", 3.5),
    ("number", " -2. ", -2.0),
    ("number", '{"answer": 4}', 4.0),
    ("number", '{"answer": "4"}', None),
    ("number", '{"answer": true}', None),
    ("number", '{"answer": NaN}', None),
    ("number", "1,000", None),
    ("number", "3 stars", None),
    ("number", "1e999", None),
    ("number", "007", None),
    ("text", " A text.\nWith lines. ", "A text.\nWith lines."),
    ("text", '{"answer": "x"}', '{"answer": "x"}'),
]


@pytest.mark.parametrize(("kind", "written", "expected"), WRITTEN, ids=lambda one: str(one)[:40])
def test_an_answer_is_read_strictly(kind: Kind, written: str, expected: Any) -> None:
    found = question(kind, NAMES if kind in ("classes", "labels") else ("told",)).read(written)
    assert (found, type(found)) == (expected, type(expected))


def test_words_that_cannot_be_told_apart_are_refused() -> None:
    with raises(InvalidStudy, code="words.ambiguous", word="Good."):
        question("classes", words={"negative": ["good"], "positive": ["Good."]})
    with raises(InvalidStudy, code="words.missing"):
        question("classes", ("0", "1"))
    with raises(UnknownName, code="name.unknown", name="bad"):
        question("classes", words={"bad": ["x"]})
    for word in ("a, b", "None"):
        with raises(InvalidStudy, code="words.reserved", label="positive", word=word):
            question("labels", words={"negative": ["x"], "positive": [word]})
    with raises(InvalidStudy, code="words.needless"):
        question("number", ("stars",), words={"stars": ["x"]})


def test_entities_are_not_asked_for_and_the_error_says_why() -> None:
    with raises(InvalidStudy, code="endpoint.kind-unsupported", kind="entities"):
        question("entities", ("LOC", "PER"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "entities"])
def test_a_chat_template_of_a_tokenizer_is_refused_and_so_is_a_template_of_other_texts(kind: Kind) -> None:
    with raises(InvalidStudy, code="template.unsuitable"):
        question(kind, template="chat")
    with raises(InvalidStudy, code="template.invalid"):
        question(kind, template="{text} {text_pair}")
