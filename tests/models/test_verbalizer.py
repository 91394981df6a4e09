"""Questions: which labels can be asked for, which tokens answer for them, and in which template."""

from __future__ import annotations

from typing import Any

import pytest

from afina import Backbone
from afina.data.label_words import are_words
from afina.errors import InvalidStudy, UnknownName
from afina.models.label_prompts import GENERAL, GENERAL_PAIR, SENTIMENT, TEMPLATES
from afina.models.verbalizer import Verbalizer
from raises import raises

LABELS = ("bad", "good")
UNUSED = {"code": "option.inapplicable"}


def question(backbone: Backbone, labels: tuple[str, ...] = LABELS, *, pairs: bool = False, **asked: Any) -> Verbalizer:
    return Verbalizer.of(labels, backbone.tokenizer, pairs=pairs, **asked)


@pytest.mark.parametrize(
    "labels",
    [
        ("bad", "good"),
        ("Very good", "so-so", "not good"),
        ("été", "hiver"),
        ("true", "false"),
        ("sports/news", "arts & crafts"),
    ],
    ids=str,
)
def test_labels_that_are_words(labels: tuple[str, ...]) -> None:
    assert are_words(labels)


@pytest.mark.parametrize(
    "labels", [("0", "1"), ("LABEL_0", "LABEL_1"), ("A", "B"), ("good", "c3"), ("2.5", "3.5"), ("", "x")], ids=str
)
def test_labels_that_are_none(labels: tuple[str, ...]) -> None:
    assert not are_words(labels)


def test_a_label_is_answered_for_by_its_name_after_a_space(gpt2: Backbone) -> None:
    made = question(gpt2)
    assert made.words == {"bad": (" bad",), "good": (" good",)}
    colon = gpt2.tokenizer(":")["input_ids"]
    assert made.tokens is not None
    assert [[*colon, *tokens] for tokens in made.tokens] == [
        gpt2.tokenizer(f": {name}")["input_ids"][: len(colon) + 1] for name in LABELS
    ]


def test_words_after_a_beginning_token_are_the_same(llama: Backbone) -> None:
    made = question(llama)
    assert made.tokens is not None
    special = llama.tokenizer.all_special_ids
    assert not {token for tokens in made.tokens for token in tokens} & set(special)


def test_several_words_may_answer_and_one_twice_counts_once(gpt2: Backbone) -> None:
    made = question(gpt2, words={"good": [" bright", " warm", " bright"], "bad": [" dull"]})
    assert made.tokens is not None
    assert [len(tokens) for tokens in made.tokens] == [1, 2]
    assert list(made.words or {}) == ["bad", "good"], "in the labels' order"


@pytest.mark.parametrize(
    ("labels", "asked", "template"),
    [
        (("negative", "positive"), {}, SENTIMENT),
        (("Negative", "Positive"), {"words": {"Negative": [" dull"], "Positive": [" warm"]}}, SENTIMENT),
        (("bad", "good"), {}, GENERAL),
        (("bad", "good"), {"pairs": True, "head": "words"}, GENERAL_PAIR),
        (("bad", "good"), {"template": "{text} It is"}, "{text} It is"),
        (("bad", "good"), {"template": "{text}"}, None),
        (("bad", "good"), {"head": "random"}, None),
        (("bad", "good"), {"head": "random", "template": "{text} It is"}, "{text} It is"),
        (("0", "1"), {}, None),
        (("0", "1"), {"words": {"0": [" dull"], "1": [" warm"]}}, GENERAL),
    ],
    ids=str,
)
def test_the_template_suits_the_labels_unless_one_is_given(
    gpt2: Backbone, labels: tuple[str, ...], asked: dict[str, Any], template: str | None
) -> None:
    found = question(gpt2, labels, **asked).template
    assert (found.source if found else None) == template


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        (("0", "1"), {}),
        (("bad", "good"), {"pairs": True}),
        (("bad", "good"), {"head": "random"}),
        (("dullness", "dully"), {}),
    ],
    ids=["numbers", "pairs", "asked for", "words that clash"],
)
def test_the_head_is_drawn_where_labels_do_not_name_themselves(
    gpt2: Backbone, labels: tuple[str, ...], asked: dict[str, Any]
) -> None:
    made = question(gpt2, labels, **asked)
    assert made.words is made.tokens is None


@pytest.mark.parametrize(
    ("labels", "asked", "told"),
    [
        (LABELS, {"words": {"good": [" warm"]}}, {"code": "words.missing", "label": "bad"}),
        (LABELS, {"words": {"good": " warm", "bad": [" dull"]}}, {"code": "words.missing", "label": "good"}),
        (LABELS, {"words": {"good": [" warm"], "bad": [" warm"]}}, {"code": "words.ambiguous", "labels": [*LABELS]}),
        (("dullness", "dully"), {"head": "words"}, {"code": "words.ambiguous", "words": [" dullness", " dully"]}),
        (("0", "1"), {"head": "words"}, {"code": "words.missing", "labels": ["0", "1"]}),
        (LABELS, {"head": "random", "words": {"good": [" a"], "bad": [" b"]}}, UNUSED | {"option": "words"}),
        (LABELS, {"head": "random", "offset": True}, UNUSED | {"option": "offset"}),
        (LABELS, {"template": "no place"}, {"code": "template.invalid", "template": "no place"}),
        (LABELS, {"template": "{text} {label}", "head": "random"}, {"code": "template.invalid", "found": "{label}"}),
        (LABELS, {"template": "{text} {title} {text_pair}", "pairs": True}, {"code": "template.invalid"}),
        (LABELS, {"template": "{text} {text_pair}"}, {"code": "template.invalid", "pairs": False}),
    ],
)
def test_what_cannot_be_asked_is_told(
    gpt2: Backbone, labels: tuple[str, ...], asked: dict[str, Any], told: dict[str, Any]
) -> None:
    with raises(InvalidStudy, **told):
        question(gpt2, labels, **asked)


def test_words_for_a_label_that_is_not_there_name_the_nearest(gpt2: Backbone) -> None:
    with raises(UnknownName, code="name.unknown", where="`words`", name="goood", kind="label"):
        question(gpt2, words={"goood": [" warm"], "bad": [" dull"]})


def test_the_templates_to_compare_begin_with_those_that_are_used() -> None:
    assert TEMPLATES[:2] == (SENTIMENT, GENERAL)
    assert len(set(TEMPLATES)) == len(TEMPLATES)
