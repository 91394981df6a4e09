"""Answers follow their grammar, and a grammar that costs too much is refused before anything is computed."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from afina.errors import InvalidData, NotFound
from afina.generating import guides
from afina.generating.guides import Grammar, GuideMaker, TokenGuide
from fakes import tokenizer
from raises import raises

WORDS = tokenizer(begin=False)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Zoë", 'a "quote"', "back\\slash"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
}


@cache
def maker() -> GuideMaker:
    return GuideMaker(WORDS)


@cache
def made(grammar: Grammar) -> Any:
    """A function that makes guides of a grammar that costs little: it is not tried in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guides, "_trial", lambda grammar: None)
        return maker().prepare("acme", grammar)


def answer(grammar: Grammar, seed: int, most: int = 400, width: int = len(WORDS) + 8) -> str | None:
    """A random answer of a model with a few more logits than words; None: it did not end."""
    guide: TokenGuide = made(grammar)()
    random, tokens = np.random.default_rng(seed), list[int]()
    for _ in range(most):
        logits = random.normal(size=width)
        guide.mask(logits)
        allowed = np.flatnonzero(np.isfinite(logits))
        assert len(allowed)
        assert guide.finished == ([*allowed] == [WORDS.eos_token_id])
        token = int(logits.argmax())
        guide.accept(token)
        if token == WORDS.eos_token_id:
            return str(WORDS.decode(tokens, skip_special_tokens=True)).strip()
        tokens.append(token)
    return None


CHOICES = ["yes", "no", 'neither "yes"\nnor "no"', "Zoë \\ é", "日本"]


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_is_one_of_the_choices(seed: int) -> None:
    assert answer(Grammar.of_choices(CHOICES), seed) in CHOICES


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_matches_the_regular_expression(seed: int) -> None:
    pattern = r"(GET|PUT)/[a-f]{2,4}/\d{3}\?é=(x|y)"
    found = answer(Grammar.of_regex(pattern), seed)
    assert found is not None
    assert re.fullmatch(pattern, found)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_follows_the_schema(seed: int) -> None:
    found = answer(Grammar.of_schema(SCHEMA), seed)
    assert found is not None
    jsonschema.validate(json.loads(found), SCHEMA)


def test_the_longest_choice_is_written_to_its_end() -> None:
    guide = made(Grammar.of_choices(["x" * guides.MOST_BYTES]))()
    (token,) = WORDS("x")["input_ids"]
    for _ in range(guides.MOST_BYTES):
        guide.accept(token)
    assert guide.finished


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_has_named_keys_only_and_no_run_of_whitespace(seed: int) -> None:
    inner = {"type": "object", "properties": {"b": {"type": "boolean"}}}
    schema = {"type": "object", "properties": {"a": inner, "c": {"type": "array", "items": inner, "maxItems": 2}}}
    found = answer(Grammar.of_schema(schema), seed)
    assert found is not None
    assert {*re.findall(r"\w+", found)} <= {"a", "b", "c", "true", "false"}
    assert not re.search(r"\s{2}|\n", found)


def test_every_choice_may_follow_a_space() -> None:
    """As prompts expect that do not end with a line break."""
    guide = made(Grammar.of_choices(["yes"]))()
    (space,) = WORDS(" ")["input_ids"]
    guide.accept(space)
    for token in WORDS("yes")["input_ids"]:
        guide.accept(token)
    assert guide.finished


def test_guides_of_a_grammar_are_independent() -> None:
    first, second = made(Grammar.of_choices(["a"]))(), made(Grammar.of_choices(["a"]))()
    first.accept(WORDS("a")["input_ids"][0])
    assert (first.finished, second.finished) == (True, False)


@pytest.mark.parametrize("pattern", [r"(\w+ ){1,20}\w+", r"(.+\n){1,5}", r"[A-Za-z0-9 ,.]{1,1000}", r"(\w+\s){3,30}"])
def test_a_usual_regular_expression_is_not_too_costly(pattern: str) -> None:
    assert not maker().prepare("acme", Grammar.of_regex(pattern))().finished


def test_a_token_that_is_not_allowed_is_an_error() -> None:
    with raises(InvalidData, code="request.grammar-costly"):
        made(Grammar.of_choices(["yes"]))().accept(WORDS("n")["input_ids"][0])


