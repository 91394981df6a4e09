"""JSON texts are checked against JSON Schemas exactly, in limited time, and without retrieving anything."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from afina.errors import InvalidData
from afina.generating import schema_checks
from afina.generating.schema_checks import violation
from raises import raises

BEYOND = {"enum": [1234567890123456789]}
NAMED = {"properties": {"b": {}}, "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": False}
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("1234567890123456789", BEYOND),
        ("0.3", {"multipleOf": 0.1}),
        ("1.0", {"type": "integer"}),
        ("9223372036854775807", {"type": "integer", "maximum": 2**63 - 1}),
        ('"é"', {"pattern": r"^\u00e9$"}),
        (r'"\\u00e9"', {"pattern": r"^\\u00e9$"}),
        ('{"b": "x", "a1": 1}', NAMED),
        ("[1, true]", {"uniqueItems": True}),
        ('["x", 1]', {**DRAFT_7, "items": [{"type": "string"}]}),
        ("1", {"properties": {"$schema": {"type": "string"}}}),
    ],
)
def test_a_text_that_holds_to_its_schema(text: str, schema: dict[str, Any]) -> None:
    assert violation(text, schema) is None


@pytest.mark.parametrize(
    ("text", "schema", "said"),
    [
        ("1234567890123456768", BEYOND, "is not one of"),
        ("0.31", {"multipleOf": 0.1}, "not a multiple"),
        ("true", {"type": "integer"}, "is not of type"),
        ("9223372036854775808", {"type": "integer", "maximum": 2**63 - 1}, "greater than the maximum"),
        (r'"a\n"', {"pattern": "^a$"}, "does not match"),
        ('{"a1": "x"}', NAMED, r"\$.a1: "),
        ('{"c": 1}', NAMED, "False schema"),
        ("[1, 1.0]", {"uniqueItems": True}, "two elements"),
        ("[[1, 2], 1]", {"items": {"type": "array"}}, r"\$\[1\]: "),
        ('{"$schema": 1}', {"properties": {"$schema": {"type": "string"}}}, "is not of type"),
        ("{", {}, "not JSON"),
        ("NaN", {"type": "number"}, "not JSON"),
    ],
)
def test_a_text_that_violates_its_schema(text: str, schema: dict[str, Any], said: str) -> None:
    found = violation(text, schema)
    assert found is not None
    assert re.search(said, found)


def _doubling(levels: int) -> dict[str, Any]:
    """A schema with 2**levels paths, each part of which names a draft, with which jsonschema would leave the limits."""
    parts = {
        f"a{one}": {**DRAFT_7, "allOf": [{"$ref": f"#/$defs/a{one + 1}"}, {"$ref": f"#/$defs/a{one + 1}"}]}
        for one in range(levels)
    }
    return {**DRAFT_7, "$ref": "#/$defs/a0", "$defs": {**parts, f"a{levels}": {"type": "string"}}}


@pytest.mark.parametrize(
    ("text", "schema", "said"),
    [
        ('"x"', _doubling(40), "seconds"),
        ("1", {"$ref": "http://127.0.0.1:1/schema"}, "another schema"),
        ("1", {"$ref": "#"}, "reference to itself"),
        ("[" * 3000 + "]" * 3000, {"items": {"$ref": "#"}}, "nested levels"),
        ('"x"', {"pattern": "(?=x)"}, "RE2"),
        (json.dumps("x" * 100_000), {"pattern": "(a?){1000}y"}, "too long to match"),
        ("1e999999999", {"multipleOf": 2}, "too many digits"),
        ("1" * 5000, {"type": "integer"}, "too many digits"),
        ('{"a": 1}', {"required": True}, "not a valid schema"),
        ('{"a": 1}', {"unevaluatedProperties": False}, "unevaluated"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_schema_that_cannot_be_checked_is_an_error(
    text: str, schema: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_checks, "SECONDS", 0.1)
    with raises(InvalidData, code="request.schema-unchecked") as caught:
        violation(text, schema)
    assert said in str(caught.value)


def test_a_pattern_that_backtracks_and_elements_that_do_not_sort_take_linear_time() -> None:
    assert violation(json.dumps("a" * 50_000 + "b"), {"pattern": "^(a+)+$"}) is not None
    assert violation(json.dumps([{"a": one} for one in range(20_000)]), {"uniqueItems": True}) is None