DEEP: dict[str, Any] = {}
for _ in range(guides.DEEPEST):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Grammar.of_choices([]),
        lambda: Grammar.of_choices(["a", ""]),
        lambda: Grammar.of_choices([" a"]),
        lambda: Grammar.of_choices([str(number) for number in range(guides.MOST_CHOICES + 1)]),
        lambda: Grammar.of_choices(["x" * guides.MOST_CHARACTERS + "y"]),
        lambda: Grammar.of_choices(["é" * (guides.MOST_BYTES // 2 + 1)]),
        lambda: Grammar.of_regex(""),
        lambda: Grammar.of_regex("a" * (guides.MOST_PATTERN + 1)),
        lambda: Grammar.of_schema({"enum": ["x" * guides.MOST_CHARACTERS]}),
        lambda: Grammar.of_schema(DEEP),
    ],
)
def test_a_grammar_has_a_size(make: Any) -> None:
    with raises(InvalidData, code="request.grammar-invalid"):
        make()


ORDER = 1234567890123456789


@pytest.mark.parametrize(
    "compared", [{"enum": [ORDER, ORDER - 1]}, {"const": [ORDER]}, {"minimum": ORDER * 10**9}, {"multipleOf": ORDER}]
)
def test_an_integer_that_the_grammar_would_round_is_refused(compared: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"id": {"anyOf": [compared, {"type": "null"}]}}}
    with raises(InvalidData, code="request.grammar-invalid"):
        Grammar.of_schema(schema)


@pytest.mark.parametrize(
    ("bound", "most"),
    [
        ({"maximum": 2**63 - 1}, 2**63 - 1024),
        ({"exclusiveMaximum": 2**63 - 1024}, 2**63 - 2048),
        ({"minimum": -(2**63)}, 2**63 - 1024),
        ({"minimum": -ORDER}, ORDER - ORDER % 256),
    ],
)
def test_a_bound_that_no_double_holds_is_moved_inwards(bound: dict[str, Any], most: int) -> None:
    ends = (most, most + 1) if "minimum" not in bound else (-most, -most - 1)
    source = Grammar.of_schema({"type": "integer", **bound}).source
    for end, allowed in zip(ends, (True, False), strict=True):
        matcher, tokens = LLMatcher(maker()._vocabulary(), source), WORDS.encode(str(end))
        whole = matcher.try_consume_tokens(tokens) == len(tokens)
        assert (whole and matcher.is_accepting()) == allowed


def test_names_of_properties_and_defaults_are_compared_with_nothing() -> None:
    default = {"default": ORDER}
    Grammar.of_schema({"properties": {"const": default, "enum": default}, "default": {"const": ORDER}})


def test_an_integer_that_a_double_holds_is_answered_digit_by_digit() -> None:
    schema = {"enum": [2**53, 10**18], "default": ORDER}
    assert answer(Grammar.of_schema(schema), 0) in {str(2**53), str(10**18)}


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (Grammar.of_regex("((("), "unclosed group"),
        (Grammar.of_regex("(?=a)b"), "look-around"),
        (Grammar.of_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Grammar.of_schema({"type": "string", "not": {"const": "a"}, "x-guidance": {"lenient": True}}), "not"),
        (Grammar.of_schema({"$ref": "file:///etc/passwd"}), "file:///etc/passwd"),
        (Grammar.of_schema({"enum": []}), "nsatisfiable"),
        (Grammar.of_schema({"type": "integer", "multipleOf": 999_983}), "more than 1 second"),
        (Grammar.of_regex(r"(\w{1,30}\s?){1,40}"), "exceeds a limit"),
    ],
)
def test_a_grammar_that_is_wrong_or_takes_too_long_is_refused(grammar: Grammar, said: str) -> None:
    with raises(InvalidData, code="request.grammar-invalid") as caught:
        maker().prepare("acme", grammar)
    assert said in str(caught.value)


def test_a_step_that_takes_too_long_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = made(Grammar.of_choices(["yes"]))()
    monkeypatch.setattr(guides, "STEP_SECONDS", -1.0)
    with raises(InvalidData, code="request.grammar-costly"):
        guide.mask(np.zeros(len(WORDS)))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with raises(NotFound, code="extra.missing", extra="guided") as caught:
        guides.require()
    assert "afina[guided]" in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([
        "type", "properties", "items", "enum", "const", "pattern", "$ref", "$defs", "anyOf", "oneOf", "allOf",
        "minimum", "maxLength", "minItems", "required", "format", "additionalProperties", "x-guidance", "%lark",
    ]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.dictionaries(st.sampled_from(["type", "enum", "anyOf", "properties", "$ref", "%json"]), VALUES, max_size=4))
def test_any_object_as_a_schema_gives_guides_or_a_refusal(schema: dict[str, Any]) -> None:
    try:
        guide = maker().prepare("acme", Grammar.of_schema(schema))()
    except InvalidData:
        return
    logits = np.zeros(len(WORDS))
    guide.mask(logits)
    assert np.isfinite(logits).any()


def test_a_grammar_is_tried_for_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[Grammar]()
    monkeypatch.setattr(guides, "_trial", tried.append)
    fresh, grammar = GuideMaker(WORDS), Grammar.of_choices(["tried", "once"])
    for client in ("acme", "acme", "bolt"):
        fresh.prepare(client, grammar)
    assert tried == [grammar, grammar]
